"""Tool declarations and calls as people write them -> ToolSchema and ToolCall, checked."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Sequence

from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.records import Json, Message, ToolCall, ToolSchema

# xLAM writes Python's type names where JSON Schema has its own.
XLAM_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
INVALID_CALL = "invalid tool call"
KEPT_NULLS = ("default", "const")  # where null is a value of JSON Schema


def tools_of(value: Json) -> tuple[ToolSchema, ...]:
    """A list of declarations, or its text. Raises Unfit where it is none, as all here do."""
    decoded = value_in(value) if value else []
    if not isinstance(decoded, list):
        raise Unfit("row is not in its layout", "tools are no list")
    return tuple(map(tool_of, decoded))


def tool_of(entry: Json) -> ToolSchema:
    """A declaration in OpenAI's form, bare, or as MCP writes it."""
    body = entry.get("function", entry)
    schema = body.get("parameters") or body.get("input_schema") or body.get("inputSchema") or {}
    schema = without_nulls(value_in(schema), KEPT_NULLS)
    if not isinstance(schema.get("properties") or {}, dict):
        raise Unfit("row is not in its layout", f"{body['name']}: properties are no object")
    return ToolSchema(
        name=body["name"], description=body.get("description") or "", input_schema=schema
    )


def xlam_tool(entry: Json) -> ToolSchema:
    """xLAM's parameters are {name: {type, description, default}} with Python's type names."""
    parameters = entry.get("parameters") or {}
    if "properties" in parameters:
        return tool_of(entry)
    properties, required = {}, []
    for name, facts in parameters.items():
        kind = str(facts.get("type", "str")).strip().lower()
        optional = "optional" in kind or "default" in facts
        word = re.match(r"\w+", kind.removeprefix("optional["))
        known = XLAM_TYPES.get(word.group() if word else "")
        properties[name] = {"type": known} if known else {}
        properties[name] |= {key: facts[key] for key in ("description", "default") if key in facts}
        if not optional:
            required.append(name)
    schema = {"type": "object", "properties": properties, "required": required}
    return ToolSchema(
        name=entry["name"], description=entry.get("description") or "", input_schema=schema
    )


def value_in(value: Json, reason: str = "row is not in its layout") -> Json:
    """A JSON value, or the one in a text: as JSON, else as Python writes it. Raises Unfit with
    `reason` where it is neither."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        decoded = ast.literal_eval(value)
        json.dumps(decoded)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Unfit(reason, f"neither JSON nor a literal: {value}") from error
    return decoded


def call_of(entry: Json) -> ToolCall:
    """A call in OpenAI's form or bare; the arguments are an object or its text."""
    body = entry.get("function", entry) if isinstance(entry, dict) else {}
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise Unfit(INVALID_CALL, f"a call without a name: {json.dumps(entry)}")
    stated = body.get("arguments", body.get("parameters"))
    arguments = value_in(stated or {}, INVALID_CALL)
    if not isinstance(arguments, dict):
        raise Unfit(INVALID_CALL, f"{body['name']}: arguments are no object: {arguments}")
    return ToolCall(name=body["name"], arguments=arguments, id=str(entry.get("id") or ""))


def fitting_calls(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> tuple[Message, ...]:
    """The messages, every call of which names a declared tool and gives it arguments that its
    schema takes. Raises Unfit where one does not.

    A null where the schema has none and asks for nothing is an argument that was not given: tables
    of typed columns write it so.
    """
    declared = {tool.name: tool.input_schema for tool in tools}
    fitting = []
    for message in messages:
        calls = tuple(_fitting(call, declared) for call in message.tool_calls)
        changed = calls != message.tool_calls
        fitting.append(message.model_copy(update={"tool_calls": calls}) if changed else message)
    return tuple(fitting)


def _fitting(call: ToolCall, declared: dict[str, dict[str, Json]]) -> ToolCall:
    if call.name not in declared:
        raise Unfit(INVALID_CALL, f"{call.name} is not declared")
    schema = declared[call.name]
    if None in call.arguments.values():
        given = {
            name: value
            for name, value in call.arguments.items()
            if value is not None or not _means_absent(name, schema)
        }
        call = call.model_copy(update={"arguments": given})
    fault = argument_fault(call.arguments, schema)
    if fault:
        raise Unfit(INVALID_CALL, f"{call.name}: {fault}")
    try:
        json.dumps(call.arguments, allow_nan=False)
    except ValueError as error:
        raise Unfit(INVALID_CALL, f"{call.name}: NaN is no JSON") from error
    return call


def _means_absent(name: str, schema: dict[str, Json]) -> bool:
    properties: dict[str, Json] = schema.get("properties") or {}
    if name in _required(schema):
        return False
    if name not in properties:
        return "properties" in schema
    kinds = kinds_of(properties[name])
    return bool(kinds) and "null" not in kinds


def argument_fault(arguments: dict[str, Json], schema: dict[str, Json]) -> str:
    """What a schema's first level refuses: a missing, unknown or wrongly typed argument, or one
    that is none of its `enum`."""
    properties: dict[str, Json] = schema.get("properties") or {}
    for name in _required(schema):
        if name not in arguments:
            return f"{name} is required and missing"
    is_closed = "properties" in schema and not schema.get("additionalProperties", False)
    for name, value in arguments.items():
        if name not in properties:
            if is_closed:
                return f"{name} is not an argument"
            continue
        kinds = kinds_of(properties[name])
        if kinds and not any(_is_a(value, kind) for kind in kinds):
            return f"{name} = {json.dumps(value)} is no {' or '.join(sorted(kinds))}"
        options = properties[name].get("enum") if isinstance(properties[name], dict) else None
        if isinstance(options, list) and value not in options:
            return f"{name} = {json.dumps(value)} is none of its enum"
    return ""


def kinds_of(schema: Json) -> frozenset[str]:
    """JSON's types that a schema takes; empty where it does not say, or says it in other words."""
    if not isinstance(schema, dict):
        return frozenset()
    stated = schema.get("type")
    kinds = set(stated) if isinstance(stated, list) else {stated} if stated else set()
    for option in schema.get("anyOf") or schema.get("oneOf") or ():
        inner = kinds_of(option)
        if not inner:
            return frozenset()
        kinds |= inner
    if schema.get("nullable") is True:
        kinds.add("null")
    return frozenset(kinds) if kinds <= JSON_TYPES.keys() else frozenset()


def without_nulls(value: Json, kept: Collection[str] = ()) -> Json:
    """The value without the keys that hold null, but for those named in `kept`. A table of typed
    columns gives every row the keys of all others, with null for what the row has not."""
    if isinstance(value, dict):
        return {
            key: without_nulls(inner, kept)
            for key, inner in value.items()
            if inner is not None or key in kept
        }
    return [without_nulls(inner, kept) for inner in value] if isinstance(value, list) else value


def _required(schema: dict[str, Json]) -> Sequence[str]:
    required = schema.get("required")
    return required if isinstance(required, list) else ()


def _is_a(value: Json, kind: str) -> bool:
    if isinstance(value, bool):  # an int to Python, not to JSON Schema
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, JSON_TYPES[kind])
