"""The one client of every model call: generation, teacher, judge, proxy agent.

It speaks the OpenAI chat protocol over HTTP. A model's failure to answer is a HarnessFault, never
an answer; only a prompt that does not fit the model's context is the model's own (ModelFault).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from toolgenesis_sft.errors import HarnessFault, ModelFault, UserError
from toolgenesis_sft.records import Json, Message, ToolCall, ToolSchema

MAX_ATTEMPTS = 5
FIRST_PAUSE_S = 0.5  # doubled after each attempt, with jitter so that clients do not march in step
LONGEST_PAUSE_S = 30.0
MAX_ANSWER_BYTES = 64 * 2**20  # far beyond any completion; an endless stream ends here
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
CONTEXT_WORDS = ("context length", "context_length", "maximum context", "max_model_len", "too long")
# Of a kind that every later request would meet too: the caller stops instead of asking on.
HOPELESS = frozenset({"endpoint_unreachable", "key_refused", "request_refused"})


@dataclass(frozen=True)
class Completion:
    """One answer. `text` is raw: think blocks and fences are still in it."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: Literal["stop", "length", "error"]
    num_prompt_tokens: int
    num_completion_tokens: int
    elapsed_s: float
    mean_logprob: float | None = None
    invalid_tool_calls: tuple[str, ...] = ()

    def as_message(self) -> Message:
        """The assistant's turn, to go on from."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls)


@dataclass
class Usage:
    """What a client has spent. Tokens count once for each answer that was returned."""

    num_answers: int = 0
    num_retries: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    busy_s: float = 0.0


@dataclass
class ModelClient:
    """`async with ModelClient(url, model) as client: await client.complete(messages, ...)`

    base_url ends before `/chat/completions`. key_variable names the environment variable that
    holds the key; the key itself is read at use and appears in no log, error or file.
    request_timeout_s bounds one completion, its retries included. extra_body goes into each
    request (a server's own switches); end_markers are cut from the end of an answer, for servers
    that return their stop token as text.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 16
    request_timeout_s: float = 600.0
    max_attempts: int = MAX_ATTEMPTS
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    end_markers: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._url = self.base_url.rstrip("/") + "/chat/completions"
        self._refused_fields: set[str] = set()
        self._key = read_key(self.key_variable)

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self.request_timeout_s, connect=min(30, self.request_timeout_s)),
            limits=httpx.Limits(
                max_connections=self.concurrency, max_keepalive_connections=self.concurrency
            ),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            trust_env=not is_local(self.base_url),  # a proxy must not get in front of localhost
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        tools: Sequence[ToolSchema] = (),
        logprobs: bool = False,
    ) -> Completion:
        """Ask once, retrying what may pass. Raises HarnessFault, or ModelFault
        `context_exhausted` where the messages leave no room for an answer."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message_body(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            **self.extra_body,
        }
        if tools:
            body["tools"] = [tool_body(tool) for tool in tools]
        if logprobs:
            body["logprobs"] = True
        async with self._slots:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self.request_timeout_s):
                    answer = await self._ask(body)
            except TimeoutError as error:
                raise HarnessFault(
                    "request_timeout", f"no answer from {self._url} in {self.request_timeout_s} s"
                ) from error
            completion = self._read(answer, time.monotonic() - started)
        self.usage.num_answers += 1
        self.usage.num_prompt_tokens += completion.num_prompt_tokens
        self.usage.num_completion_tokens += completion.num_completion_tokens
        self.usage.busy_s += completion.elapsed_s
        return completion

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Post until there is a well-formed answer; the caller holds the deadline."""
        fault = HarnessFault("endpoint_unreachable", self._url)
        attempt = 0
        while attempt < self.max_attempts:
            shaped = self._shaped(body)
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                status, headers, content = await self._post(shaped)
            except httpx.TransportError as error:
                fault = HarnessFault(
                    "endpoint_unreachable", f"{self._url}: {type(error).__name__} {error}".strip()
                )
            except httpx.InvalidURL as error:
                raise HarnessFault("request_refused", f"{self.base_url} is no URL") from error
            else:
                if status == 200:
                    answer = well_formed(content)
                    if answer is not None:
                        return answer
                    fault = HarnessFault(
                        "invalid_answer", f"{self._url} sent no completion: {self._shown(content)}"
                    )
                elif status in RETRIED_STATUS:
                    fault = HarnessFault(f"status_{status}", f"{self._url}: {self._shown(content)}")
                    pause = max(pause, retry_after_s(headers))
                elif self._learn(status, content, shaped):
                    continue
                elif speaks_of_context(self._shown(content).lower()):
                    if "max_tokens" not in body:
                        raise ModelFault("context_exhausted", self._shown(content))
                    # Prompt and max_tokens together are too long: the answer gets what is left.
                    body = {name: value for name, value in body.items() if name != "max_tokens"}
                    continue
                else:
                    raise self._refusal(status, content)
            attempt += 1
            self.usage.num_retries += 1
            if attempt < self.max_attempts:
                await asyncio.sleep(pause)
        raise fault

    async def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; the body is read under a cap."""
        content = bytearray()
        async with self._http.stream("POST", self._url, json=body) as response:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise HarnessFault(
                        "endless_answer", f"{self._url} sent more than {MAX_ANSWER_BYTES} bytes"
                    )
        return response.status_code, response.headers, bytes(content)

    def _shaped(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what this server has refused before."""
        shaped = {name: value for name, value in body.items() if name not in self._refused_fields}
        if "max_tokens" in self._refused_fields and "max_tokens" in body:
            shaped["max_completion_tokens"] = body["max_tokens"]
        return shaped

    def _learn(self, status: int, content: bytes, shaped: dict[str, Any]) -> bool:
        """Whether the server refused a field that an answer does not depend on; it is then left
        out. `max_tokens` has a second name in the protocol and is sent under that one."""
        if status not in (400, 422):
            return False
        text = self._shown(content).lower()
        for name in ("logprobs", "max_tokens"):
            if name in shaped and name in text and not speaks_of_context(text):
                self._refused_fields.add(name)
                return True
        return False

    def _shown(self, content: bytes) -> str:
        """The start of a server's own words, on one line, the key taken out should it repeat it."""
        text = " ".join(content[:4000].decode(errors="replace").split())
        return (text.replace(self._key, "[key]") if self._key else text)[:400]

    def _refusal(self, status: int, content: bytes) -> HarnessFault:
        if status in (401, 403):
            where = f"in ${self.key_variable}" if self.key_variable else "(none was sent)"
            return HarnessFault("key_refused", f"{self._url} answered {status} to the key {where}")
        return HarnessFault(
            "request_refused", f"{self._url} answered {status}: {self._shown(content)}"
        )

    def _read(self, answer: dict[str, Any], elapsed_s: float) -> Completion:
        choice = answer["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        for marker in self.end_markers:
            text = text.removesuffix(marker)
        # Servers with a reasoning parser take the think block out; the raw answer has it.
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            cut = choice.get("finish_reason") == "length" and not text
            text = f"<think>\n{reasoning}" + ("" if cut else f"\n</think>\n\n{text}")
        calls, invalid = tool_calls(message.get("tool_calls") or ())
        usage = answer.get("usage") or {}
        return Completion(
            text=text,
            tool_calls=calls,
            invalid_tool_calls=invalid,
            finish_reason=finish_reason(choice.get("finish_reason")),
            num_prompt_tokens=int(usage.get("prompt_tokens") or 0),
            num_completion_tokens=int(usage.get("completion_tokens") or 0),
            elapsed_s=elapsed_s,
            mean_logprob=mean_logprob(choice.get("logprobs")),
        )


def read_key(variable: str | None) -> str:
    """The key in this environment variable; empty where no variable is named."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            "api key variable", variable, "is not set", f"export {variable}=... and run again"
        )
    return key


def is_local(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


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
        case {"choices": [{"message": {"content": str() | None}}, *_]}:
            return answer
        case {"choices": [{"message": {"tool_calls": list()}}, *_]}:
            return answer
    return None


def tool_calls(raw: Sequence[Any]) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    """The calls that can be made, and the text of those whose arguments are no JSON object."""
    valid: list[ToolCall] = []
    invalid: list[str] = []
    for index, call in enumerate(raw):
        match call:
            case {"function": {"name": str(name), "arguments": arguments}}:
                try:
                    value = json.loads(arguments) if isinstance(arguments, str) else arguments
                except ValueError:
                    value = None
                if isinstance(value, dict):
                    number = call.get("id") or f"call_{index}"
                    valid.append(ToolCall(name=name, arguments=value, id=str(number)))
                    continue
        invalid.append(json.dumps(call)[:2000])
    return tuple(valid), tuple(invalid)


def finish_reason(raw: str | None) -> Literal["stop", "length", "error"]:
    """A content filter's stop is an `error`: the model was not allowed to finish."""
    if raw == "length":
        return "length"
    return "error" if raw == "content_filter" else "stop"


def mean_logprob(raw: Any) -> float | None:
    """Mean natural log-probability of the answer's tokens; None where the server gives none."""
    tokens = raw.get("content") if isinstance(raw, dict) else None
    values = [
        float(token["logprob"])
        for token in tokens or ()
        if isinstance(token, dict) and isinstance(token.get("logprob"), int | float)
    ]
    return sum(values) / len(values) if values else None


def retry_after_s(headers: httpx.Headers) -> float:
    """The pause that the server asks for, where it says so in seconds, within our own bound."""
    try:
        return min(LONGEST_PAUSE_S, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def speaks_of_context(text: str) -> bool:
    return any(words in text for words in CONTEXT_WORDS)
