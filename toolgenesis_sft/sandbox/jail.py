"""The jail: one bubblewrap with a warm zygote in it, and what each server forked there may do.

Covered; the words before each colon name a test in tests/sandbox/:
- no way out over the network: no interface, loopback included; only local and internet sockets
- no secret of the harness can be read: of the host there are the interpreter, its environment and
  the system's libraries, read-only; no variable of the harness, no process but the server's own
- nothing written reaches the host or the next server: /tmp and /dev/shm are fresh for each server
- no privilege is left to a server: another uid, no capabilities, no further namespaces, no tracing
- a fork bomb stops at the limit of processes: by rlimit, and by cgroup where there is one
- a memory bomb is an error of its own tool: likewise; a whole tree is held only by a cgroup
- disk and inodes fill no further than the private folders: sized tmpfs
- cpu time is limited: by rlimit, and by the wall clock of each phase
- no process outlives its session: SIGKILL to process 1 of the server's PID namespace
- killing the harness leaves no process: nor does the end of the thread that started the sandbox
- a flood ends its own server in flat memory: bytes, depth and time are capped before decoding

Not covered: faults of the kernel itself; side channels (timing, load, caches); where only rlimits
are at hand (`self_test` names the mechanism), the memory of a process tree as a whole, which is
then bounded by processes times memory, and the cores that its processes take from its neighbours
while its time runs; before Linux 5.14, a limit of processes for each server apart (it counts all of
a uid); what a server attempts by means that a Python audit hook does not see. The clock and
os.urandom are real; `random` starts from the same seed in every server.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.sandbox.bubblewrap import MEND_BWRAP, command, is_privileged
from toolgenesis_sft.sandbox.cgroup import ControlGroup, ControlGroups
from toolgenesis_sft.sandbox.runtime import runtime

ZYGOTE_START_S = 60.0
SELF_TEST_S = 30.0
NOTICE_S = 0.02
SERVER_LIMITS = ("memory_mib", "num_processes", "file_mib", "cpu_s", "tmp_mib", "num_files")
HEADROOM_MIB = (
    128  # of the control group above the rlimit, so that Python's MemoryError comes first
)
MEND_READ = (
    "let every user read the servers' environment and its interpreter (chmod -R a+rX); an ordinary"
    " user needs Linux 5.14 or newer"
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
    max_parts: int = 30_000  # values of a message where the protocol says what they must be
    max_code_bytes: int = 4 << 20
    max_tools: int = 1000
    max_pages: int = 100


def runtime_digest(server_python: Path) -> str:
    """SHA-256 of the sorted `name==version` lines of the servers' environment, of which Python's
    own, as `python==3.11`, is one."""
    return runtime(server_python).digest


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
        self.is_privileged = is_privileged()
        settings = {
            "limits": {name: getattr(limits, name) for name in SERVER_LIMITS},
            "change_uid": self.is_privileged,
        }
        line = command(server_python, theirs.fileno(), settings)
        started = threading.Event()

        def keep() -> None:
            # The kernel ends bwrap when the thread that started it ends, so this thread stays.
            try:
                self._process = subprocess.Popen(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._log,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:  # no memory or no process left; the socket's end says so
                self._log.write(f"{line[0]}: {error.strerror}".encode())
                return
            finally:
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
import json, os, socket, sys, threading
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def readable(folder):
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    return all(os.access(path, os.R_OK) for path in paths if os.path.exists(path))
environment = {sys.prefix, sys.base_prefix, os.path.realpath(sys.executable)}
in_tmp = {path.split("/")[2] for path in environment if path.startswith("/tmp/")}
status = open("/proc/self/status").read()
thread = threading.Thread(target=print)
thread.start()
facts = {
    "no_network": refused(lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)),
    "no_vsock": refused(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "read_only_root": refused(lambda: open("/probe", "w"))
    and refused(lambda: open(sys.prefix + "/probe", "w")),
    "private_tmp": set(os.listdir("/tmp")) == {"server.py"} | in_tmp,
    "alone": [name for name in os.listdir("/proc") if name.isdigit()] == ["1"],
    "other_uid": os.getuid() == 65534,
    "no_capabilities": "CapEff:\t0000000000000000" in status,
    "system_call_filter": "Seccomp:\t2" in status,
    "libraries_readable": any(os.path.isfile(path + "/mcp/__init__.py") for path in sys.path)
    and all(map(readable, filter(os.path.isdir, sys.path[1:]))),
}
thread.join()
os.write(1, json.dumps(facts).encode())
os._exit(0)
"""


def self_test(server_python: Path, limits: Limits | None = None) -> dict[str, str | int | bool]:
    """Start the jail, run a server that tries to get out, and say what holds it.

    Keys: `mechanism` (cgroup v2, cgroup v1 or rlimits), `mode` (root or user namespace),
    `runtime_digest`, `runtime_packages`, versions, and one true value for each property tested.
    Raises UserError, with how to mend it, where bwrap is missing, cannot start or does not isolate.
    """
    found = runtime(server_python)
    jail = Jail(server_python, limits or Limits())
    try:
        process = jail.spawn(SELF_TEST)
        answer = _read_to_end(process.stdout, SELF_TEST_S)
        said = _read_to_end(process.report.fileno(), 0.1) or jail.log()[-200:]
        jail.end(process)
    except HarnessFault as fault:
        raise UserError("sandbox", str(fault), "no server can be shut in", MEND_BWRAP) from fault
    finally:
        jail.close()
    try:
        facts: dict[str, bool] = json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise UserError("sandbox", said, "the test server does not run", MEND_READ) from error
    broken = [name for name, holds in facts.items() if not holds]
    if broken == ["libraries_readable"]:
        raise UserError("score.server_python", str(server_python), "is not for all", MEND_READ)
    if broken:
        raise UserError("sandbox", ", ".join(broken), "the jail does not isolate", MEND_BWRAP)
    return {
        "mechanism": jail.groups.mechanism,
        "mode": "root" if jail.is_privileged else "user namespace",
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
