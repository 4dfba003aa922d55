"""Estimate maximum heart rate and derive Karvonen training zones."""

from typing import Literal

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Heart Rate Zones")

ZONES = ["recovery", "endurance", "tempo", "threshold", "maximal"]


def reserve(max_bpm: int, resting_bpm: int) -> int:
    if not 0 < resting_bpm < max_bpm:
        raise ValueError("resting_bpm must be positive and below max_bpm")
    return max_bpm - resting_bpm


@mcp.tool()
def estimate_max(age: int, formula: Literal["fox", "tanaka", "gulati"] = "tanaka") -> float:
    """Estimate the maximum heart rate in bpm from the age in years."""
    if not 1 <= age <= 120:
        raise ValueError("age must be between 1 and 120")
    base, slope = {"fox": (220, 1.0), "tanaka": (208, 0.7), "gulati": (206, 0.88)}[formula]
    return round(base - slope * age, 1)


@mcp.tool()
def training_zones(max_bpm: int, resting_bpm: int) -> list[dict]:
    """List the five zones from 50 % to 100 % of heart rate reserve."""
    span = reserve(max_bpm, resting_bpm)
    edges = [round(resting_bpm + span * percent / 100) for percent in range(50, 101, 10)]
    return [
        {"zone": i + 1, "name": name, "low_bpm": edges[i], "high_bpm": edges[i + 1]}
        for i, name in enumerate(ZONES)
    ]


if __name__ == "__main__":
    mcp.run()
