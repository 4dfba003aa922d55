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
from itertools import islice

from toolgenesis_sft.python_source import parser_bomb
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
SCENARIO_PROMPT = (
    "You write the scenarios from which developers build MCP tool servers in Python.\n"
    "Write the scenario that this server was built from:\n\n{code}\n\n"
    "It has three parts: **System Scope:** what the system is for; **Technical Context:** its data,"
    " its rules and its limits; **Required Capabilities:** a numbered list of features, each with a"
    " description and its key inputs. Say all that a developer must know to give the same answers."
    " Name no tool, function or variable of the program, and quote none of its code. Output only"
    " the scenario."
)
CONFIDENCE_PROMPT = (
    "How likely is it that this server works: that it starts, lists its tools, and answers every"
    " valid call correctly? Answer with that probability alone, one number between 0 and 1."
)
NO_ANSWER = "(no answer)"  # stands for an empty turn, which some servers refuse to be sent

BYTE_ORDER_MARK = "\ufeff"
THINK_END = "</think>"
LEADING_THINK = re.compile(r"\s*<think>")
ORPHAN_THINK_END = re.compile(r"^[ \t]*</think>[ \t]*$", re.MULTILINE)
# Possessive, as is NUMBER_ALONE: a model's lines are read in linear time. No part of either could
# match after it gave characters back.
FENCE_OPEN = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+.-]*+)[^`]*+")
LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?=[`~])")
PROGRAM_START = re.compile(r'^(?:from\s+\S+\s+import\s|import\s+\w|"""|#!)', re.MULTILINE)
PROSE = re.compile(r"[A-Z*#>-][^=()\[\]{}@]*")
NUMBER_ALONE = re.compile(  # on its line, with or without a label before it
    r"(?>[^\d\n]*[:=])?+[^\w.\n-]*+(-?+(?:\d++(?:\.\d++)?+|\.\d++))[ \t]*+(%?+)[^\w%\n]*+"
)
PYTHON_FENCES = ("python", "py", "python3", "")
JSON_FENCES = ("json", "jsonc", "json5", "")
MAX_COMPLETION_CHARS = 1 << 20  # about a quarter of a million tokens
MAX_CODE_CHARS = 1 << 20  # a syntax tree takes some hundred times its source; no server is so long
MAX_BLOCKS = 200  # fenced blocks of one answer
MAX_FENCE_ENDS = 8  # later closing fences that a block which holds fences itself may end at
MAX_CLOSING_PARAGRAPHS = 20
MAX_JSON_STARTS = 100  # places in prose where a JSON value is looked for


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


def scenario_messages(code: str) -> tuple[Message, ...]:
    """Asked of a teacher: the scenario of a server that came without one."""
    return (Message(role="user", content=SCENARIO_PROMPT.format(code=code.strip())),)


def agent_report(report: str) -> Message:
    """What the sandbox saw, for the coder agent's next turn."""
    return Message(role="user", content=AGENT_REPORT.format(report=report))


def confidence_question() -> Message:
    """Asked after an answer: the model's own probability that its server works."""
    return Message(role="user", content=CONFIDENCE_PROMPT)


def agent_answer(code: str, calls: Sequence[TrialCall] = ()) -> Message:
    """The coder agent's side of a training sample; without calls, those of before still count."""
    blocks = [f"```python\n{code.strip()}\n```\n"]
    if calls:
        listed = [
            {
                "tool": call.tool,
                "arguments": call.arguments,
                "expects_error": call.expects_error,
                "contains": call.contains or None,
            }
            for call in calls
        ]
        lines = ",\n".join(json.dumps(call, ensure_ascii=False) for call in listed)
        blocks.append(f"```json\n[\n{lines}\n]\n```\n")
    return Message(role="assistant", content="\n".join(blocks))


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

    Think blocks go first. A text that compiles is the program. Among fenced blocks the Python one
    that builds a FastMCP server wins, else the longest; a whole program before the first fence is
    one of them, for some answers have the closing fence alone. Without a fence the program is the
    text without prose before its first import and after its end. The text is never repaired: what
    does not compile is the model's.
    """
    if len(completion) > MAX_COMPLETION_CHARS:
        return None, "code_too_large"
    text = without_thought(completion)
    if text is None:
        return None, "unfinished_think"
    blocks = python_blocks(text)
    servers = [block for block in blocks if builds_server(block.ends[0])]
    if compiles(text):
        code = text
    elif blocks:
        code = max(servers or blocks, key=lambda block: len(block.ends[0])).code()
    else:
        code = without_prose(text, truncated)
    if not code.strip():
        return None, "truncated" if truncated else "empty_completion"
    if len(code) > MAX_CODE_CHARS:
        return None, "code_too_large"
    if not compiles(code):
        return code, "truncated" if truncated else "syntax_error"
    return code, ""


def python_blocks(text: str) -> list[Block]:
    """Where the program of a text with fences may be. Empty blocks count only where there is
    nothing else: an answer may hold a fence and no program."""
    fenced = fenced_blocks(text)
    if not fenced:
        return []
    before = before_first_fence(text)
    whole = [Block("", (before,))] if before and compiles(before) else []
    named = [block for block in fenced if block.is_python()]
    filled = [block for block in named if block.ends[-1].strip()] + whole
    return filled or ([Block("", (before,))] if named else [])


def before_first_fence(text: str) -> str:
    """The program that stands before the first fence line, whole or not; empty if there is none.
    Its opening fence was the prompt's, or stands behind words on the same line."""
    lines = text.split("\n")
    fence = next(number for number, line in enumerate(lines) if opening_fence(line))
    before = "\n".join((*lines[:fence], ""))
    return without_prose(before) if PROGRAM_START.search(before) else ""


def builds_server(code: str) -> bool:
    return "FastMCP" in code or "_initialize_mcp_server" in code


def without_thought(completion: str) -> str | None:
    """The answer after its think blocks; None where thinking never ended.

    Only blocks at the beginning are thought: a program may speak of `<think>` itself. Where the
    chat template opened the block, the completion holds its end alone, on a line of its own.
    A byte-order mark goes too, and lines end as Python and JSON read them all, with a newline.
    """
    completion = completion.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n")
    at = 0
    while LEADING_THINK.match(completion, at):
        end = completion.find(THINK_END, at)
        if end < 0:
            return None
        at = end + len(THINK_END)
    end_alone = ORPHAN_THINK_END.search(completion, at)
    if end_alone and completion.find("<think>", at, end_alone.start()) < 0:
        at = end_alone.end()
    return completion[at:]


@dataclass(frozen=True)
class Block:
    """A fenced block. `ends` are its texts up to each closing fence that it may end at, the
    nearest first: a program whose docstring holds a fence ends at a later one."""

    language: str
    ends: tuple[str, ...]

    def code(self) -> str:
        """The shortest text that compiles; the shortest of all where none does."""
        return next((text for text in self.ends if compiles(text)), self.ends[0])

    def is_python(self) -> bool:
        """By its name, or, under any other than JSON's (`server.py`, `text`), by what it is."""
        if self.language in PYTHON_FENCES or self.language in JSON_FENCES:
            return self.language in PYTHON_FENCES
        return builds_server(self.ends[0]) and compiles(self.ends[0])


def fenced_blocks(text: str) -> list[Block]:
    """Fenced blocks of Markdown, in order. A last block without an end reaches to the text's."""
    lines = text.removesuffix("\n").split("\n")
    blocks: list[Block] = []
    at = 0
    while at < len(lines) and len(blocks) < MAX_BLOCKS:
        opened = opening_fence(lines[at])
        at += 1
        if opened is None:
            continue
        mark, language = opened[1], opened[2].lower()
        found = (number for number in range(at, len(lines)) if closes(lines[number], mark))
        closing = list(islice(found, MAX_FENCE_ENDS)) or [len(lines)]
        inside = without_indent(lines[at : closing[-1]], opened.start(1))
        ends = tuple("\n".join((*inside[: number - at], "")) for number in closing)
        block = Block(language, ends)
        blocks.append(block)
        at = 1 + closing[ends.index(block.code()) if language in PYTHON_FENCES else 0]
    return blocks


def opening_fence(line: str) -> re.Match[str] | None:
    """The fence that a line opens a block with; it may be the first line of a list's item."""
    item = LIST_ITEM.match(line)
    return FENCE_OPEN.fullmatch(line, item.end() if item else 0)


def without_indent(lines: list[str], num_columns: int) -> list[str]:
    """Lines of a block whose fence is indented, without that indent, as Markdown has it. Where
    the first line is not indented so, the fence alone is: then they stay as they are."""
    first = next((line for line in lines if line.strip()), "")
    if not num_columns or first[:num_columns].strip():
        return lines
    return [line[:num_columns].lstrip(" \t") + line[num_columns:] for line in lines]


def closes(line: str, mark: str) -> bool:
    """Whether a line is a closing fence for this opening one: as long or longer, and bare."""
    bare = line.strip()
    return bare.startswith(mark) and not bare.strip(mark[0])


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
    for block in reversed(fenced_blocks(without_thought(completion) or "")):
        value = decoded(block.ends[0]) if block.language in JSON_FENCES else None
        if isinstance(value, list):
            return value
    return []


def parse_confidence(completion: str | None) -> float | None:
    """The probability that a model stated, 0..1; None where it stated none.

    It is the number, or the percentage, that has a line of its own. Lines that disagree, a number
    outside of 0..1 and a number inside a sentence are no statement.
    """
    text = without_thought(completion or "") or ""
    found = (NUMBER_ALONE.fullmatch(line.strip()) for line in text.splitlines())
    stated = {float(line[1]) / (100 if line[2] else 1) for line in found if line}
    probability = stated.pop() if len(stated) == 1 else None
    return probability if probability is not None and 0 <= probability <= 1 else None


def parse_schema(completion: str | None) -> Json:
    """The JSON tool schema in a completion, bare, fenced or inside prose; None if there is none.

    Of several values the first that declares a tool wins, else the first of all.
    """
    if completion is None or len(completion) > MAX_COMPLETION_CHARS:
        return None
    text = without_thought(completion)
    if not text or not text.strip():
        return None
    fenced = (block.ends[0] for block in fenced_blocks(text) if block.language in JSON_FENCES)
    values = [value for value in map(decoded, (text, *fenced)) if value is not None]
    if not values:
        values = json_in_prose(text)
    return next((value for value in values if schema_tools(value)), values[0] if values else None)


def decoded(text: str) -> Json:
    """The JSON value that a text is; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_in_prose(text: str) -> list[Json]:
    """The JSON objects and lists that stand in a text, one after the other."""
    decoder = json.JSONDecoder()
    values: list[Json] = []
    at = 0
    for _ in range(MAX_JSON_STARTS):
        start = re.compile(r"[\[{]").search(text, at)
        if start is None:
            break
        try:
            value, at = decoder.raw_decode(text, start.start())
            values.append(value)
        except (ValueError, RecursionError):
            at = start.end()
    return values


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
    if len(code) > MAX_CODE_CHARS or parser_bomb(code):
        return False
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def without_prose(text: str, truncated: bool = False) -> str:
    """The text from its first import (or module docstring) on, for models like to greet first, to
    the end of the program, where it was not cut off."""
    start = PROGRAM_START.search(text)
    code = text[start.start() :] if start else text
    return code if truncated else without_closing_prose(code)


def without_closing_prose(code: str) -> str:
    """The program without the sentences that follow it, if it compiles so; else as it is.

    A paragraph with a bracket or an equals sign may be a broken part of the program, and stays.
    """
    head = code.rstrip()
    for _ in range(MAX_CLOSING_PARAGRAPHS):
        head, gap, last = head.rpartition("\n\n")
        if not gap or not all(PROSE.fullmatch(line) for line in last.split("\n")):
            break
        head = head.rstrip()
        if compiles(head):
            return head + "\n"
    return code
