"""benchmarks/simulate_campaign.py on campaigns that can be counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "simulate_campaign.py"
SMALL = ("--checkpoints", "2", "--servers", "3", "--samples", "4", "--share-hanging", "0")


def simulated(tmp_path: Path, *options: str, **costs: Any) -> dict[str, Any]:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"server_s": [1.0], "hanging_s": 60.0, "start_s": 0.0, **costs}))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, "--costs", str(path), "--json", *options],
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def spans(answer: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: (span["end_s"], span["tail_s"]) for name, span in answer["spans"].items()}


def test_each_way_ends_when_a_count_by_hand_says_so(tmp_path: Path) -> None:
    """24 samples of a second: three servers of four samples, twice."""
    answer = simulated(tmp_path, "--cores", "2", "64")
    assert answer["work_s"] == 24
    assert spans(answer) == {
        "array 2": (12, 0),
        "ray 2": (12, 0),
        "servers 2": (12, 0),
        "samples 2": (12, 0),
        "array 64": (2, 2),
        "ray 64": (2, 2),
        "servers 64": (4, 4),  # a server stays on its core
        "samples 64": (1, 1),
    }


def test_an_array_waits_for_the_task_that_was_dealt_most(tmp_path: Path) -> None:
    """Two tasks of two cores: one has two servers of 4 s of work each, one has one."""
    answer = simulated(tmp_path, "--cores", "4", "--cores-a-task", "2")
    assert spans(answer)["array 4"] == (2 * 4, 2 * 2)


def test_workers_start_once_a_checkpoint_or_once(tmp_path: Path) -> None:
    answer = simulated(tmp_path, "--cores", "2", start_s=5.0)
    ends = {name: end for name, (end, _) in spans(answer).items()}
    assert ends == {"array 2": 22, "ray 2": 22, "servers 2": 17, "samples 2": 17}


def test_a_server_that_hangs_costs_what_was_measured_for_one(tmp_path: Path) -> None:
    answer = simulated(tmp_path, "--cores", "2", "--share-hanging", "1")
    assert answer["work_s"] == 24 * 60
    assert spans(answer)["samples 2"] == (12 * 60, 0)


@pytest.mark.parametrize("cores", ["1", "7", "100"])
def test_no_way_beats_the_work_over_the_cores_nor_the_longest_piece(
    tmp_path: Path, cores: str
) -> None:
    answer = simulated(tmp_path, "--cores", cores, server_s=[0.5, 2.0, 9.0])
    for name, (end, tail) in spans(answer).items():
        assert end >= answer["work_s"] / int(cores) - 1e-9, name
        assert 0 <= tail <= end
