"""From candidates to servers worth teaching: rules, overlap, a run in the sandbox, duplicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.corpus.drops import Drops, Unfit
from toolgenesis_sft.corpus.filters import check_server, check_text
from toolgenesis_sft.corpus.overlap import HeldOut, Overlap, Traces
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.scenario import describe
from toolgenesis_sft.corpus.shingles import (
    code_shingles,
    near_duplicates,
    signatures,
    text_shingles,
)
from toolgenesis_sft.corpus.verify import Thresholds, Verifier
from toolgenesis_sft.records import ToolSchema


@dataclass(frozen=True)
class Server:
    """A pair whose server was run and holds what it claims; `tools` are the live ones."""

    pair: Pair
    tools: tuple[ToolSchema, ...]


# Of each server that came without a scenario the text of one, or why there is none.
Describer = Callable[[Sequence[Server]], Sequence["str | Unfit"]]


def servers_of(
    recipe: Recipe,
    pairs: Sequence[Pair],
    held_out: HeldOut,
    verifier: Verifier,
    describer: Describer,
    drops: Drops,
    overlaps: list[tuple[str, str, str]],
) -> list[Server]:
    """The pairs worth teaching, in their order; the others are counted in `drops`.

    What is cheap comes first, so that nothing is run that would be refused anyway. Overlap that
    the recipe lets pass is added to `overlaps`: (pair id, held-out slug, what is shared).
    """
    found: dict[str, Overlap] = {}

    def judge(pair: Pair, tools: tuple[ToolSchema, ...] = ()) -> None:
        check_server(pair.code, tools)
        check_text(pair.prompt or "")
        overlap = _overlap(held_out, pair, tools)
        if overlap and recipe.data.overlap == "exclude":
            raise Unfit(f"overlap: {overlap.sign}", overlap.line())
        if overlap:
            found[pair.id] = overlap

    candidates: list[Pair] = []
    seen: set[str] = set()
    for pair in pairs:
        try:
            judge(pair)
            if pair.code in seen:
                raise Unfit("exact duplicate", "the same program, to the letter")
        except Unfit as unfit:
            drops.add(unfit.reason, pair.id, unfit.detail)
            continue
        seen.add(pair.code)
        candidates.append(pair)
    least = thresholds_of(recipe)
    verified: list[Server] = []
    for pair, verdict in zip(candidates, verifier.verify(candidates, least), strict=True):
        if verdict.reason:
            drops.add(verdict.reason, pair.id, verdict.detail)
        else:
            verified.append(Server(pair, verdict.tools))
    texts = iter(describer([server for server in verified if server.pair.prompt is None]))
    servers: list[Server] = []
    for server in verified:
        try:
            if server.pair.prompt is None:
                server = _with_scenario(server, next(texts))
            judge(server.pair, server.tools)
        except Unfit as unfit:
            drops.add(unfit.reason, server.pair.id, unfit.detail)
            continue
        servers.append(server)
    distinct = _distinct(servers, drops)
    for server in distinct:
        if overlap := found.get(server.pair.id):
            overlaps.append((server.pair.id, overlap.slug, overlap.line()))
    return distinct


def thresholds_of(recipe: Recipe) -> Callable[[Pair], Thresholds]:
    """Reference servers pass all their unit tests; the recipe says what a teacher's must reach."""
    teacher = recipe.data.teacher
    asked = Thresholds(teacher.min_schema_f1, teacher.min_ut_hard) if teacher else Thresholds()
    return lambda pair: asked if pair.source == "teacher" else Thresholds()


def by_template(servers: Sequence[Server]) -> list[str | Unfit]:
    """Scenarios written from the live tools, without anybody's help."""
    return [describe(server.pair.slug, server.pair.code, server.tools) for server in servers]


def _with_scenario(server: Server, text: str | Unfit) -> Server:
    if isinstance(text, Unfit):
        raise text
    return Server(dataclasses.replace(server.pair, prompt=text), server.tools)


def _overlap(held_out: HeldOut, pair: Pair, tools: Sequence[ToolSchema]) -> Overlap | None:
    return held_out.overlap(
        Traces(
            slug=pair.slug,
            prompt=text_shingles([pair.prompt or ""])[0],
            code=code_shingles(pair.code),
            tool_names=frozenset(tool.name for tool in tools),
        )
    )


def _distinct(servers: list[Server], drops: Drops) -> list[Server]:
    """Without near duplicates of earlier ones: programs that differ in names, layout and little
    else."""
    if not servers:
        return []
    theirs = signatures([code_shingles(server.pair.code) for server in servers])
    originals, similarity = near_duplicates(theirs)
    kept = []
    for number, server in enumerate(servers):
        if originals[number] < 0:
            kept.append(server)
        else:
            original = servers[originals[number]].pair.id
            drops.add("near duplicate", server.pair.id, f"{similarity[number]:.0%} {original}")
    return kept
