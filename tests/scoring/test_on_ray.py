"""Scoring on a Ray of two machines: two of Ray's nodes on this one. What starts Ray is slow."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.generation.scripted_server import ScriptedServer
from tests.sandbox.ray_cluster import kill_one, machines, meanwhile, two_machines, workers
from tests.scoring.conftest import MakeBenchmark, judge_script, reference, write_benchmark
from tests.scoring.test_score import Scored, prediction
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.scoring.on_ray import by_server

SLUGS = ("envelope-budget", "gpa-planner", "temperature-scales")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Two samples of each of three servers, one of them broken, scored on this machine."""
    root = tmp_path_factory.mktemp("local")
    benchmark = write_benchmark(root / "benchmark", *SLUGS)
    path = root / "predictions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(2):
            for slug in SLUGS:
                code = (
                    "import nothing_at_all\n" if (slug, index) == (SLUGS[1], 0) else reference(slug)
                )
                answer = f"```python\n{code}```"
                file.write(prediction(index, answer).model_copy(update={"slug": slug}).to_line())
    scored = Scored(benchmark, path, root / "out")
    scored.run(workers=2)
    return scored


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_machines() as cluster:
        yield cluster


def on(cluster: Cluster, **settings: Any) -> dict[str, Any]:
    return {"executor": "ray", "ray_address": cluster.address, "workers": 2, **settings}


def evidence(scored: Scored) -> dict[str, Any]:
    """All but what servers say on stderr, where FastMCP writes the time of day."""
    found = {}
    for path in (scored.out / "evidence").rglob("*.json"):
        seen = json.loads(path.read_bytes())
        seen.pop("stderr", None)
        found[str(path.relative_to(scored.out))] = seen
    assert found
    return found


@pytest.mark.slow
def test_verdicts_and_evidence_are_those_of_one_machine(
    local: Scored, cluster: Cluster, tmp_path: Path
) -> None:
    scored = local.afresh(tmp_path)
    assert scored.run(**on(cluster)) == local.scores
    assert evidence(scored) == evidence(local)


@pytest.mark.slow
def test_what_a_killed_worker_was_at_is_done_by_another(
    local: Scored, cluster: Cluster, tmp_path: Path
) -> None:
    scored = local.afresh(tmp_path)
    parents = machines(cluster)

    def kill() -> bool:
        return any((scored.out / "evidence").rglob("*.json")) and kill_one(parents)

    with meanwhile(kill):
        assert scored.run(**on(cluster)) == local.scores
    assert evidence(scored) == evidence(local)


@pytest.mark.slow
def test_a_lost_machine_leaves_its_servers_to_the_others(local: Scored, tmp_path: Path) -> None:
    scored = local.afresh(tmp_path)
    with two_machines() as cluster:
        second = machines(cluster)[1:]

        def lose() -> bool:
            if not workers(second, "do"):
                return False
            os.kill(second[0], signal.SIGKILL)
            return True

        with meanwhile(lose):
            assert scored.run(**on(cluster)) == local.scores


@pytest.mark.slow
def test_a_prediction_that_ends_its_worker_twice_is_owed_and_takes_no_other_with_it(
    local: Scored, cluster: Cluster, tmp_path: Path
) -> None:
    scored = local.afresh(tmp_path)
    parents, killed = machines(cluster), set[int]()

    def kill_two() -> bool:
        for pid in set(workers(parents, "do")) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return len(killed) >= 2

    with meanwhile(kill_two), pytest.raises(HarnessFault, match=r"1 of 6 .*ActorDiedError"):
        scored.run(**on(cluster, workers=1))
    assert scored.run(**on(cluster)) == local.scores


@pytest.mark.slow
def test_workers_have_the_judges_key_from_this_process(
    cluster: Cluster, make_benchmark: MakeBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster was started without it."""
    monkeypatch.setenv("JUDGE_KEY", "secret")
    scored = one_server(make_benchmark, tmp_path)
    with ScriptedServer(judge_script()) as judge:
        settings = {"judge_url": judge.url, "judge_model": "m", "judge_key_variable": "JUDGE_KEY"}
        scored.run(**on(cluster, layers=("L1", "L3"), **settings))
    assert scored.records[0].details["boundary_judged"] == 1.0


@pytest.mark.slow
def test_without_an_address_a_ray_of_this_machine_scores_and_ends(
    make_benchmark: MakeBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    scored = one_server(make_benchmark, tmp_path)
    scored.run(executor="ray", workers=1, layers=("L1",))
    assert scored.records[0].figures["launch"].value == 1.0
    assert not ray.is_initialized()


def one_server(make_benchmark: MakeBenchmark, folder: Path) -> Scored:
    (folder / "predictions").mkdir()
    (folder / "predictions" / f"{SLUGS[2]}.py").write_text(reference(SLUGS[2]))
    return Scored(make_benchmark(SLUGS[2]), folder / "predictions", folder / "out")


def test_all_predictions_of_a_server_are_one_piece_of_work() -> None:
    slugs = ["a", "b", "a", "c", "a"]
    predictions = [prediction(i, "").model_copy(update={"slug": s}) for i, s in enumerate(slugs)]
    pieces = [[p.sample_index for p in server] for server in by_server(predictions)]
    assert pieces == [[0, 2, 4], [1], [3]]


def test_without_the_package_one_line_says_what_to_install(
    local: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"score.executor = ray: .*pip install"):
        local.afresh(tmp_path).run(executor="ray")


def test_a_cluster_that_does_not_answer_is_one_line(local: Scored, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"score.ray_address = 127.0.0.1:9: no Ray cluster answers"):
        local.afresh(tmp_path).run(executor="ray", ray_address="127.0.0.1:9")
