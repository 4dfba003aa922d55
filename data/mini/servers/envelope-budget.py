"""Envelope budgeting in memory: money waits in named envelopes until it is spent."""

from fastmcp import FastMCP

mcp = FastMCP("Envelope Budget")

POOL = "unassigned"
# Balances are whole cents, so that sums never drift; tools speak in currency units.
balances = {POOL: 50_000, "rent": 80_000, "groceries": 20_750, "fun": 6_000}
purchases = [{"id": 1, "envelope": "groceries", "amount": 42.5, "payee": "Corner Market"}]


def to_cents(amount: float) -> int:
    cents = round(amount * 100)
    if cents <= 0:
        raise ValueError("amount must be at least 0.01")
    return cents


def check_name(envelope: str) -> None:
    if envelope not in balances:
        raise ValueError(f"no envelope named {envelope!r}")


def withdraw(envelope: str, cents: int) -> None:
    check_name(envelope)
    if balances[envelope] < cents:
        raise ValueError(f"{envelope!r} holds only {balances[envelope] / 100:.2f}")
    balances[envelope] -= cents


@mcp.tool()
def add_income(amount: float) -> dict[str, float]:
    """Put new money into the unassigned pool."""
    balances[POOL] += to_cents(amount)
    return {POOL: balances[POOL] / 100}


@mcp.tool()
def move_money(source: str, target: str, amount: float) -> dict[str, float]:
    """Move money between two envelopes; a target that does not exist yet is created."""
    if not target.strip() or source == target:
        raise ValueError("target must be a name other than the source")
    cents = to_cents(amount)
    withdraw(source, cents)
    balances[target] = balances.get(target, 0) + cents
    return {source: balances[source] / 100, target: balances[target] / 100}


@mcp.tool()
def record_purchase(envelope: str, amount: float, payee: str) -> dict[str, int | str | float]:
    """Spend from an envelope."""
    cents = to_cents(amount)
    withdraw(envelope, cents)
    amount = cents / 100
    purchase = {"id": len(purchases) + 1, "envelope": envelope, "amount": amount, "payee": payee}
    purchases.append(purchase)
    return purchase | {"left": balances[envelope] / 100}


@mcp.tool()
def view_envelopes(minimum: float = 0.0) -> dict[str, float]:
    """Balances of all envelopes, the pool included, that hold at least the minimum."""
    return {name: cents / 100 for name, cents in balances.items() if cents / 100 >= minimum}


@mcp.tool()
def purchase_history(envelope: str | None = None) -> dict:
    """Purchases in the order recorded and their total, for one envelope or for all."""
    if envelope is not None:
        check_name(envelope)
    chosen = [p for p in purchases if envelope in (None, p["envelope"])]
    return {"purchases": chosen, "total": round(sum(p["amount"] for p in chosen), 2)}


if __name__ == "__main__":
    mcp.run()
