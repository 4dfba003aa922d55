"""`extra` of report.json, typed: what stands behind the table."""

from __future__ import annotations

from toolgenesis_sft.records import FigureName, Record
from toolgenesis_sft.reporting.breakdown import FaultCount, Funnel, SideFigure, Slice
from toolgenesis_sft.reporting.contrasts import Contrast
from toolgenesis_sft.reporting.curves import LossCurve
from toolgenesis_sft.reporting.published import PublishedRow
from toolgenesis_sft.reporting.samples import Alignment, PassAtK
from toolgenesis_sft.reporting.study import ScenarioSet


class Analysis(Record):
    """`extra` of report.json: all that report.html shows besides the table, and what `compare`
    pairs. `servers` holds the counted value of each server by "model/strategy" and figure."""

    figures: tuple[FigureName, ...]
    sets: dict[ScenarioSet, tuple[str, ...]]
    trained_on: tuple[str, ...]
    num_samples: dict[str, int]
    not_applicable: dict[FigureName, int]
    scores_digest: str
    notes: tuple[str, ...]
    published: tuple[PublishedRow, ...]
    funnels: tuple[Funnel, ...]
    slices: tuple[Slice, ...]
    faults: tuple[FaultCount, ...]
    before_and_after: tuple[Contrast, ...]
    strategy_gaps: tuple[Contrast, ...]
    passes_at_k: tuple[PassAtK, ...]
    alignments: tuple[Alignment, ...]
    side_figures: tuple[SideFigure, ...]
    loss: LossCurve | None
    servers: dict[str, dict[FigureName, dict[str, float | None]]]
