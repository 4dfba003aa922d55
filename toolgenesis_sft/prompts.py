"""Scenario -> messages, completion -> code and schema: the only place for either.

Every prompt is a pure function of the scenario (and, for a repair, of what the sandbox said).
No function here takes an AnswerKey, so no task, unit test or gold schema can reach a model.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass

from toolgenesis_sft.records import Json, Message, Scenario, ServerPrediction

# The prompt of the published model card (Tool-Genesis-Qwen3-8B-SFT), word for word: the model
# was trained on it, and the run to reproduce is judged with it.
DIRECT_PROMPT = (
    "You are a developer building MCP tool servers in Python.\n"
    "Build a complete MCP server for the following scenario:\n\n{scenario}\n\n"
    "Output only the Python source code using the FastMCP framework."
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


def direct_messages(scenario: Scenario) -> tuple[Message, ...]:
    """The model card's single prompt: scenario -> code."""
    return (Message(role="user", content=DIRECT_PROMPT.format(scenario=scenario.prompt.strip())),)


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
