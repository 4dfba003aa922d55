"""Read, shift and stretch subtitles in the SubRip (SRT) format."""

import re
from itertools import pairwise
from typing import Any

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Subtitle Retimer")

STAMP = r"(\d\d):([0-5]\d):([0-5]\d),(\d{3})"
Cue = tuple[int, int, str]  # start and end in milliseconds, text


def parse(srt: str) -> list[Cue]:
    """Cut an SRT document into cues."""
    cues: list[Cue] = []
    for block in re.split(r"\n\s*\n", srt.strip()):
        lines = block.splitlines()
        match = re.fullmatch(f"{STAMP} --> {STAMP}", lines[1].strip()) if len(lines) > 2 else None
        if match is None:
            raise ValueError(f"not a cue of number, times and text: {block!r}")
        h1, m1, s1, ms1, h2, m2, s2, ms2 = map(int, match.groups())
        start = ((h1 * 60 + m1) * 60 + s1) * 1000 + ms1
        end = ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2
        if end <= start:
            raise ValueError(f"cue ends before it starts: {lines[1]!r}")
        cues.append((start, end, "\n".join(lines[2:])))
    return cues


def stamp(milliseconds: int) -> str:
    """Write milliseconds as HH:MM:SS,mmm."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"


def write(cues: list[Cue]) -> str:
    """Write cues as SRT, numbered from 1."""
    return "\n".join(
        f"{number}\n{stamp(start)} --> {stamp(end)}\n{text}\n"
        for number, (start, end, text) in enumerate(cues, 1)
    )


@mcp.tool()
def list_cues(srt: str) -> list[dict[str, Any]]:
    """Times, text and reading speed (characters a second) of each cue."""
    return [
        {
            "number": number,
            "start_ms": start,
            "end_ms": end,
            "text": text,
            "chars_per_second": round(len(text.replace("\n", "")) / (end - start) * 1000, 1),
        }
        for number, (start, end, text) in enumerate(parse(srt), 1)
    ]


@mcp.tool()
def shift_cues(srt: str, offset_ms: int) -> str:
    """Move all cues later (positive offset) or earlier (negative)."""
    cues = parse(srt)
    if min(start for start, _, _ in cues) + offset_ms < 0:
        raise ValueError("a cue would start before zero")
    return write([(start + offset_ms, end + offset_ms, text) for start, end, text in cues])


@mcp.tool()
def convert_frame_rate(srt: str, source_fps: float, target_fps: float) -> str:
    """Keep every cue on its frame when a film changes its frame rate."""
    if source_fps <= 0 or target_fps <= 0:
        raise ValueError("frame rates must be positive")
    ratio = source_fps / target_fps
    return write([(round(a * ratio), round(b * ratio), text) for a, b, text in parse(srt)])


@mcp.tool()
def find_overlaps(srt: str) -> list[dict[str, int]]:
    """Neighbouring cues that are on screen at the same time."""
    overlaps = []
    for i, (one, two) in enumerate(pairwise(parse(srt)), 1):
        shared = min(one[1], two[1]) - max(one[0], two[0])
        if shared > 0:
            overlaps.append({"first": i, "second": i + 1, "overlap_ms": shared})
    return overlaps


if __name__ == "__main__":
    mcp.run()
