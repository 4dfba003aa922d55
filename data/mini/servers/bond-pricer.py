"""Prices a fixed-rate bond on a coupon date, and gives its duration."""

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Bond Pricer")


def present_values(face: float, coupon: float, yld: float, years: int, freq: int) -> list[float]:
    if face <= 0 or coupon < 0 or yld < 0 or not 1 <= years <= 100 or freq not in (1, 2, 4):
        raise ValueError("bond terms out of range")
    flows = [face * coupon / 100 / freq] * (years * freq)
    flows[-1] += face
    return [flow / (1 + yld / 100 / freq) ** n for n, flow in enumerate(flows, 1)]


@mcp.tool()
def price_bond(face: float, coupon: float, yld: float, years: int, freq: int = 2) -> dict:
    """Price from the yearly coupon and yield in percent, and how it compares with the face."""
    price = round(sum(present_values(face, coupon, yld, years, freq)), 2)
    par = round(face, 2)
    quote = "par" if price == par else "premium" if price > par else "discount"
    return {"price": price, "trades_at": quote}


@mcp.tool()
def bond_duration(face: float, coupon: float, yld: float, years: int, freq: int = 2) -> dict:
    """Macaulay and modified duration in years."""
    values = present_values(face, coupon, yld, years, freq)
    macaulay = sum(n * value for n, value in enumerate(values, 1)) / sum(values) / freq
    modified = macaulay / (1 + yld / 100 / freq)
    return {"macaulay": round(macaulay, 4), "modified": round(modified, 4)}


if __name__ == "__main__":
    mcp.run()
