"""Convert temperatures and temperature intervals between four scales."""

from typing import Literal

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Temperature Scales")

Scale = Literal["celsius", "fahrenheit", "kelvin", "rankine"]

# Scale: degrees per kelvin, and the reading at absolute zero.
SCALES = {
    "celsius": (1.0, -273.15),
    "fahrenheit": (1.8, -459.67),
    "kelvin": (1.0, 0.0),
    "rankine": (1.8, 0.0),
}


@mcp.tool()
def convert_reading(value: float, source: Scale, target: Scale) -> float:
    """Convert a thermometer reading to another scale."""
    size, zero = SCALES[source]
    kelvin = (value - zero) / size
    if kelvin < 0:
        raise ValueError(f"{value} {source} is below absolute zero")
    size, zero = SCALES[target]
    return round(kelvin * size + zero, 2)


@mcp.tool()
def convert_interval(degrees: float, source: Scale, target: Scale) -> float:
    """Convert a temperature difference; the zero points of the scales do not matter."""
    return round(degrees / SCALES[source][0] * SCALES[target][0], 2)


if __name__ == "__main__":
    mcp.run()
