"""Long work shows itself: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_LINE_EVERY_S = 15.0


class Progress:
    """Counts finished items by outcome and says how fast they come. Everything goes to stderr."""

    def __init__(self, stage: str, total: int, noun: str) -> None:
        self.stage, self.total, self.noun = stage, total, noun
        self.num_done = 0
        self.outcomes: Counter[str] = Counter()
        self._started = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar = (
            Bar(
                TextColumn(stage),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=self.total, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self.num_done:
            print(self.line(), file=sys.stderr, flush=True)

    def done(self, outcome: str = "", note: str = "") -> None:
        """One more item is finished; `note` is shown on the bar beside the rate."""
        self.num_done += 1
        if outcome:
            self.outcomes[outcome] += 1
        if self._bar:
            self._bar.update(self._task, advance=1, note=f"{self.rate()} {note}".strip())
        elif time.monotonic() - self._last_line > PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(self.line(note), file=sys.stderr, flush=True)

    def rate(self) -> str:
        minutes = (time.monotonic() - self._started) / 60
        return f"{self.num_done / max(minutes, 1e-9):.1f} {self.noun}/min"

    def line(self, note: str = "") -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        done = f"{self.stage}: {self.num_done}/{self.total} {self.noun}"
        parts = [done, self.rate(), counts, note]
        return ", ".join(part for part in parts if part)
