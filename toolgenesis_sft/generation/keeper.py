"""Run a server as long as its owner lives: python keeper.py COMMAND...

The owner holds the other end of stdin. When that closes, by a clean end or by `kill -9`, the
server's whole process group is ended. A server that ends by itself takes its group with it, and
its exit code becomes this one's. Standard library only; run as a file, not as a module.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
GRACE_S = 5.0


def main(command: list[str]) -> int:
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
    )
    threading.Thread(target=end_with_owner, args=(server,), daemon=True).start()
    code = server.wait()
    end_group(server.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def die_with_parent() -> None:
    """In the server: should this keeper be killed itself, the kernel ends the server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_owner(server: subprocess.Popen[bytes]) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    end_group(server.pid, signal.SIGTERM)
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        end_group(server.pid, signal.SIGKILL)


def end_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
