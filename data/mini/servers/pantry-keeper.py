"""A pantry of dated batches: stock comes in, and the oldest batch is used first."""

from datetime import date
from typing import Any

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Pantry Keeper")

UNITS = ("g", "ml", "pcs")
batches: list[dict[str, Any]] = [
    {"id": 1, "item": "flour", "amount": 1000.0, "unit": "g", "best_before": "2025-09-30"},
    {"id": 2, "item": "eggs", "amount": 6.0, "unit": "pcs", "best_before": "2025-03-14"},
    {"id": 3, "item": "milk", "amount": 1000.0, "unit": "ml", "best_before": "2025-03-18"},
    {"id": 4, "item": "milk", "amount": 500.0, "unit": "ml", "best_before": "2025-03-10"},
]
next_id = 5


def batches_of(item: str) -> list[dict[str, Any]]:
    """Return the batches of an item, the soonest best-before date first."""
    name = item.strip().lower()
    found = [batch for batch in batches if batch["item"] == name]
    return sorted(found, key=lambda batch: (batch["best_before"], batch["id"]))


def in_stock(item: str) -> float:
    """Return the amount of an item over all batches."""
    return round(sum(batch["amount"] for batch in batches_of(item)), 2)


@mcp.tool()
def add_batch(item: str, amount: float, unit: str, best_before: str) -> dict[str, Any]:
    """Store a batch (unit g, ml or pcs; best_before as YYYY-MM-DD)."""
    global next_id
    name = item.strip().lower()
    if not name or amount <= 0 or unit not in UNITS:
        raise ValueError("need a name, a positive amount and a unit of g, ml or pcs")
    known = batches_of(name)
    if known and known[0]["unit"] != unit:
        raise ValueError(f"{name} is kept in {known[0]['unit']}")
    day = date.fromisoformat(best_before).isoformat()
    batch = {"id": next_id, "item": name, "amount": amount, "unit": unit, "best_before": day}
    batches.append(batch)
    next_id += 1
    return dict(batch)


@mcp.tool()
def use_item(item: str, amount: float) -> dict[str, Any]:
    """Take an amount, from the soonest best-before date on; empty batches go."""
    if amount <= 0:
        raise ValueError("amount must be positive")
    if in_stock(item) < amount:
        raise ValueError(f"only {in_stock(item)} of {item!r} in stock")
    taken, open_amount = [], amount
    for batch in batches_of(item):
        part = min(batch["amount"], open_amount)
        batch["amount"] = round(batch["amount"] - part, 2)
        open_amount = round(open_amount - part, 2)
        taken.append({"batch_id": batch["id"], "amount": part})
        if batch["amount"] == 0:
            batches.remove(batch)
        if open_amount == 0:
            break
    return {"taken": taken, "left": in_stock(item)}


@mcp.tool()
def expiring_by(day: str) -> list[dict[str, Any]]:
    """List batches whose best-before date is on or before day, soonest first."""
    limit = date.fromisoformat(day).isoformat()
    due = [dict(batch) for batch in batches if batch["best_before"] <= limit]
    return sorted(due, key=lambda batch: (batch["best_before"], batch["id"]))


@mcp.tool()
def check_recipe(needs: dict[str, float]) -> dict[str, Any]:
    """Compare needed amounts with the stock; nothing is taken."""
    if not needs or min(needs.values()) <= 0:
        raise ValueError("need at least one item, each with a positive amount")
    gaps = {item: round(amount - in_stock(item), 2) for item, amount in needs.items()}
    missing = {item: gap for item, gap in gaps.items() if gap > 0}
    return {"can_cook": not missing, "missing": missing}


if __name__ == "__main__":
    mcp.run()
