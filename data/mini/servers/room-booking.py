"""Books meeting rooms by date and time, and finds the gaps that are still free."""

from copy import deepcopy
from datetime import date
from typing import Annotated, Any

from mcp.server.fastmcp import FastMCP
from pydantic import Field
from src.apps import App

# Zero-padded times sort as text, so they are compared as they are.
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="HH:MM")]
OPENS, CLOSES = "08:00", "18:00"
SEATS = {"Oak": 4, "Pine": 12}
SEED = [
    {"id": 1, "room": "Oak", "day": "2025-03-10", "start": "09:00", "end": "10:00"},
    {"id": 2, "room": "Pine", "day": "2025-03-10", "start": "13:00", "end": "15:30"},
]


class RoomBooking(App):
    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.load_state({"bookings": SEED})

    def load_state(self, state: dict) -> None:
        self.bookings = deepcopy(state["bookings"])

    def get_state(self) -> dict:
        return {"bookings": deepcopy(self.bookings)}

    def _agenda(self, room: str, day: str) -> list[dict[str, Any]]:
        if room not in SEATS:
            raise ValueError(f"no room named {room!r}")
        if date.fromisoformat(day).isoformat() != day:
            raise ValueError(f"{day!r} is not a YYYY-MM-DD day")
        found = [b for b in self.bookings if (b["room"], b["day"]) == (room, day)]
        return sorted(found, key=lambda booking: booking["start"])

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Room Booking")

        @mcp.tool()
        def book_room(room: str, day: str, start: Clock, end: Clock, people: int) -> dict[str, Any]:
            """Reserve a room; one meeting may start at the minute another ends."""
            agenda = self._agenda(room, day)
            if not 1 <= people <= SEATS[room]:
                raise ValueError(f"{room} seats 1 to {SEATS[room]} people")
            if not OPENS <= start < end <= CLOSES:
                raise ValueError(f"start must precede end, within {OPENS} to {CLOSES}")
            for other in agenda:
                if start < other["end"] and other["start"] < end:
                    raise ValueError(f"{room} is taken by booking {other['id']}")
            number = max((b["id"] for b in self.bookings), default=0) + 1
            booking = {"id": number, "room": room, "day": day, "start": start, "end": end}
            self.bookings.append(booking)
            return booking

        @mcp.tool()
        def cancel_booking(booking_id: int) -> dict[str, Any]:
            """Remove a booking and return it."""
            for index, booking in enumerate(self.bookings):
                if booking["id"] == booking_id:
                    return self.bookings.pop(index)
            raise ValueError(f"no booking {booking_id}")

        @mcp.tool()
        def free_slots(
            room: str, day: str, at_least: Annotated[int, Field(ge=1)] = 30
        ) -> list[dict[str, Any]]:
            """Gaps of at least so many minutes between opening, the bookings and closing."""
            slots, free_from = [], OPENS
            for booking in [*self._agenda(room, day), {"start": CLOSES, "end": CLOSES}]:
                until = booking["start"]
                hours, minutes = (int(until[i : i + 2]) - int(free_from[i : i + 2]) for i in (0, 3))
                if (length := hours * 60 + minutes) >= at_least:
                    slots.append({"start": free_from, "end": until, "minutes": length})
                free_from = booking["end"]
            return slots

        return mcp
