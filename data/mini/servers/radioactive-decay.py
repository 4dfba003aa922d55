"""Exponential decay of radioactive samples: remainders, ages and activities."""

import math

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Radioactive Decay")

AVOGADRO = 6.02214076e23  # 1/mol, exact since the 2019 SI

# Nuclide: half-life in seconds, molar mass in g/mol. A year is 365.25 days.
YEAR_S = 365.25 * 86400
NUCLIDES = {
    "C-14": (5700 * YEAR_S, 14.003),
    "Co-60": (5.27 * YEAR_S, 59.934),
    "Cs-137": (30.05 * YEAR_S, 136.907),
    "I-131": (8.0 * 86400, 130.906),
    "Tc-99m": (6.0 * 3600, 98.906),
}
UNIT_S = {"hours": 3600.0, "days": 86400.0, "years": YEAR_S}


def half_life_in(nuclide: str, unit: str) -> float:
    if nuclide not in NUCLIDES or unit not in UNIT_S:
        raise ValueError(f"known nuclides: {', '.join(NUCLIDES)}; units: {', '.join(UNIT_S)}")
    return NUCLIDES[nuclide][0] / UNIT_S[unit]


def significant(value: float) -> float:
    return float(f"{value:.6g}")


@mcp.tool()
def remaining_amount(nuclide: str, initial: float, elapsed: float, unit: str = "days") -> dict:
    """Amount left after a time, in whatever quantity the initial amount is given."""
    if initial < 0 or elapsed < 0:
        raise ValueError("initial and elapsed must not be negative")
    half_lives = elapsed / half_life_in(nuclide, unit)
    fraction = 0.5**half_lives
    return {
        "half_lives": significant(half_lives),
        "remaining": significant(initial * fraction),
        "decayed": significant(initial * (1 - fraction)),
    }


@mcp.tool()
def sample_age(nuclide: str, remaining_fraction: float, unit: str = "years") -> float:
    """Time after which the given fraction (0 < fraction <= 1) of the nuclide is left."""
    if not 0 < remaining_fraction <= 1:
        raise ValueError("remaining_fraction must be above 0 and at most 1")
    return significant(half_life_in(nuclide, unit) * math.log2(1 / remaining_fraction))


@mcp.tool()
def activity_of_mass(nuclide: str, grams: float) -> float:
    """Activity in becquerel of a mass of the pure nuclide: ln 2 / half-life * atoms."""
    if grams < 0:
        raise ValueError("grams must not be negative")
    decay_per_s = math.log(2) / half_life_in(nuclide, "days") / UNIT_S["days"]
    return significant(decay_per_s * grams / NUCLIDES[nuclide][1] * AVOGADRO)


@mcp.tool()
def infer_half_life(first_count: float, second_count: float, elapsed: float) -> float:
    """Half-life, in the unit of elapsed, from two count rates of the same sample."""
    if elapsed <= 0 or not 0 < second_count < first_count:
        raise ValueError("elapsed must be positive and the counts positive and falling")
    return significant(elapsed / math.log2(first_count / second_count))


if __name__ == "__main__":
    mcp.run()
