"""Compute grade point averages and the average still needed to reach a goal."""

from fastmcp import FastMCP

mcp = FastMCP("GPA Planner")

POINTS = {
    "A": 4.0, "A-": 3.7, "B+": 3.3, "B": 3.0, "B-": 2.7,
    "C+": 2.3, "C": 2.0, "C-": 1.7, "D": 1.0, "F": 0.0,
}  # fmt: skip


@mcp.tool()
def term_average(grades: list[str], credits: list[float]) -> float:
    """Credit-weighted grade point average of a term."""
    if not grades or len(grades) != len(credits):
        raise ValueError("give one credit value for each grade")
    if min(credits) <= 0:
        raise ValueError("credits must be positive")
    unknown = [grade for grade in grades if grade not in POINTS]
    if unknown:
        raise ValueError(f"unknown grade {unknown[0]!r}")
    total = sum(POINTS[grade] * weight for grade, weight in zip(grades, credits))
    return round(total / sum(credits), 2)


@mcp.tool()
def needed_average(current: float, done: float, goal: float, left: float) -> dict:
    """Average needed over the credits left to lift the current average to the goal."""
    if done < 0 or left <= 0:
        raise ValueError("done must not be negative, left must be positive")
    if not (0 <= current <= 4 and 0 <= goal <= 4):
        raise ValueError("averages lie between 0 and 4")
    needed = round((goal * (done + left) - current * done) / left, 2)
    return {"needed": max(needed, 0.0), "reachable": needed <= 4}


if __name__ == "__main__":
    mcp.run()
