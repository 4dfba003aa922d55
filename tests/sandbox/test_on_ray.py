"""Which machines are fit for a crew, and what becomes of work there. What starts Ray is slow."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.ray_cluster import two_machines
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.sandbox import on_ray
from toolgenesis_sft.sandbox.on_ray import Crew, RemoteWorker, check, connected, facts
from toolgenesis_sft.sandbox.workshop import Workshop, nothing


def test_a_machine_with_another_server_environment_is_refused_by_name() -> None:
    here = facts(server_python(None))
    check({"machine": "node7", **here}, here)
    with pytest.raises(UserError, match=r"server_runtime on node7 = other"):
        check({"machine": "node7", **here, "server_runtime": "other"}, here)


def test_a_machine_without_the_server_environment_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"score.server_python = /nowhere/python: is not there on"):
        RemoteWorker(dict, {}).begin(Path("/nowhere/python"), {})


def test_a_machine_without_a_folder_that_the_work_needs_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"--run = /nowhere/run: is not there on"):
        RemoteWorker(dict, {}).begin(server_python(None), {"--run": Path("/nowhere/run")})


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        Workshop(server_python(None), Score(executor="ray")) as workshop,
        pytest.raises(UserError, match=r"score.executor = ray: .*pip install"),
    ):
        workshop.submit(nothing)


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    settings = Score(executor="ray", ray_address="127.0.0.1:9")
    with (
        Workshop(server_python(None), settings) as workshop,
        pytest.raises(UserError, match=r"score.ray_address = 127.0.0.1:9: no Ray cluster answers"),
    ):
        workshop.submit(nothing)


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[None]:
    with two_machines() as cluster, connected(Score(ray_address=cluster.address)):
        yield


def crew(bench: Any, num_workers: int) -> Crew[Any]:
    """Its bench is a plain value: work is then a function of it."""
    return Crew(server_python(None), num_workers, partial(type(bench), bench))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_work_that_ends_two_workers_is_a_harness_fault_and_other_work_goes_on() -> None:
    ours = crew(3, num_workers=3)
    try:
        deadly, fine, wrong = (ours.submit(work) for work in (os._exit, abs, len))
        assert fine.result() == 3
        with pytest.raises(TypeError, match="has no len"):
            wrong.result()
        with pytest.raises(HarnessFault, match="worker_lost: ActorDiedError"):
            deadly.result()
        assert ours.submit(pow, 2).result() == 9
    finally:
        ours.close()
    assert not ours.hands
    with pytest.raises(HarnessFault, match="dismissed"):
        ours.submit(abs).result()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_a_cluster_whose_cores_all_have_work_has_no_place_for_a_crew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy, late = crew(3600, num_workers=2), crew(1, num_workers=1)
    try:
        for _ in range(2):
            busy.submit(time.sleep)
        while sum(hand.has_begun for hand in busy.hands) < 2:
            time.sleep(0.05)
        monkeypatch.setattr(on_ray, "START_TIMEOUT_S", 0.5)
        with pytest.raises(HarnessFault, match="no core was free"):
            late.submit(abs).result()
    finally:
        busy.close()
        late.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_an_unfit_machine_ends_all_work_with_its_name() -> None:
    ours = Crew(server_python(None), 1, dict, needed={"--run": Path("/nowhere/run")})
    try:
        for waiting in [ours.submit(len) for _ in range(3)]:
            with pytest.raises(UserError, match=r"--run = /nowhere/run: is not there on"):
                waiting.result()
    finally:
        ours.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_a_worker_without_work_gives_its_core_back_and_another_comes_when_there_is_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_ray, "IDLE_S", 0.1)
    ours = crew(3, num_workers=1)
    try:
        for _ in range(2):
            assert ours.submit(abs).result() == 3
            while ours.hands:
                time.sleep(0.05)
    finally:
        ours.close()
