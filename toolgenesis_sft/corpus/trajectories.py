"""Tool-use trajectories in the layouts people have -> messages and tools of a chat sample.

Each layout is one function from a row to a Conversation; all end in `_conversation`, which merges
what belongs to one turn. The order of roles is checked where the sample is rendered, not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import ValidationError

from toolgenesis_sft.corpus.calls import (
    call_of,
    check_calls,
    tool_of,
    tools_of,
    value_in,
    xlam_tool,
)
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.records import Json, Message, ToolCall, ToolSchema

Layout = Literal["messages", "sharegpt", "alpaca", "glaive", "xlam", "hermes", "toucan"]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_output": "tool",
    "tool_call": "call",
    "function_call": "call",
}
# Parts of a message that are no text, as OpenAI's form and its kin name them.
NO_TEXT = ("image", "audio", "input_image", "input_audio", "video", "file")
CALL_BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
RESPONSE_BLOCK = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
TOOLS_BLOCK = re.compile(r"<tools>\s*(.*?)\s*</tools>", re.DOTALL)
GLAIVE_TURN = re.compile(r"^(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]*", re.MULTILINE)
GLAIVE_CALL = re.compile(r"<functioncall>\s*(\{.*\})\s*", re.DOTALL)
GLAIVE_ARGUMENTS = re.compile(r"""(["']arguments["']\s*:\s*)'(.*)'\s*\}\s*$""", re.DOTALL)


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...]


@dataclass(frozen=True)
class Turn:
    """One entry of a layout, before neighbours are merged. role `call` is an assistant's call."""

    role: str
    text: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None


def convert(row: Json, layout: Layout) -> Conversation:
    """A row as a conversation whose calls name declared tools. Raises Unfit where it is none."""
    if not isinstance(row, dict):
        raise Unfit("row is no JSON object", repr(row))
    try:
        conversation = CONVERTERS[layout](row)
    except KeyError as error:
        raise Unfit("a column of the layout is missing", f"{layout} needs {error}") from error
    except (TypeError, AttributeError, ValidationError) as error:
        raise Unfit("row is not in its layout", f"{layout}: {error}") from error
    check_calls(conversation.messages, conversation.tools)
    return conversation


def detect(row: dict[str, Json]) -> Layout | None:
    """The layout that a row's columns speak for."""
    columns = set(row)
    if {"system", "chat"} <= columns:
        return "glaive"
    if {"query", "answers", "tools"} <= columns:
        return "xlam"
    if {"instruction", "output"} <= columns:
        return "alpaca"
    if "messages" in columns:
        return "toucan" if isinstance(row["messages"], str) else "messages"
    if "conversations" in columns:
        text = json.dumps(row["conversations"])
        return "hermes" if "<tools>" in text else "sharegpt"
    return None


def from_messages(row: dict[str, Json]) -> Conversation:
    """OpenAI's form: role, content, tool_calls, tool_call_id; tools as a list or its JSON text."""
    return _conversation(map(_openai_turn, value_in(row["messages"])), tools_of(row.get("tools")))


def from_sharegpt(row: dict[str, Json]) -> Conversation:
    """`conversations` of {from, value}; calls are turns of their own, with JSON as their value."""
    turns = [
        _text_turn(str(entry["from"]), _text(entry["value"])) for entry in row["conversations"]
    ]
    if row.get("system"):
        turns.insert(0, Turn("system", str(row["system"])))
    return _conversation(turns, tools_of(row.get("tools")))


def from_alpaca(row: dict[str, Json]) -> Conversation:
    """instruction, input, output and `history`, a list of [question, answer] before them."""
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    turns = [Turn("system", str(row["system"]))] if row.get("system") else []
    for asked, answered in [*(row.get("history") or ()), (question, row["output"])]:
        turns += [_text_turn("user", _text(asked)), _text_turn("assistant", _text(answered))]
    tools = tools_of(row.get("tools"))
    if not tools and turns[0].role == "system":
        tools = _declared_in(turns[0].text)
        if tools:
            turns = turns[1:]
    return _conversation(turns, tools)


def from_glaive(row: dict[str, Json]) -> Conversation:
    """Glaive v2: declarations as JSON objects in `system`, all turns as one text in `chat`."""
    head, tools = _leading_json(str(row["system"]).removeprefix("SYSTEM:").strip())
    # With functions declared in Qwen3's own form the sentence that announces them is no use.
    turns = [] if tools else [Turn("system", head)]
    pieces = GLAIVE_TURN.split(str(row["chat"]))
    for speaker, text in zip(pieces[1::2], pieces[2::2], strict=True):
        text = text.replace("<|endoftext|>", "").strip()
        call = GLAIVE_CALL.search(text) if speaker == "ASSISTANT" else None
        if call:
            turns.append(
                Turn("call", text[: call.start()].strip(), (call_of(_glaive_call(call.group(1))),))
            )
        else:
            role = {"USER": "user", "ASSISTANT": "assistant"}.get(speaker, "tool")
            turns.append(Turn(role, text))
    return _conversation(turns, tuple(map(tool_of, tools)))


def from_xlam(row: dict[str, Json]) -> Conversation:
    """xLAM: one query and the calls that answer it, no results."""
    calls = tuple(map(call_of, value_in(row["answers"])))
    if not calls:
        raise Unfit("no answer", "`answers` holds no call")
    tools = tuple(map(xlam_tool, value_in(row["tools"])))
    return _conversation([Turn("user", str(row["query"])), Turn("call", "", calls)], tools)


def from_hermes(row: dict[str, Json]) -> Conversation:
    """ShareGPT with <tools>, <tool_call> and <tool_response> blocks in the text."""
    turns = [
        _text_turn(str(entry["from"]), _text(entry["value"])) for entry in row["conversations"]
    ]
    tools = tools_of(row.get("tools"))
    if turns and turns[0].role == "system":
        declared = _declared_in(turns[0].text)
        if declared:  # the rest of that message explains a call format that is not Qwen3's
            tools, turns = tools or declared, turns[1:]
    return _conversation(turns, tools)


def from_toucan(row: dict[str, Json]) -> Conversation:
    """Toucan: JSON text in `messages` and in `tools` (or `available_tools`).

    Calls are turns of role `tool_call`, or `function_call` of an assistant's message; results
    have the role `tool_response` or `function`; reasoning stands in `reasoning_content`.
    """
    turns = [
        turn
        for turn in map(_openai_turn, value_in(row["messages"]))
        if not (turn.role == "system" and "tool_declare" in turn.text)
    ]
    return _conversation(turns, tools_of(row.get("tools") or row.get("available_tools")))


CONVERTERS: dict[Layout, Callable[[dict[str, Json]], Conversation]] = {
    "messages": from_messages,
    "sharegpt": from_sharegpt,
    "alpaca": from_alpaca,
    "glaive": from_glaive,
    "xlam": from_xlam,
    "hermes": from_hermes,
    "toucan": from_toucan,
}
assert set(CONVERTERS) == set(get_args(Layout))


def _conversation(turns: Iterable[Turn], tools: tuple[ToolSchema, ...]) -> Conversation:
    """Neighbouring assistant turns are one message: some layouts split a text from its calls."""
    merged: list[Turn] = []
    for turn in turns:
        if turn.role == "call":
            turn = Turn("assistant", turn.text, turn.calls)
        before = merged[-1] if merged else None
        if before and before.role == turn.role == "assistant" and (turn.calls or not before.calls):
            text = "\n".join(part for part in (before.text, turn.text) if part)
            merged[-1] = Turn("assistant", text, before.calls + turn.calls)
        else:
            merged.append(turn)
    if not merged:
        raise Unfit("no answer", "the conversation has no turn")
    messages = tuple(
        Message(
            role=turn.role,
            content=turn.text,
            tool_calls=turn.calls,
            tool_call_id=turn.call_id,
        )
        for turn in merged
    )
    return Conversation(messages, tools)


def _openai_turn(entry: dict[str, Json]) -> Turn:
    text = _text(entry.get("content"))
    if entry.get("reasoning_content"):
        text = f"<think>\n{str(entry['reasoning_content']).strip()}\n</think>\n\n{text}"
    calls = entry.get("tool_calls") or ()
    if entry.get("function_call"):
        calls = (entry["function_call"],)
    if calls:
        return Turn("call", text, tuple(map(call_of, calls)))
    turn = _text_turn(str(entry["role"]), text)
    return Turn(turn.role, turn.text, turn.calls, entry.get("tool_call_id"))


def _text_turn(speaker: str, text: str) -> Turn:
    """A turn whose calls and results, if any, stand in its text."""
    role = ROLES.get(speaker.lower())
    if role is None:
        raise Unfit("wrong role order", f"unknown role {speaker}")
    if role == "call":
        value = value_in(CALL_BLOCK.sub(r"\1", text))
        calls = value if isinstance(value, list) else [value]
        return Turn("call", "", tuple(map(call_of, calls)))
    if role == "assistant" and "<tool_call>" in text:
        blocks = tuple(call_of(value_in(block)) for block in CALL_BLOCK.findall(text))
        if not blocks:
            raise Unfit("invalid tool call", f"an unclosed <tool_call>: {text}")
        return Turn("call", CALL_BLOCK.sub("", text).strip(), blocks)
    if role in ("user", "tool") and "<tool_response>" in text:
        results = RESPONSE_BLOCK.findall(text)
        if results and not RESPONSE_BLOCK.sub("", text).strip():
            return Turn("tool", "\n".join(results))
    return Turn(role, text)


def _text(content: Json) -> str:
    """Message content: a text, a list of text parts, nothing, or any other JSON value. Raises
    Unfit for pictures and the like."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    ):
        kinds = {part["type"] for part in content} - {"text"}
        if any(kind.startswith(NO_TEXT) for kind in kinds):
            raise Unfit("not text alone", ", ".join(sorted(kinds)))
        if not kinds:
            return "".join(str(part["text"]) for part in content)
    return json.dumps(content, ensure_ascii=False)


def _glaive_call(text: str) -> Json:
    """Glaive puts the arguments' JSON text in single quotes, without escaping those inside."""
    quoted = GLAIVE_ARGUMENTS.search(text)
    if quoted:
        text = text[: quoted.start()] + quoted.group(1) + quoted.group(2).replace("\\'", "'") + "}"
    return value_in(text)


def _declared_in(system: str) -> tuple[ToolSchema, ...]:
    """Tools in a <tools> block: a JSON list, or one JSON object after the other. A text that
    speaks of empty `<tools> </tools>` tags before the real ones is usual."""
    for block in TOOLS_BLOCK.findall(system):
        if block.startswith("["):
            return tools_of(block)
        if block.startswith("{"):
            return tuple(map(tool_of, _leading_json(block)[1]))
    return ()


def _leading_json(text: str) -> tuple[str, list[Json]]:
    """The text before the first JSON object, and all objects that follow one another from there."""
    start = text.find("{")
    if start < 0:
        return text, []
    decoder, values, position = json.JSONDecoder(), [], start
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except ValueError as error:
            raise Unfit("row is not in its layout", f"broken tool declaration: {error}") from error
        values.append(value)
        while position < len(text) and text[position] in " \n\r\t,":
            position += 1
        if not text.startswith("{", position):
            break
    return text[:start].strip(), values
