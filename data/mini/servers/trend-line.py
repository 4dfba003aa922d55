"""Fit a straight line to paired data by ordinary least squares."""

from statistics import correlation, linear_regression

from fastmcp import FastMCP

mcp = FastMCP("Trend Line")


def fit(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line."""
    if len(xs) != len(ys) or len(set(xs)) < 2:
        raise ValueError("need xs and ys of equal length with at least two different xs")
    line = linear_regression(xs, ys)
    return line.slope, line.intercept


@mcp.tool()
def fit_line(xs: list[float], ys: list[float]) -> dict:
    """Slope, intercept and r_squared of the line through the points."""
    slope, intercept = fit(xs, ys)
    r = correlation(xs, ys) if len(set(ys)) > 1 else 1.0
    return {
        "slope": round(slope, 4),
        "intercept": round(intercept, 4),
        "r_squared": round(r * r, 4),
    }


@mcp.tool()
def predict_at(xs: list[float], ys: list[float], x: float) -> float:
    """Value of the fitted line at x, inside the data or beyond it."""
    slope, intercept = fit(xs, ys)
    return round(intercept + slope * x, 4)


@mcp.tool()
def list_residuals(xs: list[float], ys: list[float]) -> list[float]:
    """Observed minus fitted y for each point, in input order."""
    slope, intercept = fit(xs, ys)
    # adding 0.0 turns a rounded -0.0 into 0.0
    return [round(y - intercept - slope * x, 4) + 0.0 for x, y in zip(xs, ys, strict=True)]


if __name__ == "__main__":
    mcp.run()
