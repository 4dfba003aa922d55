"""JSON from a server that is not to be trusted: decoded within bounds, or refused as ValueError."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from toolgenesis_sft.records import Json

TEXT_DEPTH = 128
MAX_SHOWN = 300
FREE_FORM = frozenset({"structuredContent", "inputSchema", "outputSchema", "_meta", "data"})
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def decode(line: bytes | str, max_depth: int = TEXT_DEPTH) -> Json:
    """A JSON value. Raises ValueError for what is no JSON, no UTF-8, nested deeper than
    `max_depth`, NaN or an infinity, an integer of thousands of digits, or a lone surrogate."""
    text = line.decode() if isinstance(line, bytes) else line
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > max_depth and _is_deeper(value, max_depth):
        raise ValueError(f"nested deeper than {max_depth}")
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def decode_text(text: str) -> Json:
    """The JSON value of a text block, or the text itself."""
    try:
        return decode(text)
    except ValueError:
        return text


def has_more_parts(value: Json, max_parts: int) -> bool:
    """Whether a message holds more values than that, those in free-form members not counted.

    A model of the protocol keeps an error of some kilobytes for each value that is none of its
    own, so four megabytes of `{}` would take gigabytes.
    """
    num_parts, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(inner for key, inner in item.items() if key not in FREE_FORM)
        elif isinstance(item, list):
            stack.extend(item)
        num_parts += 1
        if num_parts > max_parts:
            return True
    return False


def show(value: object) -> str:
    """A short, printable form for faults, without addresses: those differ from run to run."""
    text = value[:MAX_SHOWN].decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = ADDRESS.sub("0x..", text[:MAX_SHOWN].encode("utf-8", "replace").decode())
    return "".join(c if c.isprintable() else "?" for c in text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond the range of a double")
    return value


def _is_deeper(value: Json, max_depth: int) -> bool:
    """Level by level: no recursion, and no more memory than one level takes."""
    level = [value]
    for _ in range(max_depth):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)
