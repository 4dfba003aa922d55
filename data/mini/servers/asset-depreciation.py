"""Yearly depreciation schedules of a fixed asset under three accounting methods."""

from typing import Literal

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Asset Depreciation")

Method = Literal["straight_line", "declining_balance", "sum_of_years"]


def book_values(method: Method, cost: float, salvage: float, life: int, factor: float) -> list:
    """Unrounded book values at the end of year 0 (the cost), 1, ... life."""
    if not 0 <= salvage < cost:
        raise ValueError("salvage must be at least 0 and below the cost")
    if not 1 <= life <= 50:
        raise ValueError("life must be 1 to 50 years")
    if not 1 <= factor <= 3:
        raise ValueError("factor must be 1 to 3")
    base, values = cost - salvage, [cost]
    for year in range(1, life + 1):
        if method == "straight_line":
            values.append(cost - base * year / life)
        elif method == "sum_of_years":
            values.append(values[-1] - base * (life - year + 1) / (life * (life + 1) / 2))
        else:
            # A factor above the life would write off more than the whole book value.
            values.append(max(salvage, values[-1] * (1 - min(1, factor / life))))
    return values


@mcp.tool()
def depreciation_schedule(
    method: Method, cost: float, salvage: float, life: int, factor: float = 2.0
) -> list[dict[str, int | float]]:
    """One row a year: the expense and the book value at the year's end."""
    values = [round(value, 2) for value in book_values(method, cost, salvage, life, factor)]
    return [
        {"year": year, "expense": round(values[year - 1] - values[year], 2), "book": values[year]}
        for year in range(1, life + 1)
    ]


@mcp.tool()
def book_value_at(
    method: Method, cost: float, salvage: float, life: int, year: int, factor: float = 2.0
) -> float:
    """Book value at the end of a year; year 0 is the purchase, after its life nothing changes."""
    if year < 0:
        raise ValueError("year must not be negative")
    return round(book_values(method, cost, salvage, life, factor)[min(year, life)], 2)


@mcp.tool()
def disposal_gain(
    method: Method,
    cost: float,
    salvage: float,
    life: int,
    year: int,
    sale_price: float,
    factor: float = 2.0,
) -> dict[str, float | str]:
    """Gain or loss when the asset is sold at the end of a year."""
    if sale_price < 0:
        raise ValueError("sale_price must not be negative")
    book = book_value_at(method, cost, salvage, life, year, factor)
    gain = round(sale_price - book, 2)
    return {"book": book, "gain": gain, "kind": "gain" if gain > 0 else "loss" if gain else "even"}


if __name__ == "__main__":
    mcp.run()
