"""What servers said, as evidence keeps it: readable by any JSON reader, and never large."""

from __future__ import annotations

import math

from toolgenesis_sft.records import Json

MAX_CHARS = 4000  # of one text of a server's
MAX_CODE_CHARS = 50 * MAX_CHARS  # the program, at the top of the evidence
MAX_DEPTH = 40
MAX_VALUES = 2000  # of one answer: a server may send millions, test after test
MAX_TOOL_VALUES = 20_000  # of all that it lists
DEEPER = "[deeper values are not shown]"


def excerpt(value: Json, max_values: int = MAX_VALUES) -> Json:
    """The first values of what a server sent; lists and objects say how many more they had."""
    values_left = max_values

    def shown(value: Json, depth: int) -> Json:
        nonlocal values_left
        values_left -= 1
        if not isinstance(value, dict | list):
            return presentable(value, depth=2)
        if depth > MAX_DEPTH:
            return DEEPER
        parts: dict[str, Json] = {}
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if values_left <= 0:
                parts["..."] = f"[{len(value) - len(parts)} more]"
                break
            parts[str(key)] = shown(inner, depth + 1)
        return parts if isinstance(value, dict) else list(parts.values())

    return shown(value, 0)


def presentable(value: Json, depth: int = 0) -> Json:
    """The same for a whole: long texts cut (and marked), no NaN, bounded depth."""
    if isinstance(value, str):
        text = value.encode(errors="replace").decode()
        limit = MAX_CHARS if depth > 1 else MAX_CODE_CHARS
        cut = f"... [{len(text) - limit} more characters]"
        return text if len(text) <= limit else text[:limit] + cut
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return f"[a number of {value.bit_length()} bits]"
    if isinstance(value, dict | list | tuple):
        if depth > MAX_DEPTH:
            return DEEPER
        if isinstance(value, dict):
            return {str(key): presentable(inner, depth + 1) for key, inner in value.items()}
        return [presentable(inner, depth + 1) for inner in value]
    return value
