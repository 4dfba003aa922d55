"""What CPython's own parser must be spared, in a program that somebody else wrote.

Before 3.12 it takes quadratic time for the fields of an f-string, and any version takes quadratic
memory for a dotted name. Both are measured first, wherever they seem to stand.
"""

from __future__ import annotations

import re

F_STRING = re.compile(r"""[fF][rR]?('{3}|"{3}|'|")""")
F_STRING_BODIES = {
    "'": re.compile(r"(?:[^\\'\n]|\\.)*+", re.DOTALL),
    '"': re.compile(r'(?:[^\\"\n]|\\.)*+', re.DOTALL),
    "'''": re.compile(r"(?:[^\\']|\\.|'(?!''))*+", re.DOTALL),
    '"""': re.compile(r'(?:[^\\"]|\\.|"(?!""))*+', re.DOTALL),
}
MAX_FIELD_CHARS = 2_000_000_000  # fields times characters of all f-strings, 1 to 2 s
DOTTED = re.compile(r"(?:\.[\s\\]*+[^\x00-/:-@\[-^`{-\x7f]++[\s\\]*+)++")
MAX_DOTS = 1_000  # of one name


def parser_bomb(code: str) -> str:
    """What in the program would take the parser minutes or gigabytes; empty if nothing does."""
    if any(name[0].count(".") > MAX_DOTS for name in DOTTED.finditer(code)):
        return f"a name with more than {MAX_DOTS} dots"
    bodies = (
        F_STRING_BODIES[start[1]].match(code, start.end()) for start in F_STRING.finditer(code)
    )
    if sum(body[0].count("{") * len(body[0]) for body in bodies if body) > MAX_FIELD_CHARS:
        return "an f-string with too many fields"
    return ""
