"""Work out what a parcel weighs for a carrier: volumetric weight, billing and girth."""

import math

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Parcel Weights")


@mcp.tool()
def volumetric_weight(
    length_cm: float, width_cm: float, height_cm: float, divisor: int = 5000
) -> float:
    """Weight in kg that the carrier assigns to the parcel's volume."""
    if min(length_cm, width_cm, height_cm, divisor) <= 0:
        raise ValueError("dimensions and divisor must be positive")
    return round(length_cm * width_cm * height_cm / divisor, 3)


@mcp.tool()
def billable_weight(actual_kg: float, volumetric_kg: float) -> dict:
    """The larger of two weights, rounded up to the next half kilogram."""
    if actual_kg <= 0 or volumetric_kg < 0:
        raise ValueError("actual_kg must be positive, volumetric_kg not negative")
    basis = "volume" if volumetric_kg > actual_kg else "scale"
    return {"basis": basis, "billable_kg": math.ceil(max(actual_kg, volumetric_kg) * 2) / 2}


@mcp.tool()
def length_plus_girth(sides_cm: list[float]) -> float:
    """Longest side plus the circumference around the other two, in cm."""
    if len(sides_cm) != 3 or min(sides_cm) <= 0:
        raise ValueError("give three positive sides")
    small, middle, longest = sorted(sides_cm)
    return round(longest + 2 * (small + middle), 1)


if __name__ == "__main__":
    mcp.run()
