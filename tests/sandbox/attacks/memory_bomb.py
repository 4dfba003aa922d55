# ruff: noqa
"""Takes memory without end: alone, or in several processes."""

import os
import time

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("memory_bomb")


def fill() -> list[bytearray]:
    taken = []
    while True:
        taken.append(bytearray(b"x" * (8 << 20)))


@mcp.tool()
def alone() -> int:
    """Attack."""
    return len(fill())


@mcp.tool()
def together() -> int:
    """Attack with ten processes, each below the limit of one; a child's end ends them all."""
    for _ in range(10):
        try:
            child = os.fork()
        except OSError:  # no memory left for one more
            break
        if child == 0:
            kept = b"x" * (100 << 20)
            time.sleep(60)
            os._exit(len(kept) & 1)
    os.wait()
    os._exit(1)
