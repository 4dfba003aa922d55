"""Rows of trajectories -> chat samples with what the searches need, chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import xxhash
from pydantic_core import PydanticSerializationError

from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.filters import check_text
from toolgenesis_sft.corpus.overlap import HeldOut, sample_traces
from toolgenesis_sft.corpus.shingles import Hashes, Signatures, signatures, text_shingles
from toolgenesis_sft.corpus.sources import Row, Source, decoded
from toolgenesis_sft.corpus.trajectories import convert
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Message
from toolgenesis_sft.training import chat


@dataclass
class Examined:
    """What a chunk gave. lines, ids, digests and signatures belong together, sample by sample.

    digests: of the conversation without its id. drops: (reason, what, detail). overlaps: (sample
    id, held-out slug, what is shared) of samples that were kept.
    """

    lines: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    signatures: Signatures = field(default_factory=lambda: signatures(()))
    drops: list[tuple[str, str, str]] = field(default_factory=list)
    overlaps: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Examiner:
    """Converts and judges one chunk of a source. exclude: drop what overlaps with the benchmark."""

    source: Source
    held_out: HeldOut
    exclude: bool

    def __call__(self, chunk: Sequence[Row]) -> Examined:
        result = Examined()
        samples: list[tuple[ChatSample, str]] = []
        texts: list[str] = []
        for where, row in chunk:
            try:
                sample = self._sample(where, row)
                line = written(sample)
                check_control_tokens(line)
                chat.check(sample)
                text = spoken_text(sample.messages)
                check_text(text)
                check_frame(sample)
            except Unfit as unfit:
                what = f"{self.source.label}: {where}"
                result.drops.append((unfit.reason, what, unfit.detail))
            except UserError as error:
                what = f"{self.source.label}: {where}"
                result.drops.append(("wrong role order or empty answer", what, error.rule))
            else:
                samples.append((sample, line))
                texts.append(text)
        kept: list[Hashes] = []
        for (sample, line), hashes in zip(samples, text_shingles(texts), strict=True):
            if self._keeps(sample, hashes, result):
                result.lines.append(line)
                result.ids.append(sample.id)
                result.digests.append(conversation_digest(sample))
                kept.append(hashes)
        result.signatures = signatures(kept)
        return result

    def _sample(self, where: str, row: bytes | dict[str, object]) -> ChatSample:
        """Raises Unfit where the row is no conversation."""
        layout = self.source.entry.layout
        assert layout != "benchmark"
        assert layout != "servers"
        assert layout != "pairs"
        assert layout != "transcripts"
        conversation = convert(decoded(row), layout)
        return ChatSample(
            id=f"{self.source.label}/{where.rpartition(' ')[2]}",
            messages=conversation.messages,
            tools=conversation.tools,
            kind="trajectory",
            source=self.source.label,
            licence=self.source.entry.licence,
        )

    def _keeps(self, sample: ChatSample, hashes: Hashes, result: Examined) -> bool:
        """Whether its overlap with the benchmark, which is noted, lets a sample stay."""
        overlap = self.held_out.overlap(sample_traces(sample, hashes))
        if overlap and self.exclude:
            result.drops.append((f"overlap: {overlap.sign}", sample.id, overlap.line()))
            return False
        if overlap:
            result.overlaps.append((sample.id, overlap.slug, overlap.line()))
        return True


def check_control_tokens(line: str) -> None:
    """Raise Unfit where a sample's line holds what only the chat template may write."""
    if chat.CONTROL_HEAD in line:
        for token in chat.TURN_TOKENS:
            if token in line:
                raise Unfit("control token", token)


def check_frame(sample: ChatSample) -> None:
    """What stands before the talk: a system message and tools. Raises Unfit as `check_text`."""
    first = sample.messages[0]
    if first.role == "system":
        _check_once(first.content)
    for tool in sample.tools:
        _check_once(tool.description)
        if tool.input_schema:
            _check_once(json.dumps(tool.input_schema, ensure_ascii=False))


@lru_cache(maxsize=1024)
def _check_once(text: str) -> None:
    """Frames come again from row to row; what is unfit is not remembered, and raises each time."""
    check_text(text)


def written(sample: ChatSample) -> str:
    """The sample's line. Raises Unfit where JSON's escapes hid half a character (`\\ud800`)."""
    try:
        return sample.to_line()
    except PydanticSerializationError as error:
        raise Unfit("not Unicode text", str(error)) from error


def spoken_text(messages: Sequence[Message]) -> str:
    """All that was said and called; a system message is often the same for a whole data set."""
    parts = []
    for message in messages:
        if message.role != "system":
            parts.append(message.content)
            parts += [call.model_dump_json() for call in message.tool_calls]
    return "\n".join(parts)


def conversation_digest(sample: ChatSample) -> int:
    """64 bits of what is trained on: messages and tools, whatever the id and the source."""
    text = sample.model_dump_json(include={"messages", "tools"})
    return int(xxhash.xxh3_64_intdigest(text.encode()))
