"""The LLM judge: verdicts on tools, ratings of tasks, over any OpenAI-compatible endpoint.

An endpoint that is down or slow, and an answer without a verdict, are HarnessFaults: never a no.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from toolgenesis_sft.client import HOPELESS, ModelClient
from toolgenesis_sft.errors import HarnessFault, ModelFault
from toolgenesis_sft.records import Json, Message, ToolSchema
from toolgenesis_sft.scoring.questions import (
    parse_task_rating,
    parse_tool_verdict,
    readable,
    task_rating_question,
    tool_verdict_question,
)

NUM_ASKED = 3  # times for a verdict, each with a seed of its own
MAX_VERDICT_TOKENS = 2048  # a thinking judge's thoughts count
# The benchmark's largest server has 30 tools. One beyond is not asked about and counts as beyond
# what was asked for, so that 10^5 tools cost no more than 64.
MAX_JUDGED_TOOLS = 64
TOOL_CHARS, SOURCE_CHARS, GOLD_CHARS = 8_000, 12_000, 30_000  # shown to the judge

T = TypeVar("T")


@dataclass
class Endpoint:
    """Where a model answers. After a hopeless fault it is not asked again by this process, nor
    with a field of a request that it has refused."""

    url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 8
    request_timeout_s: float = 180.0
    max_attempts: int = 5
    fault: HarnessFault | None = field(default=None, compare=False)
    refused_fields: set[str] = field(default_factory=set, compare=False)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[ModelClient]:
        if self.fault is not None:
            raise HarnessFault(self.fault.kind, self.fault.detail)
        client = ModelClient(
            self.url,
            self.model,
            self.key_variable,
            concurrency=self.concurrency,
            request_timeout_s=self.request_timeout_s,
            max_attempts=self.max_attempts,
            refused_fields=self.refused_fields,
        )
        try:
            async with client:
                yield client
        except HarnessFault as fault:
            # A refused request is not hopeless: what a server wrote is in it, and one server must
            # not end the judging of the others.
            if fault.kind in HOPELESS:
                self.fault = fault
            raise


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a tool: whether it stays within what was asked for."""

    tool: str
    within: bool
    reason: str

    def evidence(self) -> Json:
        return {"tool": self.tool, "within": self.within, "reason": self.reason}


@dataclass
class Judge:
    endpoint: Endpoint

    def verdicts(
        self, gold: Sequence[ToolSchema], tools: Sequence[ToolSchema], code: str
    ) -> list[Verdict]:
        """One for each tool, in order. Raises HarnessFault where one of them stays out."""
        return asyncio.run(self._verdicts(gold, tools, code))

    async def _verdicts(
        self, gold: Sequence[ToolSchema], tools: Sequence[ToolSchema], code: str
    ) -> list[Verdict]:
        asked_for = readable("\n".join(map(shown_tool, gold)), GOLD_CHARS)
        async with self.endpoint.open() as client:
            asked = [
                self._verdict(client, asked_for, tool, source_of(code, tool.name))
                for tool in tools[:MAX_JUDGED_TOOLS]
            ]
            verdicts = await gathered(asked)
        return verdicts + [
            Verdict(readable(tool.name, 200), False, "more tools than are judged")
            for tool in tools[MAX_JUDGED_TOOLS:]
        ]

    async def _verdict(
        self, client: ModelClient, gold: str, tool: ToolSchema, source: str
    ) -> Verdict:
        fence, messages = tool_verdict_question(
            gold, readable(shown_tool(tool), TOOL_CHARS), readable(source, SOURCE_CHARS)
        )
        within, said = await ask(client, messages, lambda text: parse_tool_verdict(text, fence))
        return Verdict(readable(tool.name, 200), within, said)

    async def rating(self, client: ModelClient, task: str, transcript: str) -> tuple[int, str]:
        """(1 to 5, the judge's words) for what was done of a task."""
        fence, messages = task_rating_question(task, transcript)
        return await ask(client, messages, lambda text: parse_task_rating(text, fence))


async def ask(
    client: ModelClient, messages: Sequence[Message], read: Callable[[str], T | None]
) -> tuple[T, str]:
    """(verdict, the whole answer). Raises HarnessFault after NUM_ASKED answers without one."""
    said = ""
    for seed in range(NUM_ASKED):
        try:
            answer = await client.complete(
                messages, max_tokens=MAX_VERDICT_TOKENS, temperature=0.0, seed=seed
            )
        except ModelFault as fault:  # of the judge here: its context is too small
            raise HarnessFault("judge_context", fault.detail) from fault
        said = answer.text
        verdict = read(said)
        if verdict is not None:
            return verdict, said
    raise HarnessFault("no_verdict", f"in {NUM_ASKED} answers, the last: {said[-150:]!r}")


async def gathered(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results in order. Waits for all before it raises the first failure."""
    done = await asyncio.gather(*work, return_exceptions=True)
    results: list[T] = []
    for one in done:
        if isinstance(one, BaseException):
            raise one
        results.append(one)
    return results


def shown_tool(tool: ToolSchema) -> str:
    """A tool as one line of JSON, whatever is in it."""
    return json.dumps(
        {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
    )


def source_of(code: str, tool: str) -> str:
    """The function that implements a tool; the whole program where none has its name."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == tool:
            first = min([node.lineno, *(line.lineno for line in node.decorator_list)])
            return "\n".join(code.splitlines()[first - 1 : node.end_lineno])
    return code
