"""A small server that speaks the OpenAI chat protocol and answers as a script says.

    with ScriptedServer(lambda body: reply("hello")) as server:
        ...  # server.url, server.bodies (every request in order)

A script is called with each request's JSON body and returns a `reply(...)` or a `Fault`. As a
program (`python scripted_server.py PORT NUM_TOKENS DELAY_S`) it gives everyone the same answer of
that many words, with log-probabilities, after that many seconds: what the throughput benchmark runs
against, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Fault:
    """kind: `status` (with a code and text), `cut` (connection closed in the middle of the body),
    `drip` (a byte every 50 ms), `garbage` (200 and no JSON), `endless` (a body without end),
    `hang` (no answer at all)."""

    kind: str
    status: int = 500
    text: str = "the script says so"
    headers: tuple[str, ...] = ()


Script = Callable[[dict[str, Any]], "dict[str, Any] | Fault"]


def reply(
    text: str,
    *,
    finish_reason: str = "stop",
    tool_calls: list[dict[str, Any]] | None = None,
    logprobs: list[float] | None = None,
    prompt_tokens: int = 10,
    completion_tokens: int | None = None,
    **message: Any,
) -> dict[str, Any]:
    """A chat completion with one choice; tokens are counted as words where they are not given."""
    words = len(text.split()) if completion_tokens is None else completion_tokens
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, **message},
    }
    if tool_calls is not None:
        choice["message"]["tool_calls"] = tool_calls
    if logprobs is not None:
        choice["logprobs"] = {"content": [{"token": "t", "logprob": value} for value in logprobs]}
    return {
        "id": "scripted",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": words,
            "total_tokens": prompt_tokens + words,
        },
    }


def call(name: str, arguments: dict[str, Any] | str, number: str = "call_1") -> dict[str, Any]:
    """A tool call as an assistant message carries it."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": number, "type": "function", "function": {"name": name, "arguments": text}}


class ScriptedServer:
    """The server in a thread of its own, on a free port, for the length of a `with` block."""

    def __init__(self, script: Script, models: tuple[str, ...] = ("scripted",)) -> None:
        self.script, self.models = script, models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.most_in_flight = 0
        self.num_connections = 0
        self._in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _end(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not mine]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = 0
                for line in head.split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        length = int(line.split(":")[1])
                content = await reader.readexactly(length)
                self.headers.append(head)
                if head.startswith("GET"):
                    listed = {"data": [{"id": name} for name in self.models]}
                    await send(writer, 200, json.dumps(listed).encode())
                    continue
                body = json.loads(content)
                self.bodies.append(body)
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                try:
                    said = await asyncio.to_thread(self.script, body)
                    if isinstance(said, Fault):
                        await misbehave(writer, said)
                        return
                    await send(writer, 200, json.dumps(said).encode())
                finally:
                    self._in_flight -= 1
        writer.close()


async def send(
    writer: asyncio.StreamWriter, status: int, content: bytes, headers: tuple[str, ...] = ()
) -> None:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await writer.drain()


async def misbehave(writer: asyncio.StreamWriter, fault: Fault) -> None:
    whole = json.dumps(reply("half an answer")).encode()
    if fault.kind == "status":
        content = json.dumps({"error": {"message": fault.text}}).encode()
        await send(writer, fault.status, content, fault.headers)
    elif fault.kind == "garbage":
        await send(writer, 200, b'{"choices": [{"message": ')
    elif fault.kind == "cut":
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
        writer.write(head + whole[: len(whole) // 2])
        await writer.drain()
    elif fault.kind == "drip":
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode())
        for byte in whole:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
    elif fault.kind == "endless":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
            await writer.drain()
    elif fault.kind == "hang":
        await asyncio.sleep(3600)
    writer.close()


async def serve_constant(port: int, num_tokens: int, delay_s: float) -> None:
    """The same answer for everyone, written by an event loop that does nothing else."""
    answer = reply("word " * num_tokens, logprobs=[-0.25] * num_tokens)
    content = json.dumps(answer).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b"content-length:" in head:
                    await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
                if delay_s:
                    await asyncio.sleep(delay_s)
                await send(writer, 200, content)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_constant(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
