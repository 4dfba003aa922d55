"""Facts of the Gregorian calendar: leap years, month lengths, weekdays, days of the year."""

from calendar import isleap, monthrange
from datetime import date

from fastmcp import FastMCP

mcp = FastMCP("Leap Calendar")


def check_year(year: int) -> None:
    if not 1 <= year <= 9999:
        raise ValueError("year must be 1 to 9999")


@mcp.tool()
def leap_year(year: int) -> bool:
    """Whether a year has 366 days."""
    check_year(year)
    return isleap(year)


@mcp.tool()
def month_length(year: int, month: int) -> int:
    """Number of days in a month."""
    check_year(year)
    if not 1 <= month <= 12:
        raise ValueError("month must be 1 to 12")
    return monthrange(year, month)[1]


def parse(day: str) -> date:
    parsed = date.fromisoformat(day)
    if parsed.isoformat() != day:  # 20240105 is an ISO date too
        raise ValueError(f"{day!r} is not a YYYY-MM-DD date")
    return parsed


@mcp.tool()
def weekday_name(day: str) -> str:
    """English weekday of a YYYY-MM-DD date."""
    return parse(day).strftime("%A")


@mcp.tool()
def year_progress(day: str) -> dict[str, int]:
    """Position of a YYYY-MM-DD date in its year, and the days still to come."""
    parsed = parse(day)
    number = parsed.timetuple().tm_yday
    return {"day_of_year": number, "days_left": 365 + isleap(parsed.year) - number}


if __name__ == "__main__":
    mcp.run()
