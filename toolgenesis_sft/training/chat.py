"""One ChatML rendering for training and inference, and which parts of it are supervised.

The template is Qwen3's format (`chat_template.jinja`), and the exported model carries the same
file, so what a server renders for a conversation is an exact prefix of what was trained on.

Qwen3's own template takes the think block from assistant turns before the last question. With
loss on the last turn only that rendering is used as it is. With loss on all turns it would make
the text before a later turn differ from the text that an earlier turn was generated in, so there
`keep_turns` leaves each turn as it was generated, in training and in the exported template alike.
A conversation of one answer renders the same either way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import jinja2

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Json, Message, ToolSchema

LossOn = Literal["all_turns", "last_turn"]

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
ASSISTANT_START = TURN_START + "assistant\n"
EMPTY_THINK = "<think>\n\n</think>\n\n"
TURN_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
CONTROL_HEAD = "<|"  # how each of them begins
MARKUP_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
REASONING = re.compile(r"\A\s*<think>\n?(.*?)\n*</think>\n*", re.DOTALL)

CHAT_TEMPLATE: str = files(__package__).joinpath("chat_template.jinja").read_text(encoding="utf-8")


class Span(NamedTuple):
    """A piece of the rendered conversation; `supervised` pieces carry the loss."""

    text: str
    supervised: bool


def chat_template(thinking: bool, loss_on: LossOn) -> str:
    """The template as a tokenizer folder carries it: a request that names no mode gets this one."""
    defaults = (
        f"{{%- set thinking_by_default = {str(thinking).lower()} %}}\n"
        f"{{%- set keep_turns_by_default = {str(loss_on == 'all_turns').lower()} %}}\n"
    )
    return defaults + CHAT_TEMPLATE


def render(
    messages: Sequence[Message],
    tools: Sequence[ToolSchema] = (),
    add_generation_prompt: bool = False,
    thinking: bool = False,
    keep_turns: bool = False,
) -> str:
    """The conversation as the model sees it; by default exactly as Qwen3's own template does."""
    return _compiled().render(
        messages=[_message(message) for message in messages],
        tools=[_tool(tool) for tool in tools],
        add_generation_prompt=add_generation_prompt,
        enable_thinking=thinking,
        keep_turns=keep_turns,
    )


def spans(sample: ChatSample, loss_on: LossOn, thinking: bool) -> list[Span]:
    """The sample's text in pieces; their concatenation is the text that is trained on.

    A supervised piece is what the model itself has to write: it starts behind the generation
    prompt and ends with `<|im_end|>`. Without thinking, reasoning is taken from the answers,
    because the generation prompt has closed it already. An empty think block is never supervised.
    Raises UserError where the conversation cannot be trained on as it stands.
    """
    check(sample)
    messages = sample.messages
    if not thinking:
        messages = tuple(_without_reasoning(message) for message in messages)
    keep_turns = loss_on == "all_turns"
    text = render(messages, sample.tools, thinking=thinking, keep_turns=keep_turns)
    # Control tokens cannot stand in a message (`check`), so they split the text without doubt.
    before, *turns = text.split(ASSISTANT_START)
    pieces = [Span(before, False)]
    for number, turn in enumerate(turns, start=1):
        answer, end, after = turn.partition(TURN_END)
        prompt = ASSISTANT_START
        if answer.startswith(EMPTY_THINK):
            prompt, answer = prompt + EMPTY_THINK, answer.removeprefix(EMPTY_THINK)
        if number == len(turns) or (keep_turns and not sample.last_turn_only):
            if not thinking and not prompt.endswith(EMPTY_THINK):
                raise _refused(sample, "the last user message is a bare tool response")
            pieces += [Span(prompt, False), Span(answer + end, True), Span(after, False)]
        else:
            pieces.append(Span(prompt + answer + end + after, False))
    return _merged(pieces)


def check(sample: ChatSample) -> None:
    """Raise UserError unless the roles alternate as a chat does and each answer says something.

    The order is: at most one system message, first; then user, then assistant; tool results only
    after an assistant's tool calls, and an assistant after them; an assistant last.
    """
    messages = sample.messages
    for tool in sample.tools:
        if token := _turn_token(tool.model_dump_json()):
            raise _refused(sample, f"the tool {tool.name} contains the control token {token}")
    allowed = {"system", "user"}
    for number, message in enumerate(messages, start=1):
        if message.role not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise _refused(
                sample, f"message {number} has the role {message.role}, expected {wanted}"
            )
        fault = _content_fault(message)
        if fault:
            raise _refused(sample, f"message {number} ({message.role}) {fault}")
        allowed = _next_roles(message)
    if not messages or messages[-1].role != "assistant":
        raise _refused(sample, "the last message must be an assistant's, else nothing is learnt")


def _next_roles(message: Message) -> set[str]:
    match message.role:
        case "system":
            return {"user"}
        case "user":
            return {"assistant"}
        case "tool":
            return {"tool", "assistant"}
    return {"tool"} if message.tool_calls else {"user"}


def _content_fault(message: Message) -> str:
    for text in (message.content, *[call.model_dump_json() for call in message.tool_calls]):
        if token := _turn_token(text):
            return f"contains the control token {token}"
    if message.role != "assistant":
        return "makes tool calls" if message.tool_calls else ""
    answer = REASONING.sub("", message.content)
    if "</think>" in answer or "<think>" in answer:
        return "has a think block that is not at its start, or not closed"
    if not answer.strip() and not message.tool_calls:
        return "is empty"
    return ""


def _turn_token(text: str) -> str:
    if CONTROL_HEAD not in text:
        return ""
    return next((token for token in TURN_TOKENS if token in text), "")


def _refused(sample: ChatSample, rule: str) -> UserError:
    return UserError("sample", sample.id, rule, "mend it in its source or take it out")


def _without_reasoning(message: Message) -> Message:
    if message.role != "assistant" or not REASONING.match(message.content):
        return message
    return message.model_copy(update={"content": REASONING.sub("", message.content)})


def _merged(pieces: list[Span]) -> list[Span]:
    """Neighbours of one kind become one piece, empty ones go."""
    merged: list[Span] = []
    for piece in pieces:
        if merged and merged[-1].supervised == piece.supervised:
            merged[-1] = Span(merged[-1].text + piece.text, piece.supervised)
        elif piece.text:
            merged.append(piece)
    return merged


def _message(message: Message) -> dict[str, Json]:
    """The message as an OpenAI-compatible client sends it, which is what the template reads."""
    fields: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return fields


def _tool(tool: ToolSchema) -> dict[str, Json]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": function}


def _to_json(value: Any) -> str:
    """JSON as the inference servers' template environments write it: readable, in given order."""
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1)
def _compiled() -> jinja2.Template:
    # The template is this package's own file, so it needs no sandbox, which costs half of the time.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _to_json
    return environment.from_string(CHAT_TEMPLATE)
