"""Converts between coordinates, web-map tiles (XYZ scheme) and quadkeys."""

from math import asinh, atan, degrees, floor, pi, radians, sinh, tan
from typing import Annotated

from fastmcp import FastMCP
from pydantic import Field

mcp = FastMCP("Slippy Tiles")

MAX_LAT = 85.0511  # Web Mercator is cut here, which makes the world square
Zoom = Annotated[int, Field(description="Zoom level, 0 (one tile) to 22")]


def tiles_across(zoom: int) -> int:
    if not 0 <= zoom <= 22:
        raise ValueError("zoom must be 0 to 22")
    return 2**zoom


def check_tile(x: int, y: int, zoom: int) -> int:
    across = tiles_across(zoom)
    if not (0 <= x < across and 0 <= y < across):
        raise ValueError(f"x and y must be 0 to {across - 1} at zoom {zoom}")
    return across


@mcp.tool()
def locate_tile(lat: float, lon: float, zoom: Zoom) -> dict[str, int]:
    """The tile that contains a point. x grows eastward, y southward."""
    across = tiles_across(zoom)
    if abs(lat) > MAX_LAT or abs(lon) > 180:
        raise ValueError("point lies outside the map")
    x = floor((lon + 180) / 360 * across)
    y = floor((1 - asinh(tan(radians(lat))) / pi) / 2 * across)
    # The east and south edges of the world belong to the last tile.
    return {"x": min(x, across - 1), "y": min(y, across - 1), "zoom": zoom}


@mcp.tool()
def tile_bounds(x: int, y: int, zoom: Zoom) -> dict[str, float]:
    """Edges of a tile in degrees."""
    across = check_tile(x, y, zoom)
    north, south = (degrees(atan(sinh(pi * (1 - 2 * row / across)))) for row in (y, y + 1))
    west, east = (column / across * 360 - 180 for column in (x, x + 1))
    edges = {"north": north, "south": south, "west": west, "east": east}
    return {side: round(value, 6) for side, value in edges.items()}


@mcp.tool()
def encode_quadkey(x: int, y: int, zoom: Zoom) -> str:
    """Quadkey of a tile: one digit a level, 1 for the east half plus 2 for the south half."""
    check_tile(x, y, zoom)
    levels = range(zoom - 1, -1, -1)
    return "".join(str((x >> level & 1) + 2 * (y >> level & 1)) for level in levels)


@mcp.tool()
def decode_quadkey(quadkey: str) -> dict[str, int]:
    """Tile of a quadkey; the empty quadkey is the whole world."""
    tiles_across(len(quadkey))
    x = y = 0
    for digit in quadkey:
        if digit not in "0123":
            raise ValueError(f"{digit!r} is not a quadkey digit")
        x, y = 2 * x + int(digit) % 2, 2 * y + int(digit) // 2
    return {"x": x, "y": y, "zoom": len(quadkey)}


if __name__ == "__main__":
    mcp.run()
