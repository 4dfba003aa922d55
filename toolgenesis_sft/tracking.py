"""wandb, for those who use it: one of its runs for a run folder, continued by every stage.

It shows what the files of the run folder say and holds nothing of its own: steps of metrics.jsonl
as they come, the figures of report.json and the numbers of the data report in its summary, and
those files as artefacts. `train.wandb: off` needs no package and touches nothing.
"""

from __future__ import annotations

import importlib.util
import uuid
from typing import TYPE_CHECKING, Any

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Json, RunReport
from toolgenesis_sft.runs import RunFolder, read_json, write_text

if TYPE_CHECKING:
    import wandb


def open_wandb(recipe: Recipe, run: RunFolder) -> wandb.Run | None:
    """The run that all attempts and stages of this folder write to. None where the recipe says
    `off`; raises UserError where it does not and wandb is not installed, or refuses."""
    mode = recipe.train.wandb
    if mode == "off":
        return None
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "train.wandb",
            mode,
            "needs the package wandb, which is not installed",
            "pip install wandb, or set train.wandb=off",
        )
    import wandb

    try:
        return wandb.init(
            project=recipe.train.wandb_project,
            name=run.root.name,
            id=wandb_id(run),
            resume="allow",
            mode=mode,
            dir=str(run.root),
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:  # no key, or no way to its server
        raise UserError(
            "train.wandb",
            mode,
            f"wandb refuses ({error})",
            "mend that, or set train.wandb=offline and send the run later with `wandb sync`",
        ) from error


def wandb_id(run: RunFolder) -> str:
    """wandb's id of this folder, made once: a folder made anew under its name is another run."""
    path = run.root / ".wandb_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8")


def track_report(recipe: Recipe, run: RunFolder, report: RunReport) -> None:
    """The report's figures, the data's numbers, and the files that both come from."""
    tracked = open_wandb(recipe, run)
    if tracked is None:
        return
    import wandb

    tracked.summary.update(figures(report))
    data_report = run.data / "data_report.json"
    if data_report.exists():
        tracked.summary.update(numbers(read_json(data_report), "data/"))
    for kind, files in (
        ("report", (run.report_json, run.report_html, run.scores, run.loss_svg)),
        ("data", (data_report, data_report.with_suffix(".html"), run.data / "manifest.json")),
    ):
        artefact = wandb.Artifact(f"{run.root.name}-{kind}", type=kind)
        for path in files:
            if path.exists():
                artefact.add_file(str(path), name=path.name)
        tracked.log_artifact(artefact)
    tracked.finish()


def figures(report: RunReport) -> dict[str, float]:
    """`report/<scenarios>/<model>/<strategy>/<figure>`, with `_low` and `_high` of its interval.
    A figure without a headline is absent."""
    found: dict[str, float] = {}
    for group in report.groups:
        for name, summary in group.figures.items():
            key = f"report/{group.scenarios}/{group.model}/{group.strategy}/{name}"
            if summary.mean_all is not None:
                found[key] = summary.mean_all
            if summary.ci95 is not None:
                found[f"{key}_low"], found[f"{key}_high"] = summary.ci95
    return found


def numbers(tree: Json, prefix: str = "") -> dict[str, Any]:
    """The numbers of a JSON object by their dotted names; lists and texts stay in the file."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found
