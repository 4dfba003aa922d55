"""The samples on their way: their text lies in a file, only numbers lie in memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np
from numpy.typing import NDArray

from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.shingles import NUM_PERMUTATIONS, near_duplicates
from toolgenesis_sft.corpus.tokens import Measured
from toolgenesis_sft.records import ChatSample


class Table:
    """Row i is line i of the file, in the order of collection.

    ids, sources, kinds, scenarios: one entry a row; kept: bool [n], false for what was dropped;
    num_tokens and num_supervised: int64 [n], 0 until `measure`. All in all some 500 bytes a row,
    half of them the signatures, which go once duplicates are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.kinds: list[str] = []
        self.scenarios: list[str | None] = []
        self._digests = array("Q")
        self._signatures = bytearray()
        self._signed = array("q")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self.kept: NDArray[np.bool_] = np.ones(len(self.ids), dtype=np.bool_)
        self.num_tokens: NDArray[np.int64] = np.zeros(len(self.ids), dtype=np.int64)
        self.num_supervised: NDArray[np.int64] = np.zeros(len(self.ids), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, sample: ChatSample, digest: int) -> None:
        """A sample made of a server; its near duplicates were looked for among the servers."""
        self.add_line(sample.to_line(), sample.id, sample.source, sample.kind, digest)
        self.scenarios[-1] = sample.scenario

    def add_line(
        self,
        line: str,
        sample_id: str,
        source: str,
        kind: str,
        digest: int,
        signature: NDArray[np.uint32] | None = None,
    ) -> None:
        self._file.write(line)
        if signature is not None:
            self._signed.append(len(self.ids))
            self._signatures += signature.tobytes()
        self.ids.append(sample_id)
        self.sources.append(source)
        self.kinds.append(kind)
        self.scenarios.append(None)
        self._digests.append(digest)

    def lines(self) -> Iterator[tuple[int, str]]:
        """(row, line) of what is kept."""
        with self.path.open(encoding="utf-8") as file:
            for row, line in enumerate(file):
                if self.kept[row]:
                    yield row, line

    def digest(self, row: int) -> str:
        """Of the conversation, as hexadecimal text: what a row is chosen by, wherever it lies."""
        return f"{self._digests[row]:016x}"

    def drop(self, row: int, reason: str, drops: Drops, detail: str = "") -> None:
        self.kept[row] = False
        drops.add(reason, self.ids[row], detail)

    def drop_duplicates(self, drops: Drops) -> None:
        """The first of equal conversations stays; so does the first of nearly equal ones."""
        digests = np.frombuffer(self._digests, dtype=np.uint64)
        _, first = np.unique(digests, return_index=True)
        again = np.ones(len(self), dtype=np.bool_)
        again[first] = False
        for row in np.flatnonzero(again):
            self.drop(int(row), "exact duplicate", drops, "the same conversation")
        signatures = np.frombuffer(self._signatures, dtype=np.uint32)
        rows = np.frombuffer(self._signed, dtype=np.int64)
        alone = self.kept[rows]
        rows, signatures = rows[alone], signatures.reshape(-1, NUM_PERMUTATIONS)[alone]
        originals, similarity = near_duplicates(signatures)
        for number in np.flatnonzero(originals >= 0):
            original = self.ids[rows[originals[number]]]
            self.drop(
                int(rows[number]), "near duplicate", drops, f"{similarity[number]:.0%} {original}"
            )
        self._signatures, self._signed = bytearray(), array("q")

    def measure(
        self, rows: list[int], measured: list[Measured], max_tokens: int, drops: Drops
    ) -> None:
        """Note the lengths of these rows; what is too long is dropped, never cut."""
        for row, facts in zip(rows, measured, strict=True):
            self.num_tokens[row] = facts.num_tokens
            self.num_supervised[row] = facts.num_supervised
            if facts.fault:
                self.drop(row, "cannot be rendered", drops, facts.fault)
            elif facts.num_tokens > max_tokens:
                self.drop(row, "too long", drops, f"{facts.num_tokens} tokens of {max_tokens}")
            elif not facts.stops:
                self.drop(row, "does not end its turn", drops)

    def counts(self, names: list[str]) -> Counter[str]:
        """How many kept rows have each name; `names` is one of the columns."""
        return Counter(name for name, kept in zip(names, self.kept, strict=True) if kept)
