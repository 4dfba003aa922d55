"""A teacher writes candidate servers for the training scenarios; what passes becomes data.

Rejection sampling: n candidates a scenario, each is run and scored, those above the thresholds
are kept, the most different ones first. Every answer is stored as it arrives and never asked for
twice.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Generate, Recipe, Teacher
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair, of_scenario, training_scenarios
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.shingles import code_shingles, signatures
from toolgenesis_sft.errors import HarnessFault
from toolgenesis_sft.generation.coder_agent import coder_agent
from toolgenesis_sft.generation.direct import direct
from toolgenesis_sft.generation.request import REFUSED, Request
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import Json, Record, Scenario, ServerPrediction
from toolgenesis_sft.runs import append_record, mend_torn_line, read_records
from toolgenesis_sft.sandbox.workshop import Workshop

SOURCE = "teacher"
MAX_FIRST_REFUSALS = 3  # of a teacher that has answered nothing yet
R = TypeVar("R", bound=Record)


def candidates(
    recipe: Recipe, benchmark: Benchmark, workshop: Workshop, memory: Path, drops: Drops
) -> tuple[list[ServerPrediction], list[Pair]]:
    """What the teacher wrote for the training scenarios, and the pairs that hold a program."""
    teacher = recipe.data.teacher
    assert teacher is not None, "the recipe's rules ask for it"
    scenarios = training_scenarios(benchmark)
    predictions = ask(recipe, teacher, scenarios, workshop, memory)
    return predictions, pairs_of(predictions, scenarios, teacher.licence, drops)


@dataclass(frozen=True)
class Errand(Generic[R]):
    """One thing to ask for. key: what its answer is known by; name: how a fault speaks of it;
    refused: the record of a teacher that will not answer."""

    key: Hashable
    name: str
    go: Callable[[ModelClient], Awaitable[R]]
    refused: R


def ask(
    recipe: Recipe,
    teacher: Teacher,
    scenarios: Sequence[Scenario],
    workshop: Workshop,
    memory: Path,
) -> list[ServerPrediction]:
    """All candidates, by scenario and number; only those that `memory` lacks are asked for.

    Raises HarnessFault where the teacher cannot be reached, or left requests without an answer.
    """
    settings = Generate(
        engine="endpoint",
        endpoint_url=teacher.url,
        strategies=(teacher.strategy,),
        max_tokens=teacher.max_tokens,
        temperature=teacher.temperature,
        seed=teacher.seed,
    )
    errands = []
    for scenario in scenarios:
        for number in range(teacher.num_candidates):
            request = Request(teacher.model, teacher.strategy, scenario, number, settings)
            go = partial(_candidate, request=request, workshop=workshop)
            refused = request.prediction(REFUSED)
            errands.append(Errand(request.key, scenario.slug, go, refused))
    return run_errands(recipe, teacher, errands, memory, ServerPrediction, "candidates")


def run_errands(
    recipe: Recipe,
    teacher: Teacher,
    errands: Sequence[Errand[R]],
    memory: Path,
    kind: type[R],
    unit: str,
) -> list[R]:
    """The answer to each errand, in their order; only what `memory` lacks is asked for.

    A refusal of a teacher that answers others is an answer too: it is not asked for again.
    Raises HarnessFault where the teacher cannot be reached, or left errands without an answer.
    """
    mend_torn_line(memory)
    key_of = attrgetter("key")
    done = set(map(key_of, read_records(memory, kind)))
    missing = [errand for errand in errands if errand.key not in done]
    if missing:
        asking = _ask_all(recipe, teacher, missing, memory, unit, answers_others=bool(done))
        unanswered = asyncio.run(asking)
        if unanswered:
            raise HarnessFault(
                "unanswered", f"{len(unanswered)} requests to the teacher, first {unanswered[0]}"
            )
    by_key = {key_of(record): record for record in read_records(memory, kind)}
    return [by_key[errand.key] for errand in errands]


async def _ask_all(
    recipe: Recipe,
    teacher: Teacher,
    errands: Sequence[Errand[R]],
    memory: Path,
    unit: str,
    answers_others: bool,
) -> list[str]:
    """Ask and append. Returns what had no answer, with its fault.

    A refusal is of one request if others are answered, and of the endpoint if none ever was: a
    wrong name of the model reads the same.
    """

    def answers(client: ModelClient) -> bool:
        return answers_others or client.usage.num_answers > 0

    queue = iter(errands)
    unanswered: list[str] = []
    hopeless: list[HarnessFault] = []
    refusals: list[tuple[Errand[R], HarnessFault]] = []
    concurrency = recipe.generate.concurrency
    async with ModelClient(
        teacher.url,
        teacher.model,
        teacher.key_variable,
        concurrency,
        recipe.generate.request_timeout_s,
    ) as client:
        with Progress("build: teacher", len(errands), unit) as progress:

            async def work() -> None:
                for errand in queue:
                    if hopeless:  # nothing more is asked; what is in flight still comes home
                        return
                    try:
                        record = await errand.go(client)
                    except HarnessFault as fault:
                        if fault.kind == "request_refused":
                            refusals.append((errand, fault))
                            progress.done("refused")
                            if answers(client) or len(refusals) < MAX_FIRST_REFUSALS:
                                continue
                        if client.is_hopeless(fault):
                            hopeless.append(fault)
                            return
                        unanswered.append(f"{errand.name} ({fault})")
                        progress.done("unanswered")
                        continue
                    append_record(memory, record)
                    progress.done("answered")

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(concurrency, len(errands))):
                        workers.create_task(work())
            except ExceptionGroup as group:  # the first worker's word counts
                raise group.exceptions[0] from None
    if hopeless:
        raise hopeless[0]
    if refusals and not answers(client):
        raise refusals[0][1]
    for errand, fault in refusals:
        append_record(memory, errand.refused)
        print(f"build: no {unit} of {errand.name}: {fault}", file=sys.stderr)
    return unanswered


async def _candidate(client: ModelClient, request: Request, workshop: Workshop) -> ServerPrediction:
    if request.strategy == "coder_agent":
        return await coder_agent(client, request, workshop)
    return await direct(client, request)


def pairs_of(
    predictions: Sequence[ServerPrediction],
    scenarios: Sequence[Scenario],
    licence: str,
    drops: Drops,
) -> list[Pair]:
    """The candidates that hold a program; the others are counted."""
    by_slug = {scenario.slug: scenario for scenario in scenarios}
    pairs = []
    for prediction in predictions:
        variant = f"{prediction.sample_index:03d}"
        parsed = parse_prediction(prediction)
        what = f"{SOURCE}/{prediction.slug}/{variant}"
        if prediction.finish_reason == "error":
            drops.add("teacher: refused to answer", what, prediction.completion[:80])
        elif parsed.code is None or parsed.fault:
            drops.add(f"teacher: {parsed.fault}", what, prediction.completion[:80])
        else:
            pairs.append(
                of_scenario(by_slug[prediction.slug], parsed.code, SOURCE, licence, variant)
            )
    return pairs


def most_diverse(servers: Sequence[Server], teacher: Teacher, drops: Drops) -> list[Server]:
    """At most `keep_per_scenario` of the teacher's servers of a scenario, the others as they are.

    The first candidate is taken, then always the one that is least like those taken already.
    """
    by_slug: dict[str, list[Server]] = defaultdict(list)
    for server in servers:
        if server.pair.source == SOURCE:
            by_slug[server.pair.slug].append(server)
    surplus: set[str] = set()
    for candidates in by_slug.values():
        theirs = signatures([code_shingles(server.pair.code) for server in candidates])
        likeness = np.full(len(candidates), -1.0)  # to the nearest one taken
        taken: list[int] = []
        while len(taken) < min(teacher.keep_per_scenario, len(candidates)):
            chosen = int(np.argmin(likeness))
            taken.append(chosen)
            likeness = np.maximum(likeness, (theirs == theirs[chosen]).mean(axis=1))
            likeness[taken] = np.inf
        surplus |= {s.pair.id for n, s in enumerate(candidates) if n not in taken}
    for pair_id in sorted(surplus):
        drops.add("teacher: more than data.teacher.keep_per_scenario", pair_id)
    return [server for server in servers if server.pair.id not in surplus]


def yields(
    predictions: Sequence[ServerPrediction], servers: Sequence[Server]
) -> dict[str, dict[str, Json]]:
    """By scenario: candidates asked for, kept, and the tokens that they cost."""
    kept = Counter(server.pair.slug for server in servers if server.pair.source == SOURCE)
    by_slug: dict[str, list[ServerPrediction]] = defaultdict(list)
    for prediction in predictions:
        by_slug[prediction.slug].append(prediction)
    return {
        slug: {
            "num_asked": len(answers),
            "num_kept": kept[slug],
            "num_prompt_tokens": sum(a.num_prompt_tokens for a in answers),
            "num_completion_tokens": sum(a.num_completion_tokens for a in answers),
        }
        for slug, answers in sorted(by_slug.items())
    }
