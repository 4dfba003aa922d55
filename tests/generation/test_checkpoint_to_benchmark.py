"""eval/checkpoint_to_benchmark.sh: one command from a checkpoint or an endpoint to the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.training_run import trained_and_exported
from tests.generation.conftest import cache_as
from tests.generation.scripted_server import Fault, ScriptedServer, reply
from tests.generation.test_coder_agent import GOOD, NOT_LAUNCHED, Coder, answer
from tests.training.tiny import build_tiny
from toolgenesis_sft.records import RunReport
from toolgenesis_sft.training.checkpoint import complete_checkpoints

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


@pytest.mark.slow
def test_a_hub_name_is_served_from_the_cache(tmp_path: Path, adder: Path, tiny_model: Path) -> None:
    cache_as(tiny_model, "tiny-org/tiny-model", tmp_path / "home")
    options = ("generate.max_tokens=8", "generate.temperature=0", "score.layers=[L1]")
    offline = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = evaluate(tmp_path, "tiny-org/tiny-model", str(adder), *options, **offline)
    assert done.returncode == 0, done.stderr
    assert [group.model for group in report_of(tmp_path).groups] == ["tiny-org/tiny-model"]


@pytest.mark.slow
def test_a_run_s_export_and_one_of_its_steps_stand_beside_their_base_model(
    tmp_path: Path, adder: Path
) -> None:
    run = trained_and_exported(build_tiny(tmp_path / "training"))[1]
    step = complete_checkpoints(run)[-1].folder
    options = ("generate.max_tokens=8", "generate.temperature=0", "score.layers=[L1]")
    for checkpoint in (step, run.export):
        place = tmp_path / checkpoint.name
        place.mkdir()
        done = evaluate(place, str(checkpoint), str(adder), *options)
        assert done.returncode == 0, done.stderr
        assert {group.model for group in report_of(place).groups} == {"before_training", "trained"}


def test_a_try_that_led_nowhere_may_be_mended_with_the_same_command(
    tmp_path: Path, adder: Path
) -> None:
    with ScriptedServer(lambda body: reply("import this"), models=("a", "b")) as server:
        tried = evaluate(tmp_path, server.url, str(adder))
        assert tried.returncode == 2
        assert "set generate.endpoint_model to one of them" in tried.stderr
        done = evaluate(tmp_path, server.url, str(adder), "generate.endpoint_model=b")
    assert done.returncode == 0, done.stderr


def test_a_model_that_was_misspelt_may_be_mended_with_the_same_command(
    tmp_path: Path, adder: Path
) -> None:
    def script(body: dict[str, Any]) -> Any:
        if body["model"] == "b":
            return reply("import this")
        return Fault("status", 404, text="no such model")

    with ScriptedServer(script) as server:
        tried = evaluate(tmp_path, server.url, str(adder), "generate.endpoint_model=d")
        assert "generate.endpoint_model = d" in tried.stderr
        done = evaluate(tmp_path, server.url, str(adder), "generate.endpoint_model=b")
    assert (tried.returncode, done.returncode) == (2, 0), done.stderr


@pytest.mark.parametrize(
    "checkpoint", ["/no/such/folder", "nobody/has-this-model", "http://127.0.0.1:1/v1", "https://"]
)
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
