"""Counts and adds working days, Monday to Friday, around a list of holidays."""

from datetime import date, timedelta

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Business Day Counter")


def parse(text: str) -> date:
    day = date.fromisoformat(text)
    if day.isoformat() != text:  # 20240105 and 2024-W01-5 are ISO dates too
        raise ValueError(f"{text!r} is not a YYYY-MM-DD date")
    return day


def kind_of(day: date, holidays: set[date]) -> str:
    """A holiday that falls on a weekend is counted as weekend."""
    if day.weekday() >= 5:
        return "weekend"
    return "holiday" if day in holidays else "business"


@mcp.tool()
def classify_day(day: str, holidays: list[str] | None = None) -> str:
    """One of business, weekend, holiday."""
    return kind_of(parse(day), {parse(text) for text in holidays or []})


@mcp.tool()
def count_days(start: str, end: str, holidays: list[str] | None = None) -> dict[str, int]:
    """Business, weekend and holiday dates from start to end, both included."""
    first, last = parse(start), parse(end)
    if not 0 <= (last - first).days <= 3660:
        raise ValueError("end must be 0 to 3660 days after start")
    closed = {parse(text) for text in holidays or []}
    counts = {"business": 0, "weekend": 0, "holiday": 0}
    for offset in range((last - first).days + 1):
        counts[kind_of(first + timedelta(days=offset), closed)] += 1
    return counts


@mcp.tool()
def shift_date(start: str, days: int, holidays: list[str] | None = None) -> dict[str, str | int]:
    """The date a number of business days after start, or before it where days is negative."""
    if abs(days) > 2500:
        raise ValueError("days must be -2500 to 2500")
    closed = {parse(text) for text in holidays or []}
    first = day = parse(start)
    left = abs(days)
    while left:
        day += timedelta(days=1 if days > 0 else -1)
        left -= kind_of(day, closed) == "business"
    return {"date": day.isoformat(), "calendar_days": (day - first).days}


if __name__ == "__main__":
    mcp.run()
