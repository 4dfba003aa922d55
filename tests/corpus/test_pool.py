"""Work on several processes: order, laziness, and what is left when the build is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolgenesis_sft.corpus.pool import ITEMS_IN_FLIGHT, ordered_map
from toolgenesis_sft.errors import HarnessFault

ROOT = Path(__file__).resolve().parents[2]


def make_slow_square() -> Callable[[int], int]:
    def square(number: int) -> int:
        time.sleep(0.02 * (number % 3))
        return number * number

    return square


def make_suicide() -> Callable[[int], int]:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL) or number


def make_note(path: str) -> Callable[[int], int]:
    def work(number: int) -> int:
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(60 if number > 1 else 0)
        return number

    return work


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_the_order_of_the_items(num_processes: int) -> None:
    found = list(ordered_map(make_slow_square, range(20), num_processes))
    assert found == [number * number for number in range(20)]


def test_items_are_taken_only_as_they_are_needed() -> None:
    items = iter(range(1000))
    results = ordered_map(make_slow_square, items, 2)
    assert next(results) == 0
    assert next(items) <= 2 * ITEMS_IN_FLIGHT + 1
    results.close()


def test_a_worker_that_dies_is_a_harness_fault() -> None:
    with pytest.raises(HarnessFault, match="worker_died"):
        list(ordered_map(make_suicide, range(3), 2))


def test_no_worker_outlives_a_killed_build(tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    program = (
        "from functools import partial\n"
        "from tests.corpus.test_pool import make_note\n"
        "from toolgenesis_sft.corpus.pool import ordered_map\n"
        "if __name__ == '__main__':\n"
        f"    list(ordered_map(partial(make_note, {str(notes)!r}), range(9), 2))\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while len(pids(notes)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = pids(notes)
    assert workers
    child.kill()
    child.wait()
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def pids(notes: Path) -> set[int]:
    return {int(line) for line in notes.read_text().splitlines()} if notes.exists() else set()


def alive(pid: int) -> bool:
    """Running, and no zombie that only waits to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
