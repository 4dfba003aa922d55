"""Book lorries onto the loading docks of a warehouse for one working day."""

from itertools import count
from typing import Annotated

from mcp.server.fastmcp import FastMCP
from pydantic import Field

mcp = FastMCP("Dock Scheduler")

OPENS, CLOSES = 6 * 60, 18 * 60  # minutes after midnight
DOCKS = ["D1", "D2", "COLD"]
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="HH:MM")]

bookings: dict[int, dict] = {
    1: {"booking_id": 1, "dock": "D1", "carrier": "Northline", "start": "08:00", "end": "09:00"},
    2: {"booking_id": 2, "dock": "D1", "carrier": "Kestrel", "start": "10:00", "end": "11:30"},
    3: {"booking_id": 3, "dock": "COLD", "carrier": "Frostway", "start": "06:00", "end": "08:00"},
}
numbers = count(len(bookings) + 1)


def minutes_of(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def clock_of(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@mcp.tool()
def dock_agenda(dock: str) -> list[dict]:
    """List the bookings of a dock in order of time."""
    if dock not in DOCKS:
        raise ValueError(f"unknown dock {dock!r}, known: {', '.join(DOCKS)}")
    return sorted((b for b in bookings.values() if b["dock"] == dock), key=lambda b: b["start"])


@mcp.tool()
def book_dock(dock: str, carrier: str, start: Clock, minutes: int) -> dict:
    """Reserve a dock; a booking may start at the minute at which another one ends."""
    if minutes < 15 or minutes_of(start) < OPENS or minutes_of(start) + minutes > CLOSES:
        raise ValueError("a booking takes 15 minutes or more and lies within 06:00-18:00")
    end = clock_of(minutes_of(start) + minutes)
    for other in dock_agenda(dock):
        if start < other["end"] and other["start"] < end:
            raise ValueError(f"{dock} is taken from {other['start']} to {other['end']}")
    number = next(numbers)
    where = {"booking_id": number, "dock": dock, "carrier": carrier}
    bookings[number] = where | {"start": start, "end": end}
    return bookings[number]


@mcp.tool()
def cancel_booking(booking_id: int) -> str:
    """Free the time of a booking; its number is not given out again."""
    if booking_id not in bookings:
        raise ValueError(f"no booking {booking_id}")
    gone = bookings.pop(booking_id)
    return f"{gone['carrier']} off {gone['dock']} at {gone['start']}"


@mcp.tool()
def earliest_slot(dock: str, minutes: int, not_before: Clock = "06:00") -> str:
    """Find the first time at which a dock is free for that many minutes."""
    begin = max(OPENS, minutes_of(not_before))
    for booking in dock_agenda(dock):
        if begin + minutes > minutes_of(booking["start"]):
            begin = max(begin, minutes_of(booking["end"]))
    if minutes < 15 or begin + minutes > CLOSES:
        raise ValueError("no such gap today, or less than 15 minutes asked for")
    return clock_of(begin)


if __name__ == "__main__":
    mcp.run()
