"""The tiny recipe on all kinds of server samples, then the coder agent with what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.corpus.conftest import ROOT
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.records import FIGURES, ChatSample, RunReport
from toolgenesis_sft.runs import RunFolder, read_records

OVERRIDES = (
    "data.kinds={server: 0.2, schema: 0.2, schema_to_server: 0.2, agent: 0.2, repair: 0.2}",
    "data.max_scenarios=2",
    "data.max_tokens=4096",
    "train.epochs=50",
    "generate.strategies=[coder_agent]",
    "generate.scenarios=train",
    "generate.max_turns=2",
    "generate.max_tokens=1200",
    "generate.compare_before_training=false",
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_model_trained_on_the_mixed_set_works_as_a_coder_agent(tmp_path: Path) -> None:
    """It has learnt two scenarios by heart: design, program and trial calls are what it was taught,
    and its programs pass every layer."""
    command = [sys.executable, "-m", "toolgenesis_sft.cli"]
    recipe = [str(ROOT / "recipes" / "tiny_cpu.yaml"), *OVERRIDES, "--run", "mixed"]
    for stage in ("build", "train", "export", "generate", "score", "report"):
        subprocess.run(
            [*command, stage, *recipe],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            check=True,
        )
    run = RunFolder(tmp_path / "runs" / "mixed")
    kinds = Counter(s.kind for s in read_records(run.data / "train.jsonl", ChatSample))
    assert kinds == {"server": 2, "schema": 2, "schema_to_server": 2, "agent": 2, "repair": 2}
    for prediction in read_predictions(run.predictions):
        assert [turn.role for turn in prediction.turns[:4]] == ["user", "assistant"] * 2
    report = RunReport.model_validate_json(run.report_json.read_bytes())
    [trained] = [g for g in report.groups if (g.model, g.scenarios) == ("trained", "train")]
    assert (trained.strategy, trained.num_servers, trained.memorisation) == ("coder_agent", 2, True)
    assert {name: figure.mean_all for name, figure in trained.figures.items()} == dict.fromkeys(
        FIGURES, 1.0
    )
