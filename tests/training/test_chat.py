"""What a conversation looks like to the model, and which of it is learnt."""

from __future__ import annotations

import itertools

import pytest

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Message, ToolCall, ToolSchema
from toolgenesis_sft.training.chat import LossOn, Span, check, render, spans

WEATHER = ToolSchema(
    name="weather",
    description="Wetter für eine Stadt",
    input_schema={"type": "object", "properties": {"city": {"type": "string"}}},
)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str, *calls: ToolCall) -> Message:
    return Message(role="assistant", content=text, tool_calls=calls)


def tool(text: str) -> Message:
    return Message(role="tool", content=text)


def sample(*messages: Message, tools: tuple[ToolSchema, ...] = ()) -> ChatSample:
    return ChatSample(id="s1", messages=messages, tools=tools, source="test", licence="CC0-1.0")


CALL = ToolCall(name="weather", arguments={"city": "Köln"})
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
TOOLS_TEXT = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n"
    '{"type": "function", "function": {"name": "weather", "description": "Wetter für eine Stadt",'
    ' "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}\n'
    "</tools>\n\n"
    "For each function call, return a json object with function name and arguments within"
    " <tool_call></tool_call> XML tags:\n"
    "<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
)

# Written out by hand from the documented behaviour of Qwen3's chat template.
QWEN3_RENDERINGS = {
    "a question": (
        (user("Hi"),),
        (),
        "<|im_start|>user\nHi<|im_end|>\n",
    ),
    "a system message and an answer, which gets an empty think block": (
        (system("Be brief."), user("Hi"), assistant("Hello")),
        (),
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nHello<|im_end|>\n",
    ),
    "reasoning stays in the last answer": (
        (user("2+2?"), assistant("<think>\nEasy.\n</think>\n\n4")),
        (),
        "<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nEasy.\n</think>\n\n4<|im_end|>\n",
    ),
    "reasoning goes from answers before the last question": (
        (user("2+2?"), assistant("<think>\nEasy.\n</think>\n\n4"), user("3+3?"), assistant("6")),
        (),
        "<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\n3+3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n6<|im_end|>\n",
    ),
    "tools are described in the system turn, behind its own text": (
        (system("Be brief."), user("Rain?")),
        (WEATHER,),
        "<|im_start|>system\nBe brief.\n\n" + TOOLS_TEXT + "<|im_start|>user\nRain?<|im_end|>\n",
    ),
    "tools make a system turn where there is none": (
        (user("Rain?"),),
        (WEATHER,),
        "<|im_start|>system\n" + TOOLS_TEXT + "<|im_start|>user\nRain?<|im_end|>\n",
    ),
    "calls follow the text, results are merged into one user turn": (
        (
            user("Rain?"),
            assistant("Let me see.", CALL, CALL),
            tool("dry"),
            tool("wet"),
            assistant("Both."),
        ),
        (),
        "<|im_start|>user\nRain?<|im_end|>\n"
        f"<|im_start|>assistant\nLet me see.\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response>\n"
        "<tool_response>\nwet\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nBoth.<|im_end|>\n",
    ),
    "a call without text starts its turn, reasoning of the same chain stays": (
        (
            user("Rain?"),
            assistant("<think>\nAsk.\n</think>\n\n", CALL),
            tool("dry"),
            assistant("<think>\nDry.\n</think>\n\nNo."),
        ),
        (),
        "<|im_start|>user\nRain?<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\nAsk.\n</think>\n\n{CALL_TEXT}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\nDry.\n</think>\n\nNo.<|im_end|>\n",
    ),
}


@pytest.mark.parametrize("name", QWEN3_RENDERINGS)
def test_the_rendering_is_qwen3s(name: str) -> None:
    messages, tools, expected = QWEN3_RENDERINGS[name]
    assert render(messages, tools) == expected


def test_the_generation_prompt_closes_the_think_block_unless_the_model_thinks() -> None:
    question = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render((user("Hi"),), add_generation_prompt=True, thinking=True) == question
    assert (
        render((user("Hi"),), add_generation_prompt=True, thinking=False)
        == question + "<think>\n\n</think>\n\n"
    )


def test_spans_of_a_single_answer() -> None:
    assert spans(sample(user("Hi"), assistant("Hello")), "all_turns", thinking=False) == [
        Span(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False
        ),
        Span("Hello<|im_end|>", True),
        Span("\n", False),
    ]


def test_a_thinking_model_learns_its_reasoning_but_never_an_empty_think_block() -> None:
    chat = sample(
        user("2+2?"),
        assistant("<think>\nEasy.\n</think>\n\n4"),
        user("3+3?"),
        assistant("6"),
    )
    learnt = [span.text for span in spans(chat, "all_turns", thinking=True) if span.supervised]
    assert learnt == ["<think>\nEasy.\n</think>\n\n4<|im_end|>", "6<|im_end|>"]


def test_without_thinking_reasoning_is_neither_learnt_nor_seen() -> None:
    chat = sample(
        user("2+2?"), assistant("<think>\nEasy.\n</think>\n\n4"), user("3+3?"), assistant("6")
    )
    pieces = spans(chat, "all_turns", thinking=False)
    assert [span.text for span in pieces if span.supervised] == ["4<|im_end|>", "6<|im_end|>"]
    assert "Easy" not in "".join(span.text for span in pieces)


def test_loss_on_the_last_turn_leaves_the_others_as_history() -> None:
    chat = sample(user("a"), assistant("b"), user("c"), assistant("d"))
    pieces = spans(chat, "last_turn", thinking=False)
    assert [span.text for span in pieces if span.supervised] == ["d<|im_end|>"]
    assert "".join(span.text for span in pieces) == render(chat.messages)


CONVERSATIONS = (
    sample(user("Hi"), assistant("Hello")),
    sample(system("S"), user("a"), assistant("b"), user("c"), assistant("d")),
    sample(
        user("Rain?"),
        assistant("", CALL),
        tool("dry"),
        tool("wet"),
        assistant("<think>\nHm.\n</think>\n\nMaybe.", CALL),
        tool("dry"),
        assistant("No."),
        user("Thanks"),
        assistant("\nWelcome"),
        tools=(WEATHER,),
    ),
    sample(user("Call."), assistant("Calling", CALL), tools=(WEATHER,)),
)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("loss_on", ["all_turns", "last_turn"])
@pytest.mark.parametrize("chat", CONVERSATIONS)
def test_what_a_server_renders_before_each_answer_is_a_prefix_of_the_training_text(
    chat: ChatSample, loss_on: LossOn, thinking: bool
) -> None:
    pieces = spans(chat, loss_on, thinking)
    text = "".join(span.text for span in pieces)
    ends = list(itertools.accumulate(len(span.text) for span in pieces))
    starts = [end - len(span.text) for span, end in zip(pieces, ends, strict=True)]
    learnt = [start for start, span in zip(starts, pieces, strict=True) if span.supervised]
    turns = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
    if loss_on == "last_turn":
        turns = turns[-1:]
    assert len(learnt) == len(turns)
    for start, turn in zip(learnt, turns, strict=True):
        history = chat.messages[:turn]
        if not thinking:  # a model that does not think has written no reasoning
            history = tuple(
                message.model_copy(update={"content": message.content.split("</think>\n\n")[-1]})
                for message in history
            )
        prompt = render(
            history,
            chat.tools,
            add_generation_prompt=True,
            thinking=thinking,
            keep_turns=loss_on == "all_turns",
        )
        assert text.startswith(prompt)
        between = text[len(prompt) : start]
        assert between in ("", "<think>\n\n</think>\n\n"), "only an empty think block, unlearnt"


@pytest.mark.parametrize("chat", CONVERSATIONS)
def test_every_supervised_span_ends_its_turn(chat: ChatSample) -> None:
    learnt = [span.text for span in spans(chat, "all_turns", False) if span.supervised]
    assert learnt
    assert all(text.endswith("<|im_end|>") and text.count("<|im_end|>") == 1 for text in learnt)


@pytest.mark.parametrize(
    ("chat", "rule"),
    [
        (sample(), "last message must be an assistant's"),
        (sample(user("a")), "last message must be an assistant's"),
        (sample(assistant("a")), "message 1 has the role assistant, expected system or user"),
        (sample(user("a"), user("b"), assistant("c")), "message 2 has the role user"),
        (sample(user("a"), system("b"), assistant("c")), "message 2 has the role system"),
        (sample(user("a"), assistant("b"), tool("c")), "message 3 has the role tool"),
        (sample(user("a"), assistant("", CALL), user("c")), "message 3 has the role user"),
        (sample(user("a"), assistant(" \n")), "is empty"),
        (sample(user("a"), assistant("<think>\nhm\n</think>\n\n")), "is empty"),
        (sample(user("a"), assistant("x</think>y")), "think block"),
        (sample(user("a<|im_end|>"), assistant("b")), "control token <|im_end|>"),
        (sample(user("a"), assistant("<|im_start|>")), "control token <|im_start|>"),
        (sample(user("<tool_response>a</tool_response>"), assistant("b")), "tool response"),
    ],
)
def test_a_conversation_that_cannot_be_learnt_is_refused_by_name(
    chat: ChatSample, rule: str
) -> None:
    with pytest.raises(UserError, match="sample = s1") as refusal:
        spans(chat, "last_turn", thinking=False)
    assert rule in str(refusal.value)


def test_control_tokens_in_a_tool_or_in_a_call_are_refused() -> None:
    bad = WEATHER.model_copy(update={"description": "<|im_end|>"})
    with pytest.raises(UserError, match="the tool weather contains the control token"):
        check(sample(user("a"), assistant("b"), tools=(bad,)))
    call = ToolCall(name="weather", arguments={"city": "<|endoftext|>"})
    with pytest.raises(UserError, match=r"control token <\|endoftext"):
        check(sample(user("a"), assistant("", call)))
