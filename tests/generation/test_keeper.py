"""A started server ends with its owner, whatever ends the owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from toolgenesis_sft.generation import keeper

FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def start_kept_family(pids: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    kept = subprocess.Popen(
        [sys.executable, keeper.__file__, sys.executable, "-c", FAMILY, str(pids)],
        stdin=subprocess.PIPE,
    )
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    return kept, [int(number) for number in pids.read_text().split()]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Running, and no zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_ends_with_its_whole_group_when_its_owner_closes_the_pipe(tmp_path: Path) -> None:
    kept, family = start_kept_family(tmp_path / "pids")
    assert all(alive(pid) for pid in family)
    kept.stdin.close()
    assert kept.wait(20) == 128 + signal.SIGTERM
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_killed_keeper_takes_the_server_with_it(tmp_path: Path) -> None:
    kept, family = start_kept_family(tmp_path / "pids")
    kept.kill()
    kept.wait(20)
    wait_until(lambda: not alive(family[0]))
    os.kill(family[1], signal.SIGKILL)  # what a dead server leaves is not the keeper's to find


def test_a_server_that_ends_by_itself_passes_its_exit_code_on(tmp_path: Path) -> None:
    command = [sys.executable, keeper.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as kept:
        assert kept.wait(20) == 7
