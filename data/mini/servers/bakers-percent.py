"""Bread arithmetic in baker's percentages: every ingredient relative to flour = 100 %."""

from fastmcp import FastMCP

mcp = FastMCP("Bakers Percent")


def check(flour_or_dough: float, percents: list[float]) -> None:
    """Refuse weights that are not positive and percentages below zero."""
    if flour_or_dough <= 0 or min(percents, default=0) < 0:
        raise ValueError("weight must be positive and percentages not negative")


@mcp.tool()
def flour_for_dough(dough_grams: float, percents: dict[str, float]) -> float:
    """Flour in grams that, with the other ingredients, makes the wanted dough weight."""
    check(dough_grams, list(percents.values()))
    return round(dough_grams / (1 + sum(percents.values()) / 100), 1)


@mcp.tool()
def weigh_ingredients(flour_grams: float, percents: dict[str, float]) -> dict[str, float]:
    """Grams of each ingredient for this much flour."""
    check(flour_grams, list(percents.values()))
    return {name: round(flour_grams * p / 100, 1) for name, p in percents.items()}


@mcp.tool()
def water_temperature(
    dough_c: float, flour_c: float, room_c: float, friction_c: float = 0
) -> float:
    """Water temperature by the usual rule: 3 x dough - flour - room - friction."""
    water = round(3 * dough_c - flour_c - room_c - friction_c, 1)
    if not 0 <= water <= 50:
        raise ValueError(f"water at {water} C is not usable (0 to 50 C)")
    return water


if __name__ == "__main__":
    mcp.run()
