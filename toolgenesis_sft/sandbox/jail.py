"""The jail: one bubblewrap with a warm zygote in it, and what each server forked there may do.

Covered, each with a test of the same words in tests/sandbox/:
- no network: no interface, loopback included; only local and internet sockets can be made at all
- no file of the host but the interpreter, its environment and the system's libraries; read-only
- no environment variable of the harness
- no process of the host or of another server can be seen, traced or signalled
- nothing that a server writes outlives it or reaches another server
- another uid, no capabilities, no new privileges, no further namespaces
- memory, processes, CPU time, file size, space and number of files in /tmp are limited
- the whole process tree of a server ends with its session, and all of them with the harness
- what a server sends is capped in bytes, depth and time before it is decoded

Not covered: faults of the kernel itself; side channels (timing, load, caches); how much CPU a
server takes from its neighbours while its time runs; where only rlimits are at hand (`self_test`
names the mechanism), the memory of a process tree as a whole, which is then bounded by processes
times memory; and what a server attempts by means that a Python audit hook does not see.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.sandbox.cgroup import ControlGroup, ControlGroups
from toolgenesis_sft.sandbox.runtime import runtime, visible_folders

HERE = Path(__file__).resolve().parent
INSIDE = "/opt/toolgenesis"
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 6, 7, 8, 21
PLAIN_FOLDERS = (
    "/dev",
    "/dev/shm",
    "/etc",
    "/etc/ssl",
    "/opt",
    INSIDE,
    f"{INSIDE}/toolgenesis_sft",
    f"{INSIDE}/toolgenesis_sft/sandbox",
    "/tmp",
    "/usr",
)
DEVICES = ("null", "zero", "full", "random", "urandom")
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "TMPDIR": "/tmp",
    "TZ": "UTC",
    "USER": "nobody",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": INSIDE,
    "MALLOC_ARENA_MAX": "2",
    "FASTMCP_CHECK_FOR_UPDATES": "off",
    "FASTMCP_SHOW_SERVER_BANNER": "false",
    "FASTMCP_ENABLE_RICH_TRACEBACKS": "false",
}
ZYGOTE_START_S = 60.0
SELF_TEST_S = 30.0
NOTICE_S = 0.02
HEADROOM_MIB = (
    128  # of the control group above the rlimit, so that Python's MemoryError comes first
)
MEND_READ = (
    "let every user read the servers' environment and its interpreter (chmod -R a+rX), and see"
    " that the disk of /tmp and the memory suffice"
)
MEND_BWRAP = (
    "install bubblewrap (apt-get install bubblewrap) and allow user namespaces"
    " (sysctl user.max_user_namespaces=10000; in a container --cap-add SYS_ADMIN"
    " --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
)


@dataclass(frozen=True)
class Limits:
    """What one server may take. `_s` in seconds of wall clock except `cpu_s`, `_mib` in MiB."""

    spawn_s: float = 20.0  # fork and shut in; the harness's own time
    initialize_s: float = 20.0  # from the first line of the program to the answer to initialize
    list_s: float = 10.0  # all pages of tools/list
    call_s: float = 30.0  # one tool call
    close_s: float = 5.0  # until the killed process tree is gone
    memory_mib: int = 1024
    num_processes: int = 64  # threads count
    num_files: int = 256  # open at once, in one process
    file_mib: int = 64
    cpu_s: int = 120
    tmp_mib: int = 64
    max_message_bytes: int = 4 << 20  # one message of the server
    max_noise_bytes: int = 16 << 20  # of what no request asked for, over a session
    max_depth: int = 128  # of nested JSON
    max_code_bytes: int = 4 << 20
    max_tools: int = 1000
    max_pages: int = 100


def runtime_digest(server_python: Path) -> str:
    """SHA-256 of the sorted `name==version` lines of the servers' environment."""
    return runtime(server_python).digest


def is_privileged() -> bool:
    """Whether this process may make namespaces and change its uid without a user namespace."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return all(effective >> bit & 1 for bit in (CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN))


def command(server_python: Path, socket_fd: int, settings: dict[str, Any]) -> list[str]:
    """The command line that starts the jail and its zygote. Raises UserError without bwrap."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UserError("sandbox", "bwrap", "is not installed", MEND_BWRAP)
    where = runtime(server_python)
    line = [bwrap, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    line += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    line += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
    for capability in ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP"):
        line += ["--cap-add", f"CAP_{capability}"]
    if not is_privileged():
        line += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    folders = visible_folders(where)
    # bwrap makes the parents of a mount for root alone
    parents = {parent for folder in folders for parent in folder.parents} - {Path("/")}
    for parent in sorted(parents | {Path(name) for name in PLAIN_FOLDERS}):
        line += ["--dir", str(parent)]
    for folder in folders:
        line += ["--ro-bind", str(folder), str(folder)]
    for name in ("lib", "lib32", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            line += ["--symlink", str(link.readlink()), str(link)]
        elif link.is_dir():
            line += ["--ro-bind", str(link), str(link)]
    for path in ("/etc/ld.so.cache", "/etc/ssl/certs", "/etc/alternatives"):
        line += ["--ro-bind-try", path, path]
    line += ["--ro-bind", str(HERE / "inside"), f"{INSIDE}/toolgenesis_sft/sandbox/inside"]
    line += ["--ro-bind", str(HERE / "shim" / "src"), f"{INSIDE}/src"]
    for name in DEVICES:
        line += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        line += ["--symlink", f"/proc/self/fd/{place}", f"/dev/{name}"]
    line += ["--symlink", "/proc/self/fd", "/dev/fd"]
    line += ["--proc", "/proc", "--remount-ro", "/"]
    for name, value in ENVIRONMENT.items():
        line += ["--setenv", name, value]
    line += ["--chdir", "/", str(where.python), "-s", "-B"]
    line += ["-m", "toolgenesis_sft.sandbox.inside.zygote"]
    return [*line, str(socket_fd), json.dumps(settings)]


def settings(limits: Limits) -> dict[str, Any]:
    """What the zygote is told."""
    names = ("memory_mib", "num_processes", "file_mib", "cpu_s", "tmp_mib", "num_files")
    return {
        "limits": {name: getattr(limits, name) for name in names},
        "change_uid": is_privileged(),
    }


@dataclass
class Process:
    """A server's process tree: process 1 of its PID namespace, and our ends of its pipes.

    `report` carries what the loader says about the program. Whoever runs in there can write to it
    too, so what comes on it is taken for a statement of the server about itself.
    """

    stdin: int
    stdout: int
    stderr: int
    report: socket.socket
    pid: int = 0
    pidfd: int = -1
    group: ControlGroup | None = None

    def kill(self, timeout_s: float) -> None:
        """End the tree and wait until it is gone. Raises HarnessFault where it stays."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if not poll.poll(timeout_s * 1000):
                raise HarnessFault("unkillable", f"process {self.pid} outlives SIGKILL")

    def close(self) -> None:
        """Close our ends. The process tree sees end of file."""
        for fd in (self.stdin, self.stdout, self.stderr, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = self.pidfd = -1
        self.report.close()


class Jail:
    """One bubblewrap with one zygote. `environment` is what the zygote says about itself."""

    def __init__(self, server_python: Path, limits: Limits) -> None:
        self.limits = limits
        self.groups = ControlGroups(limits.memory_mib + HEADROOM_MIB, limits.num_processes)
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the jail
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line = command(server_python, theirs.fileno(), settings(limits))
        started = threading.Event()

        def keep() -> None:
            # The kernel ends bwrap when the thread that started it ends, so this thread stays.
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
            )
            theirs.close()
            started.set()
            self._process.wait()

        self._keeper = threading.Thread(target=keep, name="sandbox", daemon=True)
        self._keeper.start()
        started.wait()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        message = self._socket.recv(4096) if poll.poll(ZYGOTE_START_S * 1000) else b""
        if not message:
            said = self.log()[-200:]
            self.close()
            raise UserError("sandbox", said, "the jail cannot start", MEND_BWRAP)
        self.environment: dict[str, Json] = json.loads(message)

    def log(self) -> str:
        """The last lines that bwrap or the zygote wrote to stderr."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        return self._log.read().decode("utf-8", "replace").strip()

    def spawn(self, code: bytes) -> Process:
        """Fork a server and shut it in; its program runs after `let_go`. Raises HarnessFault."""
        program = os.memfd_create("program")
        with os.fdopen(program, "wb", closefd=False) as file:
            file.write(code)
        os.lseek(program, 0, os.SEEK_SET)
        pipes = [os.pipe() for _ in range(3)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        given = [pipes[0][0], pipes[1][1], pipes[2][1], theirs.fileno(), program]
        process = Process(pipes[0][1], pipes[1][0], pipes[2][0], ours)
        try:
            with self._lock:
                socket.send_fds(self._socket, [b"s"], given)
        except OSError as error:
            process.close()
            raise HarnessFault("zygote_died", f"{error}; {self.log()}") from error
        finally:
            for fd in (*given[:3], program):
                os.close(fd)
            theirs.close()
        try:
            self._await_hello(process)
        except (HarnessFault, OSError):
            self.end(process)
            raise
        return process

    def _await_hello(self, process: Process) -> None:
        """The child has shut itself in and waits: learn its pid as seen from here, place it."""
        process.report.settimeout(self.limits.spawn_s)
        try:
            message, ancillary, _, _ = process.report.recvmsg(4096, socket.CMSG_SPACE(12))
        except TimeoutError:
            raise HarnessFault("spawn_timeout", f"{self.limits.spawn_s} s; {self.log()}") from None
        if not message:
            raise HarnessFault("spawn_failed", self.log())
        said = json.loads(message)
        if said["kind"] != "hello":
            raise HarnessFault(said["kind"], said["detail"])
        for _, kind, data in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                process.pid = struct.unpack("3i", data[:12])[0]
        process.pidfd = os.pidfd_open(process.pid)
        process.group = self.groups.take()
        if process.group is not None:
            process.group.add(process.pid)
        process.report.setblocking(False)
        for fd in (process.stdin, process.stdout, process.stderr):
            os.set_blocking(fd, False)
        process.report.send(b"g")

    def end(self, process: Process) -> None:
        """Kill a server's whole process tree and free what it held."""
        try:
            process.kill(self.limits.close_s)
            if process.group is not None:
                self.groups.give_back(process.group)
        finally:
            process.close()

    def is_alive(self) -> bool:
        """Whether the zygote still listens. A server that ended because the whole jail did may be
        noticed a moment before the jail's own end."""
        poll = select.poll()
        poll.register(self._socket, 0)  # a hang-up is always reported
        return not poll.poll(NOTICE_S * 1000)

    def close(self) -> None:
        """End the zygote, every server in it, and bubblewrap."""
        self._socket.close()
        self._keeper.join(self.limits.close_s)
        if self._keeper.is_alive():
            self._process.kill()
            self._keeper.join()
        self.groups.close()
        self._log.close()


SELF_TEST = b"""
import json, os, socket, sys
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def connect():
    socket.create_connection(("127.0.0.1", 9), timeout=1)
facts = {
    "no_network": refused(connect) and os.listdir("/proc/sys/net/ipv4/conf") != [],
    "no_vsock": refused(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "read_only_root": refused(lambda: open("/probe", "w"))
    and refused(lambda: open(sys.prefix + "/probe", "w")),
    "private_tmp": os.listdir("/tmp") == ["server.py"],
    "alone": [name for name in os.listdir("/proc") if name.isdigit()] == ["1"],
    "other_uid": os.getuid() == 65534,
    "no_capabilities": "CapEff:\t0000000000000000" in open("/proc/self/status").read(),
    "system_call_filter": "Seccomp:\t2" in open("/proc/self/status").read(),
}
os.write(1, json.dumps(facts).encode())
os._exit(0)
"""


def self_test(server_python: Path, limits: Limits | None = None) -> dict[str, str | int | bool]:
    """Start the jail, run a server that tries to get out, and say what holds it.

    Keys: `mechanism` (cgroup v2, cgroup v1 or rlimits), `mode` (root, or user namespace), versions,
    `runtime_digest`, `runtime_packages`, and one true value for each property tested. Raises
    UserError, with how to mend it, where bwrap is missing, cannot start or does not isolate.
    """
    found = runtime(server_python)
    jail = Jail(server_python, limits or Limits())
    try:
        process = jail.spawn(SELF_TEST)
        answer = _read_to_end(process.stdout, SELF_TEST_S)
        said = _read_to_end(process.report.fileno(), 0.1)
        jail.end(process)
        log = jail.log()
    finally:
        jail.close()
    try:
        facts: dict[str, bool] = json.loads(answer)
    except ValueError as error:
        raise UserError(
            "sandbox", said or log, "the test server does not run", MEND_READ
        ) from error
    leaks = [name for name, holds in facts.items() if not holds]
    if leaks:
        raise UserError("sandbox", ", ".join(leaks), "the jail does not isolate", MEND_BWRAP)
    return {
        "mechanism": jail.groups.mechanism,
        "mode": "root" if is_privileged() else "user namespace",
        "runtime_digest": found.digest,
        "runtime_packages": found.num_packages,
        **{key: str(value) for key, value in jail.environment.items()},
        **facts,
    }


def _read_to_end(fd: int, timeout_s: float) -> str:
    """What comes until end of file or the deadline, at most 64 KiB."""
    deadline, parts = time.monotonic() + timeout_s, bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(parts) < 1 << 16:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        part = os.read(fd, 1 << 16)
        if not part:
            break
        parts += part
    return parts.decode("utf-8", "replace")
