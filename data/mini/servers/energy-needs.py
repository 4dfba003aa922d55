"""Estimate daily energy needs and turn them into macronutrient and weight targets."""

import math
from typing import Annotated, Literal

from fastmcp import FastMCP
from pydantic import Field

mcp = FastMCP("Energy Needs")

ACTIVITY_FACTORS = {"sedentary": 1.2, "light": 1.375, "moderate": 1.55, "active": 1.725}
KCAL_PER_GRAM = {"protein": 4, "carbs": 4, "fat": 9}
KCAL_PER_KG_BODY_WEIGHT = 7700

Positive = Annotated[float, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


@mcp.tool()
def resting_energy(
    sex: Literal["female", "male"],
    weight_kg: Positive,
    height_cm: Positive,
    age: Annotated[int, Field(ge=15, le=100)],
) -> float:
    """Resting kcal a day by the Mifflin-St Jeor equation (1990)."""
    offset = 5 if sex == "male" else -161
    return round(10 * weight_kg + 6.25 * height_cm - 5 * age + offset, 1)


@mcp.tool()
def maintenance_energy(resting_kcal: Positive, activity: str) -> dict[str, float]:
    """Scale a resting rate by the factor of an activity level."""
    if activity not in ACTIVITY_FACTORS:
        raise ValueError(f"activity must be one of {', '.join(ACTIVITY_FACTORS)}")
    factor = ACTIVITY_FACTORS[activity]
    return {"factor": factor, "kcal_per_day": round(resting_kcal * factor, 1)}


@mcp.tool()
def macro_grams(
    kcal: Positive, protein_percent: Percent, carbs_percent: Percent, fat_percent: Percent
) -> dict[str, float]:
    """Split a daily energy budget into grams of protein, carbohydrate and fat."""
    shares = {"protein": protein_percent, "carbs": carbs_percent, "fat": fat_percent}
    if abs(sum(shares.values()) - 100) > 0.01:
        raise ValueError("the three percentages must add up to 100")
    return {
        f"{name}_g": round(kcal * share / 100 / KCAL_PER_GRAM[name], 1)
        for name, share in shares.items()
    }


@mcp.tool()
def weeks_to_weight(
    current_kg: Positive, target_kg: Positive, maintenance_kcal: Positive, intake_kcal: Positive
) -> dict[str, float | int]:
    """Predict the whole weeks until a target weight at a constant daily intake."""
    weekly_kg = (intake_kcal - maintenance_kcal) * 7 / KCAL_PER_KG_BODY_WEIGHT
    change_kg = target_kg - current_kg
    if change_kg != 0 and weekly_kg * change_kg <= 0:
        raise ValueError("this intake never leads to the target weight")
    # Rounding first keeps 11.000000000000002 weeks from becoming 12.
    weeks = math.ceil(round(change_kg / weekly_kg, 6)) if change_kg else 0
    return {"weekly_change_kg": round(weekly_kg, 3), "weeks": weeks}


if __name__ == "__main__":
    mcp.run()
