"""Generated servers over the Model Context Protocol: start one, list its tools, call them.

Whatever a server does wrong raises ModelFault with a short, stable kind; what is ours raises
HarnessFault. A tool's error, or a tool that is not there, is an answer with `is_error`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mcp import types
from mcp.shared.version import SUPPORTED_PROTOCOL_VERSIONS
from pydantic import BaseModel, TypeAdapter, ValidationError

from toolgenesis_sft import __version__
from toolgenesis_sft.errors import HarnessFault, ModelFault
from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.sandbox.jail import Jail, Limits, Process
from toolgenesis_sft.sandbox.messages import decode, decode_text, has_more_parts, show
from toolgenesis_sft.sandbox.relay import Ended, Relay, TimeIsUp

MAX_FAULTS_KEPT = 100
LINE_COST_BYTES = 256  # what an unasked line counts besides its length: it takes time to read
REQUEST: TypeAdapter[Any] = TypeAdapter(types.ServerRequest)
NOTIFICATION: TypeAdapter[Any] = TypeAdapter(types.ServerNotification)
FAULTS_OF_THE_LOADER = frozenset(
    {
        "crashed_at_start",
        "no_server_object",
        "import_error",
        "syntax_error",
        "memory_limit",
        "cpu_limit",
    }
)


@dataclass(frozen=True)
class ToolAnswer:
    """What a tool answered.

    value: structured content, without the `{"result": ...}` that the SDK wraps around what is no
        object (the text then says only what is in it); else the text blocks: one gives its JSON
        where it is JSON and its text where not, several give a list of such, none gives the list
        of the other blocks, or None where there is no block.
    text: the text blocks, joined by newlines.
    is_error: the tool failed, or there is no such tool.
    content: the content blocks as they came; None where the protocol's error came instead.
    """

    value: Json
    text: str
    is_error: bool
    content: list[dict[str, Json]] | None = None


class Sandbox:
    """A jail with a warm zygote, for thousands of servers, from any number of threads."""

    def __init__(self, server_python: Path, limits: Limits | None = None) -> None:
        self.server_python = server_python
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._jail: Jail | None = None

    def __enter__(self) -> Self:
        self._jail = Jail(self.server_python, self.limits)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._jail is not None:
                self._jail.close()
                self._jail = None

    def start(self, code: str) -> ServerSession:
        """Run a server program up to the answer to `initialize`.

        Raises ModelFault where the program is at fault, HarnessFault where the jail is.
        """
        try:
            program = code.encode()
        except UnicodeEncodeError as error:
            raise ModelFault("syntax_error", f"the program is no Unicode text ({error})") from None
        if len(program) > self.limits.max_code_bytes:
            raise ModelFault(
                "code_too_large", f"{len(program)} bytes, at most {self.limits.max_code_bytes}"
            )
        jail, process = self._spawn(program)
        session = ServerSession(jail, process)
        try:
            session.initialize()
        except BaseException:  # an interrupt too must not leave the server running
            session.close()
            raise
        return session

    def _spawn(self, program: bytes) -> tuple[Jail, Process]:
        jail = self._current_jail(broken=None)
        try:
            return jail, jail.spawn(program)
        except HarnessFault as fault:
            if jail.is_alive():
                raise HarnessFault(fault.kind, fault.detail) from None
        jail = self._current_jail(broken=jail)
        return jail, jail.spawn(program)

    def _current_jail(self, broken: Jail | None) -> Jail:
        """The jail; a new one in place of a broken one, made once whoever asks first."""
        with self._lock:
            if self._jail is None:
                raise HarnessFault("sandbox_closed", "use the sandbox within its `with` block")
            if self._jail is broken:
                self._jail.close()
                self._jail = Jail(self.server_python, self.limits)
            return self._jail


class ServerSession:
    """One running server. Leaving the `with` block ends its whole process tree."""

    def __init__(self, jail: Jail, process: Process) -> None:
        self._jail, self._process, self._limits = jail, process, jail.limits
        self._relay = Relay(process, jail.limits.max_message_bytes)
        self._num_requests = 0
        self._awaited: int | None = None
        self._noise_bytes = self._answer_bytes = 0
        self._closed = False
        self.protocol_faults: list[str] = []
        self.num_protocol_faults = 0
        self.raw_tools: list[dict[str, Json]] = []
        self.server_info: dict[str, Json] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process tree and wait until it is gone."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(ModelFault):  # it is noted among the protocol faults
                self._count_leftovers()
        finally:
            self._jail.end(self._process)

    @property
    def denied(self) -> list[str]:
        """What the server's own code attempted (`network: connect 1.2.3.4:80`), in order."""
        return [detail for kind, detail in self._relay.reports if kind == "denied"]

    @property
    def stderr_tail(self) -> str:
        return self._relay.stderr_tail

    def initialize(self) -> None:
        """The handshake. `Sandbox.start` has done it."""
        params = {
            "protocolVersion": types.LATEST_PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "toolgenesis-sft", "version": __version__},
        }
        deadline = time.monotonic() + self._limits.initialize_s
        result = self._result("initialize", params, deadline)
        self._validate(types.InitializeResult, result, "initialize")
        if result["protocolVersion"] not in SUPPORTED_PROTOCOL_VERSIONS:
            raise self._invalid("invalid_message", f"version {show(result['protocolVersion'])}")
        self.server_info = result["serverInfo"]
        for kind, detail in self._relay.reports:
            if kind == "main_block":
                self._fault(f"the main block fails: {show(detail)}")
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def list_tools(self) -> tuple[ToolSchema, ...]:
        """All pages of tools/list; `raw_tools` holds them as they came. The order is the server's,
        and a name that comes twice is there twice."""
        deadline = time.monotonic() + self._limits.list_s
        tools: list[dict[str, Json]] = []
        cursors: set[str] = set()
        cursor: str | None = None
        self._answer_bytes = 0
        while True:
            params = {} if cursor is None else {"cursor": cursor}
            page = self._result("tools/list", params, deadline)
            found = page.get("tools")
            if isinstance(found, list) and len(tools) + len(found) > self._limits.max_tools:
                raise ModelFault("too_many_tools", f"more than {self._limits.max_tools}")
            if self._answer_bytes > self._limits.max_message_bytes:
                raise ModelFault("answer_too_large", "the pages of tools/list together")
            self._validate(types.ListToolsResult, page, "tools/list")
            tools += page["tools"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
            if cursor in cursors or len(cursors) + 1 >= self._limits.max_pages:
                raise ModelFault("endless_cursor", f"page {len(cursors) + 2}, {show(cursor)}")
            cursors.add(cursor)
        self.raw_tools = tools
        return tuple(
            ToolSchema(
                name=tool["name"],
                description=tool.get("description") or "",
                input_schema=tool["inputSchema"],
            )
            for tool in tools
        )

    def call(self, name: str, arguments: dict[str, Json]) -> ToolAnswer:
        """One tools/call. Raises ModelFault where no valid answer comes in time."""
        deadline = time.monotonic() + self._limits.call_s
        answer = self._ask("tools/call", {"name": name, "arguments": arguments}, deadline)
        if "error" in answer:
            message = answer["error"]["message"]
            return ToolAnswer(value=message, text=message, is_error=True)
        result = answer["result"]
        self._validate(types.CallToolResult, result, "tools/call")
        return _tool_answer(result)

    def _result(self, method: str, params: dict[str, Json], deadline: float) -> dict[str, Json]:
        answer = self._ask(method, params, deadline)
        if "error" in answer:
            raise ModelFault("error_answer", f"{method}: {show(answer['error']['message'])}")
        result: dict[str, Json] = answer["result"]
        return result

    def _ask(self, method: str, params: dict[str, Json], deadline: float) -> dict[str, Json]:
        """Send a request; the valid message that answers it."""
        if self._closed:
            raise HarnessFault("session_closed", method)
        self._count_leftovers()
        self._num_requests += 1
        self._awaited = self._num_requests
        self._send({"jsonrpc": "2.0", "id": self._awaited, "method": method, "params": params})
        try:
            while time.monotonic() < deadline:
                message = self._message(self._relay.receive(deadline))
                if message is not None:
                    return message
            raise TimeIsUp
        except TimeIsUp:
            self._raise_reported()
            raise ModelFault(f"{PHASES[method]}_timeout", f"no answer to {method}") from None
        except Ended:
            self._raise_reported()
            if not self._jail.is_alive():
                raise HarnessFault("jail_died", self._jail.log()) from None
            kind = "crashed_at_start" if method == "initialize" else "died"
            raise ModelFault(kind, self._last_words()) from None
        finally:
            self._awaited = None

    def _send(self, message: dict[str, Json]) -> None:
        self._relay.send(json.dumps(message).encode() + b"\n")

    def _message(self, line: bytes) -> dict[str, Json] | None:
        """The answer to the request in flight, or None for any other line, which is noted."""
        try:
            message = decode(line, self._limits.max_depth)
        except ValueError as error:
            if b'"jsonrpc"' in line and self._awaited is not None:
                raise self._invalid("invalid_json", show(error)) from None
            message = None
        if not isinstance(message, dict) or "jsonrpc" not in message:
            self._noise(line, f"no protocol on stdout: {show(line)}")
            return None
        if "method" in message:
            self._take_from_server(line, message)
            return None
        number = message.get("id")
        if type(number) is int and number == self._awaited:
            model = types.JSONRPCError if "error" in message else types.JSONRPCResponse
            self._validate(model, message, "answer")
            self._awaited = None
            self._answer_bytes += len(line)
            return message
        asked = type(number) is int and 0 < number <= self._num_requests
        what = "second answer to" if asked else "answer to unknown"
        self._noise(line, f"{what} request {show(number)}")
        return None

    def _take_from_server(self, line: bytes, message: dict[str, Json]) -> None:
        """A request or a notification of the server: we offer a client that can do nothing."""
        self._noise(line, None)
        adapter = REQUEST if "id" in message else NOTIFICATION
        body = {key: message[key] for key in ("method", "params") if key in message}
        if has_more_parts(body, self._limits.max_parts):
            self._fault(f"invalid {show(message['method'])}: too many values")
            return
        try:
            envelope = types.JSONRPCRequest if "id" in message else types.JSONRPCNotification
            envelope.model_validate(message)
            adapter.validate_python(body)
        except ValidationError as error:
            self._fault(f"invalid {show(message['method'])}: {_first(error)}")
            return
        if "id" not in message:
            return
        reply: dict[str, Json] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            reply["result"] = {}
        else:
            reply["error"] = {"code": types.METHOD_NOT_FOUND, "message": "not offered"}
        self._send(reply)

    def _validate(self, model: type[BaseModel], value: Json, what: str) -> None:
        if has_more_parts(value, self._limits.max_parts):
            detail = f"{what}: more than {self._limits.max_parts} values"
            raise self._invalid("invalid_message", detail)
        try:
            model.model_validate(value)
        except ValidationError as error:
            raise self._invalid("invalid_message", f"{what}: {_first(error)}") from None

    def _invalid(self, kind: str, detail: str) -> ModelFault:
        self._fault(f"{kind}: {detail}")
        return ModelFault(kind, detail)

    def _noise(self, line: bytes, fault: str | None) -> None:
        if fault is not None:
            self._fault(fault)
        self._noise_bytes += len(line) + LINE_COST_BYTES
        if self._noise_bytes > self._limits.max_noise_bytes:
            raise ModelFault("flood", f"more than {self._limits.max_noise_bytes} unasked bytes")

    def _fault(self, what: str) -> None:
        self.num_protocol_faults += 1
        if len(self.protocol_faults) < MAX_FAULTS_KEPT:
            self.protocol_faults.append(what)

    def _count_leftovers(self) -> None:
        """Note the lines that came after the last answer: second answers, prints."""
        self._relay.settle()
        while (line := self._relay.take()) is not None:
            self._message(line)

    def _raise_reported(self) -> None:
        """Raise what the loader or the kernel says about the end of the server, if anything."""
        for kind, detail in self._relay.reports:
            if kind in FAULTS_OF_THE_LOADER:
                raise ModelFault(kind, show(detail))
        group = self._process.group
        if group is not None and group.ran_out_of_memory():
            raise ModelFault("memory_limit", f"more than {self._limits.memory_mib} MiB")

    def _last_words(self) -> str:
        lines = self.stderr_tail.strip().splitlines()
        return f"the server ended{': ' + show(lines[-1]) if lines else ''}"


PHASES = {"initialize": "initialize", "tools/list": "list", "tools/call": "call"}


def _tool_answer(result: dict[str, Json]) -> ToolAnswer:
    blocks = result.get("content", [])
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    values = [decode_text(text) for text in texts]
    value: Json = values[0] if len(values) == 1 else values or blocks or None
    structured = result.get("structuredContent")
    if structured is not None and structured != value:
        value = structured["result"] if set(structured) == {"result"} else structured
    is_error = result.get("isError") is True
    return ToolAnswer(value=value, text="\n".join(texts), is_error=is_error, content=blocks)


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])[:100]}: {first['msg'][:200]}"
