"""Requests to stop, and ends that come with the parent's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolgenesis_sft.training.signals import PARENT_VARIABLE, STOP_SIGNALS, StopRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_usr1_and_term_are_requests_and_no_ends(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in STOP_SIGNALS}
    try:
        stop = StopRequest()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_a_process_ends_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
    child = (
        "import os, pathlib, time; from toolgenesis_sft.training.signals import end_with_parent; "
        f"end_with_parent(); pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); "
        "time.sleep(120)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    pid = int(next(tmp_path.iterdir()).name)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_whose_parent_died_before_it_could_ask_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    child = (
        "from toolgenesis_sft.training.signals import end_with_parent; "
        "end_with_parent(); print('still here')"
    )
    for parent, alive in ((gone.pid, False), (os.getpid(), True)):
        env = {**os.environ, PARENT_VARIABLE: str(parent)}
        done = subprocess.run(
            [sys.executable, "-c", child], env=env, capture_output=True, text=True, check=False
        )
        assert ("still here" in done.stdout) == alive


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
