"""Tool declarations and calls as people write them -> ToolSchema and ToolCall, checked."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

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
        kind = str(facts.get("type", "str"))
        optional = "optional" in kind or "default" in facts
        word = re.match(r"\w+", kind.strip().lower())
        known = XLAM_TYPES.get(word.group() if word else "")
        properties[name] = {"type": known} if known else {}
        properties[name] |= {key: facts[key] for key in ("description", "default") if key in facts}
        if not optional:
            required.append(name)
    schema = {"type": "object", "properties": properties, "required": required}
    return ToolSchema(
        name=entry["name"], description=entry.get("description") or "", input_schema=schema
    )


def value_in(value: Json) -> Json:
    """A JSON value, or the one in a text: as JSON, else as Python writes it."""
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
        raise Unfit("invalid tool call", f"neither JSON nor a literal: {value}") from error
    return decoded


def call_of(entry: Json) -> ToolCall:
    """A call in OpenAI's form or bare; the arguments are an object or its text."""
    body = entry.get("function", entry) if isinstance(entry, dict) else {}
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise Unfit("invalid tool call", f"a call without a name: {json.dumps(entry)}")
    arguments = value_in(body.get("arguments", body.get("parameters")) or {})
    if not isinstance(arguments, dict):
        raise Unfit("invalid tool call", f"{body['name']}: arguments are no object: {arguments}")
    return ToolCall(name=body["name"], arguments=arguments, id=str(entry.get("id") or ""))


def check_calls(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> None:
    """Every call names a declared tool and gives it arguments that its schema takes. Raises Unfit
    where one does not."""
    declared = {tool.name: tool.input_schema for tool in tools}
    for message in messages:
        for call in message.tool_calls:
            if call.name not in declared:
                raise Unfit("invalid tool call", f"{call.name} is not declared")
            fault = argument_fault(call.arguments, declared[call.name])
            if fault:
                raise Unfit("invalid tool call", f"{call.name}: {fault}")
            try:
                json.dumps(call.arguments, allow_nan=False)
            except ValueError as error:
                raise Unfit("invalid tool call", f"{call.name}: NaN is no JSON") from error


def argument_fault(arguments: dict[str, Json], schema: dict[str, Json]) -> str:
    """What a schema's first level refuses: a missing, unknown or wrongly typed argument."""
    properties: dict[str, Json] = schema.get("properties") or {}
    required: Sequence[str] = schema.get("required") or ()
    for name in required if isinstance(required, list) else ():
        if name not in arguments:
            return f"{name} is required and missing"
    for name, value in arguments.items():
        if properties and name not in properties and not schema.get("additionalProperties", False):
            return f"{name} is not an argument"
        wanted = properties.get(name)
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        types = JSON_TYPES.get(kind) if isinstance(kind, str) else None
        is_flag = isinstance(value, bool)  # a bool is an int to Python, not to JSON Schema
        if types and (not isinstance(value, types) or (is_flag and bool not in types)):
            return f"{name} = {json.dumps(value)} is no {kind}"
    return ""
