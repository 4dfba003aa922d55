# ruff: noqa
"""Spins in a call, and burns CPU time in `burn` until the limit."""

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("spin_in_call")


@mcp.tool()
def act() -> int:
    """Attack."""
    while True:
        pass
