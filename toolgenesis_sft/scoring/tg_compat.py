"""The profile `tg-compat`: the published Tool-Genesis formulas, defects included.

Definitions after the public reference harness (github subway-jack/Tool-Genesis, commit dc44e5e),
so that a figure can be set beside the published ones. What is wrong with each, and what the
profile `strict` does instead, is in eval/README.md. The schema comes from the model's schema
FILE, never from the live server, and nothing after the gate counts unless `gate` is open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring.embedding import cosine

JSON_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
OBJECT_KEYS = ("properties", "required", "additionalProperties")
MIN_COSINE = 0.3
FAILURE_WORDS = ("error", "failed", "exception", "traceback")
TEXT_KEYS = ("text", "content", "message", "output", "result")  # in the order they are tried
BANNED_TEXTS = ("os.system", "subprocess.", "shutil.rmtree", "eval(", "exec(")
LEADERBOARD_PASS = 0.7  # of the later script behind the leaderboard's hard column
SOLVED_RATING, TOP_RATING = 3, 5


@dataclass(frozen=True)
class FileMatch:
    """tools: predicted name to gold name. arguments: (predicted tool, argument) to (gold tool,
    argument). The figures are in 0..1."""

    tools: dict[str, str]
    arguments: dict[tuple[str, str], tuple[str, str]]
    tool_f1: float
    args_f1: float
    schema_f1: float


@dataclass(frozen=True)
class CallScore:
    """One unit-test call. passed: the gate, which is all that `hard` counts."""

    passed: bool
    score: float


NO_ANSWER = CallScore(passed=False, score=0.0)  # a call that failed, or ran out of its 30 s


# --- layer 1 ---------------------------------------------------------------------------------


def compliance(file_schema: Json) -> bool:
    """Whether the schema file keeps to the harness's own subset of JSON Schema."""
    tools = file_schema.get("tools") if isinstance(file_schema, dict) else None
    return isinstance(tools, list) and bool(tools) and all(map(_compliant_tool, tools))


def launch(num_launched: int, num_attempts: int = 3) -> float:
    """Share of the attempts that listed a tool."""
    return num_launched / num_attempts


def gate(is_compliant: bool, num_launched: int) -> bool:
    """Whether any later metric is more than 0."""
    return is_compliant and num_launched > 0


# --- layer 2 ---------------------------------------------------------------------------------


def match_schema(gold: Sequence[ToolSchema], file_schema: Json) -> FileMatch:
    """Schema F1 = (tool F1 + one micro F1 over the matched tools' arguments) / 2.

    An F1 without a true positive is 0, so servers whose tools take no arguments get 0.5 at most.
    """
    gold_tools = [(tool.name, _arguments(tool.input_schema)) for tool in gold]
    listed = file_schema.get("tools") if isinstance(file_schema, dict) else None
    file_tools = [
        (
            str(tool.get("name") or ""),
            _arguments(tool.get("input_schema") or tool.get("inputSchema")),
        )
        for tool in listed or []
        if isinstance(tool, dict)
    ]
    if not gold_tools or not file_tools:
        return FileMatch({}, {}, 0.0, 0.0, 0.0)
    tools = _match_tools(file_tools, gold_tools)
    extra_tools = {f"P::{name}" for name, _ in file_tools if name not in tools}
    tool_f1 = set_f1(set(tools.values()) | extra_tools, {name for name, _ in gold_tools})

    first_file_tool, first_gold_tool = dict(reversed(file_tools)), dict(reversed(gold_tools))
    arguments: dict[tuple[str, str], tuple[str, str]] = {}
    gold_args, extra_args = set(), set()
    for name, gold_name in tools.items():
        mine, theirs = first_file_tool[name], first_gold_tool[gold_name]
        gold_args |= {(gold_name, arg) for arg, _ in theirs}
        texts = [[f"{arg} {text}" for arg, text in side] for side in (mine, theirs)]
        for row, column in assign(*texts):
            arguments[name, mine[row][0]] = gold_name, theirs[column][0]
        extra_args |= {("P::", name, arg) for arg, _ in mine if (name, arg) not in arguments}
    args_f1 = set_f1(set(arguments.values()) | extra_args, gold_args)
    return FileMatch(tools, arguments, tool_f1, args_f1, (tool_f1 + args_f1) / 2)


def set_f1(predicted: set[Json], gold: set[Json]) -> float:
    """F1 of two sets; 0.0 where they share nothing, so also where both are empty."""
    shared = len(predicted & gold)
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


def assign(rows: Sequence[str], columns: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of the assignment with the largest sum of cosines, none of them under 0.3."""
    from scipy.optimize import linear_sum_assignment

    if not rows or not columns:
        return []
    cosines = np.array([[cosine(row, column) for column in columns] for row in rows])
    allowed = np.where(cosines >= MIN_COSINE, cosines, 0.0)
    pairs = zip(*linear_sum_assignment(allowed, maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in pairs if allowed[row, column] > 0]


def planned_call(
    match: FileMatch, gold_tool: str, arguments: dict[str, Json] | None
) -> tuple[str, dict[str, Json]] | None:
    """The predicted tool and its arguments for a gold call; an argument without a match is
    dropped. None where the tool has no match: the test then leaves the denominator."""
    name = {gold: predicted for predicted, gold in match.tools.items()}.get(gold_tool)
    if name is None:
        return None
    names = {
        gold: predicted[1] for predicted, gold in match.arguments.items() if predicted[0] == name
    }
    return name, {
        names[gold_tool, argument]: value
        for argument, value in (arguments or {}).items()
        if (gold_tool, argument) in names
    }


def call_score(expected: Json, content: Sequence[Json]) -> CallScore:
    """Score of an answer, a list of MCP content blocks as JSON objects.

    expected: the recorded output. The text is taken from it, but the list of blocks is compared
    as it is. `isError` is not read.
    """
    answer, wanted = text_of(list(content)), text_of(expected)
    if any(word in answer.lower() for word in FAILURE_WORDS) and not any(
        word in wanted.lower() for word in FAILURE_WORDS
    ):
        return NO_ANSWER
    return CallScore(True, 0.5 * structure(answer, wanted) + 0.5 * similarity(answer, wanted))


def text_of(value: Json) -> str:
    """The text in a value: of an object the first filled one of five keys, else its JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("{", "[")):
            try:
                return text_of(json.loads(text))
            except (ValueError, RecursionError):
                return text
        return text
    if isinstance(value, dict):
        found = (text_of(value[key]) for key in TEXT_KEYS if key in value)
        return next(filter(None, found), json.dumps(value, ensure_ascii=False, sort_keys=True))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)


def structure(answer: str, expected: str) -> float:
    """F1 of the JSON key paths, blind to values; where one side is no JSON, equality."""
    try:
        mine, theirs = key_paths(json.loads(answer)), key_paths(json.loads(expected))
    except (ValueError, RecursionError):
        return float(answer.strip().lower() == expected.strip().lower())
    return 1.0 if not mine and not theirs else set_f1(mine, theirs)


def key_paths(value: Json, prefix: str = "") -> set[str]:
    """`a`, `a.b`, `a[0]` and so on, of every node but the root."""
    if isinstance(value, dict):
        children = [(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
    elif isinstance(value, list):
        children = [(f"{prefix}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return set()
    return {path for path, _ in children}.union(
        *(key_paths(inner, path) for path, inner in children)
    )


def similarity(answer: str, expected: str) -> float:
    """Cosine of the lower-cased texts."""
    return cosine(answer.strip().lower(), expected.strip().lower())


def unit_tests(scores: Sequence[CallScore]) -> tuple[float, float]:
    """(ut_soft, ut_hard) over the tests of matched tools: mean score, share that pass the gate."""
    if not scores:
        return 0.0, 0.0
    return (
        sum(call.score for call in scores) / len(scores),
        sum(call.passed for call in scores) / len(scores),
    )


def leaderboard_hard(scores: Sequence[CallScore]) -> float:
    """The leaderboard's hard column: share of the tests that score more than 0.7."""
    return sum(call.score > LEADERBOARD_PASS for call in scores) / len(scores) if scores else 0.0


# --- layers 3 and 4 --------------------------------------------------------------------------


def is_banned(code: str) -> bool:
    """Whether the code contains a banned text, in a comment or a longer name too."""
    return any(text in code for text in BANNED_TEXTS)


def capability_boundary(
    code: str, matched_safe: Sequence[bool], extra_safe: Sequence[bool]
) -> float:
    """0 where the code is banned; else the share of matched tools that the judge calls safe (0
    without any) x that of the extra ones (1 without any)."""
    if is_banned(code) or not matched_safe:
        return 0.0
    extra = sum(extra_safe) / len(extra_safe) if extra_safe else 1.0
    return sum(matched_safe) / len(matched_safe) * extra


def task_utility(ratings: Sequence[int]) -> tuple[float, float]:
    """(soft, hard) of the judge's ratings, 1 to 5: mean / 5, share of 3 and more."""
    if not ratings:
        return 0.0, 0.0
    return (
        sum(ratings) / TOP_RATING / len(ratings),
        sum(rating >= SOLVED_RATING for rating in ratings) / len(ratings),
    )


def oracle_normalised(servers: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Mean over servers of the mean over tasks of clip(generated / oracle, 0, 1).

    servers: for each one its tasks' (generated, oracle) scores in 0..1. Where the oracle has
    nothing, the generated score stands; a server without tasks does not count.
    """
    means = [
        sum(min(made / oracle, 1.0) if oracle else made for made, oracle in tasks) / len(tasks)
        for tasks in servers
        if tasks
    ]
    return sum(means) / len(means) if means else 0.0


def _compliant_tool(tool: Json) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("name"), str)
        and isinstance(tool.get("description"), str)
        and "parameters" not in tool
        and _compliant_schema(tool.get("input_schema") or tool.get("inputSchema"))
    )


def _compliant_schema(schema: Json) -> bool:
    if not isinstance(schema, dict) or schema.get("type") not in JSON_TYPES:
        return False
    if schema["type"] == "array":
        return not any(key in schema for key in OBJECT_KEYS) and _compliant_schema(
            schema.get("items")
        )
    if schema["type"] != "object":
        return not any(key in schema for key in (*OBJECT_KEYS, "items"))
    properties, required, others = (schema.get(key) for key in OBJECT_KEYS)
    return (
        isinstance(properties, dict)
        and all(map(_compliant_schema, properties.values()))
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and others is False
        and "items" not in schema
    )


def _arguments(schema: Json) -> list[tuple[str, str]]:
    """(name, description) of each property."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return []
    return [
        (name, (inner.get("description") or "") if isinstance(inner, dict) else "")
        for name, inner in properties.items()
    ]


def _match_tools(
    mine: list[tuple[str, list[tuple[str, str]]]], gold: list[tuple[str, list[tuple[str, str]]]]
) -> dict[str, str]:
    """Names without underscores and case first, then by meaning. Predicted tools of one name
    share one entry, the last that was matched."""
    tools: dict[str, str] = {}
    free = list(range(len(gold)))
    left = []
    for index, (name, _) in enumerate(mine):
        same = [g for g in free if _normalised(gold[g][0]) == _normalised(name)]
        if same:
            tools[name] = gold[same[0]][0]
            free.remove(same[0])
        else:
            left.append(index)
    pairs = assign([_tool_text(*mine[i]) for i in left], [_tool_text(*gold[g]) for g in free])
    for row, column in pairs:
        tools[mine[left[row]][0]] = gold[free[column]][0]
    return tools


def _normalised(name: str) -> str:
    return name.replace("_", "").lower()


def _tool_text(name: str, arguments: list[tuple[str, str]]) -> str:
    return " ".join([name, *sorted(f"{arg}:{text}" for arg, text in arguments if arg)])
