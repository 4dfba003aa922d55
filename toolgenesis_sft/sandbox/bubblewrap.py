"""The command line that starts the jail: what of the host a server can see, and nothing else."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.sandbox.inside.confine import AUDIT_ARCH
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
MEND_BWRAP = (
    "install bubblewrap (apt-get install bubblewrap) and allow user namespaces"
    " (sysctl user.max_user_namespaces=10000; in a container --cap-add SYS_ADMIN"
    " --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
)


def is_privileged() -> bool:
    """Whether this process may make namespaces and change its uid without a user namespace."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return all(effective >> bit & 1 for bit in (CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN))


def command(server_python: Path, socket_fd: int, settings: dict[str, Any]) -> list[str]:
    """The command line that starts the jail and its zygote; `settings` are told to the zygote.

    Raises UserError without bwrap, or on a machine whose system calls the filter does not know.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UserError("sandbox", "bwrap", "is not installed", MEND_BWRAP)
    if platform.machine() not in AUDIT_ARCH:
        known = " and ".join(AUDIT_ARCH)
        raise UserError("sandbox", platform.machine(), f"is not {known}", "score on such a machine")
    where = runtime(server_python)
    line = [bwrap, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    line += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    line += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
    for capability in ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP"):
        line += ["--cap-add", f"CAP_{capability}"]
    if not settings["change_uid"]:
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
    private = ("/tmp", "/dev/shm")  # of each server
    keep = [str(folder) for folder in folders if any(map(folder.is_relative_to, private))]
    return [*line, str(socket_fd), json.dumps({**settings, "keep": keep})]
