from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.training.preflight import RankFacts, device_fault, judge_bandwidth, unfit

VERSIONS = {"torch": "2.13.0", "python": "3.11.7"}


def facts(node: str, **changes: object) -> RankFacts:
    return RankFacts(node=node, versions=VERSIONS, free_gib=500.0).model_copy(update=changes)


def test_nodes_that_are_alike_are_fit() -> None:
    everyone = [facts(f"node{i}", node_gb_s=100.0 + i, neighbour_gb_s=(20.0,)) for i in range(4)]
    assert unfit(everyone, min_free_gib=250) == ()
    verdict = judge_bandwidth(everyone)
    assert verdict.problems == ()
    assert "among its ranks 102.0 GB/s" in verdict.fit["node2"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"faults": ("GPU 3 computes wrongly",)}, "node1: GPU 3 computes wrongly"),
        ({"free_gib": 12.0}, "node1: 12 GiB free for the run, 250 are needed"),
        (
            {"versions": VERSIONS | {"torch": "2.8.0"}},
            "node1: torch 2.8.0, the other nodes have 2.13.0",
        ),
        (
            {"versions": {"python": "3.11.7"}},
            "node1: torch none, the other nodes have 2.13.0",
        ),
    ],
)
def test_an_unfit_node_is_named_with_its_reason(changes: dict[str, object], says: str) -> None:
    everyone = [facts("node0"), facts("node1", **changes), facts("node2")]
    assert unfit(everyone, min_free_gib=250) == (says,)


@pytest.mark.parametrize("slow", [0.0, 40.0])
def test_a_node_that_is_slow_inside_is_named(slow: float) -> None:
    everyone = [facts(f"node{i}", node_gb_s=slow if i == 2 else 100.0) for i in range(4)]
    (problem,) = judge_bandwidth(everyone).problems
    assert problem.startswith(f"node2: all-reduce among its ranks at {slow:.1f} GB/s")


def test_the_slowest_rank_is_the_nodes_bandwidth() -> None:
    everyone = [facts("node0", node_gb_s=100.0), facts("node0", node_gb_s=90.0)]
    assert "90.0 GB/s" in judge_bandwidth(everyone).fit["node0"]


def test_a_slow_wire_is_blamed_on_the_node_that_is_slow_to_both_sides() -> None:
    # node2's wire is bad: nodes 1 and 3 each see one slow neighbour and one fast one.
    pairs = {"node0": (20.0, 20.0), "node1": (20.0, 3.0), "node2": (3.0, 3.0), "node3": (3.0, 20.0)}
    everyone = [facts(node, neighbour_gb_s=seen) for node, seen in pairs.items()]
    (problem,) = judge_bandwidth(everyone).problems
    assert problem.startswith("node2: all-reduce to its neighbours at 3.0 GB/s")


def preflight(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As the Slurm script starts it on its only node, with two ranks."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    env |= {"TOOLGENESIS_ATTEMPT": str(tmp_path), "SLURMD_NODENAME": "node7"}
    command = [sys.executable, "-m", "toolgenesis_sft.training.preflight", str(tmp_path)]
    return subprocess.run(
        [*command, "--ranks", "2", *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_two_ranks_of_a_node_measure_each_other(tmp_path: Path) -> None:
    done = preflight(tmp_path)
    assert done.returncode == 0, (tmp_path / "preflight_ranks.log").read_text()
    assert done.stdout.startswith("preflight: node7: fit; all-reduce among its ranks")


def test_a_gpu_that_is_missing_is_a_fault() -> None:
    assert device_fault(99).startswith("GPU 99 is missing")
