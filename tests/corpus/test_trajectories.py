"""One small file of each layout (tests/corpus/layouts/) becomes the same conversation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolgenesis_sft.config import Train
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.trajectories import CONVERTERS, Conversation, convert, detect
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.training.chat import render
from toolgenesis_sft.training.tokenizer import load_tokenizer, train_tokenizer
from toolgenesis_sft.training.tokens import tokenize

LAYOUTS = Path(__file__).with_name("layouts")
QUESTION = "Will it rain in Ghent tomorrow?"
ANSWER = "Yes, take an umbrella: 4 mm are expected in Ghent."
RESULT = '{"rain_mm": 4}'
ARGUMENTS = {"city": "Ghent", "days": 1}
WITH_RESULTS = sorted(set(CONVERTERS) - {"xlam"})


def rows(layout: str) -> list[dict]:
    text = (LAYOUTS / f"{layout}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def first(layout: str) -> Conversation:
    return convert(rows(layout)[0], layout)


@pytest.mark.parametrize("layout", WITH_RESULTS)
def test_a_tool_use_conversation_is_the_same_from_every_layout(layout: str) -> None:
    conversation = first(layout)
    said = [message for message in conversation.messages if message.role != "system"]
    assert [message.role for message in said] == ["user", "assistant", "tool", "assistant"]
    user, call, result, answer = said
    assert user.content == QUESTION
    assert [(c.name, c.arguments) for c in call.tool_calls] == [("get_forecast", ARGUMENTS)]
    assert result.content == RESULT
    assert answer.content.endswith(ANSWER)
    [tool] = conversation.tools
    assert (tool.name, tool.description) == ("get_forecast", "Forecast of a city.")
    assert tool.input_schema["required"] == ["city"]


@pytest.mark.parametrize("layout", sorted(CONVERTERS))
def test_every_row_renders_with_its_tools_in_qwens_form(layout: str) -> None:
    for row in rows(layout):
        conversation = convert(row, layout)
        text = render(conversation.messages, conversation.tools)
        assert text.endswith("<|im_end|>\n")
        assert ("# Tools" in text) == bool(conversation.tools)


@pytest.mark.parametrize("layout", sorted(CONVERTERS))
def test_the_layout_is_known_by_its_columns(layout: str) -> None:
    assert {detect(row) for row in rows(layout)} == {layout}


def test_xlam_has_calls_without_results_and_types_of_python() -> None:
    user, call = first("xlam").messages
    assert user.content == QUESTION
    assert call.tool_calls[0].arguments == ARGUMENTS
    schema = first("xlam").tools[0].input_schema
    assert {name: facts["type"] for name, facts in schema["properties"].items()} == {
        "city": "string",
        "days": "integer",
        "hours": "array",
    }
    assert schema["required"] == ["city"]


def test_what_a_format_explains_about_itself_is_left_out() -> None:
    """Qwen3 declares tools in its own words; two explanations would contradict each other."""
    for layout in ("hermes", "glaive", "alpaca", "toucan"):
        assert all(message.role != "system" for message in first(layout).messages), layout
    kept = convert(rows("glaive")[1], "glaive")
    assert kept.messages[0].role == "system"


def test_reasoning_becomes_a_think_block() -> None:
    assert first("toucan").messages[-1].content == f"<think>\n4 mm is rain.\n</think>\n\n{ANSWER}"
    assert first("alpaca").messages[1].content.startswith("<think>\nI need the forecast.")


def test_text_before_a_call_stays_with_it() -> None:
    call = first("hermes").messages[1]
    assert call.content == "I will look it up."
    assert call.tool_calls


TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}


ODD_TOOL = {"name": "f", "parameters": {"properties": ["n"], "required": "n"}}
PICTURE = {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]}


NAN = ("invalid tool call", "NaN is no JSON")


def with_call(arguments: object, name: str = "f") -> dict:
    return {
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "tool_calls": [{"name": name, "arguments": arguments}]},
        ],
        "tools": [TOOL],
    }


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (with_call('{"n": '), "invalid tool call", "neither JSON nor a literal"),
        (with_call("[1, 2]"), "invalid tool call", "arguments are no object"),
        (with_call({"n": "two"}), "invalid tool call", 'n = "two" is no integer'),
        (with_call({"n": True}), "invalid tool call", "n = true is no integer"),
        (with_call({"m": 2}), "invalid tool call", "m is not an argument"),
        (with_call({"n": 2}, "g"), "invalid tool call", "g is not declared"),
        ({"text": "hi"}, "a column of the layout is missing", "messages"),
        ({"messages": 7}, "row is not in its layout", "messages"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "wrong role order", "narrator"),
        ({"messages": []}, "no answer", "no turn"),
        ({"messages": None}, "row is not in its layout", "messages"),
        ({"messages": [None]}, "row is not in its layout", "NoneType"),
        ({"messages": [{"content": "x"}]}, "a column of the layout is missing", "role"),
        (with_call({"n": 1}) | {"tools": {"name": "f"}}, "row is not in its layout", "no list"),
        (with_call({"n": 1}) | {"tools": [None]}, "row is not in its layout", "NoneType"),
        (with_call({"n": 1}) | {"tools": [ODD_TOOL]}, "row is not in its layout", "no object"),
        (with_call('{"n": NaN}'), "invalid tool call", "n = NaN is no integer"),
        (with_call({"n": [float("nan")]}, "g") | {"tools": [{"name": "g"}]}, *NAN),
        ({"messages": [PICTURE]}, "not text alone", "image_url"),
        ([1], "row is no JSON object", "[1]"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_its_reason(row, reason, detail) -> None:
    with pytest.raises(Unfit) as caught:
        convert(row, "messages")
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_text_parts_are_joined_and_no_content_is_none() -> None:
    parts = [{"type": "text", "text": "Twice "}, {"type": "text", "text": "four?"}]
    answer = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]}
    row = {"messages": [{"role": "user", "content": parts}, answer], "tools": [TOOL]}
    asked, called = convert(row, "messages").messages
    assert asked.content == "Twice four?"
    assert (called.content, len(called.tool_calls)) == ("", 1)


CITY = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
    },
}


def asked(arguments: object, **more: object) -> dict:
    return with_call(arguments) | {"tools": [CITY]} | more


def talk(*turns: tuple[str, str]) -> list[dict]:
    return [{"from": speaker, "value": text} for speaker, text in turns]


def roles_and_texts(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def parallel(*results: tuple[str, str]) -> dict:
    calls = [{"id": i, "function": {"name": "f", "arguments": {"n": 1}}} for i in ("a", "b")]
    return {
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "tool_calls": calls},
            *({"role": "tool", "tool_call_id": i, "content": text} for i, text in results),
            {"role": "assistant", "content": "done"},
        ],
        "tools": [TOOL],
    }


def test_results_of_parallel_calls_are_put_in_the_order_of_the_calls() -> None:
    """Qwen3's form has no ids: the order alone says which result answers which call."""
    messages = convert(parallel(("b", "second"), ("a", "first")), "messages").messages
    assert [m.content for m in messages if m.role == "tool"] == ["first", "second"]


@pytest.mark.parametrize("results", [[("a", "x")], [("a", "x"), ("c", "y")], [("", "x")] * 3])
def test_results_that_do_not_fit_their_calls_are_refused(results: list[tuple[str, str]]) -> None:
    with pytest.raises(Unfit, match="results do not fit the calls"):
        convert(parallel(*results), "messages")


def test_a_null_that_the_schema_does_not_take_is_an_argument_that_was_not_given() -> None:
    """Tables of typed columns give each call the arguments of all others, as nulls."""
    [_, call] = convert(asked({"city": "Ghent", "unit": None, "zip": None}), "messages").messages
    assert call.tool_calls[0].arguments == {"city": "Ghent"}
    [_, call] = convert(asked({"city": "Ghent", "days": None}), "messages").messages
    assert call.tool_calls[0].arguments == {"city": "Ghent", "days": None}


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        ({"city": None}, "city = null is no string"),
        ({"city": "Ghent", "days": "2"}, 'days = "2" is no integer or null'),
        ({"city": "Ghent", "unit": "K"}, 'unit = "K" is none of its enum'),
    ],
)
def test_arguments_are_held_against_unions_and_enums(arguments: dict, detail: str) -> None:
    with pytest.raises(Unfit) as caught:
        convert(asked(arguments), "messages")
    assert detail in caught.value.detail


def test_a_declaration_keeps_its_null_default_and_loses_keys_without_a_value() -> None:
    tool = {"name": "f", "parameters": {"properties": {"n": {"default": None, "enum": None}}}}
    row = {"messages": with_call({})["messages"], "tools": [tool]}
    assert convert(row, "messages").tools[0].input_schema == {
        "properties": {"n": {"default": None}}
    }


def test_hermes_form_is_understood_in_messages_too() -> None:
    """<tools> in the system message, and a list of calls in one <tool_call> block."""
    call = '{"name": "f", "arguments": {"n": 1}}'
    row = {
        "messages": [
            {"role": "system", "content": f"Call functions. <tools>[{json.dumps(TOOL)}]</tools>"},
            {"role": "user", "content": "twice"},
            {"role": "assistant", "content": f"<tool_call>[{call}, {call}]</tool_call>"},
            {
                "role": "tool",
                "content": "<tool_response>1</tool_response><tool_response>2</tool_response>",
            },
            {"role": "assistant", "content": "1 and 2"},
        ]
    }
    conversation = convert(row, "messages")
    assert [tool.name for tool in conversation.tools] == ["f"]
    assert roles_and_texts(conversation) == [
        ("user", "twice"),
        ("assistant", ""),
        ("tool", "1"),
        ("tool", "2"),
        ("assistant", "1 and 2"),
    ]


def test_sharegpt_may_say_role_and_content() -> None:
    row = {"conversations": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Ho"}]}
    assert roles_and_texts(convert(row, "sharegpt")) == [("user", "Hi"), ("assistant", "Ho")]


def test_tools_are_found_under_openais_older_name() -> None:
    row = with_call({"n": 1})
    row["functions"] = row.pop("tools")
    assert [tool.name for tool in convert(row, "messages").tools] == ["f"]


@pytest.mark.parametrize(
    ("layout", "row", "reason"),
    [
        ("alpaca", {"instruction": "a", "output": "b", "history": [["q"]]}, "not in its layout"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [{"q": "a"}]}, "not in its"),
        ("messages", asked({}, tools=[{"name": "f", "parameters": {"required": [[1]]}}]), "layout"),
        ("messages", {"messages": "[not json"}, "row is not in its layout"),
        ("sharegpt", {"conversations": talk(("human", " "), ("gpt", "x"))}, "empty question"),
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "weight": 0},
                ]
            },
            "a turn of weight 0",
        ),
    ],
)
def test_odd_rows_are_counted_and_never_stop_a_build(layout: str, row: dict, reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        convert(row, layout)


def test_xlam_knows_optional_types() -> None:
    tools = [{"name": "f", "parameters": {"a": {"type": "Optional[int]"}, "b": {"type": "str"}}}]
    answers = [{"name": "f", "arguments": {"b": "x"}}]
    row = {"query": "q", "tools": json.dumps(tools), "answers": json.dumps(answers)}
    schema = convert(row, "xlam").tools[0].input_schema
    assert (schema["required"], schema["properties"]["a"]["type"]) == (["b"], "integer")


@pytest.mark.parametrize(
    ("loss_on", "supervised"),
    [
        (
            "all_turns",
            [
                '<tool_call>\n{"name": "get_forecast", "arguments": {"city": "Ghent", "days": 1}}'
                "\n</tool_call><|im_end|>",
                ANSWER + "<|im_end|>",
            ],
        ),
        ("last_turn", [ANSWER + "<|im_end|>"]),
    ],
)
def test_the_mask_supervises_exactly_the_assistants_spans(
    loss_on: str, supervised: list[str], tmp_path: Path
) -> None:
    """Token by token: every token is of one side, and the supervised ones spell the answers."""
    conversation = first("messages")
    sample = ChatSample(
        id="x",
        messages=conversation.messages,
        tools=conversation.tools,
        kind="trajectory",
        source="layouts",
        licence="Apache-2.0",
    )
    train = Train(loss_on=loss_on)
    text = render(sample.messages, sample.tools)
    train_tokenizer([text], 600, tmp_path, False, 4096)
    tokenizer = load_tokenizer(tmp_path)
    tokens = tokenize(sample, tokenizer, train)
    spelled: list[str] = []
    before = False
    for token, target in zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True):
        if target and not before:
            spelled.append("")
        if target:
            spelled[-1] += tokenizer.decode([token], skip_special_tokens=False)
        before = target
    assert spelled == supervised
