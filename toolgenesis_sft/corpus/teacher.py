"""A teacher writes candidate servers for the training scenarios; what passes becomes data.

Rejection sampling: n candidates a scenario, each is run and scored, those above the thresholds
are kept, the most different ones first. Every answer is stored as it arrives and never asked for
twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolgenesis_sft.client import HOPELESS, ModelClient
from toolgenesis_sft.config import Generate, Recipe, Teacher
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair, of_scenario
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.shingles import code_shingles, signature
from toolgenesis_sft.errors import HarnessFault, ModelFault
from toolgenesis_sft.generation.coder_agent import Workshop, coder_agent
from toolgenesis_sft.generation.direct import direct
from toolgenesis_sft.generation.request import Request
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import Json, Scenario, ServerPrediction
from toolgenesis_sft.runs import append_record, mend_torn_line, read_records
from toolgenesis_sft.sandbox.session import Sandbox

SOURCE = "teacher"


def ask(
    recipe: Recipe, teacher: Teacher, scenarios: Sequence[Scenario], sandbox: Sandbox, memory: Path
) -> list[ServerPrediction]:
    """All candidates, by scenario and number; only those that `memory` lacks are asked for.

    Raises HarnessFault where the teacher cannot be reached, or left requests without an answer.
    """
    settings = Generate(
        engine="endpoint",
        endpoint_url=teacher.url,
        endpoint_model=teacher.model,
        api_key_variable=teacher.key_variable,
        strategies=(teacher.strategy,),
        max_tokens=teacher.max_tokens,
        temperature=teacher.temperature,
        seed=teacher.seed,
        concurrency=recipe.generate.concurrency,
        request_timeout_s=recipe.generate.request_timeout_s,
    )
    requests = [
        Request(teacher.model, teacher.strategy, scenario, number, settings)
        for scenario in scenarios
        for number in range(teacher.num_candidates)
    ]
    mend_torn_line(memory)
    done = {prediction.key for prediction in read_records(memory, ServerPrediction)}
    missing = [request for request in requests if request.key not in done]
    if missing:
        unanswered = asyncio.run(_ask_all(settings, missing, Workshop(sandbox), memory))
        if unanswered:
            raise HarnessFault(
                "unanswered", f"{len(unanswered)} requests to the teacher, first {unanswered[0]}"
            )
    by_key = {prediction.key: prediction for prediction in read_records(memory, ServerPrediction)}
    return [by_key[request.key] for request in requests]


async def _ask_all(
    settings: Generate, requests: Sequence[Request], workshop: Workshop, memory: Path
) -> list[str]:
    """Ask and append. Returns what had no answer, with its fault."""
    queue = iter(requests)
    unanswered: list[str] = []
    hopeless: list[HarnessFault] = []
    async with ModelClient(
        settings.endpoint_url or "",
        settings.endpoint_model or "",
        settings.api_key_variable,
        settings.concurrency,
        settings.request_timeout_s,
    ) as client:
        with Progress("build: teacher", len(requests), "candidates") as progress:

            async def work() -> None:
                for request in queue:
                    if hopeless:  # nothing more is asked; what is in flight still comes home
                        return
                    try:
                        prediction = await _candidate(client, request, workshop)
                    except HarnessFault as fault:
                        if fault.kind in HOPELESS:
                            hopeless.append(fault)
                            return
                        unanswered.append(f"{request.scenario.slug} ({fault})")
                        progress.done("unanswered")
                        continue
                    append_record(memory, prediction)
                    progress.done(prediction.finish_reason)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(settings.concurrency, len(requests))):
                        workers.create_task(work())
            except ExceptionGroup as group:  # the first worker's word counts
                raise group.exceptions[0] from None
    if hopeless:
        raise hopeless[0]
    return unanswered


async def _candidate(client: ModelClient, request: Request, workshop: Workshop) -> ServerPrediction:
    try:
        if request.strategy == "coder_agent":
            return await coder_agent(client, request, workshop)
        return await direct(client, request)
    except ModelFault:
        return request.out_of_context()


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
        if parsed.code is None or parsed.fault:
            what = f"{SOURCE}/{prediction.slug}/{variant}"
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
        signatures = np.stack([signature(code_shingles(s.pair.code)) for s in candidates])
        likeness = np.full(len(candidates), -1.0)  # to the nearest one taken
        taken: list[int] = []
        while len(taken) < min(teacher.keep_per_scenario, len(candidates)):
            chosen = int(np.argmin(likeness))
            taken.append(chosen)
            likeness = np.maximum(likeness, (signatures == signatures[chosen]).mean(axis=1))
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
