"""Children of a parent that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A parent that starts a child, says its pid, and is killed before or after the child calls us.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import os, pathlib, time
from toolgenesis_sft.orphans import end_with
parent = os.getppid()
pathlib.Path({begun!r}).touch()
while {waits} and os.getppid() == parent:
    time.sleep(0.01)
end_with(parent)
pathlib.Path({called!r}).touch()
time.sleep(60)
"""


@pytest.mark.parametrize("waits", [False, True], ids=["parent lives", "parent is dead"])
def test_a_child_ends_with_its_parent_even_if_that_died_before_it_asked(
    tmp_path: Path, waits: bool
) -> None:
    begun, called = tmp_path / "begun", tmp_path / "called"
    program = CHILD.format(begun=str(begun), called=str(called), waits=waits)
    command = [sys.executable, "-c", PARENT, program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for(begun.exists if waits else called.exists)
        parent.kill()
    wait_for(lambda: not is_alive(pid))
    assert called.exists() != waits


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
