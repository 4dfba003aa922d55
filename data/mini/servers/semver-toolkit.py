"""Compare, bump and range-check plain MAJOR.MINOR.PATCH versions (semver.org 2.0.0)."""

import re

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Semver Toolkit")
PARTS = ("major", "minor", "patch")


def numbers(version: str) -> list[int]:
    """Return the three numbers of a version."""
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}", version):
        raise ValueError(f"not a MAJOR.MINOR.PATCH version: {version!r}")
    return [int(part) for part in version.split(".")]


@mcp.tool()
def compare_versions(left: str, right: str) -> int:
    """Return -1, 0 or 1: left is older than, equal to or newer than right."""
    a, b = numbers(left), numbers(right)
    return (a > b) - (a < b)


@mcp.tool()
def bump_version(version: str, part: str) -> str:
    """Raise one part by one and set the parts after it to zero."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}")
    old, index = numbers(version), PARTS.index(part)
    new = old[:index] + [old[index] + 1] + [0] * (2 - index)
    return ".".join(map(str, new))


@mcp.tool()
def matches_caret(base: str, candidate: str) -> bool:
    """Tell whether candidate lies in ^base: not older, same leftmost nonzero part."""
    low, new = numbers(base), numbers(candidate)
    fixed = next((i for i in range(3) if low[i]), 2) + 1
    return new >= low and new[:fixed] == low[:fixed]


if __name__ == "__main__":
    mcp.run()
