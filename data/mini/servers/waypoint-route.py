"""Keeps an ordered route of waypoints and measures it along great circles."""

from itertools import pairwise
from math import asin, atan2, cos, degrees, radians, sin, sqrt

from fastmcp import FastMCP

mcp = FastMCP("Waypoint Route")

EARTH_KM = 6371.0088  # mean radius of the Earth, IUGG
Waypoint = dict[str, int | str | float]
route: list[Waypoint] = [
    {"id": 1, "name": "Trailhead", "lat": 46.0, "lon": 7.0},
    {"id": 2, "name": "Hut", "lat": 46.05, "lon": 7.0},
    {"id": 3, "name": "Pass", "lat": 46.05, "lon": 7.1},
]


def kilometres(start: Waypoint, end: Waypoint) -> float:
    """Haversine distance."""
    lat1, lat2 = radians(start["lat"]), radians(end["lat"])
    half_lon = radians(end["lon"] - start["lon"]) / 2
    h = sin((lat2 - lat1) / 2) ** 2 + cos(lat1) * cos(lat2) * sin(half_lon) ** 2
    return 2 * EARTH_KM * asin(min(1.0, sqrt(h)))


def find(waypoint_id: int) -> Waypoint:
    for waypoint in route:
        if waypoint["id"] == waypoint_id:
            return waypoint
    raise ValueError(f"no waypoint {waypoint_id}")


@mcp.tool()
def add_waypoint(name: str, lat: float, lon: float, position: int | None = None) -> Waypoint:
    """Insert a waypoint at a 1-based position, or at the end of the route."""
    if not name.strip() or not -90 <= lat <= 90 or not -180 <= lon <= 180:
        raise ValueError("a waypoint needs a name, lat in -90..90 and lon in -180..180")
    place = len(route) + 1 if position is None else position
    if not 1 <= place <= len(route) + 1:
        raise ValueError(f"position must be 1 to {len(route) + 1}")
    route.insert(place - 1, {"id": len(route) + 1, "name": name, "lat": lat, "lon": lon})
    return route[place - 1] | {"position": place}


@mcp.tool()
def measure_leg(from_id: int, to_id: int) -> dict[str, float]:
    """Distance and initial bearing, in degrees from north, between two waypoints."""
    start, end = find(from_id), find(to_id)
    lat1, lat2 = radians(start["lat"]), radians(end["lat"])
    turn = radians(end["lon"] - start["lon"])
    east, north = sin(turn) * cos(lat2), cos(lat1) * sin(lat2) - sin(lat1) * cos(lat2) * cos(turn)
    bearing = round(degrees(atan2(east, north)) % 360, 1) % 360
    return {"km": round(kilometres(start, end), 3), "bearing": bearing}


@mcp.tool()
def route_summary(round_trip: bool = False, speed_kmh: float = 4.0) -> dict:
    """Names in order, the length of the route and the time that it takes."""
    if speed_kmh <= 0:
        raise ValueError("speed_kmh must be positive")
    stops = route + route[:1] if round_trip else route
    km = sum(kilometres(start, end) for start, end in pairwise(stops))
    names = [waypoint["name"] for waypoint in route]
    return {"names": names, "km": round(km, 3), "hours": round(km / speed_kmh, 2)}


if __name__ == "__main__":
    mcp.run()
