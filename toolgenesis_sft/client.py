"""The one client of every model call: generation, teacher, judge, proxy agent.

It speaks the OpenAI chat protocol over HTTP. A model's failure to answer is a HarnessFault, never
an answer; only a prompt that does not fit the model's context is the model's own (ModelFault).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import httpx

from toolgenesis_sft.chat_protocol import (
    Completion,
    message_body,
    read_completion,
    tool_body,
    well_formed,
)
from toolgenesis_sft.errors import HarnessFault, ModelFault, UserError
from toolgenesis_sft.records import Json, Message, ToolSchema

MAX_ATTEMPTS = 5
FIRST_PAUSE_S = 0.5  # doubled after each attempt, with jitter so that clients do not march in step
LONGEST_PAUSE_S = 30.0
MAX_ANSWER_BYTES = 64 * 2**20  # far beyond any completion; an endless stream ends here
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
CONTEXT_WORDS = ("context length", "context_length", "maximum context", "max_model_len", "too long")
# What an answer is drawn with. A server that takes another value alone is asked without; one that
# names the range of its values is not: that is for the user to mend.
DRAWN_WITH = ("seed", "temperature")
NOT_TAKEN = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|not permitted|(?:is|not) allowed|forbid|deprecated"
)
# Of a kind that every later request would meet too: the caller stops instead of asking on.
HOPELESS = frozenset({"endpoint_unreachable", "key_refused"})


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
    that return their stop token as text. room, for servers that do not check it themselves, gives
    the tokens that messages leave for an answer. refused_fields are those of a request that this
    server does not take, learned as it says so.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 16
    request_timeout_s: float = 600.0
    max_attempts: int = MAX_ATTEMPTS
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    end_markers: tuple[str, ...] = ()
    room: Callable[[Sequence[Message]], int] | None = None
    usage: Usage = field(default_factory=Usage)
    refused_fields: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._url = read_url(self.base_url.rstrip("/") + "/chat/completions")
        self._key = read_key(self.key_variable)

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._certificates = httpx.create_ssl_context()
        self._idle: list[httpx.AsyncClient] = []
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._idle:
            await connection.aclose()

    def is_hopeless(self, fault: HarnessFault) -> bool:
        """Whether every later request would meet this fault too. A refusal after others were
        answered is about that request alone: a provider's filter refuses single prompts."""
        if fault.kind in ("request_refused", "url_refused"):
            return not self.usage.num_answers
        return fault.kind in HOPELESS

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
        if self.room is not None:
            left = self.room(messages)
            if left < 1:
                raise ModelFault("context_exhausted", f"{1 - left} tokens too many")
            max_tokens = min(max_tokens, left)
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
            faults: list[HarnessFault] = []
            try:
                async with asyncio.timeout(self.request_timeout_s):
                    answer = await self._ask(body, faults)
            except TimeoutError as error:
                last = f", last {faults[-1]}" if faults else ""
                raise HarnessFault(
                    "request_timeout",
                    f"no answer from {self._url} in {self.request_timeout_s} s{last}",
                ) from error
            elapsed_s = time.monotonic() - started
            without = tuple(name for name in DRAWN_WITH if name in self.refused_fields)
            completion = read_completion(answer, elapsed_s, self.end_markers)
            completion = replace(completion, drawn_without=without)
        self.usage.num_answers += 1
        self.usage.num_prompt_tokens += completion.num_prompt_tokens
        self.usage.num_completion_tokens += completion.num_completion_tokens
        self.usage.busy_s += completion.elapsed_s
        return completion

    async def _ask(self, body: dict[str, Any], faults: list[HarnessFault]) -> dict[str, Any]:
        """Post until there is a well-formed answer; the caller holds the deadline, and is told
        what stood in the way by then in `faults`."""
        attempt = 0
        refused: set[str] = set()  # of this request; kept for the next ones where leaving out helps
        while attempt < self.max_attempts:
            shaped = shaped_for(body, self.refused_fields | refused)
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                status, headers, content = await self._post(shaped)
            except httpx.TransportError as error:
                said = f"{self._url}: {type(error).__name__} {error}".strip()
                faults.append(HarnessFault("endpoint_unreachable", said))
            else:
                if status == 200:
                    answer = well_formed(content)
                    if answer is not None:
                        self._keep_in_mind(refused)
                        return answer
                    said = f"{self._url} sent no completion: {self._shown(content)}"
                    faults.append(HarnessFault("invalid_answer", said))
                elif status in RETRIED_STATUS:
                    said = f"{self._url}: {self._shown(content)}"
                    faults.append(HarnessFault(f"status_{status}", said))
                    pause = max(pause, retry_after_s(headers))
                elif name := refused_field(status, self._shown(content).lower(), shaped):
                    refused.add(name)
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
        raise faults[-1]

    async def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body; the body is read under a cap."""
        content = bytearray()
        connection = self._idle.pop() if self._idle else self._connection()
        try:
            async with connection.stream("POST", self._url, json=body) as response:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise HarnessFault(
                            "endless_answer", f"{self._url} sent more than {MAX_ANSWER_BYTES} bytes"
                        )
        finally:
            self._idle.append(connection)
        return response.status_code, response.headers, bytes(content)

    def _connection(self) -> httpx.AsyncClient:
        """One connection for one request at a time. A shared pool looks through all of its
        connections at each request, which at 64 costs four times the request itself."""
        return httpx.AsyncClient(
            timeout=httpx.Timeout(self.request_timeout_s, connect=min(30, self.request_timeout_s)),
            limits=httpx.Limits(max_connections=1),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            verify=self._certificates,
            trust_env=not is_local(self.base_url),  # a proxy must not get in front of localhost
        )

    def _keep_in_mind(self, refused: set[str]) -> None:
        for name in sorted((refused - self.refused_fields) & {*DRAWN_WITH}):
            print(
                f"note: {self._url} refuses `{name}`: answers are drawn without it, so asking again"
                " may give others",
                file=sys.stderr,
            )
        self.refused_fields |= refused

    def _shown(self, content: bytes) -> str:
        """The start of a server's own words, on one line, the key taken out should it repeat it."""
        said = content.replace(self._key.encode(), b"[key]") if self._key else content
        return " ".join(said[:4000].decode(errors="replace").split())[:400]

    def _refusal(self, status: int, content: bytes) -> HarnessFault:
        if status in (401, 403):
            where = f"in ${self.key_variable}" if self.key_variable else "(none was sent)"
            return HarnessFault("key_refused", f"{self._url} answered {status} to the key {where}")
        said = self._shown(content)
        away = status in (404, 405) or 300 <= status < 400
        kind = "url_refused" if away and "model" not in said.lower() else "request_refused"
        return HarnessFault(kind, f"{self._url} answered {status}: {said}")


def read_key(variable: str | None) -> str:
    """The key in this environment variable; empty where no variable is named."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            "api key variable", variable, "is not set", f"export {variable}=... and run again"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            "api key variable",
            variable,
            "holds a space, a line break or a letter that no key has",
            f"export {variable} again with the key alone",
        )
    return key


def read_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        if url.scheme in ("http", "https") and url.host:
            return url
    except httpx.InvalidURL:
        pass
    raise UserError(
        "endpoint url", text, "is no URL of an endpoint", "write it like http://localhost:8000/v1"
    )


def is_local(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


def retry_after_s(headers: httpx.Headers) -> float:
    """The pause that the server asks for, where it says so in seconds, within our own bound."""
    try:
        return min(LONGEST_PAUSE_S, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def shaped_for(body: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """The body without what a server refuses. `max_tokens` has a second name in the protocol and
    is sent under that one."""
    shaped = {name: value for name, value in body.items() if name not in refused}
    if "max_tokens" in refused and "max_tokens" in body:
        shaped["max_completion_tokens"] = body["max_tokens"]
    return shaped


def refused_field(status: int, said: str, shaped: dict[str, Any]) -> str | None:
    """The field that a server refuses, which a request can do without: of those that its words
    name, the first."""
    if status not in (400, 422) or speaks_of_context(said):
        return None
    names = ["logprobs", "max_tokens", *(DRAWN_WITH if NOT_TAKEN.search(said) else ())]
    named = {name: re.search(rf"\b{name}\b", said) for name in names if name in shaped}
    places = {name: found.start() for name, found in named.items() if found}
    return min(places, key=lambda name: places[name], default=None)


def speaks_of_context(text: str) -> bool:
    return any(words in text for words in CONTEXT_WORDS)
