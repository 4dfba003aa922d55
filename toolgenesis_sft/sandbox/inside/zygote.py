"""The warm zygote: imports the servers' libraries once, then forks a server for each request.

Runs as the only program of the jail. Requests come as datagrams on the socket whose number is
argv[1]: one byte and five file descriptors (stdin, stdout, stderr, report, program). argv[2] is
JSON: the limits, whether to change the uid, and what to keep of /tmp. When the socket ends, so does
the jail.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import importlib.metadata
import json
import os
import random
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from toolgenesis_sft.sandbox.inside import audit, confine, program

THREAD_END_S = 10.0
REPORT_FD, PROGRAM_FD = 3, 4


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the servers
    own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
    warm_up()
    requests.send(json.dumps(describe_environment()).encode())
    while True:
        _, fds, _, _ = socket.recv_fds(requests, 16, 5)
        if len(fds) != 5:
            return  # the harness has closed its end, or has died
        if confine.fork_into_pid_namespace(own_namespace) == 0:
            run_server(fds, settings)
        for fd in fds:
            os.close(fd)


def warm_up() -> None:
    """Import both FastMCPs and send one list and one call through each, in memory: the first use
    of a server builds validators and event loops that every fork then has."""
    native, package = program.server_classes()
    program.serve_over_stdio_only()
    for module in ("src.apps", "anyio._backends._asyncio", "mcp.server.stdio"):
        importlib.import_module(module)
    asyncio.run(_warm_native(native))
    asyncio.run(_warm_package(package))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(THREAD_END_S)  # workers that were told to stop: a fork would lose them
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()


def _add_tool(server: Any) -> Any:
    def sample(a: int, b: str = "", c: list[float] | None = None) -> dict[str, Any]:
        """A tool."""
        return {"a": a, "b": b, "c": c}

    server.tool()(sample)
    return server


async def _warm_native(cls: Any) -> None:
    memory = importlib.import_module("mcp.shared.memory")
    server = _add_tool(cls("warm"))
    async with memory.create_connected_server_and_client_session(server._mcp_server) as client:
        await client.list_tools()
        await client.call_tool("sample", {"a": 1, "b": "x", "c": [1.5]})


async def _warm_package(cls: Any) -> None:
    server = _add_tool(cls("warm"))
    async with importlib.import_module("fastmcp").Client(server) as client:
        await client.list_tools()
        await client.call_tool("sample", {"a": 1, "b": "x", "c": [1.5]})


def describe_environment() -> dict[str, Any]:
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "mcp": importlib.metadata.version("mcp"),
        "fastmcp": importlib.metadata.version("fastmcp"),
        "uid": os.getuid(),
    }


def run_server(fds: list[int], settings: dict[str, Any]) -> NoReturn:
    """In the fork: shut in, say hello, wait for leave to go, run the program. Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report = take_descriptors(fds)
    try:
        confine.confine(settings["limits"], settings["change_uid"], settings["keep"])
    except OSError as error:
        tell(report, "setup_failed", str(error))
        os._exit(1)
    tell(report, "hello", "")
    if not report.recv(1):
        os._exit(1)
    with open(PROGRAM_FD, "rb") as file:
        code = file.read()
    with contextlib.suppress(OSError):  # a full /tmp is no fault
        Path(audit.SERVER_FILE).write_bytes(code)  # for tracebacks and inspect.getsource
    sys.path[0] = "/tmp"
    report.setblocking(False)

    def cpu_time_is_over(_: int, __: FrameType | None) -> NoReturn:
        tell(report, "cpu_limit", f"{settings['limits']['cpu_s']} s of CPU time")
        os._exit(1)

    signal.signal(signal.SIGXCPU, cpu_time_is_over)
    random.seed(0)  # the same calls give the same answers in the next run
    audit.arm(lambda line: tell(report, "denied", line))
    try:
        program.serve(code, functools.partial(tell, report))
    except program.Unservable as fault:
        tell(report, fault.kind, fault.detail)
        os._exit(1)
    os._exit(0)


def take_descriptors(fds: list[int]) -> socket.socket:
    """Move stdin, stdout, stderr, report and program to 0..4 and close all others."""
    high = [os.dup2(fd, 100 + place) for place, fd in enumerate(fds)]
    for place, fd in enumerate(high):
        os.dup2(fd, place, inheritable=place < 3)
    os.closerange(5, 1 << 16)
    # The zygote's own streams remember what they were opened on: a file that can seek. A line that
    # is printed leaves at once, so that it is seen beside the protocol.
    for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = os.fdopen(fd, "w" if fd else "r", 1, "utf-8", "backslashreplace", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    return socket.socket(fileno=REPORT_FD)


def tell(report: socket.socket, kind: str, detail: str) -> None:
    """One datagram to the harness. A full or closed socket loses it: it is evidence, no signal."""
    with contextlib.suppress(OSError):
        report.send(json.dumps({"kind": kind, "detail": detail[:1000]}).encode())


if __name__ == "__main__":
    main()
