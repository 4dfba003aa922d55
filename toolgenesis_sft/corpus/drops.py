"""What did not become a sample: counted by reason, with examples, never silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolgenesis_sft.records import Json

EXAMPLES_PER_REASON = 3
EXAMPLE_CHARS = 200


class Unfit(Exception):
    """One item cannot be used. `reason` is a short, stable name; `detail` is this item's own."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass
class Drops:
    """Counts by reason; of each reason the first few examples as (what, detail)."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, reason: str, what: str, detail: str = "") -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES_PER_REASON:
            writable = detail[: 4 * EXAMPLE_CHARS].encode(errors="replace").decode()
            shown.append((what, " ".join(writable.split())[:EXAMPLE_CHARS]))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> list[Json]:
        """By falling count: [{reason, count, examples: [{what, detail}]}]."""
        order = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return [
            {
                "reason": reason,
                "count": self.counts[reason],
                "examples": [
                    {"what": what, "detail": detail} for what, detail in self.examples[reason]
                ],
            }
            for reason in order
        ]

    def line(self) -> str:
        """`2 near duplicate, 1 secret`, or `none`."""
        parts = [f"{entry['count']} {entry['reason']}" for entry in self.to_json()]
        return ", ".join(parts) or "none"
