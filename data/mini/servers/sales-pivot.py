"""A small table of sales that can be extended, grouped and pivoted."""

from typing import Any, Literal

from fastmcp import FastMCP

mcp = FastMCP("Sales Pivot")

Dimension = Literal["region", "product"]
Measure = Literal["sales", "units", "revenue"]


def make_row(number: int, region: str, product: str, units: int, price: float) -> dict[str, Any]:
    """Build one row of the table; revenue is derived."""
    return {
        "id": number,
        "region": region,
        "product": product,
        "units": units,
        "unit_price": price,
        "revenue": round(units * price, 2),
    }


rows: list[dict[str, Any]] = [
    make_row(1, "north", "tea", 10, 4.5),
    make_row(2, "north", "coffee", 6, 8.0),
    make_row(3, "south", "tea", 20, 4.0),
    make_row(4, "south", "coffee", 5, 9.0),
    make_row(5, "west", "tea", 8, 4.25),
]
last_id = 5


def measure_of(group: list[dict[str, Any]], measure: Measure) -> float:
    """Number of rows, or the sum of a column, rounded to cents."""
    if measure == "sales":
        return len(group)
    return round(sum(row[measure] for row in group), 2)


@mcp.tool()
def add_sale(region: str, product: str, units: int, unit_price: float) -> dict[str, Any]:
    """Append a sale and return its row with id and revenue."""
    global last_id
    region, product = region.strip().lower(), product.strip().lower()
    if not region or not product or units < 1 or unit_price < 0:
        raise ValueError("need region, product, units >= 1 and unit_price >= 0")
    last_id += 1
    rows.append(make_row(last_id, region, product, units, unit_price))
    return rows[-1]


@mcp.tool()
def remove_sale(sale_id: int) -> dict[str, Any]:
    """Delete a sale; its id is never given out again."""
    for row in rows:
        if row["id"] == sale_id:
            rows.remove(row)
            return {"removed": row, "rows_left": len(rows)}
    raise ValueError(f"no sale with id {sale_id}")


@mcp.tool()
def group_sales(dimension: Dimension) -> list[dict[str, Any]]:
    """Totals for each region or product, the highest revenue first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[dimension], []).append(row)
    totals = [
        {"group": name, "sales": len(group), "units": measure_of(group, "units")}
        | {"revenue": measure_of(group, "revenue")}
        for name, group in groups.items()
    ]
    return sorted(totals, key=lambda total: (-total["revenue"], total["group"]))


@mcp.tool()
def pivot_sales(measure: Measure = "revenue") -> dict[str, dict[str, float]]:
    """Regions by products; combinations without a sale count 0."""
    regions = sorted({row["region"] for row in rows})
    products = sorted({row["product"] for row in rows})
    return {
        region: {
            product: measure_of(
                [r for r in rows if (r["region"], r["product"]) == (region, product)], measure
            )
            for product in products
        }
        for region in regions
    }


if __name__ == "__main__":
    mcp.run()
