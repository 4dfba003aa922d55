"""Scoring on a Ray of two machines: two of Ray's nodes on this one. What starts Ray is slow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.generation.scripted_server import ScriptedServer
from tests.scoring.conftest import MakeBenchmark, judge_script, reference, write_benchmark
from tests.scoring.test_score import Scored, prediction
from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.on_ray import Crew, RemoteWorker, by_server, facts
from toolgenesis_sft.scoring.worker import Kit

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


@contextlib.contextmanager
def two_machines() -> Iterator[Cluster]:
    """Two of Ray's nodes with one core each."""
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    os.environ.setdefault("RAY_worker_niceness", "0")  # as on_ray does for a Ray of its own
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        yield cluster
    finally:
        cluster.shutdown()


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


def machines(cluster: Cluster) -> list[int]:
    """Process ids of the nodes, that of the head first."""
    return [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]


def workers(parents: list[int], doing: str) -> list[int]:
    """Process ids of workers of ours that are doing this; Ray writes it in their title."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                title = (process / "cmdline").read_bytes().decode(errors="replace")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in parents and title.startswith(f"ray::RemoteWorker.{doing}"):
                    found.append(int(process.name))
    return found


@contextlib.contextmanager
def meanwhile(act: Callable[[], bool]) -> Iterator[None]:
    """Repeat `act` beside the block until it says that it is done; it must be, in the end."""
    over, done = threading.Event(), threading.Event()

    def repeat() -> None:
        while not over.is_set() and not done.is_set():
            if act():
                done.set()
            time.sleep(0.02)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set()


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

    def kill_one() -> bool:
        at_work = (
            workers(parents, "score") if list((scored.out / "evidence").rglob("*.json")) else []
        )
        for pid in at_work[:1]:
            os.kill(pid, signal.SIGKILL)
        return bool(at_work)

    with meanwhile(kill_one):
        assert scored.run(**on(cluster)) == local.scores
    assert evidence(scored) == evidence(local)


@pytest.mark.slow
def test_a_lost_machine_leaves_its_servers_to_the_others(local: Scored, tmp_path: Path) -> None:
    scored = local.afresh(tmp_path)
    with two_machines() as cluster:
        second = machines(cluster)[1:]

        def lose() -> bool:
            if not workers(second, "score"):
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
        for pid in set(workers(parents, "score")) - killed:
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


def kit(local: Scored, **settings: Any) -> Kit:
    job = ScoreJob.of_folder(local.benchmark, local.predictions, local.out, Score(**settings))
    return Kit.of(job, load_answer_keys(local.benchmark), server_python(None))


def test_a_machine_with_another_server_environment_is_refused_by_name(local: Scored) -> None:
    own = kit(local)
    crew = Crew(own, by_server([]))
    crew.check({"machine": "node7", **facts(own)})
    with pytest.raises(UserError, match=r"server_runtime on node7 = other"):
        crew.check({"machine": "node7", **facts(own), "server_runtime": "other"})


def test_a_machine_without_the_server_environment_is_refused_by_name(local: Scored) -> None:
    away = replace(kit(local), interpreter=Path("/nowhere/python"))
    with pytest.raises(UserError, match=r"score.server_python = /nowhere/python: is not there on"):
        RemoteWorker(away, {}).begin()


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
