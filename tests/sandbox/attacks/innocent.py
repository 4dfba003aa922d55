# ruff: noqa
"""A server that does nothing wrong."""

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("innocent")


@mcp.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b
