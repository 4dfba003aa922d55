"""The loss curve: what metrics.jsonl says, beside the published curve where it belongs."""

from __future__ import annotations

import json
import math

from toolgenesis_sft.config import Report
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Record
from toolgenesis_sft.reporting.published import PublishedLoss, published_loss
from toolgenesis_sft.reporting.study import Study

MAX_POINTS = 1000  # more than a screen has pixels for; above it every k-th step is kept


class LossCurve(Record):
    """[optimizer step, loss] in nats per supervised token; `validation` where it was measured."""

    train: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    published: PublishedLoss | None


def loss_curve(study: Study, settings: Report) -> LossCurve | None:
    """None for a folder that was not trained in. A step that was run twice (after a resume)
    shows its last value."""
    path = study.folder.metrics
    if not path.exists():
        return None
    train: dict[int, float] = {}
    validation: dict[int, float] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: line {number}",
                line[:60].decode(errors="replace"),
                "is no JSON object with a step",
                "remove the line",
            ) from error
        for name, points in (("loss", train), ("val_loss", validation)):
            value = entry.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                points[step] = float(value)
    if not train:
        return None
    return LossCurve(
        train=_thinned(train),
        validation=_thinned(validation),
        published=published_loss(settings, study.start_model),
    )


def _thinned(points: dict[int, float]) -> tuple[tuple[int, float], ...]:
    ordered = sorted(points.items())
    stride = max(1, math.ceil(len(ordered) / MAX_POINTS))
    return tuple(dict(ordered[::stride] + ordered[-1:]).items())
