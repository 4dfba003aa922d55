"""eval/checkpoint_to_benchmark.sh: one command from a checkpoint or an endpoint to the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scripted_server import ScriptedServer, reply
from tests.generation.test_coder_agent import GOOD, NOT_LAUNCHED, Coder, answer
from toolgenesis_sft.records import RunReport

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "checkpoint_to_benchmark.sh"


def evaluate(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(SCRIPT), *arguments],
        cwd=place,
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def report_of(place: Path) -> RunReport:
    [path] = place.glob("runs/*/report.json")
    return RunReport.model_validate_json(path.read_text())


@pytest.fixture
def adder(tmp_path: Path) -> Path:
    """A benchmark of one server, which the scripted coder's good program is right for."""
    arguments = {"type": "integer"}
    item = {
        "server_slug": "adder",
        "agent_input_prompt": "Add integers for a cash desk.",
        "tool_definitions": [
            {
                "name": "add",
                "description": "Add two integers.",
                "input_schema": {
                    "type": "object",
                    "properties": {"a": arguments, "b": arguments},
                    "required": ["a", "b"],
                },
            }
        ],
        "unit_test": {
            "add": [
                {
                    "function_name": "add",
                    "arguments": {"a": 2, "b": 3},
                    "function_output_content": "5",
                }
            ]
        },
    }
    path = tmp_path / "adder.json"
    path.write_text(json.dumps([item]))
    return path


def test_what_direct_gets_wrong_the_coder_agent_repairs_and_both_stand_in_the_report(
    tmp_path: Path, adder: Path
) -> None:
    agent = Coder(answer(NOT_LAUNCHED), answer(GOOD))

    def script(body: dict[str, Any]) -> Any:
        if "Output only the Python source code" in body["messages"][0]["content"]:
            return reply(NOT_LAUNCHED)
        return agent(body)

    with ScriptedServer(script, models=("scripted-coder",)) as server:
        done = evaluate(
            tmp_path, server.url, str(adder), "generate.strategies=[direct, coder_agent]"
        )
    assert done.returncode == 0, done.stderr
    groups = {group.strategy: group.figures for group in report_of(tmp_path).groups}
    assert groups["direct"]["launch"].mean_all == 0
    for figure in ("compliance", "launch", "schema_f1", "ut_soft", "ut_hard"):
        assert groups["coder_agent"][figure].mean_all == 1, figure
    assert "scripted-coder, direct" in done.stdout
    assert "scripted-coder, coder" in done.stdout


@pytest.mark.slow
def test_a_model_folder_is_served_scored_and_shown_beside_its_base(
    tmp_path: Path, adder: Path, tiny_model: Path, other_model: Path
) -> None:
    options = ("generate.max_tokens=8", "generate.temperature=0", "score.layers=[L1]")
    done = evaluate(tmp_path, str(other_model), str(adder), *options, BASE=str(tiny_model))
    assert done.returncode == 0, done.stderr
    groups = {group.model: group.figures for group in report_of(tmp_path).groups}
    assert set(groups) == {"before_training", other_model.name}
    assert all(figures["launch"].mean_all == 0 for figures in groups.values())


@pytest.mark.parametrize("checkpoint", ["/no/such/folder", "http://127.0.0.1:1/v1"])
def test_a_checkpoint_that_is_not_there_is_one_line(
    tmp_path: Path, adder: Path, checkpoint: str
) -> None:
    done = evaluate(tmp_path, checkpoint, str(adder), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: generate.")


def test_an_unfinished_step_of_a_run_is_refused(tmp_path: Path) -> None:
    step = tmp_path / "runs" / "some" / "checkpoints" / "step_000001"
    step.mkdir(parents=True)
    (tmp_path / "runs" / "some" / "config.json").write_text("{}")
    done = evaluate(tmp_path, str(step))
    assert done.returncode == 2
    assert "is not finished" in done.stderr
