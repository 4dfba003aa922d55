"""The client of every model call: what is retried, what is given up, what is never an answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.generation.scripted_server import Fault, ScriptedServer, call, reply
from toolgenesis_sft import client as client_module
from toolgenesis_sft.chat_protocol import Completion, mean_logprob, message_body
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.errors import HarnessFault, ModelFault, UserError
from toolgenesis_sft.records import Message, ToolCall, ToolSchema

QUESTION = (Message(role="user", content="Write a server."),)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.01)


def ask(client: ModelClient, times: int = 1, **options: Any) -> list[Completion]:
    options = {"max_tokens": 50, "temperature": 0.5, "seed": 7, **options}

    async def go() -> list[Completion]:
        async with client:
            return await asyncio.gather(
                *(client.complete(QUESTION, **options) for _ in range(times))
            )

    return asyncio.run(go())


def scripted(*said: dict[str, Any] | Fault) -> Callable[[dict[str, Any]], dict[str, Any] | Fault]:
    """The given answers in order; the last one again and again."""
    following = itertools.chain(said, itertools.repeat(said[-1]))
    return lambda body: next(following)


def test_a_request_carries_the_messages_the_sampling_and_the_seed() -> None:
    with ScriptedServer(scripted(reply("fine"))) as server:
        [completion] = ask(ModelClient(server.url, "scripted", extra_body={"own": 1}))
    assert completion.text == "fine"
    assert (completion.num_prompt_tokens, completion.num_completion_tokens) == (10, 1)
    assert server.bodies == [
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "Write a server."}],
            "max_tokens": 50,
            "temperature": 0.5,
            "seed": 7,
            "own": 1,
        }
    ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 429, headers=("Retry-After: 0",)),
        Fault("status", 500),
        Fault("status", 503, headers=("Retry-After: soon",)),
        Fault("cut"),
        Fault("garbage"),
    ],
    ids=lambda fault: f"{fault.kind}_{fault.status}",
)
def test_a_fault_that_passes_is_retried_and_counted_once(fault: Fault) -> None:
    with ScriptedServer(scripted(fault, fault, reply("at last"))) as server:
        client = ModelClient(server.url, "scripted")
        [completion] = ask(client)
    assert completion.text == "at last"
    assert (client.usage.num_answers, client.usage.num_retries) == (1, 2)
    assert client.usage.num_completion_tokens == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("status", 500), "status_500"),
        (Fault("status", 429), "status_429"),
        (Fault("cut"), "endpoint_unreachable"),
        (Fault("garbage"), "invalid_answer"),
        (Fault("endless"), "endless_answer"),
        (Fault("drip"), "request_timeout"),
        (Fault("hang"), "request_timeout"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value,
)
def test_a_fault_that_stays_is_the_harness_s_and_no_answer(
    fault: Fault, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 2**20)
    with ScriptedServer(scripted(fault)) as server:
        client = ModelClient(server.url, "scripted", request_timeout_s=2, max_attempts=3)
        with pytest.raises(HarnessFault) as raised:
            ask(client)
    assert raised.value.kind == kind
    assert client.usage.num_answers == 0


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}])
def test_json_that_is_no_completion_is_no_answer(body: dict[str, Any]) -> None:
    with ScriptedServer(scripted(body)) as server, pytest.raises(HarnessFault) as raised:
        ask(ModelClient(server.url, "scripted", max_attempts=2))
    assert raised.value.kind == "invalid_answer"


def test_an_endpoint_that_is_down_is_named() -> None:
    with ScriptedServer(scripted(reply(""))) as server:
        url = server.url
    with pytest.raises(HarnessFault, match=f"endpoint_unreachable: {url}"):
        ask(ModelClient(url, "scripted", max_attempts=2))


def test_a_refused_key_is_told_by_its_variable_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    said = Fault("status", 401, text="wrong key sk-very-secret")
    with ScriptedServer(scripted(said)) as server:
        client = ModelClient(server.url, "scripted", key_variable="SOME_KEY")
        with pytest.raises(HarnessFault) as raised:
            ask(client)
    assert raised.value.kind == "key_refused"
    assert "$SOME_KEY" in str(raised.value)
    assert "authorization: bearer sk-very-secret" in server.headers[0].lower()
    assert len(server.bodies) == 1
    assert "sk-very-secret" not in str(raised.value) + repr(client) + caplog.text


def test_a_server_s_words_are_shown_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    said = [Fault("status", status, text="of sk-very-secret") for status in (404, 500)]
    for fault in said:
        with ScriptedServer(scripted(fault)) as server, pytest.raises(HarnessFault) as raised:
            ask(ModelClient(server.url, "scripted", key_variable="SOME_KEY", max_attempts=1))
        assert "sk-very-secret" not in str(raised.value)
        assert "[key]" in str(raised.value)


def test_a_key_that_is_not_set_is_an_error_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="SOME_KEY: is not set; export SOME_KEY"):
        ModelClient("http://127.0.0.1:1/v1", "m", key_variable="SOME_KEY")


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very secret", "sk-vérysecret"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(UserError, match=r"SOME_KEY: holds a space, a line break") as raised:
        ModelClient("http://127.0.0.1:1/v1", "m", key_variable="SOME_KEY")
    assert "sk-" not in str(raised.value)


def test_a_key_that_a_server_repeats_across_the_end_of_what_is_shown_is_taken_out_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    said = Fault("status", 404, text=" " * 3_970 + "sk-very-secret")
    with ScriptedServer(scripted(said)) as server, pytest.raises(HarnessFault) as raised:
        ask(ModelClient(server.url, "scripted", key_variable="SOME_KEY"))
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000/v1", "http://", "http://a:port/v1", "ftp://a/v1"]
)
def test_what_is_no_url_of_an_endpoint_is_an_error_for_the_user(url: str) -> None:
    with pytest.raises(UserError, match="is no URL of an endpoint; write it like http://"):
        ModelClient(url, "m")


def test_a_prompt_beyond_the_context_is_the_model_s_fault() -> None:
    said = Fault("status", 400, text="This model's maximum context length is 2048 tokens")
    with ScriptedServer(scripted(said)) as server, pytest.raises(ModelFault) as raised:
        ask(ModelClient(server.url, "scripted"))
    assert raised.value.kind == "context_exhausted"


def test_a_prompt_that_fits_gets_what_is_left_of_the_context() -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "max_tokens" in body:
            return Fault("status", 400, text="context_length_exceeded")
        return reply("short", finish_reason="length")

    with ScriptedServer(script) as server:
        [completion] = ask(ModelClient(server.url, "scripted"))
    assert (completion.text, completion.finish_reason) == ("short", "length")


def test_a_request_that_is_refused_is_not_repeated() -> None:
    said = Fault("status", 404, text="no such model")
    with (
        ScriptedServer(scripted(said)) as server,
        pytest.raises(HarnessFault, match=r"request_refused: .* answered 404: .*no such model"),
    ):
        ask(ModelClient(server.url, "scripted"))
    assert len(server.bodies) == 1


def test_a_server_that_refuses_logprobs_is_asked_without_them() -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "logprobs" in body:
            return Fault("status", 400, text="unknown field logprobs")
        return reply("fine")

    with ScriptedServer(script) as server:
        client = ModelClient(server.url, "scripted", concurrency=1)
        answers = ask(client, times=3, logprobs=True)
    assert [answer.mean_logprob for answer in answers] == [None, None, None]
    assert len(server.bodies) == 4  # it is told once


def test_max_tokens_goes_under_its_second_name_where_the_first_is_refused() -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "max_tokens" in body:
            return Fault("status", 400, text="use max_completion_tokens instead of max_tokens")
        return reply("fine")

    with ScriptedServer(script) as server:
        ask(ModelClient(server.url, "scripted"))
    assert server.bodies[-1]["max_completion_tokens"] == 50


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("seed", "Unsupported parameter: 'seed' is not supported"),
        ("seed", '{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}'),
        ("seed", 'Unknown name "seed": cannot find field. Known: logprobs, max_tokens'),
        ("temperature", "'temperature' does not support 0.5 with this model, only 1"),
        ("temperature", "invalid temperature: only 1 is allowed for this model"),
    ],
)
def test_a_server_that_takes_no_seed_or_temperature_is_asked_without_and_that_is_said_once(
    field: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        return Fault("status", 400, text=words) if field in body else reply("fine")

    with ScriptedServer(script) as server:
        answers = ask(ModelClient(server.url, "scripted", concurrency=1), times=3, logprobs=True)
    assert [answer.drawn_without for answer in answers] == [(field,)] * 3
    assert len(server.bodies) == 4  # it is told once
    assert set(server.bodies[0]) - set(server.bodies[-1]) == {field}
    said = capsys.readouterr().err
    assert f"refuses `{field}`" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words", ["temperature must be in [0, 0.4]", "Input should be less than or equal to 0.4"]
)
def test_a_temperature_out_of_the_server_s_range_is_not_left_out(words: str) -> None:
    with (
        ScriptedServer(scripted(Fault("status", 400, text=words))) as server,
        pytest.raises(HarnessFault, match="request_refused"),
    ):
        ask(ModelClient(server.url, "scripted"))
    assert len(server.bodies) == 1


def test_a_refusal_that_stays_without_the_field_it_names_teaches_nothing() -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if body["max_tokens"] == 1:
            return Fault("status", 400, text="a prompt on seed banks is not supported")
        return reply("fine")

    async def go(url: str) -> Completion:
        async with ModelClient(url, "scripted") as client:
            with pytest.raises(HarnessFault, match="request_refused"):
                await client.complete(QUESTION, max_tokens=1, temperature=0.0, seed=7)
            return await client.complete(QUESTION, max_tokens=2, temperature=0.0, seed=7)

    with ScriptedServer(script) as server:
        assert asyncio.run(go(server.url)).drawn_without == ()
    assert server.bodies[-1]["seed"] == 7


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("status", 404, text="Not Found"), "url_refused"),
        (Fault("status", 405, text="Method Not Allowed"), "url_refused"),
        (Fault("status", 307, headers=("Location: /v2",)), "url_refused"),
        (Fault("status", 404, text="The model `x` does not exist."), "request_refused"),
    ],
    ids=lambda value: f"{value.status} {value.text}" if isinstance(value, Fault) else value,
)
def test_a_url_that_leads_nowhere_is_told_from_a_model_that_is_not_there(
    fault: Fault, kind: str
) -> None:
    with ScriptedServer(scripted(fault)) as server, pytest.raises(HarnessFault) as raised:
        ask(client := ModelClient(server.url, "scripted"))
    assert raised.value.kind == kind
    assert client.is_hopeless(raised.value)
    assert len(server.bodies) == 1


def test_log_probabilities_become_their_mean() -> None:
    with ScriptedServer(scripted(reply("a b", logprobs=[-0.5, -1.5]))) as server:
        [completion] = ask(ModelClient(server.url, "scripted"), logprobs=True)
    assert completion.mean_logprob == pytest.approx(-1.0)
    assert mean_logprob(None) is None
    assert mean_logprob({"content": []}) is None


def test_tool_calls_are_read_and_broken_ones_are_kept_apart() -> None:
    said = reply("", tool_calls=[call("add", {"a": 1}, "x"), call("add", "{a: 1", "y")])
    with ScriptedServer(scripted(said)) as server:
        [completion] = ask(
            ModelClient(server.url, "scripted"),
            tools=(ToolSchema(name="add", description="Add.", input_schema={"type": "object"}),),
        )
    assert completion.tool_calls == (ToolCall(name="add", arguments={"a": 1}, id="x"),)
    assert len(completion.invalid_tool_calls) == 1
    assert server.bodies[0]["tools"][0]["function"]["name"] == "add"


def test_a_conversation_with_tools_is_sent_in_the_protocol_s_form() -> None:
    turn = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": 1}, id="x"),))
    answer = Message(role="tool", content="2", tool_call_id="x")
    assert message_body(turn)["tool_calls"] == [call("add", {"a": 1}, "x")]
    assert message_body(answer) == {
        "role": "tool",
        "content": "2",
        "tool_call_id": "x",
    }


@pytest.mark.parametrize(
    ("reason", "text", "expected"),
    [
        ("stop", "code", "<think>\nhm\n</think>\n\ncode"),
        ("length", "", "<think>\nhm"),
        ("length", "co", "<think>\nhm\n</think>\n\nco"),
    ],
)
def test_a_think_block_that_a_server_took_out_is_put_back(
    reason: str, text: str, expected: str
) -> None:
    with ScriptedServer(
        scripted(reply(text, finish_reason=reason, reasoning_content="hm"))
    ) as server:
        [completion] = ask(ModelClient(server.url, "scripted"))
    assert completion.text == expected


def test_an_end_marker_is_cut_from_the_end_only() -> None:
    with ScriptedServer(scripted(reply("a<|im_end|>b<|im_end|>"))) as server:
        [completion] = ask(ModelClient(server.url, "scripted", end_markers=("<|im_end|>",)))
    assert completion.text == "a<|im_end|>b"


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with ScriptedServer(scripted(reply("fine"))) as server:
        answers = ask(ModelClient(server.url, "scripted", concurrency=3), times=30)
    assert len(answers) == 30
    assert 1 <= server.most_in_flight <= 3
    assert server.num_connections <= 3  # kept from request to request


def test_a_request_that_was_put_off_until_its_time_was_up_says_by_what() -> None:
    later = Fault("status", 429, "too many requests", headers=("Retry-After: 30",))
    with ScriptedServer(lambda body: later) as server:
        client = ModelClient(server.url, "scripted", request_timeout_s=1)
        with pytest.raises(HarnessFault, match=r"request_timeout.*status_429.*too many requests"):
            ask(client)


@pytest.mark.parametrize("kind", ["drip", "hang"])
def test_after_a_request_that_was_given_up_the_next_one_is_answered(kind: str) -> None:
    async def go(url: str) -> str:
        async with ModelClient(url, "scripted", concurrency=1, request_timeout_s=1) as client:
            options = {"max_tokens": 5, "temperature": 0.0, "seed": 0}
            with pytest.raises(HarnessFault, match="request_timeout"):
                await client.complete(QUESTION, **options)
            return (await client.complete(QUESTION, **options)).text

    with ScriptedServer(scripted(Fault(kind), reply("fine"))) as server:
        assert asyncio.run(go(server.url)) == "fine"
