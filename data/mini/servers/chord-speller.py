"""Spell chords, transpose notes and find pitches in equal temperament."""

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("Chord Speller")

NOTES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
CHORDS = {
    "major": [0, 4, 7],
    "minor": [0, 3, 7],
    "dim": [0, 3, 6],
    "aug": [0, 4, 8],
    "7": [0, 4, 7, 10],
    "maj7": [0, 4, 7, 11],
    "min7": [0, 3, 7, 10],
}


def index(note: str) -> int:
    """Return the place of a note in the octave, C being 0."""
    if note not in NOTES:
        raise ValueError(f"unknown note {note!r}")
    return NOTES.index(note)


@mcp.tool()
def spell_chord(root: str, quality: str = "major") -> list[str]:
    """List the notes of a chord from its root upwards."""
    if quality not in CHORDS:
        raise ValueError(f"quality must be one of {list(CHORDS)}")
    return [NOTES[(index(root) + step) % 12] for step in CHORDS[quality]]


@mcp.tool()
def transpose_notes(notes: list[str], semitones: int) -> list[str]:
    """Move every note up (or, if negative, down) by semitones."""
    return [NOTES[(index(note) + semitones) % 12] for note in notes]


@mcp.tool()
def pitch_hertz(note: str, octave: int) -> float:
    """Frequency of a note with A4 = 440 Hz; octaves 0 to 8 begin at C."""
    if not 0 <= octave <= 8:
        raise ValueError("octave must be 0 to 8")
    return round(440 * 2 ** (octave - 4 + (index(note) - 9) / 12), 2)


if __name__ == "__main__":
    mcp.run()
