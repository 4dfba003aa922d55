"""Solves plane triangles from their side lengths."""

from math import acos, cos, degrees, radians, sqrt

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Triangle Solver")


def check_sides(a: float, b: float, c: float) -> None:
    small, middle, large = sorted((a, b, c))
    if small <= 0 or small + middle <= large:
        raise ValueError("these lengths do not form a triangle")


@mcp.tool()
def triangle_area(a: float, b: float, c: float) -> float:
    """Area by Heron's formula."""
    check_sides(a, b, c)
    s = (a + b + c) / 2
    return round(sqrt(s * (s - a) * (s - b) * (s - c)), 4)


@mcp.tool()
def triangle_angles(a: float, b: float, c: float) -> dict[str, float]:
    """Angles in degrees; A lies opposite side a."""
    check_sides(a, b, c)
    alpha = degrees(acos((b * b + c * c - a * a) / (2 * b * c)))
    beta = degrees(acos((a * a + c * c - b * b) / (2 * a * c)))
    return {"A": round(alpha, 2), "B": round(beta, 2), "C": round(180 - alpha - beta, 2)}


@mcp.tool()
def third_side(a: float, b: float, angle: float) -> float:
    """Side opposite the angle, in degrees, between sides a and b."""
    if a <= 0 or b <= 0 or not 0 < angle < 180:
        raise ValueError("sides must be positive and the angle between 0 and 180")
    return round(sqrt(a * a + b * b - 2 * a * b * cos(radians(angle))), 4)


if __name__ == "__main__":
    mcp.run()
