"""What a build reads, looked at before any work, and what it must leave alone.

A build that would change nothing does nothing, and one that would replace the data that a model
was trained on is refused: which scenarios a model has seen is known from those data alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft import prompts
from toolgenesis_sft.benchmark import Benchmark, load_benchmark
from toolgenesis_sft.client import read_key
from toolgenesis_sft.config import Recipe, resolve_path, server_python
from toolgenesis_sft.corpus import report, teacher
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.gather import gather
from toolgenesis_sft.corpus.pairs import training_scenarios
from toolgenesis_sft.corpus.sources import Source, digests_of, resolve_sources, rows, weights_of
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import TRAINED, Json, ServerPrediction
from toolgenesis_sft.runs import RunFolder, fingerprint, read_json, read_records, sha256_file
from toolgenesis_sft.sandbox.jail import runtime_digest
from toolgenesis_sft.training.chat import CHAT_TEMPLATE
from toolgenesis_sft.training.checkpoint import complete_checkpoints
from toolgenesis_sft.training.tokenizer import digest, resolve_tokenizer


@dataclass(frozen=True)
class Inputs:
    """What a build reads, all of it there. fingerprint: of all that shapes the data."""

    benchmark: Benchmark
    sources: list[Source]
    weights: dict[str, float]
    interpreter: Path
    fingerprint: str

    @classmethod
    def of(cls, recipe: Recipe, run: RunFolder) -> Inputs:
        """Raises UserError where one is missing, or is not what it should be."""
        benchmark = load_benchmark(resolve_path(recipe.benchmark))
        sources = resolve_sources(recipe)
        weights = weights_of(recipe, sources)
        interpreter = server_python(recipe.score.server_python)
        shape = what_shapes_data(recipe, run, benchmark, sources, interpreter)
        return cls(benchmark, sources, weights, interpreter, fingerprint(shape))


def check(recipe: Recipe, run: RunFolder) -> None:
    """What a dry run says: whether the sources are there and begin as they should, and whether a
    build may write here. Nothing is run, asked or written. Raises UserError as `build` does."""
    inputs = Inputs.of(recipe, run)
    gather(recipe, inputs.benchmark, inputs.sources, Drops())
    for source in inputs.sources:
        if not source.has_servers:
            next(rows(source))
    if recipe.data.teacher is not None:
        read_key(recipe.data.teacher.key_variable)
    if teacher.SOURCE in recipe.data.sources:
        training_scenarios(inputs.benchmark)
    if not is_up_to_date(run.data / "manifest.json", inputs.fingerprint):
        refuse_where_trained(run)


def is_up_to_date(manifest: Path, wanted: str) -> bool:
    """Whether a data set of this fingerprint lies there, each file as its digest says."""
    if not manifest.exists():
        return False
    stored = read_json(manifest)
    return stored.get("fingerprint") == wanted and all(
        (path := manifest.parent / name).exists() and sha256_file(path) == digest_
        for name, digest_ in stored["files"].items()
    )


def refuse_where_trained(run: RunFolder) -> None:
    """Raises UserError where a model was trained on the data that lie here: what it has seen is
    known from them alone. Where they are a link to another run's, that run counts too."""
    for owner in (run, RunFolder(run.data.resolve().parent)):
        kept = results_of_training(owner)
        if kept:
            raise UserError(
                "--run",
                str(owner.root),
                "a model was trained on the data that is there, and a build now would replace it",
                f"give --run NEW_NAME, or remove {' and '.join(map(str, kept))} to train again",
            )


def results_of_training(run: RunFolder) -> list[Path]:
    """What a run holds of its own model: checkpoints, the export, what it predicted. A link to
    another run's export is not its own."""
    predicted = read_records(run.predictions, ServerPrediction)
    is_kept = {
        run.checkpoints: bool(complete_checkpoints(run)),
        run.export: run.export.is_dir() and not run.export.is_symlink(),
        run.predictions: any(prediction.model == TRAINED for prediction in predicted),
    }
    return [path for path, kept in is_kept.items() if kept]


def what_shapes_data(
    recipe: Recipe, run: RunFolder, benchmark: Benchmark, sources: list[Source], interpreter: Path
) -> dict[str, Json]:
    """Everything that the data set depends on; a change of any of it builds it again."""
    code = hashlib.sha256()
    ours = Path(__file__).parent
    for path in (
        *sorted(ours.glob("*.py")),
        *sorted(ours.glob("**/*.jinja")),
        report.STYLE,
        Path(prompts.__file__),
    ):
        code.update(path.read_bytes())
    fields = type(recipe.data).model_fields
    options = {
        name: value
        for name, value in recipe.data.model_dump(mode="json").items()
        if not fields[name].json_schema_extra  # execution fields do not shape the data
    }
    return {
        "data": options,
        "tokenizer": recipe.model.random.model_dump()
        if recipe.model.random
        else digest(resolve_tokenizer(recipe, run)),
        "thinking": recipe.train.thinking,
        "loss_on": recipe.train.loss_on,
        "seed": recipe.seed,
        "template": CHAT_TEMPLATE,
        "benchmark": benchmark.digest,
        "splits": [benchmark.train, benchmark.held_out],
        "reference_servers": digests_of(resolve_path(recipe.data.servers), True)
        if recipe.data.servers
        else [],
        "sources": [source.facts() for source in sources],
        "server_runtime": runtime_digest(interpreter),
        "code": code.hexdigest(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("datasketch", "tokenizers", "numpy")
        },
    }
