"""The command line: verbs only. Each verb opens the run folder and calls its stage.

Stages are imported when their verb runs, so `--help` answers at once and scoring never loads torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from toolgenesis_sft.errors import EXIT_USER_ERROR, HarnessFault, UserError

if TYPE_CHECKING:
    from toolgenesis_sft.config import Recipe
    from toolgenesis_sft.runs import RunFolder

PIPELINE = ("build", "plan", "train", "export", "generate", "score", "report")
VERBS = {
    "build": "make the training set: collect, verify by running, split, report",
    "plan": "steps, tokens, memory, hours and disk of a training run, without a GPU",
    "train": "fine-tune with DeepSpeed ZeRO-3",
    "export": "newest complete checkpoint -> Hugging Face folder, re-opened and checked",
    "generate": "ask the model for a server for every scenario",
    "score": "run the servers in the sandbox and score four layers",
    "report": "report.json and report.html",
    "compare": "two or more scored runs, paired by server",
    "run": "all stages in order",
    "submit": "the same stages as dependent Slurm jobs",
    "doctor": "check this machine: sandbox, environments, engines",
}


class Parser(argparse.ArgumentParser):
    """Bad usage in one line and exit code 2, as every other error for users."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """The literal set of options: a test freezes it. A new knob goes into the recipe."""
    parser = Parser(prog="toolgenesis-sft", description=__doc__.splitlines()[0], allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == "doctor":
            continue
        if name == "compare":
            verb.add_argument("folders", nargs="+", help="run folders or `score --out` folders")
            verb.add_argument("--out", help="folder for comparison.json and comparison.html")
            verb.add_argument(
                "--force", action="store_true", help="compare what differs, and say so"
            )
            verb.add_argument("--json", action="store_true", help="the answer as JSON on stdout")
            continue
        bare = name in ("score", "report")
        verb.add_argument("recipe", nargs="?" if bare else None, help="recipes/NAME.yaml")
        verb.add_argument("overrides", nargs="*", help="section.key=value")
        verb.add_argument(
            "--run", help="name or path of the run folder; default: runs/ and the recipe's name"
        )
        verb.add_argument("--dry-run", action="store_true", help="check everything, do nothing")
        if name in ("plan", "score", "report"):
            verb.add_argument("--json", action="store_true", help="the answer as JSON on stdout")
        if bare:
            verb.add_argument("--benchmark", help="benchmark file, without a recipe")
            verb.add_argument(
                "--predictions", help="predictions: JSON lines, registry.json or a folder"
            )
            verb.add_argument("--out", help="folder for scores and report")
        if name == "score":
            verb.add_argument(
                "--profile", choices=["strict", "tg-compat"], help="which definitions"
            )
            verb.add_argument("--layers", help="comma-separated: L1,L2,L3,L4")
            verb.add_argument("--workers", type=int, help="servers scored at once")
        if name == "build":
            verb.add_argument("--show", metavar="ID", help="print one sample as the model sees it")
        if name == "submit":
            verb.add_argument(
                "--cluster", default="cluster.yaml", help="partition, account, modules"
            )
            verb.add_argument(
                "--print", action="store_true", help="show the scripts, submit nothing"
            )
    return parser


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes overrides in one place only; people write them behind options as well."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or "=" not in text]
    if unknown or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        options.overrides += rest
    recipe = getattr(options, "recipe", None) or ""
    if "=" in recipe and not Path(recipe).exists():
        parser.error(f"{recipe} changes a recipe, and none stands before it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        return dispatch(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except HarnessFault as fault:
        print(
            f"error: {fault}; nothing finished is lost, run the same command again", file=sys.stderr
        )
        return 1
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def dispatch(options: argparse.Namespace) -> int:
    verb: str = options.verb
    if verb == "doctor":
        return doctor()
    if verb == "compare":
        return compare(options)
    if verb in ("score", "report") and options.recipe is None:
        return on_bare_folders(options)
    if verb in ("score", "report"):
        refuse_bare_options(options)
    recipe, run = open_run(options)
    if verb == "submit":
        from toolgenesis_sft.cluster import submit

        return submit(
            recipe,
            Path(options.recipe),
            tuple(options.overrides),
            run,
            Path(options.cluster),
            print_only=options.print,
            dry_run=options.dry_run,
        )
    if options.dry_run:
        check("build" if verb == "run" else verb, recipe, run)
        print(f"{verb}: recipe and inputs are fine; would write {run.root}", file=sys.stderr)
        return 0
    for stage in PIPELINE if verb == "run" else (verb,):
        code = STAGES[stage](options, recipe, run)
        if code != 0:
            return code
    return 0


def open_run(options: argparse.Namespace) -> tuple[Recipe, RunFolder]:
    """Load the recipe and its run folder; refuse a folder that another recipe wrote."""
    from toolgenesis_sft.benchmark import load_benchmark
    from toolgenesis_sft.config import load_recipe, resolve_path
    from toolgenesis_sft.runs import RunFolder, claim

    recipe = load_recipe(Path(options.recipe), tuple(options.overrides))
    run = RunFolder(Path("runs") / (options.run or recipe.name))
    if options.verb != "plan" or run.config.exists():
        if options.verb not in ("train", "export") and not getattr(options, "print", False):
            load_benchmark(resolve_path(recipe.benchmark))
        claim(run, recipe, write=options.verb not in ("plan", "submit") and not options.dry_run)
    return recipe, run


def build(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.corpus import build as stage

    if getattr(options, "show", None):
        print(stage.show(recipe, run, options.show))
        return 0
    stage.build(recipe, run)
    return 0


def plan(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.training import plan as stage

    answer = stage.make_plan(recipe, run)
    print(
        answer.model_dump_json(indent=2) if getattr(options, "json", False) else stage.show(answer)
    )
    return 0


def train(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.training import launch

    return launch.train(Path(options.recipe), tuple(options.overrides), run)


def export(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.training.export import export as stage

    stage(recipe, run)
    return 0


def generate(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.generation.generate import generate as stage

    stage(recipe, run)
    return 0


def score(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.scoring.job import ScoreJob
    from toolgenesis_sft.scoring.score import score_predictions

    score_predictions(ScoreJob.of_run(recipe, run))
    if getattr(options, "json", False):
        from toolgenesis_sft.reporting import report as stage

        print(stage.summarise_run(recipe, run).model_dump_json(indent=2))
    return 0


def report(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from toolgenesis_sft.reporting import report as stage
    from toolgenesis_sft.training.card import write_card

    summary = stage.report_run(recipe, run)
    write_card(recipe, run)
    print(
        summary.model_dump_json(indent=2)
        if getattr(options, "json", False)
        else stage.table(summary)
    )
    curve = f", loss curve: {run.loss_svg}" if run.loss_svg.exists() else ""
    print(f"report: {run.report_html}{curve}", file=sys.stderr)
    return 0


def check(verb: str, recipe: Recipe, run: RunFolder) -> None:
    """Whether what a stage reads is there, by the stage's own check. Writes nothing."""
    match verb:
        case "build":
            from toolgenesis_sft.corpus.inputs import check as of_build

            of_build(recipe, run)
        case "plan":
            from toolgenesis_sft.training.plan import check as of_plan

            of_plan(recipe, run)
        case "train":
            from toolgenesis_sft.training.launch import check as of_train

            of_train(recipe, run)
        case "export":
            from toolgenesis_sft.training.checkpoint import require_checkpoint

            require_checkpoint(run)
        case "generate":
            from toolgenesis_sft.generation.generate import check as of_generate

            of_generate(recipe, run)
        case "score":
            from toolgenesis_sft.scoring.job import ScoreJob
            from toolgenesis_sft.scoring.score import check as of_score

            of_score(ScoreJob.of_run(recipe, run))
        case "report":
            from toolgenesis_sft.reporting.study import study_run

            study_run(recipe, run)


STAGES: dict[str, Callable[[argparse.Namespace, Recipe, RunFolder], int]] = {
    "build": build,
    "plan": plan,
    "train": train,
    "export": export,
    "generate": generate,
    "score": score,
    "report": report,
}


def on_bare_folders(options: argparse.Namespace) -> int:
    """`score` and `report` for people who only want the scorer: no recipe, no run folder."""
    from toolgenesis_sft.config import Report, Score, resolve_path
    from toolgenesis_sft.reporting import report as stage
    from toolgenesis_sft.reporting.study import study_folder
    from toolgenesis_sft.sections import checked

    needed = ["benchmark", "predictions", "out"]
    if options.verb == "report":
        needed.remove("predictions")
    for name in needed:
        if getattr(options, name) is None:
            usage = " ".join(f"--{name} PATH" for name in needed)
            raise UserError(
                f"--{name}",
                "nothing",
                "is needed where no recipe is given",
                f"toolgenesis-sft {options.verb} {usage}",
            )
    benchmark, out = resolve_path(options.benchmark), Path(options.out)
    if options.verb == "score":
        from toolgenesis_sft.scoring import score as scorer
        from toolgenesis_sft.scoring.job import ScoreJob

        given = {
            "profile": options.profile,
            "layers": options.layers.split(",") if options.layers else None,
            "workers": options.workers,
        }
        settings = checked(
            Score, {key: value for key, value in given.items() if value is not None}, "--"
        )
        predictions = resolve_path(options.predictions)
        job = ScoreJob.of_folder(benchmark, predictions, out, settings)
        if options.dry_run:
            scorer.check(job)
        else:
            scorer.score_predictions(job)
    elif options.dry_run:
        study_folder(benchmark, out)
    if options.dry_run:
        print(f"{options.verb}: inputs are fine; would write {out}", file=sys.stderr)
        return 0
    summary = stage.report_folder(benchmark, out, Report())
    print(summary.model_dump_json(indent=2) if options.json else stage.table(summary))
    print(f"report: {out / 'report.html'}", file=sys.stderr)
    return 0


INSTEAD = {
    "benchmark": "override the recipe with benchmark=FILE",
    "predictions": "leave the recipe out; with one, those of the run are scored",
    "out": "give --run, or leave the recipe out",
    "profile": "override the recipe with score.profile=NAME",
    "layers": "override the recipe with score.layers=[L1, L2]",
    "workers": "override the recipe with score.workers=N",
}


def refuse_bare_options(options: argparse.Namespace) -> None:
    for name, instead in INSTEAD.items():
        value = getattr(options, name, None)
        if value is not None:
            raise UserError(f"--{name}", value, "is for use without a recipe", instead)


def compare(options: argparse.Namespace) -> int:
    from toolgenesis_sft.reporting import compare as stage

    folders = [Path(folder) for folder in options.folders]
    comparison = stage.compare(folders, force=options.force)
    if options.out:
        stage.write(comparison, Path(options.out))
        print(f"compare: {Path(options.out) / 'comparison.html'}", file=sys.stderr)
    print(comparison.model_dump_json(indent=2) if options.json else stage.table(comparison))
    return 0


def doctor() -> int:
    """Print what works on this machine; exit code 0 only if servers can be scored here."""
    import importlib.util
    import shutil

    from toolgenesis_sft.config import server_python
    from toolgenesis_sft.sandbox.jail import self_test

    for package, use in (
        ("torch", "train"),
        ("deepspeed", "train"),
        ("transformers", "train, generate"),
        ("vllm", "generate on GPUs (or its own environment: generate.engine_python)"),
        ("mcp", "score"),
    ):
        found = "yes" if importlib.util.find_spec(package) else "no "
        print(f"{found}  {package:14} {use}")
    print(f"{'yes' if shutil.which('sbatch') else 'no '}  {'sbatch':14} submit")
    facts = self_test(server_python(None))
    for name, value in facts.items():
        print(f"yes  sandbox.{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
