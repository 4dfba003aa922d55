"""From candidates to servers worth teaching: rules, overlap, a run in the sandbox, duplicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.corpus.drops import Drops, Unfit
from toolgenesis_sft.corpus.filters import check_server, check_text
from toolgenesis_sft.corpus.overlap import HeldOut, Overlap, Traces
from toolgenesis_sft.corpus.pairs import Pair, shortest_first
from toolgenesis_sft.corpus.scenario import describe
from toolgenesis_sft.corpus.shingles import (
    Hashes,
    code_shingles,
    near_duplicates,
    signatures,
    text_shingles,
)
from toolgenesis_sft.corpus.verify import Thresholds, Verifier
from toolgenesis_sft.records import ToolSchema

MIN_SCENARIOS_AT_ONCE = 8  # once some have failed: enough to run side by side, few to be left over
SHAPES_REMEMBERED = 4096


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

    What is cheap comes first, so that nothing is run that would be refused anyway. With
    data.max_scenarios the scenarios with the shortest servers are run, and what takes the place of
    those that fail, until there are as many as that. Overlap that the recipe lets pass is added to
    `overlaps`: (pair id, held-out slug, what is shared).
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

    def examined(batch: Sequence[Pair]) -> Iterator[Server]:
        verified: list[Server] = []
        for pair, verdict in zip(batch, verifier.verify(batch, least), strict=True):
            if verdict.reason:
                drops.add(verdict.reason, pair.id, verdict.detail)
            else:
                verified.append(Server(pair, verdict.tools))
        texts = iter(describer([server for server in verified if server.pair.prompt is None]))
        for server in verified:
            try:
                if server.pair.prompt is None:
                    server = _with_scenario(server, next(texts))
                judge(server.pair, server.tools)
            except Unfit as unfit:
                drops.add(unfit.reason, server.pair.id, unfit.detail)
                continue
            yield server

    distinct = until_enough(candidates, recipe.data.max_scenarios, examined, drops)
    for server in distinct:
        if overlap := found.get(server.pair.id):
            overlaps.append((server.pair.id, overlap.slug, overlap.line()))
    return distinct


def until_enough(
    candidates: Sequence[Pair],
    most: int | None,
    examined: Callable[[Sequence[Pair]], Iterable[Server]],
    drops: Drops,
) -> list[Server]:
    """The distinct servers of at most `most` scenarios, in the candidates' order.

    Scenarios are examined in an order that the candidates alone give, the shortest first: as many
    as are missing at a time, and a few more, so that several are run side by side to the end. So
    the result is the same for any number of workers.
    """
    waiting = shortest_first(candidates)
    most = len(waiting) if most is None else most
    place = {pair.id: number for number, pair in enumerate(candidates)}
    good: list[Server] = []
    distinct, repeats = _distinct(good)
    wanted = most
    while wanted and waiting:
        batch, waiting = frozenset(waiting[:wanted]), waiting[wanted:]
        good += examined([pair for pair in candidates if pair.slug in batch])
        good.sort(key=lambda server: place[server.pair.id])
        distinct, repeats = _distinct(good)
        missing = most - len({server.pair.slug for server in distinct})
        wanted = max(missing, MIN_SCENARIOS_AT_ONCE) if missing > 0 else 0
    for what, detail in repeats:
        drops.add("near duplicate", what, detail)
    chosen = frozenset(shortest_first(server.pair for server in distinct)[:most])
    left_out = {pair.id for pair in candidates if pair.slug in waiting}
    left_out |= {server.pair.id for server in distinct if server.pair.slug not in chosen}
    for pair in candidates:
        if pair.id in left_out:
            drops.add("data.max_scenarios (the shortest answers are kept)", pair.id)
    return [server for server in distinct if server.pair.slug in chosen]


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


def _distinct(servers: Sequence[Server]) -> tuple[list[Server], list[tuple[str, str]]]:
    """Those that are no near duplicate of an earlier one (programs that differ in names, layout
    and little else), and of the others (pair id, what it repeats)."""
    kept: list[Server] = []
    repeats: list[tuple[str, str]] = []
    if not servers:
        return kept, repeats
    theirs = signatures([_shape_of(server.pair.code) for server in servers])
    originals, similarity = near_duplicates(theirs)
    for number, server in enumerate(servers):
        if originals[number] < 0:
            kept.append(server)
        else:
            original = servers[originals[number]].pair.id
            repeats.append((server.pair.id, f"{similarity[number]:.0%} {original}"))
    return kept, repeats


@lru_cache(maxsize=SHAPES_REMEMBERED)
def _shape_of(code: str) -> Hashes:
    """Batches look at the servers before them again."""
    return code_shingles(code)
