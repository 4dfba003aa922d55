"""Compliance of a live tools/list, and the drift of a schema file from it.

A tool complies where it is a Tool of the Model Context Protocol (revision 2025-11-25), its input
schema (and output schema, where there is one) is a JSON Schema 2020-12 whose references resolve
inside it, and its name is one a client can use, and no other tool's.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring.schema import MAX_TOOLS, arguments_of

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

# Letters, digits, '_', '-' and '.', at most 128 of them (MCP 2025-11-25, "Tool Names").
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
INDEX = re.compile(r"[0-9]{1,9}")  # of a list, in a JSON pointer
MAX_DEPTH = 64  # of a tool definition; FastMCP's stay under 12
MAX_NODES = 20_000  # JSON values checked in one list (0.3 ms each); the tools beyond are at fault
MAX_FAULTS = 50  # told apart in a report
MAX_SHOWN_CHARS = 80

STRING: Json = {"type": "string"}
BOOLEAN: Json = {"type": "boolean"}
# An inputSchema or outputSchema, as the protocol has it: an object schema.
OBJECT_SCHEMA: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"const": "object"},
        "properties": {"type": "object", "additionalProperties": {"type": ["object", "boolean"]}},
        "required": {"type": "array", "items": STRING},
    },
}
TOOL: Json = {
    "type": "object",
    "required": ["name", "inputSchema"],
    "properties": {
        "name": STRING,
        "title": STRING,
        "description": STRING,
        "inputSchema": OBJECT_SCHEMA,
        "outputSchema": OBJECT_SCHEMA,
        "annotations": {
            "type": "object",
            "properties": {
                "title": STRING,
                "readOnlyHint": BOOLEAN,
                "destructiveHint": BOOLEAN,
                "idempotentHint": BOOLEAN,
                "openWorldHint": BOOLEAN,
            },
        },
        "icons": {
            "type": "array",
            "items": {"type": "object", "required": ["src"], "properties": {"src": STRING}},
        },
        "execution": {
            "type": "object",
            "properties": {"taskSupport": {"enum": ["forbidden", "optional", "required"]}},
        },
        "_meta": {"type": "object"},
    },
}


@dataclass(frozen=True)
class ComplianceReport:
    """value: share of the listed tools without a fault, 0.0 for an empty list.
    faults: one line each, printable ASCII, at most 50 and a count of the others."""

    value: float
    faults: tuple[str, ...]


def check_tools(raw_tools: Sequence[Json]) -> ComplianceReport:
    """Check the tools of a live tools/list, all pages together, as they came over the wire."""
    faults: list[str] = []
    seen: Counter[str] = Counter()
    nodes_left = MAX_NODES
    num_valid = 0
    for index, tool in enumerate(raw_tools[:MAX_TOOLS]):
        num_nodes, fault = measure(tool, nodes_left)
        nodes_left -= num_nodes
        fault = fault or tool_fault(tool)
        if not fault:
            seen[tool["name"]] += 1
            fault = "the name is another tool's too" if seen[tool["name"]] > 1 else ""
        if fault:
            faults.append(f"tool {index} {shown_name(tool)}: {fault}")
        else:
            num_valid += 1
    if not raw_tools:
        faults.append("no tools")
    if len(raw_tools) > MAX_TOOLS:
        faults.insert(0, f"{len(raw_tools)} tools: those after the first {MAX_TOOLS} are at fault")
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS} more"]
    value = num_valid / len(raw_tools) if raw_tools else 0.0
    return ComplianceReport(round(value, 6), tuple(faults))


def tool_fault(tool: Json) -> str:
    """The first rule that a tool breaks, or an empty text. The tool is not deep (`measure`)."""
    error = next(tool_validator().iter_errors(tool), None)
    if error is not None:
        return f"{_where(error.absolute_path)} breaks the rule {_rule(error)} of an MCP tool"
    if not TOOL_NAME.fullmatch(tool["name"]) or ".." in tool["name"]:
        return "the name must be 1 to 128 letters, digits, '_', '-' and '.', without '..'"
    for key in ("inputSchema", "outputSchema"):
        fault = schema_fault(tool[key]) if key in tool else ""
        if fault:
            return f"{key}{fault}"
    return ""


def schema_fault(schema: Json) -> str:
    """The first rule of JSON Schema 2020-12 that a schema breaks, or an empty text."""
    error = next(schema_validator().iter_errors(schema), None)
    if error is not None:
        return f"{_where(error.absolute_path)} breaks the rule {_rule(error)} of JSON Schema"
    anchors = {name for node in _objects(schema) if isinstance(name := node.get("$anchor"), str)}
    for reference in references(schema):
        if not _resolves(schema, anchors, reference):
            return f": the reference {_shown(reference)} leads nowhere inside the schema"
    return ""


def measure(value: Json, nodes_left: int) -> tuple[int, str]:
    """Count a value's nodes, and name what keeps it from being checked (or an empty text)."""
    count = 0
    stack: list[tuple[Json, int]] = [(value, 0)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > nodes_left:
            return count, f"the list has more than {MAX_NODES} values"
        if depth > MAX_DEPTH:
            return count, f"it is nested deeper than {MAX_DEPTH} levels"
        if isinstance(node, float) and not math.isfinite(node):
            return count, "NaN and Infinity are no JSON"
        if isinstance(node, dict):
            stack.extend((inner, depth + 1) for inner in node.values())
        elif isinstance(node, list):
            stack.extend((inner, depth + 1) for inner in node)
    return count, ""


def references(schema: Json) -> Iterator[str]:
    """Every `$ref` in a schema, those inside defaults, examples and enums excepted (and inside
    the schema of an argument with such a name)."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            stack.extend(
                inner
                for key, inner in node.items()
                if key not in ("default", "examples", "const", "enum")
            )
        elif isinstance(node, list):
            stack.extend(node)


def schema_drift(file_schema: Json, live: Sequence[ToolSchema]) -> float | None:
    """How far a model's schema file is from its live server: 0 identical, 1 nothing in common.

    1 - Jaccard over facts: each tool; each argument; its shape, enum and whether it is required.
    Descriptions do not count, since FastMCP builds them from docstrings. None without a file.
    """
    if file_schema is None:
        return None
    tools = file_schema.get("tools") if isinstance(file_schema, dict) else file_schema
    promised = _facts(map(_file_tool, tools if isinstance(tools, list) else [tools]))
    offered = _facts(live)
    everything = (promised | offered).total()
    return round(1 - (promised & offered).total() / everything, 6) if everything else 0.0


def _facts(tools: Iterable[ToolSchema | None]) -> Counter[tuple[Json, ...]]:
    """What a list says of its tools; of those after the first 500, that they are there."""
    return Counter(
        fact
        for index, tool in enumerate(tools)
        for fact in facts(tool, with_arguments=index < MAX_TOOLS)
    )


def facts(tool: ToolSchema | None, with_arguments: bool = True) -> Iterator[tuple[Json, ...]]:
    """What a schema says of a tool. A broken entry is a fact that no server can offer."""
    if tool is None:
        yield ("broken",)
        return
    yield ("tool", tool.name)
    for arg in arguments_of(tool) if with_arguments else ():
        yield ("argument", tool.name, arg.name)
        yield ("shape", tool.name, arg.name, arg.shape)
        yield ("required", tool.name, arg.name, arg.required)
        yield ("enum", tool.name, arg.name, arg.enum)


def shown_name(tool: Json) -> str:
    return _shown(tool.get("name")) if isinstance(tool, dict) else "(no object)"


@cache
def tool_validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(TOOL)


@cache
def schema_validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA)


def _file_tool(entry: Json) -> ToolSchema | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    schema = entry.get("inputSchema", entry.get("input_schema", {}))
    return ToolSchema(name=entry["name"], input_schema=schema) if isinstance(schema, dict) else None


def _resolves(schema: Json, anchors: Set[str], reference: str) -> bool:
    """Whether `#`, `#/pointer` or `#anchor` is there. Nothing is ever fetched."""
    if not reference.startswith("#"):
        return False
    if not reference.startswith("#/"):
        return reference == "#" or reference[1:] in anchors
    node = schema
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and INDEX.fullmatch(part) and int(part) < len(node):
            node = node[int(part)]
        else:
            return False
    return isinstance(node, dict | bool)


def _objects(value: Json) -> Iterator[dict[str, Json]]:
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _where(path: Sequence[Json]) -> str:
    return "".join(f".{_shown(part)}" for part in path)


def _rule(error: Json) -> str:
    return _shown(f"{error.validator}: {error.validator_value}")


def _shown(value: Json) -> str:
    """Printable ASCII, short: names come from a model and go to a terminal."""
    text = (
        value if isinstance(value, str) and re.fullmatch(r"[\w.$-]+", value, re.A) else ascii(value)
    )
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
