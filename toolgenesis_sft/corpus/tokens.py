"""How long samples are, chunk by chunk, in the tokens that training will see."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from toolgenesis_sft.config import Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.training.chat import TURN_END, Span, spans
from toolgenesis_sft.training.tokenizer import QWEN_WORDS, load_tokenizer
from toolgenesis_sft.training.tokens import Seam, Tokenized, encode, seams

# What QWEN_WORDS finds in ASCII text, in the faster expressions of the standard library.
ASCII_WORDS = re.compile(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    r"|[^\r\nA-Za-z0-9]?[A-Za-z]+"
    r"|[0-9]"
    r"| ?[^\sA-Za-z0-9]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+",
    re.ASCII,
)
WORDS_IN_MEMORY = 1 << 18  # some 30 MB
WORD_CHARS = 32  # longer ones hardly come again


@dataclass(frozen=True)
class Measured:
    """One sample. num_supervised: tokens that carry the loss; stops: the last one ends the turn.
    fault: why it cannot be trained on; the numbers are then 0."""

    num_tokens: int = 0
    num_supervised: int = 0
    stops: bool = False
    fault: str = ""


class Measurer:
    """Renders lines of chat samples and counts their tokens as training will have them."""

    def __init__(self, folder: Path, train: Train) -> None:
        # data.num_processes says how many cores there are: threads of the tokenizer's own would
        # share them, and wait for each other where other work is going on.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.tokenizer, self.train = load_tokenizer(folder), train
        self.turn_end = self.tokenizer.token_to_id(TURN_END)
        self.words = WordCounts(self.tokenizer) if splits_as_qwen(self.tokenizer) else None

    def __call__(self, lines: Sequence[str]) -> list[Measured]:
        measured: list[Measured | None] = []
        uncounted: list[tuple[str, list[Span]]] = []
        for line in lines:
            sample = ChatSample.from_line(line)
            try:
                pieces = self.pieces(sample)
            except UserError as error:
                measured.append(Measured(fault=error.rule))
                continue
            found = None if self.words is None else self.words.measure(pieces)
            if found is None:
                uncounted.append((sample.id, pieces))
            measured.append(found)
        encoded = iter(encode(uncounted, self.tokenizer))
        return [facts or self._measured(next(encoded)) for facts in measured]

    def pieces(self, sample: ChatSample) -> list[Span]:
        return spans(sample, self.train.loss_on, self.train.thinking)

    def _measured(self, answer: Tokenized | UserError) -> Measured:
        if isinstance(answer, UserError):
            return Measured(fault=answer.rule)
        targets = answer.ids[answer.mask]
        return Measured(len(answer.ids), len(targets), bool(targets[-1] == self.turn_end))


def splits_as_qwen(tokenizer: Tokenizer) -> bool:
    """Whether tokens never cross the bounds of QWEN_WORDS, so that a text has the tokens of its
    words: byte-level BPE after that split, ASCII text normalised to itself, plain added tokens."""
    facts = json.loads(tokenizer.to_str())
    pattern = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated"}
    match (facts["pre_tokenizer"] or {}).get("pretokenizers"):
        case [split, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]:
            splits = split == {**pattern, "invert": False}
        case _:
            splits = False
    return (
        splits
        and (facts["normalizer"] or {"type": "NFC"}) == {"type": "NFC"}
        and facts["model"]["type"] == "BPE"
        and not facts["model"]["dropout"]
        and not any(
            token["single_word"] or token["lstrip"] or token["rstrip"]
            for token in facts["added_tokens"]
        )
    )


class WordCounts(dict[str, int]):
    """How many tokens each word has. The tokenizer is asked once a word, and programs and
    talk have few distinct ones: a text is counted in a third of the time that encoding takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self.added = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))))

    def __missing__(self, word: str) -> int:
        count = len(self.tokenizer.encode(word, add_special_tokens=False))
        if len(word) <= WORD_CHARS:
            if len(self) >= WORDS_IN_MEMORY:
                self.clear()
            self[word] = count
        return count

    def measure(self, pieces: Sequence[Span]) -> Measured | None:
        """None where only `encode` can tell: text beyond ASCII, or a word across a seam."""
        if not all(piece.text.isascii() for piece in pieces):
            return None
        if not all(self._parts_words(seam) for seam in seams(pieces)):
            return None
        counts = [self.count(piece.text) for piece in pieces]
        supervised = [piece.supervised for piece in pieces]
        last = max(number for number, flag in enumerate(supervised) if flag)
        return Measured(
            sum(counts),
            sum(count for count, flag in zip(counts, supervised, strict=True) if flag),
            pieces[last].text.endswith(TURN_END),
        )

    def count(self, text: str) -> int:
        """Tokens of an ASCII text: one for each added token, and those of the words between."""
        between = self.added.split(text)
        total = len(between) - 1
        for part in between:
            if len(part) <= WORD_CHARS:
                total += self[part] if part else 0
            else:
                total += sum(map(self.__getitem__, ASCII_WORDS.findall(part)))
        return total

    def _parts_words(self, seam: Seam) -> bool:
        """Whether a prompt's last word ends where the answer's first begins."""
        left, right = self.added.split(seam[0])[-1], self.added.split(seam[1])[0]
        return ASCII_WORDS.findall(left + right) == [
            *ASCII_WORDS.findall(left),
            *ASCII_WORDS.findall(right),
        ]
