"""The stage: which models, which scenarios, what is missing; ask for it; append as it comes.

predictions.jsonl holds one line for each (model, strategy, scenario, sample). A line is written
when its answer is whole, so after `kill -9` the same command asks for the rest and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from toolgenesis_sft.benchmark import Benchmark, load_benchmark, load_gold_schemas
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Recipe, resolve_path, server_python
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation.coder_agent import coder_agent
from toolgenesis_sft.generation.direct import direct, direct_two_calls, oracle
from toolgenesis_sft.generation.engine import open_engines
from toolgenesis_sft.generation.models import (
    AskedModel,
    asked_models,
    check_own_folders,
    refuse_other_checkpoints,
)
from toolgenesis_sft.generation.request import REFUSED, Key, Request
from toolgenesis_sft.generation.server import Engine
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import (
    ChatSample,
    Json,
    Scenario,
    ServerPrediction,
    ToolSchema,
)
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    append_record,
    mend_torn_line,
    read_records,
)

if TYPE_CHECKING:
    from toolgenesis_sft.sandbox.workshop import Workshop

# How providers name the filter that refused a prompt. Any other refusal (no credit, a request that
# is too large) says nothing about the prompt and stays a fault of the harness.
FILTER_WORDS = (
    "content filter",
    "content_filter",
    "content management policy",
    "content policy",
    "content_policy",
    "usage policy",
    "data_inspection_failed",
)

# What a refusal may be about besides the model, by the name that the protocol has for it.
SETTINGS_BY_WORD = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
}


def generate(recipe: Recipe, run: RunFolder) -> None:
    """Ask every model of the recipe for every scenario that has no prediction yet.

    Raises UserError where a model is not there or the predictions are another checkpoint's, and
    HarnessFault at the end where an answer could not be had: the same command asks again, and a
    report of the run has no headline before. A prompt that the provider's content filter refuses,
    of a model that answers others, has its answer: none.
    """
    with run.locked("generate"):
        check_strategies(recipe)
        benchmark = load_benchmark(resolve_path(recipe.benchmark))
        scenarios = chosen_scenarios(recipe, benchmark, run)
        gold = gold_schemas(recipe, benchmark)
        models = asked_models(recipe, run)
        mend_torn_line(run.predictions)
        done = read_records(run.predictions, ServerPrediction)
        refuse_other_checkpoints(run, models, done)
        facts: dict[str, Json] = {
            "benchmark_digest": benchmark.digest,
            "models": {
                model.label: {"source": model.source, "digest": model.digest} for model in models
            },
        }
        if done:
            add_provenance(run, "generate", facts)
        else:  # nothing was answered yet, so nothing of an earlier try stands
            run.predictions.unlink(missing_ok=True)
        attempt: Path | None = None
        unanswered: list[str] = []
        for model in models:
            missing = missing_requests(recipe, model.label, scenarios, {p.key for p in done})
            if missing:
                attempt = attempt or run.new_attempt("generate")
                with open_workshop(recipe, missing) as workshop:
                    answers = any(p.model == model.label for p in done)
                    session = Session(recipe, run, facts, gold, workshop, answers)
                    unanswered += session.ask(model, missing, attempt)
        predictions = read_records(run.predictions, ServerPrediction)
        if predictions:
            add_provenance(run, "generate", {**facts, "spent": spent(predictions)})
    if unanswered:
        paths = f"--benchmark {quote(recipe.benchmark)} --predictions {quote(str(run.predictions))}"
        raise HarnessFault(
            "unanswered",
            f"{len(unanswered)} requests had no answer, first {unanswered[0]}; the run has no"
            " headline without them; if one is never answered,"
            f" `toolgenesis-sft score {paths} --out FOLDER` counts it as 0",
        )


def check(recipe: Recipe, run: RunFolder) -> None:
    """What a dry run looks at: strategies, scenarios, and the models that earlier stages write.
    Raises UserError as `generate` does."""
    check_strategies(recipe)
    chosen_scenarios(recipe, load_benchmark(resolve_path(recipe.benchmark)), run)
    check_own_folders(recipe, run)


def check_strategies(recipe: Recipe) -> None:
    if "imported" in recipe.generate.strategies:
        raise UserError(
            "generate.strategies",
            "imported",
            "is no way to ask a model",
            "take direct, direct_two_calls, coder_agent or oracle",
        )


def chosen_scenarios(recipe: Recipe, benchmark: Benchmark, run: RunFolder) -> list[Scenario]:
    """The scenarios of `generate.scenarios`, in the benchmark's order.

    `train` means those that the model was really trained on (data/train.jsonl); where the run has
    no training data, the benchmark's own split.
    """
    samples = read_records(run.data / "train.jsonl", ChatSample)
    train = {sample.scenario for sample in samples if sample.scenario} or set(benchmark.train)
    held_out = set(benchmark.held_out) - train
    wanted = {
        "train": train,
        "held_out": held_out,
        "train_and_held_out": train | held_out,
        "all": set(benchmark.slugs),
    }[recipe.generate.scenarios]
    chosen = [scenario for scenario in benchmark.scenarios if scenario.slug in wanted]
    if not chosen:
        raise UserError(
            "generate.scenarios",
            recipe.generate.scenarios,
            f"names no scenario of {benchmark.path.name}",
            "set it to all",
        )
    return chosen


def gold_schemas(recipe: Recipe, benchmark: Benchmark) -> dict[str, tuple[ToolSchema, ...]]:
    """The benchmark's schemas, where the oracle setting is asked for; nothing else sees them."""
    return load_gold_schemas(benchmark.path) if "oracle" in recipe.generate.strategies else {}


def missing_requests(
    recipe: Recipe, label: str, scenarios: Sequence[Scenario], done: set[Key]
) -> list[Request]:
    """What is still to be asked, strategy by strategy, the samples of a scenario side by side."""
    requests = [
        Request(label, strategy, scenario, sample_index, recipe.generate)
        for strategy in recipe.generate.strategies
        for scenario in scenarios
        for sample_index in range(recipe.generate.num_samples)
    ]
    return [request for request in requests if request.key not in done]


@contextlib.contextmanager
def open_workshop(recipe: Recipe, requests: Sequence[Request]) -> Iterator[Workshop | None]:
    """Where servers are tried, if a coder agent is among the requests. What would keep them from
    being tried is said before a model is asked."""
    if all(request.strategy != "coder_agent" for request in requests):
        yield None
        return
    # Only the coder agent needs the MCP SDK; without it, generation runs in an environment that
    # has none.
    from toolgenesis_sft.sandbox.jail import Limits
    from toolgenesis_sft.sandbox.workshop import Workshop, nothing

    settings = recipe.score
    limits = Limits(call_s=settings.call_timeout_s, memory_mib=settings.memory_mib)
    with Workshop(
        server_python(settings.server_python), settings, limits, num_threads=os.cpu_count()
    ) as workshop:
        workshop.submit(nothing).result()
        yield workshop


@dataclass(frozen=True)
class Session:
    """The missing requests of one model. facts: the stage's part of the provenance.
    answers_others: the model has answered in an earlier call."""

    recipe: Recipe
    run: RunFolder
    facts: dict[str, Json]
    gold: dict[str, tuple[ToolSchema, ...]]
    workshop: Workshop | None
    answers_others: bool

    def ask(self, model: AskedModel, requests: Sequence[Request], attempt: Path) -> list[str]:
        """Start the engines, ask, append. Returns what had no answer, with its fault."""
        settings, thinking = self.recipe.generate, self.recipe.train.thinking
        with open_engines(settings, model, thinking, attempt, len(requests)) as engines:
            return asyncio.run(self._ask_all(model, engines, requests))

    async def _ask_all(
        self, model: AskedModel, engines: Sequence[Engine], requests: Sequence[Request]
    ) -> list[str]:
        queue = iter(requests)
        unanswered: list[str] = []
        hopeless: list[HarnessFault | UserError] = []
        refusals: list[tuple[Request, HarnessFault]] = []
        answers_others = self.answers_others
        started = time.monotonic()
        num_tokens = 0

        async def work(client: ModelClient, engine: Engine, restarting: asyncio.Lock) -> None:
            nonlocal num_tokens, answers_others
            for request in queue:
                if hopeless:  # nothing more is asked; what is in flight still comes home
                    return
                try:
                    prediction = await self._answer(client, engine, request, restarting)
                except HarnessFault as fault:
                    if is_filtered(fault):
                        refusals.append((request, fault))
                        progress.done("refused")
                        continue
                    of_all = fault.kind != "request_refused" or not answers_others
                    if fault.kind == "engine_died" or (client.is_hopeless(fault) and of_all):
                        hopeless.append(for_the_user(fault, engine))
                        return
                    unanswered.append(f"{request.scenario.slug} ({fault})")
                    progress.done("unanswered")
                    continue
                self._keep(prediction)
                answers_others = True
                num_tokens += prediction.num_completion_tokens
                speed = num_tokens / (time.monotonic() - started)
                progress.done(prediction.finish_reason, f"{speed:.0f} tokens/s")

        async with contextlib.AsyncExitStack() as clients:
            with Progress(f"generate {model.label}", len(requests), "servers") as progress:
                try:
                    async with asyncio.TaskGroup() as workers:
                        for engine in engines:
                            client = await clients.enter_async_context(engine.client())
                            restarting = asyncio.Lock()
                            for _ in range(min(engine.concurrency, len(requests))):
                                workers.create_task(work(client, engine, restarting))
                except ExceptionGroup as group:  # the first worker's word counts
                    raise group.exceptions[0] from None
        if hopeless:
            raise hopeless[0]
        for request, fault in refusals:
            slug = request.scenario.slug
            if answers_others:
                self._keep(request.prediction(REFUSED))
                print(f"generate: no answer for {slug}, which counts: {fault}", file=sys.stderr)
            else:  # perhaps the account is blocked, and not a prompt
                unanswered.append(f"{slug} ({fault})")
        return unanswered

    def _keep(self, prediction: ServerPrediction) -> None:
        """Append an answer. The first one brings the provenance: before it, a run binds nothing."""
        if not self.run.predictions.exists():
            add_provenance(self.run, "generate", self.facts)
        append_record(self.run.predictions, prediction)

    async def _answer(
        self, client: ModelClient, engine: Engine, request: Request, restarting: asyncio.Lock
    ) -> ServerPrediction:
        """One prediction. A server of ours that died meanwhile is started again, once."""
        while True:
            restarts = engine.num_restarts
            try:
                return await self._by_strategy(client, request)
            except HarnessFault as fault:
                async with restarting:
                    if engine.num_restarts == restarts:  # else another worker has seen to it
                        if not await asyncio.to_thread(engine.died_of, fault):
                            raise
                        await asyncio.to_thread(engine.restart)

    async def _by_strategy(self, client: ModelClient, request: Request) -> ServerPrediction:
        match request.strategy:
            case "direct":
                return await direct(client, request)
            case "direct_two_calls":
                return await direct_two_calls(client, request)
            case "oracle":
                return await oracle(client, request, self.gold[request.scenario.slug])
            case "coder_agent":
                assert self.workshop is not None
                return await coder_agent(client, request, self.workshop)
        raise AssertionError(request.strategy)


def is_filtered(fault: HarnessFault) -> bool:
    """Whether the provider's content filter, in its own words, refused the prompt."""
    said = fault.detail.lower()
    return fault.kind == "request_refused" and any(words in said for words in FILTER_WORDS)


def for_the_user(fault: HarnessFault, engine: Engine) -> HarnessFault | UserError:
    """A refusal of an endpoint is for the user to mend; every other fault stays the harness's."""
    settings = engine.settings
    if engine.command:
        return fault
    if fault.kind == "key_refused":
        return UserError(
            "generate.api_key_variable",
            settings.api_key_variable or "not set",
            fault.detail,
            "name the environment variable that holds the right key, and run again",
        )
    if fault.kind == "url_refused":
        return UserError(
            "generate.endpoint_url",
            settings.endpoint_url,
            fault.detail,
            "check the URL: most end in /v1, and /chat/completions is added to it",
        )
    if fault.kind == "request_refused":
        for word, name in SETTINGS_BY_WORD.items():
            if word in fault.detail.lower():
                return UserError(
                    f"generate.{name}",
                    getattr(settings, name),
                    fault.detail,
                    "set it to what the endpoint takes",
                )
        return UserError(
            "generate.endpoint_model", engine.model, fault.detail, "check the model's name"
        )
    return fault


def spent(predictions: Sequence[ServerPrediction]) -> dict[str, Json]:
    """Tokens and seconds of everything in the file, each prediction once, by model.

    A prompt has tokens: where a prediction has none, its endpoint did not tell. `num_without_seed`
    and `num_without_temperature` count answers whose endpoint takes none.
    """
    totals: dict[str, dict[str, Json]] = {}
    for prediction in predictions:
        total = totals.setdefault(
            prediction.model,
            {
                "num_predictions": 0,
                "num_without_usage": 0,
                "num_without_seed": 0,
                "num_without_temperature": 0,
                "num_prompt_tokens": 0,
                "num_completion_tokens": 0,
                "request_s": 0.0,
            },
        )
        total["num_predictions"] += 1
        total["num_without_usage"] += prediction.num_prompt_tokens == 0
        total["num_without_seed"] += prediction.seed is None
        total["num_without_temperature"] += prediction.temperature is None
        total["num_prompt_tokens"] += prediction.num_prompt_tokens
        total["num_completion_tokens"] += prediction.num_completion_tokens
        total["request_s"] = round(total["request_s"] + prediction.elapsed_s, 3)
    return dict(totals)
