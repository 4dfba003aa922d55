"""What jail.py promises, and what it says where it cannot keep it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import toolgenesis_sft
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.sandbox import bubblewrap, cgroup, jail
from toolgenesis_sft.sandbox.jail import runtime_digest, self_test
from toolgenesis_sft.sandbox.session import Sandbox

from .conftest import LIMITS, attack, descendants

PROPERTIES = (
    "no_network",
    "no_vsock",
    "read_only_root",
    "private_tmp",
    "alone",
    "other_uid",
    "no_capabilities",
    "system_call_filter",
    "libraries_readable",
)
MODES = ("root", "user namespace") if jail.is_privileged() else ("user namespace",)


def test_every_promise_has_a_test_of_its_name() -> None:
    promises = re.findall(r"^- ([^:]+):", jail.__doc__ or "", re.MULTILINE)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(promises) >= 10
    for promise in promises:
        assert f"def test_{promise.replace(' ', '_')}(" in tests


@pytest.mark.parametrize("mode", MODES)
def test_the_self_test_proves_isolation_and_names_the_mechanism(
    server_python: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jail, "is_privileged", lambda: mode == "root")
    facts = self_test(server_python)
    assert all(facts[name] is True for name in PROPERTIES)
    assert facts["mode"] == mode
    assert facts["mechanism"] in ("cgroup v2", "cgroup v1", "rlimits")
    assert facts["runtime_digest"] == runtime_digest(server_python)


@pytest.mark.parametrize("mode", MODES)
def test_attacks_are_held_in_every_mode_with_rlimits_alone(
    server_python: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jail, "is_privileged", lambda: mode == "root")
    monkeypatch.setattr(cgroup, "writable_parents", lambda *_: ("rlimits", {}))
    with Sandbox(server_python, LIMITS) as sandbox:
        with sandbox.start(attack("memory_bomb")) as server:
            assert server.call("alone", {}).is_error
        with sandbox.start(attack("poison", CANARY_FOLDERS=["/root", "/home"])) as server:
            assert server.call("act", {}).value == []
        with sandbox.start(attack("snoop", CANARY_TEXT="none", CANARY_PATHS=[])) as server:
            assert server.call("act", {}).value == []
        if mode == "root" or os.getuid() != 0:  # the kernel never limits the host's own root
            with sandbox.start(attack("fork_bomb")) as server:
                assert server.call("act", {}).value < LIMITS.num_processes


def test_no_privilege_is_left_to_a_server(box: Sandbox) -> None:
    program = """
from mcp.server.fastmcp import FastMCP
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
mcp = FastMCP("x")
@mcp.tool()
def status() -> str:
    return open("/proc/self/status").read()
@mcp.tool()
def act() -> list[str]:
    won = []
    for name, call in {
        "memfd": lambda: libc.memfd_create(b"x", 0),
        "shmget": lambda: libc.shmget(0, 4096, 0o1600),
        "unshare user": lambda: libc.unshare(0x10000000),
        "unshare mount": lambda: libc.unshare(0x20000),
        "clone user": lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0),
        "mount": lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, None),
        "umount": lambda: libc.umount2(b"/tmp", 0),
        "setuid": lambda: libc.setuid(0),
        "chroot": lambda: libc.chroot(b"/tmp"),
        "bpf": lambda: libc.syscall(321, 0, 0, 0),
        "io_uring": lambda: libc.syscall(425, 1, 0),
        "sethostname": lambda: libc.sethostname(b"x", 1),
        "mknod": lambda: libc.mknod(b"/tmp/d", 0o20666, 1),
        "raise nproc": lambda: libc.prlimit(0, 6, (ctypes.c_ulong * 2)(9999, 9999), 0),
    }.items():
        if call() >= 0:
            won.append(name)
    return won
"""
    with box.start(program) as server:
        assert server.call("act", {}).value == []
        status = dict(line.split(":\t", 1) for line in server.call("status", {}).value.splitlines())
    assert set(status["Uid"].split()) == {"65534"}
    assert set(status["Gid"].split()) == {"65534"}
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Pid"] == "1"


def test_a_server_sees_a_plain_environment(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    program = """
from mcp.server.fastmcp import FastMCP
import os, pathlib, time
mcp = FastMCP("x")
@mcp.tool()
def look() -> dict:
    return {"env": dict(os.environ), "cwd": os.getcwd(), "home": str(pathlib.Path.home()),
            "zone": time.tzname[0], "root": sorted(os.listdir("/"))}
"""
    with box.start(program) as server:
        seen = server.call("look", {}).value
    assert seen["env"].items() >= {"HOME": "/tmp", "TZ": "UTC"}.items()
    assert set(seen["env"]) <= {*bubblewrap.ENVIRONMENT, "PWD", "LC_CTYPE"}
    assert (seen["cwd"], seen["home"], seen["zone"]) == ("/tmp", "/tmp", "UTC")
    assert "sys" not in seen["root"]


def test_killing_the_harness_leaves_no_process(server_python: Path) -> None:
    """Not even where a fork of the harness still holds its end of the zygote's socket."""
    program = """
import os, sys, time
from pathlib import Path
from toolgenesis_sft.sandbox.session import Sandbox
box = Sandbox(Path(sys.argv[1])).__enter__()
server = box.start(sys.argv[2])
server.call("act", {})
fork = os.fork()
if fork:
    print(box._jail._process.pid, fork, flush=True)
time.sleep(100)
"""
    harness = subprocess.Popen(
        [sys.executable, "-c", program, str(server_python), attack("immortal")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert harness.stdout is not None
    bwrap, fork = map(int, harness.stdout.readline().split())
    tree = [bwrap, *descendants(bwrap)]
    assert len(tree) >= 6
    harness.kill()
    harness.wait()
    harness.stdout.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in tree) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(fork, signal.SIGKILL)
    assert [pid for pid in tree if Path(f"/proc/{pid}").exists()] == []


def test_a_sandbox_started_in_a_thread_that_ends_lives_on(server_python: Path) -> None:
    sandbox = Sandbox(server_python)
    thread = threading.Thread(target=sandbox.__enter__)
    thread.start()
    thread.join()
    try:
        with sandbox.start(attack("innocent")) as server:
            assert server.call("add", {"a": 1, "b": 2}).value == 3
    finally:
        sandbox.__exit__(None, None, None)


def test_works_from_a_checkout_whose_path_has_spaces(server_python: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "a path with spaces"
    shutil.copytree(
        Path(toolgenesis_sft.__file__).parent,
        checkout / "toolgenesis_sft",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (checkout / ".venv-server").symlink_to(server_python.parent.parent)
    program = (
        "import json, sys; from pathlib import Path\n"
        "from toolgenesis_sft.sandbox import jail\n"
        "print(json.dumps([jail.__file__, jail.self_test(Path(sys.argv[1]))]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkout / ".venv-server" / "bin" / "python")],
        env={**os.environ, "PYTHONPATH": f"{checkout}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, facts = json.loads(done.stdout)
    assert Path(file).is_relative_to(checkout)
    assert facts["read_only_root"] is True


def test_without_bubblewrap_the_user_is_told_how_to_get_it(
    server_python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="is not installed; install bubblewrap"):
        self_test(server_python)


def test_a_bubblewrap_that_cannot_start_is_quoted_with_the_remedy(
    server_python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"No permissions.*max_user_namespaces"):
        self_test(server_python)


def test_a_bwrap_that_cannot_even_be_run_is_named_and_nobody_waits_for_it(
    server_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_bytes(b"\x7fELF, but not really")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"bwrap: Exec format error: the jail cannot start"):
        self_test(server_python)


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("")
    with pytest.raises(UserError, match=r"score\.server_python = .*cannot be run"):
        self_test(broken)


def test_an_environment_without_the_libraries_is_named(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    with pytest.raises(UserError, match="No module named"):
        self_test(tmp_path / "v" / "bin" / "python")


def test_the_digest_is_that_of_the_packages_and_of_python(server_python: Path) -> None:
    listed = subprocess.run(
        [
            str(server_python),
            "-Ic",
            "import importlib.metadata as m, platform\n"
            "python = '.'.join(platform.python_version_tuple()[:2])\n"
            "print('\\n'.join(sorted({d.metadata['Name'].lower() + '==' + d.version"
            " for d in m.distributions()} | {'python==' + python})), end='')",
        ],
        capture_output=True,
        check=True,
    ).stdout
    assert b"mcp==1." in listed
    assert runtime_digest(server_python) == hashlib.sha256(listed).hexdigest()


def linked(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another disk
        shutil.copy2(source, target)


LATE_IMPORTS = """
import bs4, os, sympy
from mcp.server.fastmcp import FastMCP
mcp = FastMCP("x")
@mcp.tool()
def look() -> list[object]:
    return [sorted(os.listdir("/tmp")), bool(os.statvfs(bs4.__file__).f_flag & os.ST_RDONLY)]
mcp.run()
"""


def test_an_environment_in_tmp_is_there_for_servers_too_and_read_only(server_python: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="an environment ") as folder:
        shutil.copytree(
            server_python.parent.parent, Path(folder, "v"), symlinks=True, copy_function=linked
        )
        python = Path(folder, "v", "bin", "python")
        before = os.umask(0o077)
        try:
            assert self_test(python)["private_tmp"] is True
            with Sandbox(python) as sandbox, sandbox.start(LATE_IMPORTS) as server:
                found, is_read_only = server.call("look", {}).value
        finally:
            os.umask(before)
    assert found == [Path(folder).name, "server.py"]
    assert is_read_only
