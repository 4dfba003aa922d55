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

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgenesis_sft.errors import HarnessFault, UserError

HERE = Path(__file__).resolve().parent
INSIDE = "/opt/toolgenesis"
CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN = 6, 7, 8, 21
MACHINES = ("x86_64", "aarch64")
SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
DEVICES = ("null", "zero", "full", "random", "urandom")
PASSWD = b"nobody:x:65534:65534:nobody:/tmp:/bin/false\n"
GROUP = b"nogroup:x:65534:\n"
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "TMPDIR": "/tmp",
    "TZ": "UTC",
    "USER": "nobody",
    "MALLOC_ARENA_MAX": "2",
    "FASTMCP_CHECK_FOR_UPDATES": "off",
    "FASTMCP_SHOW_SERVER_BANNER": "false",
    "FASTMCP_ENABLE_RICH_TRACEBACKS": "false",
}
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


@dataclass(frozen=True)
class Runtime:
    """Where the servers' interpreter and its environment lie."""

    python: Path
    prefix: Path
    base_prefix: Path
    real_prefix: Path
    stdlib: Path
    digest: str
    num_packages: int


PROBE = """
import hashlib, importlib.metadata, json, sys, sysconfig
lines = sorted({d.metadata["Name"].lower() + "==" + d.version
                for d in importlib.metadata.distributions()})
print(json.dumps({
    "prefix": sys.prefix, "base_prefix": sys.base_prefix, "stdlib": sysconfig.get_path("stdlib"),
    "digest": hashlib.sha256("\\n".join(lines).encode()).hexdigest(), "num_packages": len(lines)}))
"""


@functools.cache
def runtime(server_python: Path) -> Runtime:
    """Ask the interpreter where it lies and what is installed. Raises UserError."""
    python = Path(os.path.abspath(server_python))  # noqa: PTH100  symlinks make the environment
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", PROBE],
            capture_output=True,
            check=True,
            timeout=60,
            env={},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            "score.server_python",
            str(server_python),
            f"cannot be run ({error})",
            "run `make setup`, or name the interpreter of an environment built from"
            " eval/server_runtime.txt",
        ) from error
    found: dict[str, Any] = json.loads(done.stdout)
    return Runtime(
        python=python,
        prefix=Path(found["prefix"]),
        base_prefix=Path(found["base_prefix"]),
        real_prefix=python.resolve().parent.parent,
        stdlib=Path(found["stdlib"]),
        digest=found["digest"],
        num_packages=found["num_packages"],
    )


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
        line += ["--unshare-user", "--uid", "0", "--gid", "0"]
    for folder in _visible_folders(where):
        line += ["--ro-bind", str(folder), str(folder)]
    for name in ("lib", "lib32", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            line += ["--symlink", str(link.readlink()), str(link)]
        elif link.is_dir():
            line += ["--ro-bind", str(link), str(link)]
    for path in ("/etc/ld.so.cache", "/etc/ssl/certs", "/etc/alternatives"):
        line += ["--ro-bind-try", path, path]
    for name in ("inside", "shim"):
        line += ["--ro-bind", str(HERE / name), f"{INSIDE}/{name}"]
    for name in DEVICES:
        line += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for place, name in enumerate(("stdin", "stdout", "stderr")):
        line += ["--symlink", f"/proc/self/fd/{place}", f"/dev/{name}"]
    line += ["--symlink", "/proc/self/fd", "/dev/fd"]
    line += ["--proc", "/proc", "--dir", "/tmp", "--dir", "/dev/shm", "--remount-ro", "/"]
    for name, value in ENVIRONMENT.items():
        line += ["--setenv", name, value]
    line += ["--chdir", "/", str(where.python), "-I", "-B", f"{INSIDE}/inside/zygote.py"]
    return [*line, str(socket_fd), json.dumps(settings)]


def _visible_folders(where: Runtime) -> list[Path]:
    """The interpreter, its environment and the system's libraries, outermost folders only. An
    interpreter of the system shows its own file and not the rest of /usr/bin."""
    wanted = {Path(folder) for folder in SYSTEM_LIBRARIES if Path(folder).is_dir()}
    for prefix in (where.prefix, where.base_prefix, where.real_prefix):
        if prefix in (Path("/"), Path("/usr"), Path("/usr/local")):
            wanted |= {where.stdlib, where.python.resolve(), *_links(where.python)}
        else:
            wanted.add(prefix)
    return sorted(
        path for path in wanted if not any(parent in wanted for parent in path.parents)
    )


def _links(python: Path) -> list[Path]:
    """The symlinks in /usr/bin and the like on the way to the interpreter's own file."""
    found = []
    while python.is_symlink():
        python = Path(os.path.abspath(python.parent / python.readlink()))  # noqa: PTH100
        found.append(python)
    return found


def settings(limits: Limits) -> dict[str, Any]:
    """What the zygote is told."""
    names = ("memory_mib", "num_processes", "file_mib", "cpu_s", "tmp_mib", "num_files")
    return {
        "limits": {name: getattr(limits, name) for name in names},
        "change_uid": is_privileged(),
    }


def fault_of_start(detail: str) -> UserError:
    """The jail did not come up: say why, and what to do."""
    return UserError("sandbox", detail or "no message", "the jail cannot start", MEND_BWRAP)
