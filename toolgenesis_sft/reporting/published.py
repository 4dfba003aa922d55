"""Rows that others published: shown below ours, named as theirs, never mixed with them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from toolgenesis_sft.config import Report, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import FIGURES, FigureName, Record
from toolgenesis_sft.yaml_text import read_yaml


class PublishedRow(Record):
    """One row of a source; a figure that the source does not give is absent."""

    model: str
    strategy: str
    source: str
    reproduces: bool = False
    """Whether this is the row that the model card's recipe reproduces."""
    figures: dict[FigureName, float]


class PublishedLoss(Record):
    """[optimizer step, loss] of the published training run that starts from `model`."""

    model: str
    source: str
    points: tuple[tuple[int, float], ...]


def published_rows(settings: Report) -> tuple[tuple[PublishedRow, ...], tuple[str, ...]]:
    """The rows, and a note where the default file is not there (an installed wheel)."""
    tree = _read(settings)
    if tree is None:
        note = f"No published rows: {settings.published_scores} is not in this folder."
        return (), (note,)
    sources = tree.get("sources", {})
    return tuple(_row(row, sources, settings.published_scores) for row in tree["rows"]), ()


def published_loss(settings: Report, start_model: str | None) -> PublishedLoss | None:
    """The published curve, only for a run that starts where the published one did."""
    tree = _read(settings)
    if tree is None or "loss_curve" not in tree or tree["loss_curve"]["model"] != start_model:
        return None
    return PublishedLoss.model_validate(tree["loss_curve"])


def _read(settings: Report) -> dict[str, Any] | None:
    path = resolve_path(settings.published_scores)
    if not path.exists() and settings.published_scores == Report().published_scores:
        return None
    tree = read_yaml(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("rows"), list):
        raise UserError(
            "report.published_scores",
            str(path),
            "must be a mapping with `rows`",
            "start from eval/published_scores.yaml",
        )
    return tree


def _row(row: Any, sources: dict[str, str], name: str) -> PublishedRow:
    try:
        figures = {figure: row.pop(figure) for figure in FIGURES if figure in row}
        source = sources.get(row["source"], row["source"])
        return PublishedRow.model_validate({**row, "source": source, "figures": figures})
    except (ValidationError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "report.published_scores", str(row), f"is no row ({error})", f"mend it in {name}"
        ) from error
