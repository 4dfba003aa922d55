"""Read chemical formulas and compute molar masses, compositions and amounts."""

import re
from collections import Counter

from fastmcp import FastMCP

mcp = FastMCP("Molar Mass")

# Abridged standard atomic weights in g/mol (IUPAC 2021).
WEIGHTS = {
    "H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "F": 18.998, "Na": 22.990,
    "Mg": 24.305, "Al": 26.982, "Si": 28.085, "P": 30.974, "S": 32.06, "Cl": 35.45,
    "K": 39.098, "Ca": 40.078, "Fe": 55.845, "Cu": 63.546, "Zn": 65.38, "Ag": 107.87,
}  # fmt: skip
TOKEN = re.compile(r"([A-Z][a-z]?|\)|\((?!\d))(\d*)")


def parse(formula: str) -> Counter[str]:
    """Count the atoms of a formula such as Ca(OH)2; parentheses may be nested."""
    if not re.fullmatch(f"(?:{TOKEN.pattern})+", formula):
        raise ValueError(f"{formula!r} is not a chemical formula")
    stack: list[Counter[str]] = [Counter()]
    for sign, digits in TOKEN.findall(formula):
        factor = int(digits or 1)
        if factor < 1:
            raise ValueError("counts start at 1")
        if sign == "(":
            stack.append(Counter())
        elif sign == ")":
            group = stack.pop()
            if not stack or not group:
                raise ValueError("unbalanced or empty parentheses")
            stack[-1].update({symbol: count * factor for symbol, count in group.items()})
        elif sign in WEIGHTS:
            stack[-1][sign] += factor
        else:
            raise ValueError(f"unknown element {sign!r}")
    if len(stack) > 1:
        raise ValueError("unbalanced parentheses")
    return stack[0]


def mass_of(formula: str) -> float:
    return sum(WEIGHTS[symbol] * count for symbol, count in parse(formula).items())


@mcp.tool()
def molar_mass(formula: str) -> float:
    """Molar mass in g/mol."""
    return round(mass_of(formula), 3)


@mcp.tool()
def element_shares(formula: str) -> list[dict]:
    """Atoms and mass percentage of each element, in the order of first appearance."""
    percent = 100 / mass_of(formula)
    return [
        {"element": s, "atoms": n, "mass_percent": round(WEIGHTS[s] * n * percent, 2)}
        for s, n in parse(formula).items()
    ]


@mcp.tool()
def grams_to_moles(formula: str, grams: float) -> float:
    """Amount of substance in mol that a mass in grams contains."""
    if grams < 0:
        raise ValueError("grams must not be negative")
    return round(grams / mass_of(formula), 4)


if __name__ == "__main__":
    mcp.run()
