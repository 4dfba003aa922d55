"""Tool-use trajectories in the layouts people have -> messages and tools of a chat sample.

Each layout is one function from a row to a Conversation; all end in `_conversation`, which merges
what belongs to one turn and puts the results of parallel calls in the order of the calls: Qwen3's
form has no ids, so the order alone says what answers what. The order of roles is checked where the
sample is rendered, not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Literal, NamedTuple, get_args

from toolgenesis_sft.corpus.calls import (
    INVALID_CALL,
    call_of,
    fitting_calls,
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
    "bot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "tool_call": "call",
    "tool_calls": "call",
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


class Turn(NamedTuple):
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
        messages = fitting_calls(conversation.messages, conversation.tools)
    except KeyError as error:
        raise Unfit("a column of the layout is missing", f"{layout} needs {error}") from error
    except (TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
        raise Unfit("row is not in its layout", f"{layout}: {error}") from error
    return Conversation(messages, conversation.tools)


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
    """OpenAI's form: role, content, tool_calls, tool_call_id; tools (`functions` in its older form)
    as a list or its JSON text."""
    turns = chain.from_iterable(map(_openai_turns, value_in(row["messages"])))
    return _conversation(turns, tools_of(row.get("tools") or row.get("functions")))


def from_sharegpt(row: dict[str, Json]) -> Conversation:
    """`conversations` of {from, value} or {role, content}. Calls are turns of their own, with JSON
    as their value, or <tool_call> blocks in the text, as Hermes writes them."""
    turns: list[Turn] = []
    for entry in value_in(row["conversations"]):
        speaker, said = ("from", "value") if "from" in entry else ("role", "content")
        turns += _text_turns(str(entry[speaker]), _text(entry.get(said)))
    if row.get("system"):
        turns.insert(0, Turn("system", str(row["system"])))
    return _conversation(turns, tools_of(row.get("tools")))


def from_alpaca(row: dict[str, Json]) -> Conversation:
    """instruction, input, output and `history`, a list of [question, answer] before them."""
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    turns = [Turn("system", str(row["system"]))] if row.get("system") else []
    for pair in [*(row.get("history") or ()), (question, row["output"])]:
        if not isinstance(pair, list | tuple):
            raise Unfit("row is not in its layout", f"alpaca: history holds {pair!r}")
        asked, answered = pair
        turns += _text_turns("user", _text(asked)) + _text_turns("assistant", _text(answered))
    return _conversation(turns, tools_of(row.get("tools")))


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


def from_toucan(row: dict[str, Json]) -> Conversation:
    """Toucan: JSON text in `messages` and in `tools` (or `available_tools`).

    Calls are turns of role `tool_call`, or `function_call` of an assistant's message; results
    have the role `tool_response` or `function`; reasoning stands in `reasoning_content`.
    """
    turns = [
        turn
        for turn in chain.from_iterable(map(_openai_turns, value_in(row["messages"])))
        if not (turn.role == "system" and "tool_declare" in turn.text)
    ]
    return _conversation(turns, tools_of(row.get("tools") or row.get("available_tools")))


CONVERTERS: dict[Layout, Callable[[dict[str, Json]], Conversation]] = {
    "messages": from_messages,
    "sharegpt": from_sharegpt,
    "alpaca": from_alpaca,
    "glaive": from_glaive,
    "xlam": from_xlam,
    "hermes": from_sharegpt,
    "toucan": from_toucan,
}
assert set(CONVERTERS) == set(get_args(Layout))


def _conversation(turns: Iterable[Turn], tools: tuple[ToolSchema, ...]) -> Conversation:
    """Neighbouring assistant turns are one message: some layouts split a text from its calls.

    A system message that declares tools goes once they are read: what else it says explains a call
    format, and Qwen3 has words of its own for that.
    """
    turns = list(turns)
    if turns and turns[0].role == "system" and (declared := _declared_in(turns[0].text)):
        tools, turns = tools or declared, turns[1:]
    merged: list[Turn] = []
    for turn in turns:
        if turn.role == "call":
            turn = turn._replace(role="assistant")
        if turn.role == "user" and not turn.text.strip():
            raise Unfit("empty question", "a user says nothing")
        before = merged[-1] if merged else None
        if before and before.role == turn.role == "assistant" and (turn.calls or not before.calls):
            text = "\n".join(part for part in (before.text, turn.text) if part)
            merged[-1] = Turn("assistant", text, before.calls + turn.calls)
        else:
            merged.append(turn)
    if not merged:
        raise Unfit("no answer", "the conversation has no turn")
    if any(turn.calls for turn in merged):
        merged = list(_in_the_order_of_calls(merged))
    messages = tuple(
        Message(
            role=turn.role,
            content=turn.text,
            tool_calls=turn.calls and tuple(map(_without_id, turn.calls)),
        )
        for turn in merged
    )
    return Conversation(messages, tools)


def _without_id(call: ToolCall) -> ToolCall:
    return ToolCall(name=call.name, arguments=call.arguments) if call.id else call


def _in_the_order_of_calls(turns: Sequence[Turn]) -> Iterator[Turn]:
    """Each run of results as the calls before it ask for them. Raises Unfit where they do not
    belong together; one result for all calls is usual where there are no ids."""
    calls: tuple[ToolCall, ...] = ()
    for is_result, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        part = list(group)
        if is_result:
            ids, answered = [call.id for call in calls], [turn.call_id or "" for turn in part]
            if all(ids) and all(answered) and len(set(ids)) == len(ids):
                if sorted(ids) != sorted(answered):
                    detail = f"calls {', '.join(ids)}; results of {', '.join(answered)}"
                    raise Unfit("results do not fit the calls", detail)
                part.sort(key=lambda turn: ids.index(turn.call_id or ""))
            elif calls and len(part) not in (1, len(calls)):
                raise Unfit(
                    "results do not fit the calls", f"{len(calls)} calls, {len(part)} results"
                )
        yield from part
        calls = part[-1].calls


def _openai_turns(entry: dict[str, Json]) -> list[Turn]:
    if entry.get("weight") == 0:
        raise Unfit("a turn of weight 0", _text(entry.get("content")))
    text = _text(entry.get("content"))
    reasoning = entry.get("reasoning_content") or entry.get("reasoning") or entry.get("thinking")
    if reasoning:
        text = f"<think>\n{str(reasoning).strip()}\n</think>\n\n{text}"
    calls = value_in(entry.get("tool_calls") or ())
    if entry.get("function_call"):
        calls = (entry["function_call"],)
    if calls:
        return [Turn("call", text, tuple(map(call_of, calls)))]
    turns = _text_turns(str(entry["role"]), text)
    call_id = entry.get("tool_call_id")
    return [turn._replace(call_id=call_id) for turn in turns] if call_id else turns


def _text_turns(speaker: str, text: str) -> list[Turn]:
    """A turn whose calls and results, if any, stand in its text; several results are as many."""
    role = ROLES.get(speaker.lower())
    if role is None:
        raise Unfit("wrong role order", f"unknown role {speaker}")
    if role == "call":
        return [Turn("call", "", _calls_in(CALL_BLOCK.sub(r"\1", text)))]
    if role == "assistant" and "<tool_call>" in text:
        calls = tuple(chain.from_iterable(map(_calls_in, CALL_BLOCK.findall(text))))
        if not calls:
            raise Unfit(INVALID_CALL, f"an unclosed <tool_call>: {text}")
        return [Turn("call", CALL_BLOCK.sub("", text).strip(), calls)]
    if role in ("user", "tool") and "<tool_response>" in text:
        results = RESPONSE_BLOCK.findall(text)
        if results and not RESPONSE_BLOCK.sub("", text).strip():
            return [Turn("tool", result) for result in results]
    return [Turn(role, text)]


def _calls_in(text: str) -> tuple[ToolCall, ...]:
    """The call in a text, or the calls where it holds a list."""
    value = value_in(text, INVALID_CALL)
    return tuple(map(call_of, value if isinstance(value, list) else [value]))


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
    return value_in(text, INVALID_CALL)


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
