# ruff: noqa
"""Writes without end where it is told to: `stdout` without newlines, `lines`, `blank`, `stderr`,
`notifications`, `requests`, `report` (the loader's own socket)."""

import json
import os

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("flood")
CHUNKS = {
    "stdout": (1, b"x" * (1 << 16)),
    "lines": (1, b"noise\n" * 10_000),
    "blank": (1, b"\n" * 60_000),
    "stderr": (2, b"x" * (1 << 16)),
    "notifications": (
        1,
        b'{"jsonrpc": "2.0", "method": "notifications/message", "params":'
        b' {"level": "info", "data": "x"}}\n' * 500,
    ),
    "requests": (1, b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n' * 1000),
    "report": (3, json.dumps({"kind": "denied", "detail": "x" * 3000}).encode()),
}


@mcp.tool()
def act(where: str) -> int:
    """Attack."""
    fd, chunk = CHUNKS[where]
    while True:
        try:
            os.write(fd, chunk)
        except BlockingIOError:
            pass
