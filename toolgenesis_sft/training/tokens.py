"""Chat samples -> token ids with a supervision mask, kept in a cache that fits its inputs.

Everything here runs on the CPU before any process group exists. Nothing is ever cut: a sample
that does not fit a row fails, by name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from toolgenesis_sft.config import Recipe, Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Json
from toolgenesis_sft.runs import (
    RunFolder,
    disk_error,
    fingerprint,
    read_json,
    sha256_file,
    write_json,
)
from toolgenesis_sft.training import chat
from toolgenesis_sft.training.chat import CHAT_TEMPLATE, TURN_END, TURN_START, Span, spans
from toolgenesis_sft.training.tokenizer import digest, load_tokenizer, resolve_tokenizer

Split = Literal["train", "val"]
SAMPLES_PER_BATCH = 1024  # enough for the tokenizer's threads, little enough for memory
# How an answer begins, up to the end of its first word: all that could merge with what is before.
FIRST_WORD = re.compile(r"\s*\S{1,64}")


@dataclass(frozen=True)
class Tokenized:
    """One sample. ids: int32 [seq]; mask: bool [seq], true where a token is a target."""

    id: str
    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class TokenSet:
    """All samples of a split, end to end, memory-mapped.

    ids: int32 [total], mask: bool [total]; sample i is `ids[offsets[i] : offsets[i + 1]]`.
    offsets: int64 [num_samples + 1]; lengths and num_supervised: int64 [num_samples].
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    num_supervised: NDArray[np.int64]
    sample_ids: Sequence[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> Tokenized:
        start, stop = self.offsets[index], self.offsets[index + 1]
        return Tokenized(self.sample_ids[index], self.ids[start:stop], self.mask[start:stop])


def tokenize(sample: ChatSample, tokenizer: Tokenizer, train: Train) -> Tokenized:
    """One sample, of any length. Raises UserError where it cannot be trained on (see `spans`)."""
    [tokenized] = encode([(sample.id, spans(sample, train.loss_on, train.thinking))], tokenizer)
    if isinstance(tokenized, UserError):
        raise tokenized
    return tokenized


def encode(
    rendered: Sequence[tuple[str, Sequence[Span]]], tokenizer: Tokenizer
) -> list[Tokenized | UserError]:
    """Token ids of (sample id, spans) pairs, in parallel threads of the tokenizer.

    Each span is encoded alone, as an inference server encodes a prompt before the model answers.
    Where an answer's first characters would merge with its prompt's last, the prompt is no exact
    token prefix of the text that is trained on: such a sample comes back as a UserError.
    """
    merged = _merged_seams({seam for _, pieces in rendered for seam in seams(pieces)}, tokenizer)
    texts = [span.text for _, pieces in rendered for span in pieces]
    encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    turn_end = tokenizer.token_to_id(TURN_END)
    answers: list[Tokenized | UserError] = []
    for sample_id, pieces in rendered:
        parts = [next(encodings).ids for _ in pieces]
        if not merged.isdisjoint(seams(pieces)):
            answers.append(
                UserError(
                    "sample",
                    sample_id,
                    "its prompt is not an exact token prefix: the answer's first characters merge"
                    " with the prompt's last",
                    "begin the answer with a character that is no white space",
                )
            )
            continue
        ids = np.array(list(chain.from_iterable(parts)), dtype=np.int32)
        flags = [span.supervised for span in pieces]
        mask = np.repeat(flags, [len(part) for part in parts])
        assert ids[mask][-1] == turn_end, "an answer must end its turn"
        answers.append(Tokenized(sample_id, ids, mask))
    return answers


Seam = tuple[str, str]  # a generation prompt from its control token on, and how the answer begins


def seams(pieces: Sequence[Span]) -> Iterator[Seam]:
    """The places where plain text meets plain text; anywhere else a control token parts them."""
    for prompt, answer in pairwise(pieces):
        if answer.supervised:
            first = FIRST_WORD.match(answer.text)
            assert first, "an answer ends with a control token"
            yield prompt.text[prompt.text.rindex(TURN_START) :], first.group()


def _merged_seams(seams: set[Seam], tokenizer: Tokenizer) -> set[Seam]:
    """Those whose two sides give other tokens together than one after the other."""

    def ids(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]

    ordered = sorted(seams)
    prompts, answers = ids([left for left, _ in ordered]), ids([right for _, right in ordered])
    wholes = ids([left + right for left, right in ordered])
    found = zip(ordered, prompts, answers, wholes, strict=True)
    return {seam for seam, prompt, answer, whole in found if prompt + answer != whole}


def load_tokens(recipe: Recipe, run: RunFolder, split: Split = "train") -> TokenSet:
    """The split's tokens, from the cache if one fits, else made now.

    Safe to call from several processes at once: one makes the cache, the others wait for it.
    A missing or empty validation file gives an empty set; an empty training file is refused.
    Raises UserError that names the file, the line and the sample at fault.
    """
    source = built_file(run, split)
    if not source.exists():
        return _empty()
    tokenizer_folder = resolve_tokenizer(recipe, run)
    facts = what_shapes_tokens(recipe.train, source, tokenizer_folder)
    return TokenCache(run.data / "tokens", split, facts).load_or_make(
        source, tokenizer_folder, recipe.train
    )


def built_file(run: RunFolder, split: Split = "train") -> Path:
    """The split's samples. Raises UserError where no data set is built, or it has lost them."""
    source = run.data / f"{split}.jsonl"
    if not (run.data / "manifest.json").exists():
        raise UserError(
            "data", str(run.data), "holds no built data set", "run `toolgenesis-sft build` first"
        )
    if not source.exists() and split == "train":
        raise UserError("data", str(source), "is missing", "run `toolgenesis-sft build` again")
    return source


def what_shapes_tokens(train: Train, source: Path, tokenizer_folder: Path) -> dict[str, Json]:
    """Everything that the cached arrays depend on; a change of any of it makes a new cache."""
    code = hashlib.sha256()
    for module in (chat.__file__, __file__):
        code.update(Path(module).read_bytes())
    return {
        "data": sha256_file(source),
        "tokenizer": digest(tokenizer_folder),
        "template": hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest(),
        "options": {
            "thinking": train.thinking,
            "loss_on": train.loss_on,
            "max_row_tokens": train.max_row_tokens,
        },
        "code": code.hexdigest(),
        "tokenizers": tokenizers.__version__,
    }


class TokenCache:
    """A folder of .npy arrays per fingerprint; its manifest.json is written last."""

    def __init__(self, root: Path, split: Split, facts: dict[str, Json]) -> None:
        self.facts = facts
        self.fingerprint = fingerprint(facts)
        self.folder = root / f"{split}-{self.fingerprint[:16]}"

    def load_or_make(self, source: Path, tokenizer_folder: Path, train: Train) -> TokenSet:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder.with_name(f".{self.folder.name}.lock")):
            if not (self.folder / "manifest.json").exists():
                try:
                    self._make(source, load_tokenizer(tokenizer_folder), train)
                except OSError as error:
                    raise disk_error(error, self.folder) from error
        return self.load()

    def load(self) -> TokenSet:
        """Map the arrays. Raises UserError where they are not what the manifest says."""
        manifest = read_json(self.folder / "manifest.json")
        arrays = {}
        for name in ("ids", "mask", "offsets", "num_supervised"):
            path = self.folder / f"{name}.npy"
            try:
                arrays[name] = np.load(path, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise self._broken(path) from error
            if len(arrays[name]) != manifest["sizes"][name]:
                raise self._broken(path)
        sample_ids = read_json(self.folder / "sample_ids.json")
        return TokenSet(**arrays, sample_ids=sample_ids, fingerprint=self.fingerprint)

    def _broken(self, path: Path) -> UserError:
        return UserError(
            "token cache",
            str(path),
            "is not what its manifest says",
            f"remove {self.folder} and run the same command: it is made again",
        )

    def _make(self, source: Path, tokenizer: Tokenizer, train: Train) -> None:
        """Write the arrays beside the final name and move them there as a whole."""
        partial = self.folder.with_name(f".{self.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        partial.mkdir()
        sample_ids: list[str] = []
        lengths: list[int] = []
        num_supervised: list[int] = []
        with (
            GrowingArray(partial / "ids.npy", np.dtype(np.int32)) as ids,
            GrowingArray(partial / "mask.npy", np.dtype(np.bool_)) as mask,
        ):
            for sample in read_tokenized(source, tokenizer, train):
                ids.append(sample.ids)
                mask.append(sample.mask)
                sample_ids.append(sample.id)
                lengths.append(len(sample.ids))
                num_supervised.append(int(sample.mask.sum()))
        offsets = np.array([0, *accumulate(lengths)], dtype=np.int64)
        np.save(partial / "offsets.npy", offsets)
        np.save(partial / "num_supervised.npy", np.array(num_supervised, dtype=np.int64))
        (partial / "sample_ids.json").write_text(json.dumps(sample_ids), encoding="utf-8")
        sizes = {
            "ids": int(offsets[-1]),
            "mask": int(offsets[-1]),
            "offsets": len(offsets),
            "num_supervised": len(sample_ids),
        }
        write_json(partial / "manifest.json", {"facts": self.facts, "sizes": sizes})
        partial.rename(self.folder)


def read_tokenized(source: Path, tokenizer: Tokenizer, train: Train) -> Iterator[Tokenized]:
    """Tokens of each line of a chat file, in its order; UserError for the first that is unfit."""
    located = _rendered(source, train)
    with source.open("rb") as file:
        total = sum(1 for _ in file)
    if total == 0 and source.stem == "train":
        raise UserError(
            "data", str(source), "is empty: there is nothing to train on", "check data.sources"
        )
    batches = iter(lambda: list(islice(located, SAMPLES_PER_BATCH)), [])
    for batch in track(
        batches,
        description=f"tokens of {source.name}",
        total=-(-total // SAMPLES_PER_BATCH),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ):
        answers = encode([(sample_id, pieces) for _, sample_id, pieces in batch], tokenizer)
        for (line, sample_id, _), answer in zip(batch, answers, strict=True):
            if isinstance(answer, UserError):
                raise _located(answer, source, line)
            if len(answer.ids) > train.max_row_tokens:
                raise UserError(
                    f"{source}: line {line}",
                    sample_id,
                    f"has {len(answer.ids)} tokens, a row holds {train.max_row_tokens}"
                    " (train.max_row_tokens); a sample is never cut",
                    "raise train.max_row_tokens, or lower data.max_tokens and build again",
                )
            yield answer


def _rendered(source: Path, train: Train) -> Iterator[tuple[int, str, list[Span]]]:
    """(line number, sample id, spans) of each line."""
    with source.open("rb") as file:
        for line, text in enumerate(file, start=1):
            try:
                sample = ChatSample.from_line(text)
                yield line, sample.id, spans(sample, train.loss_on, train.thinking)
            except UserError as error:
                raise _located(error, source, line) from error
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise UserError(
                    f"{source}: line {line}",
                    where or "the line",
                    f"is no chat sample ({first['msg']})",
                    "run `toolgenesis-sft build` again",
                ) from error


def _located(error: UserError, source: Path, line: int) -> UserError:
    return UserError(f"{source}: line {line}", error.value, error.rule, error.next_step)


class GrowingArray:
    """A one-dimensional .npy file that is written piece by piece and never held in memory."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype, self.size = path, dtype, 0

    def __enter__(self) -> Self:
        self.file: BinaryIO = self.path.open("wb")
        self._write_header()
        return self

    def append(self, values: NDArray[Any]) -> None:
        self.file.write(values.astype(self.dtype, copy=False).tobytes())
        self.size += len(values)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.file:
            if error is None:
                # The format pads a header so that it keeps its length when the array has grown.
                before = self.data_start
                self.file.seek(0)
                self._write_header()
                assert self.data_start == before
                self.file.flush()
                os.fsync(self.file.fileno())

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.data_start = self.file.tell()


def _empty() -> TokenSet:
    return TokenSet(
        ids=np.zeros(0, np.int32),
        mask=np.zeros(0, np.bool_),
        offsets=np.zeros(1, np.int64),
        num_supervised=np.zeros(0, np.int64),
        sample_ids=(),
        fingerprint="",
    )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file; it ends with the process, kill -9 included."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
