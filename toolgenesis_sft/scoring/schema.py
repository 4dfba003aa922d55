"""Schema F1: how much of the gold tools' interface a live server offers.

F1 = 1/2 tools + 1/4 arguments + 1/4 constraints. Each of the three is a Dice coefficient over
tools: 2 x (sum over the matched pairs) / (gold tools + live tools), so a missing tool costs, and
an extra or repeated one too. (Tools have half, as in the reference harness: with less, a server
would gain by leaving out a tool whose arguments it gets wrong.)

- tool_f1: a pair counts 1 where the normalised names are equal, else the cosine it was matched by.
- args_f1: a pair counts the same figure over its arguments; no arguments on either side is 1.
- constraints_f1: a pair counts, over its matched arguments, the mean of the constraints that
  apply: types (Jaccard over the shape), required (equal or not), enum (Jaccard, where either side
  has one).

An identical server has 1.0 everywhere, whatever the order of its tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeGuard, TypeVar

import numpy as np

from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring.embedding import cosine

SHARES = np.array([0.5, 0.25, 0.25])  # of tools, arguments, constraints in F1
MIN_COSINE = 0.3  # of the reference harness: pairs under it are no match
# More live tools or arguments than this are not compared by meaning (5 ms each); they still count
# as extra ones. The benchmark's largest server has 30 tools.
MAX_COMPARED = 200
MAX_TOOLS = 500  # of one list whose arguments are read to tell namesakes apart, or for a drift
MAX_SHAPE_DEPTH = 6
MAX_SHAPE_READS = 2_000  # of subschemas: anyOf over `$ref` to itself multiplies
# Of one tool's arguments together: subschemas, facts and values read, some 10 ms in all. The
# benchmark's largest tool takes 32; the arguments beyond are untyped.
MAX_TOOL_STEPS = 10_000
MAX_REFERENCE_CHARS = 1_000  # a longer `$ref` dangles

T = TypeVar("T")


@dataclass(frozen=True)
class Argument:
    """An argument as a caller sees it, `$ref`, anyOf and Optional resolved.

    shape: facts such as `array`, `[]:object`, `[].name:string`; `any` where untyped. `null` is
    left out beside another type: whether an argument may be absent is what `required` says.
    enum: its allowed values as JSON texts; None where all are allowed.
    """

    name: str
    text: str
    shape: frozenset[str]
    required: bool
    enum: frozenset[str] | None


@dataclass(frozen=True)
class SchemaMatch:
    """Which live tool stands for which gold tool, and the figures, each in 0..1.

    tools: gold name to live name. arguments: gold name to {gold argument: live argument}, for
    each matched tool. Gold tools and arguments without a match are absent.
    """

    f1: float
    tool_f1: float
    args_f1: float
    constraints_f1: float
    tools: dict[str, str]
    arguments: dict[str, dict[str, str]]

    @classmethod
    def empty(cls) -> Self:
        """Nothing matched."""
        return cls(0.0, 0.0, 0.0, 0.0, {}, {})


def match_schema(gold: Sequence[ToolSchema], live: Sequence[ToolSchema]) -> SchemaMatch:
    """Compare a live server's tools with the gold ones. Two empty servers are identical."""
    gold_tools, live_tools = distinct(gold), distinct(live)
    num_tools = len(gold_tools) + len(live)  # a repeated live tool is an extra one
    pairs = pair_up(gold_tools, live_tools, lambda tool: tool.name, tool_text)
    arguments: dict[str, dict[str, str]] = {}
    credits = np.zeros(3)
    for gold_tool, live_tool, similarity in pairs:
        names, args, constraints = _compare_arguments(gold_tool, live_tool)
        arguments[gold_tool.name] = names
        credits += (similarity, args, constraints)
    tool_f1, args_f1, constraints_f1 = (dice(float(credit), num_tools) for credit in credits)
    return SchemaMatch(
        f1=round(float(SHARES @ (tool_f1, args_f1, constraints_f1)), 6),
        tool_f1=tool_f1,
        args_f1=args_f1,
        constraints_f1=constraints_f1,
        tools={gold_tool.name: live_tool.name for gold_tool, live_tool, _ in pairs},
        arguments=arguments,
    )


def dice(credit: float, count: int) -> float:
    """2 x credit / (size of both sides together); 1.0 for two empty sides."""
    return round(2 * credit / count, 6) if count else 1.0


def distinct(tools: Sequence[ToolSchema]) -> list[ToolSchema]:
    """One tool of each name, sorted by name. Of namesakes the first by content stays, so that
    the order in which a server lists them changes nothing."""
    content = signed if len(tools) <= MAX_TOOLS else written
    namesakes: dict[str, list[ToolSchema]] = {}
    for tool in tools:
        namesakes.setdefault(tool.name, []).append(tool)
    return [
        same[0] if len(same) == 1 else min(same, key=content)
        for _, same in sorted(namesakes.items())
    ]


def signed(tool: ToolSchema) -> tuple[str, list[tuple[Json, ...]]]:
    """A tool's content by what is compared of it."""
    return tool_text(tool), signature(tool)


def written(tool: ToolSchema) -> tuple[str, str]:
    """A tool's content as it is written, which takes no time to read."""
    return tool.description, json.dumps(tool.input_schema, sort_keys=True)


def signature(tool: ToolSchema) -> list[tuple[Json, ...]]:
    """All that is compared of a tool's arguments, in an order of its own."""
    return [
        (arg.name, arg.text, arg.required, sorted(arg.shape), sorted(arg.enum or ()))
        for arg in arguments_of(tool)
    ]


def pair_up(
    gold: Sequence[T], live: Sequence[T], name: Callable[[T], str], text: Callable[[T], str]
) -> list[tuple[T, T, float]]:
    """Pairs (gold, live, similarity), by gold name; each side is used once.

    Equal names first, then equal normalised names (similarity 1.0), then the assignment of the
    rest with the largest sum of cosines of at least 0.3. Both sides come sorted by name, which
    settles ties.
    """
    left, right = list(gold), list(live)
    pairs: list[tuple[T, T, float]] = []
    for spelling in (str, normalised):
        by_name: dict[str, T] = {}
        for item in right:
            by_name.setdefault(spelling(name(item)), item)
        for item in list(left):
            found = by_name.pop(spelling(name(item)), None)
            if found is not None:
                pairs.append((item, found, 1.0))
                left.remove(item)
                right.remove(found)
    pairs += _by_meaning(left, right[:MAX_COMPARED], text)
    return sorted(pairs, key=lambda pair: name(pair[0]))


def normalised(name: str) -> str:
    """A name without case and separators: `getUser`, `get_user` and `get-user` are one."""
    return re.sub(r"[\W_]+", "", name).casefold()


def tool_text(tool: ToolSchema) -> str:
    """What is embedded of a tool: its name as words, its description, its arguments' names."""
    names = ", ".join(sorted(words(argument.name) for argument in arguments_of(tool)))
    return f"{words(tool.name)}: {' '.join(tool.description.split())} ({names})"


def words(name: str) -> str:
    """`getUser_name` as `get user name`."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", " ", name).lower().split())


def arguments_of(tool: ToolSchema) -> list[Argument]:
    """A tool's arguments, sorted by name. What is no valid schema has no arguments, or `any`."""
    root = tool.input_schema
    properties = root.get("properties")
    required = root.get("required")
    required_names = set(filter(is_text, required if isinstance(required, list) else ()))
    if not isinstance(properties, dict):
        return []
    arguments = []
    shape = Shape(root)
    for name, schema in sorted(properties.items()):
        facts, values = shape.of(schema)
        description = schema.get("description") if isinstance(schema, dict) else None
        arguments.append(
            Argument(
                name=name,
                text=f"{words(name)}: {description}" if is_text(description) else words(name),
                shape=facts,
                required=name in required_names,
                enum=values,
            )
        )
    return arguments


class Shape:
    """Reads the shapes of a tool's arguments, following `$ref` into the root schema, in a bounded
    number of steps."""

    def __init__(self, root: dict[str, Json]) -> None:
        self.root = root
        self.steps_left = MAX_TOOL_STEPS
        self._begin()

    def _begin(self) -> None:
        self.facts: set[str] = set()
        self.values: set[str] = set()
        self.open = False  # some alternative allows every value
        self.num_reads = 0

    def of(self, schema: Json) -> tuple[frozenset[str], frozenset[str] | None]:
        """Type facts, and the enum's values where there is one."""
        self._begin()
        self._read(schema, "", MAX_SHAPE_DEPTH)
        facts = self.facts - {"null"} or self.facts or {"any"}
        values = self.values - {"null"} if self.values and not self.open else None
        return frozenset(facts), frozenset(values) if values else None

    def _read(self, schema: Json, path: str, depth: int) -> None:
        self.num_reads += 1
        self.steps_left -= 1 + len(path) // 50
        if self.num_reads > MAX_SHAPE_READS or self.steps_left < 0 or depth < 0:
            return
        schema = self._resolve(schema)
        alternatives = [
            option
            for key in ("anyOf", "oneOf", "allOf")
            if isinstance(schema.get(key), list)
            for option in schema[key]
        ]
        types = schema.get("type")
        named = [kind for kind in (types if isinstance(types, list) else [types]) if is_text(kind)]
        enum = [schema["const"]] if "const" in schema else schema.get("enum")
        enum = enum if isinstance(enum, list) else []
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        self.steps_left -= sum(map(len, (alternatives, named, enum, properties)))
        named = named or sorted({json_type(value) for value in enum})
        if not named:
            named = [
                kind
                for key, kind in (("properties", "object"), ("items", "array"))
                if key in schema
            ]
        if path == "":
            self.values |= {scalar_text(value) for value in enum}
            self.open |= not enum and not alternatives and named != ["null"]
        if not named and not alternatives and path == "":
            self.facts.add("any")
        for kind in named:
            self.facts.add(f"{path}:{kind}" if path else kind)
        for option in alternatives:
            self._read(option, path, depth - 1)
        if "items" in schema:
            self._read(schema["items"], f"{path}[]", depth - 1)
        if isinstance(schema.get("additionalProperties"), dict):
            self._read(schema["additionalProperties"], f"{path}.*", depth - 1)
        for name, inner in sorted(properties.items()):
            self._read(inner, f"{path}.{name}", depth - 1)

    def _resolve(self, schema: Json) -> dict[str, Json]:
        """The schema behind a chain of local `$ref`; {} where it is none, dangling or endless."""
        for _ in range(MAX_SHAPE_DEPTH):
            if not isinstance(schema, dict):
                return {}
            reference = schema.get("$ref")
            if not is_text(reference):
                return schema
            if len(reference) > MAX_REFERENCE_CHARS:
                return {}
            target: Json = self.root
            for part in reference.removeprefix("#").strip("/").split("/"):
                part = part.replace("~1", "/").replace("~0", "~")
                target = target.get(part) if isinstance(target, dict) else None
            schema = target
        return {}


def json_type(value: Json) -> str:
    """JSON Schema's name for the type of a value."""
    for kind, name in (
        (type(None), "null"),
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ):
        if isinstance(value, kind):
            return name
    return "object"


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared over all; 1.0 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def constraints(gold: Argument, live: Argument) -> float:
    """Mean agreement of two matched arguments' types, required and, where there is one, enum."""
    agreement = [jaccard(gold.shape, live.shape), float(gold.required == live.required)]
    if gold.enum is not None or live.enum is not None:
        agreement.append(jaccard(gold.enum or frozenset(), live.enum or frozenset()))
    return sum(agreement) / len(agreement)


def _compare_arguments(gold: ToolSchema, live: ToolSchema) -> tuple[dict[str, str], float, float]:
    gold_args, live_args = arguments_of(gold), arguments_of(live)
    pairs = pair_up(gold_args, live_args, lambda arg: arg.name, lambda arg: arg.text)
    count = len(gold_args) + len(live_args)
    return (
        {gold_arg.name: live_arg.name for gold_arg, live_arg, _ in pairs},
        dice(sum(similarity for *_, similarity in pairs), count),
        dice(sum(constraints(gold_arg, live_arg) for gold_arg, live_arg, _ in pairs), count),
    )


def _by_meaning(
    gold: Sequence[T], live: Sequence[T], text: Callable[[T], str]
) -> list[tuple[T, T, float]]:
    if not gold or not live:
        return []
    from scipy.optimize import linear_sum_assignment

    live_texts = [text(item) for item in live]
    cosines = np.array([[cosine(text(item), other) for other in live_texts] for item in gold])
    allowed = np.where(cosines >= MIN_COSINE, cosines, 0.0)
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return [
        (gold[row], live[column], min(float(cosines[row, column]), 1.0))
        for row, column in zip(rows, columns, strict=True)
        if allowed[row, column] > 0
    ]


def is_text(value: Json) -> TypeGuard[str]:
    return isinstance(value, str)


def scalar_text(value: Json) -> str:
    """An enum's value as JSON; a container by its type alone."""
    return json_type(value) if isinstance(value, dict | list) else json.dumps(value)
