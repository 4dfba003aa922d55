"""Answers as servers really send them: what is missing or of another type is no reason to fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolgenesis_sft.chat_protocol import Completion, mean_logprob, read_completion, well_formed


def read(message: dict[str, Any], end_markers: tuple[str, ...] = (), **choice: Any) -> Completion:
    usage = choice.pop("usage", None)
    answer = {"choices": [{"message": message, **choice}], "usage": usage}
    whole = well_formed(json.dumps(answer).encode())
    assert whole is not None
    return read_completion(whole, 0.5, end_markers)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "import "}, {"type": "text", "text": "this"}], "import this"),
        (["import ", "this"], "import this"),
        ([{"type": "image_url", "image_url": {}}, 3], ""),
        ([], ""),
        (None, ""),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "code"}],
            "<think>\nhm\n</think>\n\ncode",
        ),
        ([{"type": "reasoning", "text": "hm"}, "code"], "<think>\nhm\n</think>\n\ncode"),
    ],
)
def test_content_in_parts_is_their_text(content: Any, text: str) -> None:
    assert read({"content": content}).text == text


@pytest.mark.parametrize(
    "usage",
    [None, [], "many", {}, {"completion_tokens": "abc"}, {"completion_tokens": -1}],
    ids=str,
)
def test_tokens_that_are_not_told_are_counted_as_none(usage: Any) -> None:
    assert read({"content": "a"}, usage=usage).num_completion_tokens == 0


@pytest.mark.parametrize(
    ("reason", "read_as"),
    [
        ("stop", "stop"),
        (None, "stop"),
        ("tool_calls", "stop"),
        ({"type": "stop"}, "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "error"),
    ],
)
def test_the_reason_to_stop_has_three_values(reason: Any, read_as: str) -> None:
    assert read({"content": "a"}, finish_reason=reason).finish_reason == read_as


def test_an_answer_of_tool_calls_alone_has_no_text() -> None:
    call = {"id": "x", "function": {"name": "write_file", "arguments": '{"code": "import this"}'}}
    completion = read({"tool_calls": [call, {"function": None}]})
    assert completion.text == ""
    assert [call.arguments for call in completion.tool_calls] == [{"code": "import this"}]
    assert len(completion.invalid_tool_calls) == 1
    assert read({"content": "a", "tool_calls": {"not": "a list"}}).tool_calls == ()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"content": "a\ud800b\udc00"}, "a\ufffdb\ufffd"),
        ({"content": ["\ud83d", "\ude00"]}, "\U0001f600"),
        (
            {"content": "a", "reasoning_content": "\udfff"},
            "<think>\n\ufffd\n</think>\n\na",
        ),
        ({"content": "größer \0 \U0001f600 \ufeff"}, "größer \0 \U0001f600 \ufeff"),
    ],
    ids=["halves", "pair in two parts", "in a thought", "whole characters"],
)
def test_half_a_surrogate_pair_is_replaced_so_that_the_answer_can_be_kept(
    said: dict[str, Any], text: str
) -> None:
    completion = read(said)
    assert completion.text == text
    assert completion.as_message().to_line()


@pytest.mark.parametrize("part", ["name", "arguments", "id"])
def test_a_call_with_half_a_surrogate_pair_cannot_be_made(part: str) -> None:
    texts = {"id": "x", "name": "add", "arguments": "b", part: "\ud800"}
    arguments = json.dumps({"a": texts["arguments"]})
    function = {"name": texts["name"], "arguments": arguments}
    completion = read({"tool_calls": [{"id": texts["id"], "function": function}]})
    assert completion.tool_calls == ()
    assert len(completion.invalid_tool_calls) == 1


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{}]},
        {"content": [{"logprob": None}]},
        {"tokens": ["a"], "token_logprobs": [-1.0]},
    ],
)
def test_log_probabilities_in_another_shape_are_none(raw: Any) -> None:
    assert mean_logprob(raw) is None


@pytest.mark.parametrize(
    "content", [b"", b"data: {}\n\n", b"[" * 100_000, b"[]", b'{"error": "busy"}', b"\xff"]
)
def test_what_is_no_completion_is_told_apart(content: bytes) -> None:
    assert well_formed(content) is None
