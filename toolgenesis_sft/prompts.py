"""Scenario -> messages, completion -> code and schema: the only place for either.

Every prompt is a pure function of the scenario (and, for a repair, of what the sandbox said).
No function here takes an AnswerKey, so no task, unit test or gold schema can reach a model.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from toolgenesis_sft.records import Json, Message, Scenario, ServerPrediction, ToolSchema

# The prompt of the published model card (Tool-Genesis-Qwen3-8B-SFT), word for word: the model
# was trained on it, and the run to reproduce is judged with it.
DIRECT_PROMPT = (
    "You are a developer building MCP tool servers in Python.\n"
    "Build a complete MCP server for the following scenario:\n\n{scenario}\n\n"
    "Output only the Python source code using the FastMCP framework."
)

SCHEMA_PROMPT = (
    "You are a developer designing MCP tool servers.\n"
    "Design the tools of an MCP server for the following scenario:\n\n{scenario}\n\n"
    "Output only one JSON object: "
    '{{"tools": [{{"name": ..., "description": ..., "inputSchema": ...}}]}}. '
    "Each inputSchema is a JSON Schema of type object with properties and required."
)
SCHEMA_TO_SERVER_PROMPT = (
    "You are a developer building MCP tool servers in Python.\n"
    "Build a complete MCP server for the following scenario:\n\n{scenario}\n\n"
    "It offers exactly these tools, with these names, arguments and types:\n\n{schema}\n\n"
    "Output only the Python source code using the FastMCP framework."
)
AGENT_PROMPT = (
    "You are a developer building MCP tool servers in Python.\n"
    "Build a complete MCP server for the following scenario:\n\n{scenario}\n\n"
    "It offers these tools:\n\n{schema}\n\n"
    "Answer with two fenced blocks. First ```python: the complete source code, using the FastMCP"
    " framework. Then ```json: a list of calls that try every tool at least once, each"
    ' {{"tool": ..., "arguments": {{...}}, "expects_error": true or false, "contains": a text that'
    " the answer must contain, or null}}.\n"
    "The server is then started, its tools are listed and your calls are made. You are told what"
    " happened and can mend it."
)
AGENT_REPORT = (
    "The server was started and tried. This is what happened:\n\n{report}\n\n"
    "Mend it. Answer with the complete source code again in a ```python block, and with the list of"
    " calls in a ```json block if they change."
)

THINK = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
FENCE = re.compile(
    r"^[ \t]*```[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
PYTHON_FENCES = ("python", "py", "python3", "")


@dataclass(frozen=True)
class ParsedServer:
    """What a completion holds. `code` is None where there is none; `fault` then says why."""

    code: str | None
    schema: Json = None
    fault: str = ""


@dataclass(frozen=True)
class TrialCall:
    """A call with which a coder agent tries its own server, and what it expects of it."""

    tool: str
    arguments: dict[str, Json]
    expects_error: bool = False
    contains: str = ""


def direct_messages(scenario: Scenario) -> tuple[Message, ...]:
    """The model card's single prompt: scenario -> code."""
    return (Message(role="user", content=DIRECT_PROMPT.format(scenario=scenario.prompt.strip())),)


def schema_messages(scenario: Scenario) -> tuple[Message, ...]:
    """The first of two calls: scenario -> tool schema."""
    return (Message(role="user", content=SCHEMA_PROMPT.format(scenario=scenario.prompt.strip())),)


def schema_to_server_messages(scenario: Scenario, schema: str) -> tuple[Message, ...]:
    """The second of two calls: scenario and schema -> code. Also the oracle setting's only call,
    where the schema is the benchmark's own."""
    content = SCHEMA_TO_SERVER_PROMPT.format(
        scenario=scenario.prompt.strip(), schema=schema.strip()
    )
    return (Message(role="user", content=content),)


def agent_messages(scenario: Scenario, schema: str) -> tuple[Message, ...]:
    """The first turn of the coder agent: scenario and its own schema -> code and trial calls."""
    content = AGENT_PROMPT.format(scenario=scenario.prompt.strip(), schema=schema.strip())
    return (Message(role="user", content=content),)


def agent_report(report: str) -> Message:
    """What the sandbox saw, for the coder agent's next turn."""
    return Message(role="user", content=AGENT_REPORT.format(report=report))


def schema_text(tools: Sequence[ToolSchema]) -> str:
    """Tools as the schema prompts ask for them."""
    listed = [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
        for tool in tools
    ]
    return json.dumps({"tools": listed}, indent=2, ensure_ascii=False)


def server_answer(code: str) -> Message:
    """The assistant's side of a training sample: the bare source, as the prompt demands."""
    return Message(role="assistant", content=code.strip() + "\n")


def parse_prediction(prediction: ServerPrediction) -> ParsedServer:
    """Code and schema from the raw completions.

    Imported predictions hold the file itself and are taken as they are.
    """
    schema = parse_schema(prediction.schema_completion)
    if prediction.strategy == "imported":
        code = prediction.completion
        fault = "" if code.strip() else "empty_completion"
        return ParsedServer(code if code.strip() else None, schema, fault)
    code_or_none, fault = parse_code(prediction.completion, prediction.finish_reason == "length")
    return ParsedServer(code_or_none, schema, fault)


def parse_code(completion: str, truncated: bool = False) -> tuple[str | None, str]:
    """The Python source in a completion, and the name of the fault where there is none.

    Think blocks go first. Among fenced blocks the Python one that builds a FastMCP server wins,
    else the longest; without a fence the whole text is the program, prose before its first
    import excepted. The text is never repaired: what does not compile is the model's.
    """
    text = THINK.sub("", completion)
    if "<think>" in text:
        return None, "unfinished_think"
    if not text.strip():
        return None, "truncated" if truncated else "empty_completion"
    blocks = [body for language, body in FENCE.findall(text) if language.lower() in PYTHON_FENCES]
    if blocks:
        servers = [
            block for block in blocks if "FastMCP" in block or "_initialize_mcp_server" in block
        ]
        code = max(servers or blocks, key=len)
    else:
        code = text if compiles(text) else from_first_import(text)
    if not compiles(code):
        return (code, "truncated") if truncated else (code, "syntax_error")
    return code, ""


def parse_trial_calls(completion: str) -> tuple[TrialCall, ...]:
    """The calls that a coder agent writes to try its server; what is no call is left out."""
    calls = []
    for item in _last_json_list(completion):
        match item:
            case {"tool": str(tool), "arguments": dict(arguments)}:
                contains = item.get("contains")
                calls.append(
                    TrialCall(
                        tool=tool,
                        arguments=arguments,
                        expects_error=item.get("expects_error") is True,
                        contains=contains if isinstance(contains, str) else "",
                    )
                )
    return tuple(calls)


def _last_json_list(completion: str) -> list[Json]:
    for language, body in reversed(FENCE.findall(THINK.sub("", completion))):
        if language.lower() in ("json", ""):
            try:
                value = json.loads(body)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, list):
                return value
    return []


def parse_schema(completion: str | None) -> Json:
    """The JSON tool schema in a completion, bare, fenced or inside prose; None if there is none."""
    if not completion:
        return None
    text = THINK.sub("", completion)
    for candidate in (text, *(body for _, body in FENCE.findall(text))):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    decoder = json.JSONDecoder()
    for start in re.finditer(r"[\[{]", text):
        try:
            return decoder.raw_decode(text, start.start())[0]
        except ValueError:
            continue
    return None


def schema_tools(schema: Json) -> tuple[ToolSchema, ...]:
    """The tools that a parsed schema declares; what is no tool is left out.

    Takes a list of tools, or an object with `tools`; the input schema is spelled `inputSchema`,
    `input_schema` or `parameters`.
    """
    listed = schema.get("tools") if isinstance(schema, dict) else schema
    tools = []
    for item in listed if isinstance(listed, list) else ():
        match item:
            case {"name": str(name)} if name:
                spelled = (item.get(key) for key in ("inputSchema", "input_schema", "parameters"))
                inputs = next((value for value in spelled if isinstance(value, dict)), {})
                description = item.get("description")
                tools.append(
                    ToolSchema(
                        name=name,
                        description=description if isinstance(description, str) else "",
                        input_schema=inputs,
                    )
                )
    return tuple(tools)


def compiles(code: str) -> bool:
    """Whether Python's parser takes it. Nothing of it is run."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def from_first_import(text: str) -> str:
    """The text from its first import (or module docstring) on: models like to greet first."""
    start = re.search(r'^(?:from\s+\S+\s+import\s|import\s+\w|"""|#!)', text, re.MULTILINE)
    return text[start.start() :] if start else text
