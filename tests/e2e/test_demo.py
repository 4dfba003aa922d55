"""What the report of `make demo` must show; run after it with `pytest -m demo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolgenesis_sft.records import GroupSummary, RunReport
from toolgenesis_sft.runs import RunFolder

pytestmark = pytest.mark.demo

RUN = RunFolder(Path("runs/tiny-cpu"))


@pytest.fixture(scope="module")
def report() -> RunReport:
    return RunReport.model_validate_json(RUN.report_json.read_bytes())


def group(report: RunReport, model: str, scenarios: str) -> GroupSummary:
    return next(g for g in report.groups if (g.model, g.scenarios) == (model, scenarios))


def mean(summary: GroupSummary, figure: str) -> float:
    value = summary.figures[figure].mean_all
    assert value is not None, f"{figure} is blocked by a harness fault"
    return value


def test_the_trained_model_rebuilds_its_training_servers(report: RunReport) -> None:
    trained = group(report, "trained", "train")
    assert mean(trained, "launch") >= 0.9
    assert mean(trained, "ut_hard") >= 0.8
    assert trained.memorisation


def test_the_model_before_training_builds_nothing(report: RunReport) -> None:
    before = group(report, "before_training", "train")
    assert all(mean(before, figure) == 0 for figure in before.figures)


def test_held_out_scenarios_are_in_the_report(report: RunReport) -> None:
    for model in ("before_training", "trained"):
        held_out = group(report, model, "held_out")
        assert held_out.num_servers >= 12
        assert not held_out.memorisation
        assert set(held_out.figures) >= {"launch", "ut_hard", "task_utility"}


def test_the_exported_card_has_the_scores() -> None:
    card = (RUN.export / "README.md").read_text(encoding="utf-8")
    assert "## Scores" in card
    assert "train (memorised)" in card


def test_training_was_zero_stage_3_on_two_ranks() -> None:
    facts = json.loads(RUN.provenance.read_bytes())["train"]
    assert (facts["zero_stage"], facts["world_size"]) == (3, 2)


def test_the_report_is_one_file_that_needs_no_network() -> None:
    html = RUN.report_html.read_text(encoding="utf-8")
    assert "memorisation" in html
    assert 'src="http' not in html
    assert 'href="http' not in html.split("<main", 1)[0]
    assert RUN.loss_svg.read_text(encoding="utf-8").lstrip().startswith("<?xml")
