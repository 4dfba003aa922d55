"""The OpenAI chat protocol: our records as request bodies, and answers as completions.

Servers take it freely: what a completion can do without may be missing or of another type. Half of
a surrogate pair, which JSON can write and no file or request can carry, becomes U+FFFD in a text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolgenesis_sft.records import Json, Message, ToolCall, ToolSchema

CUT = frozenset({"length", "max_tokens", "model_length"})  # reasons to stop, by server


@dataclass(frozen=True)
class Completion:
    """One answer. `text` is raw: think blocks and fences are still in it. drawn_without: what of
    `seed` and `temperature` the server refused."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: Literal["stop", "length", "error"]
    num_prompt_tokens: int
    num_completion_tokens: int
    elapsed_s: float
    mean_logprob: float | None = None
    invalid_tool_calls: tuple[str, ...] = ()
    drawn_without: tuple[str, ...] = ()

    def as_message(self) -> Message:
        """The assistant's turn, to go on from."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls)


def message_body(message: Message) -> dict[str, Json]:
    body: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def tool_body(tool: ToolSchema) -> dict[str, Json]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema or {"type": "object", "properties": {}},
        },
    }


def well_formed(content: bytes) -> dict[str, Any] | None:
    """The answer, where it is a chat completion with at least one choice that has a message."""
    try:
        answer: dict[str, Any] = json.loads(content)
    except (ValueError, RecursionError):
        return None
    match answer:
        case {"choices": [{"message": {"content": str() | list() | None}}, *_]}:
            return answer
        case {"choices": [{"message": {"tool_calls": list()}}, *_]}:
            return answer
    return None


def read_completion(
    answer: dict[str, Any], elapsed_s: float, end_markers: Sequence[str] = ()
) -> Completion:
    """The first choice of a well-formed answer. end_markers are cut from the end of its text."""
    choice = answer["choices"][0]
    message = choice["message"]
    reason = finish_reason(choice.get("finish_reason"))
    text, thought = text_of(message.get("content"))
    for marker in end_markers:
        text = text.removesuffix(marker)
    # Servers with a reasoning parser take the think block out; the raw answer has it.
    apart = message.get("reasoning_content") or message.get("reasoning")
    thought = apart if isinstance(apart, str) and apart else thought
    text, thought = whole_characters(text), whole_characters(thought)
    if thought:
        cut = reason == "length" and not text
        text = f"<think>\n{thought}" + ("" if cut else f"\n</think>\n\n{text}")
    calls, invalid = tool_calls(message.get("tool_calls"))
    usage = answer.get("usage")
    return Completion(
        text=text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        finish_reason=reason,
        num_prompt_tokens=count(usage, "prompt_tokens"),
        num_completion_tokens=count(usage, "completion_tokens"),
        elapsed_s=elapsed_s,
        mean_logprob=mean_logprob(choice.get("logprobs")),
    )


def text_of(content: Any) -> tuple[str, str]:
    """Text and thought of a message's content, which some servers send as a list of parts."""
    if isinstance(content, str):
        return content, ""
    text, thought = [], []
    for part in content or ():
        match part:
            case {"type": "thinking" | "reasoning", **rest}:
                said = rest.get("thinking") or rest.get("text")
                thought.append(text_of(said)[0])
            case str() | {"text": str()}:
                text.append(part if isinstance(part, str) else part["text"])
    return "".join(text), "".join(thought)


def whole_characters(text: str) -> str:
    """The text with the halves of surrogate pairs put together, and those left over replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tool_calls(raw: Any) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    """The calls that can be made, and the text of those whose arguments are no JSON object, or
    none that can be sent on."""
    valid: list[ToolCall] = []
    invalid: list[str] = []
    for index, call in enumerate(raw if isinstance(raw, list) else ()):
        match call:
            case {"function": {"name": str(name), "arguments": arguments}}:
                try:
                    value = json.loads(arguments) if isinstance(arguments, str) else arguments
                except (ValueError, RecursionError):
                    value = None
                number = str(call.get("id") or f"call_{index}")
                if isinstance(value, dict) and can_be_sent([name, number, value]):
                    valid.append(ToolCall(name=name, arguments=value, id=number))
                    continue
        invalid.append(json.dumps(call)[:2000])
    return tuple(valid), tuple(invalid)


def can_be_sent(value: Json) -> bool:
    """Whether its JSON has a form in UTF-8, which half of a surrogate pair has not."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def finish_reason(raw: Any) -> Literal["stop", "length", "error"]:
    """A content filter's stop is an `error`: the model was not allowed to finish."""
    reason = raw.lower() if isinstance(raw, str) else ""
    if reason in CUT:
        return "length"
    return "error" if reason == "content_filter" else "stop"


def mean_logprob(raw: Any) -> float | None:
    """Mean natural log-probability of the answer's tokens; None where the server gives none."""
    try:
        values = [float(token["logprob"]) for token in raw["content"]]
    except (TypeError, KeyError, ValueError):
        return None
    return sum(values) / len(values) if values else None


def count(usage: Any, name: str) -> int:
    """A number of tokens; 0 where the server does not tell."""
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if isinstance(number, int) and number > 0 else 0
