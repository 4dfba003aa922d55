"""What is scored, with what, and where it goes; what of it can be wrong is said before any work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft import __version__
from toolgenesis_sft.benchmark import Benchmark, load_benchmark
from toolgenesis_sft.client import read_key
from toolgenesis_sft.config import Recipe, Score, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import AnswerKey, Json, ServerPrediction
from toolgenesis_sft.runs import RunFolder, fingerprint
from toolgenesis_sft.sandbox.jail import runtime_digest
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.judge import Endpoint, Judge

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class ScoreJob:
    """What is scored, with what, and where it goes."""

    benchmark: Benchmark
    predictions: Path
    run: RunFolder
    settings: Score
    complete: bool
    """Whether the predictions are a whole submission: a server without one is then a zero."""

    @property
    def scores(self) -> Path:
        """Where this job appends: a shard has a file of its own, until all are put together."""
        if self.settings.shard is None:
            return self.run.scores
        return self.run.root / f"scores_{self.settings.shard.replace('/', '_of_')}.jsonl"

    def shards(self) -> list[Path]:
        return sorted(self.run.root.glob("scores_*_of_*.jsonl"))

    def share(self, order: dict[Key, str]) -> dict[Key, str]:
        """The part of the predictions that is this job's; a server is never split."""
        if self.settings.shard is None:
            return order
        first, step = map(int, self.settings.shard.split("/"))
        slugs = set(list(dict.fromkeys(slug for _, _, slug, _ in order))[first - 1 :: step])
        return {key: digest for key, digest in order.items() if key[2] in slugs}

    @classmethod
    def of_run(cls, recipe: Recipe, run: RunFolder) -> ScoreJob:
        """The predictions of a run; those that generation still owes are not scored."""
        if not run.predictions.exists():
            raise UserError(
                "predictions",
                str(run.predictions),
                "does not exist",
                f"run `toolgenesis-sft generate` for {run.root.name} first",
            )
        benchmark = load_benchmark(resolve_path(recipe.benchmark))
        return cls(benchmark, run.predictions, run, recipe.score, complete=False)

    @classmethod
    def of_folder(cls, benchmark: Path, predictions: Path, out: Path, settings: Score) -> ScoreJob:
        """Anyone's predictions: JSON lines, a registry.json, or a folder of <slug>.py."""
        if not predictions.exists():
            raise UserError(
                "--predictions",
                str(predictions),
                "does not exist",
                "give predictions.jsonl, registry.json or a folder of <slug>.py",
            )
        loaded = load_benchmark(benchmark)
        return cls(loaded, predictions, RunFolder(out), settings, complete=True)


def check_predictions(job: ScoreJob) -> dict[Key, str]:
    """Key -> digest of each prediction, in order. Raises UserError before any work begins."""
    known = set(job.benchmark.slugs)
    order: dict[Key, str] = {}
    for prediction in read_predictions(job.predictions):
        if prediction.slug not in known:
            raise UserError(
                f"{job.predictions.name}: slug",
                prediction.slug,
                f"is not in the benchmark {job.benchmark.path.name}",
                "remove that prediction, or give the benchmark that has it",
            )
        if prediction.key in order:
            raise UserError(
                f"{job.predictions.name}: {prediction.slug}",
                f"{prediction.model}, {prediction.strategy}, sample {prediction.sample_index}",
                "is predicted twice",
                "remove one of the two",
            )
        order[prediction.key] = digest(prediction)
    return order


def digest(prediction: ServerPrediction) -> str:
    """Of all that the score depends on."""
    parts = (prediction.completion, prediction.schema_completion, prediction.finish_reason)
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def check_models(job: ScoreJob, keys: dict[str, AnswerKey], order: dict[Key, str]) -> None:
    """Keys that are set, and a reference server for each task. Raises UserError."""
    settings = job.settings
    for variable in (settings.judge_key_variable, settings.solver_key_variable):
        read_key(variable)
    if settings.utility == "agent" and "L4" in settings.layers:
        known = oracle_servers(settings)
        for slug in sorted({key[2] for key in order}):
            if keys[slug].tasks and slug not in known:
                raise UserError(
                    f"score.oracle: {slug}",
                    str(settings.oracle),
                    "has no server with code for it",
                    "add one: an agent's success is measured against it",
                )


def oracle_servers(settings: Score) -> dict[str, str]:
    """Code by slug, of a folder of servers, of predictions, or of a run; the first of a slug."""
    assert settings.oracle is not None
    path = resolve_path(settings.oracle)
    if not path.exists() and "/" not in settings.oracle:
        path = RunFolder(Path("runs") / settings.oracle).predictions
    servers: dict[str, str] = {}
    for prediction in read_predictions(path):
        code = parse_prediction(prediction).code
        if code is not None:
            servers.setdefault(prediction.slug, code)
    return servers


def judge_of(settings: Score) -> Judge | None:
    if settings.judge_url is None or settings.judge_model is None:
        return None
    return Judge(Endpoint(settings.judge_url, settings.judge_model, settings.judge_key_variable))


def agent_of(job: ScoreJob, judge: Judge | None) -> Agent | None:
    settings = job.settings
    if settings.utility != "agent" or "L4" not in settings.layers:
        return None
    assert judge is not None
    solver = judge.endpoint
    if settings.solver_url is not None and settings.solver_model is not None:
        solver = Endpoint(settings.solver_url, settings.solver_model, settings.solver_key_variable)
    return Agent(solver, judge, oracle_servers(settings), job.run.root / "oracle")


def job_facts(job: ScoreJob, keys: dict[str, AnswerKey], interpreter: Path) -> dict[str, Json]:
    """What a score depends on besides the prediction."""
    settings = job.settings
    agent = None
    if settings.utility == "agent":
        agent = {
            "solver": settings.solver_model or settings.judge_model,
            "oracle_digest": fingerprint(oracle_servers(settings)),
        }
    return {
        "benchmark": job.benchmark.path.name,
        "benchmark_digest": job.benchmark.digest,
        "tasks_digest": fingerprint(
            {slug: key.model_dump(mode="json") for slug, key in keys.items()}
        ),
        "profile": settings.profile,
        "layers": list(settings.layers),
        "launch_attempts": settings.launch_attempts,
        "call_timeout_s": settings.call_timeout_s,
        "memory_mib": settings.memory_mib,
        "judge": settings.judge_model,
        "agent": agent,
        "server_runtime_digest": runtime_digest(interpreter),
        "scorer": __version__,
    }
