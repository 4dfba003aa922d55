"""Translate and change Unix permission modes, octal and symbolic."""

import re

from fastmcp import FastMCP

mcp = FastMCP("Unix Mode Inspector")

SHIFTS = {"u": 6, "g": 3, "o": 0}
BITS = {"r": 4, "w": 2, "x": 1}
# the special bit of each class: setuid, setgid, sticky, and the letter that shows it
SPECIAL = {"u": (0o4000, "s"), "g": (0o2000, "s"), "o": (0o1000, "t")}


def read_octal(text: str) -> int:
    """Parse three or four octal digits."""
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ValueError(f"not three or four octal digits: {text!r}")
    return int(text, 8)


@mcp.tool()
def symbolic_mode(octal: str) -> str:
    """Nine-letter form of an octal mode, for example 0755 as rwxr-xr-x."""
    mode, text = read_octal(octal), ""
    for who, shift in SHIFTS.items():
        bits = mode >> shift & 7
        flag, letter = SPECIAL[who]
        execute = "x" if bits & 1 else "-"
        if mode & flag:
            execute = letter if bits & 1 else letter.upper()
        text += ("r" if bits & 4 else "-") + ("w" if bits & 2 else "-") + execute
    return text


@mcp.tool()
def octal_mode(symbolic: str) -> str:
    """Four-digit octal form of a nine-letter mode such as rwsr-x--T."""
    if not re.fullmatch(r"([r-][w-][xsS-]){2}[r-][w-][xtT-]", symbolic):
        raise ValueError(f"not a nine-letter mode: {symbolic!r}")
    mode = 0
    for place, (who, shift) in enumerate(SHIFTS.items()):
        read, write, execute = symbolic[3 * place : 3 * place + 3]
        bits = 4 * (read == "r") + 2 * (write == "w") + (execute in "xst")
        mode |= bits << shift
        if execute in "sStT":
            mode |= SPECIAL[who][0]
    return f"{mode:04o}"


@mcp.tool()
def apply_umask(umask: str) -> dict[str, str]:
    """Modes that new files and directories get under a umask."""
    mask = read_octal(umask)
    if mask > 0o777:
        raise ValueError("a umask has no special bits")
    return {"file": f"{0o666 & ~mask:04o}", "directory": f"{0o777 & ~mask:04o}"}


@mcp.tool()
def change_mode(octal: str, changes: str) -> dict[str, str]:
    """Apply clauses such as u+x,go-w or a=r from left to right; special bits stay."""
    mode = read_octal(octal)
    for clause in changes.split(","):
        match = re.fullmatch(r"([ugoa]+)([-+=])([rwx]*)", clause)
        if match is None:
            raise ValueError(f"not a clause like u+x or go=r: {clause!r}")
        classes, action, letters = match.groups()
        bits = sum(BITS[letter] for letter in set(letters))
        for who in "ugo" if "a" in classes else classes:
            if action == "=":
                mode &= ~(7 << SHIFTS[who])
            if action == "-":
                mode &= ~(bits << SHIFTS[who])
            else:
                mode |= bits << SHIFTS[who]
    return {"before": f"{read_octal(octal):04o}", "after": f"{mode:04o}"}


if __name__ == "__main__":
    mcp.run()
