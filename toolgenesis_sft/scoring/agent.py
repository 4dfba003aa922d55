"""Layer 4 by an agent: a solver does each task with the server's tools, a judge rates its work.

Each task has a server of its own, at most 10 turns of calls, temperature 0. Ratings are 1 to 5, a
task is solved at 3. Two runs stand beside it, done once for each benchmark server and kept in the
run folder: the oracle (the same solver with the reference server) and the control (without tools).
Success rate = share of the tasks solved among those that the oracle solves: what it cannot solve
measures the solver. A task that the control solves too needs no server; how many do is a detail.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.errors import ModelFault, UserError
from toolgenesis_sft.prompts import without_thought
from toolgenesis_sft.records import AnswerKey, Json, Message, ToolCall, ToolSchema
from toolgenesis_sft.runs import fingerprint, read_json, write_json
from toolgenesis_sft.sandbox.session import ServerSession
from toolgenesis_sft.scoring.compliance import MAX_NODES, measure, tool_fault
from toolgenesis_sft.scoring.examination import Details, Examination, Launcher
from toolgenesis_sft.scoring.judge import Endpoint, Judge, gathered
from toolgenesis_sft.scoring.questions import (
    JUDGE_TASK_PROMPT,
    SOLVER_BROKEN_CALL,
    SOLVER_PROMPT,
    SOLVER_WITHOUT_TOOLS_PROMPT,
    readable,
    solver_messages,
)

MAX_TURNS = 10  # of tool calls
MAX_CALLS_PER_TURN = 16
MAX_SOLVER_TOKENS = 4096  # of one turn
SOLVED_RATING, TOP_RATING, LOWEST_RATING = 3, 5, 1
TASKS_AT_ONCE = 4  # of one server, each with a process of its own
MAX_OFFERED_TOOLS = 64
DESCRIPTION_CHARS, SCHEMA_CHARS = 2_000, 20_000
ANSWER_CHARS, TRANSCRIPT_CHARS = 4_000, 40_000
OFFERED_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a function in the OpenAI chat protocol


@dataclass
class Attempt:
    """What one agent made of one task. `fault` names what ended it before an answer in words."""

    rating: int = LOWEST_RATING
    answer: str = ""
    fault: str = ""
    calls: list[dict[str, Json]] = field(default_factory=list)
    reason: str = ""

    @property
    def solved(self) -> bool:
        return self.rating >= SOLVED_RATING


@dataclass(frozen=True)
class Trial:
    """A task, done with the examined server, with the reference server, and without tools."""

    task: str
    attempt: Attempt
    oracle: Attempt
    control: Attempt

    def evidence(self) -> Json:
        return {
            "prompt": self.task,
            "score": self.attempt.rating / TOP_RATING,
            "solved": self.attempt.solved,
            **asdict(self.attempt),
            "oracle_rating": self.oracle.rating,
            "control_rating": self.control.rating,
        }


def success_rate(trials: Sequence[Trial]) -> float | None:
    """Share of the tasks solved among those that the oracle solves; None where it solves none."""
    solvable = [trial for trial in trials if trial.oracle.solved]
    return sum(t.attempt.solved for t in solvable) / len(solvable) if solvable else None


def summary(trials: Sequence[Trial]) -> Details:
    """Side figures: shares of all tasks, and the mean rating in 0.2..1."""

    def share(attempts: Sequence[Attempt]) -> float:
        return round(sum(attempt.solved for attempt in attempts) / len(attempts), 6)

    ratings = [trial.attempt.rating for trial in trials]
    return {
        "share_tasks_solved": share([trial.attempt for trial in trials]),
        "share_tasks_solved_by_oracle": share([trial.oracle for trial in trials]),
        "share_tasks_solved_without_tools": share([trial.control for trial in trials]),
        "mean_task_rating": round(sum(ratings) / TOP_RATING / len(ratings), 6),
    }


@dataclass
class Agent:
    """oracle: code of the reference server by slug. folder: where its runs are kept."""

    solver: Endpoint
    judge: Judge
    oracle: Mapping[str, str]
    folder: Path

    def examine(self, key: AnswerKey, seen: Examination) -> list[Trial]:
        """Every task of the server. Raises HarnessFault where an endpoint or the judge fails."""
        tasks = [task.prompt for task in key.tasks]
        oracle, control = self.references(key.slug, tasks, seen.launcher)
        attempts = asyncio.run(self.attempts(tasks, seen))
        return [Trial(*parts) for parts in zip(tasks, attempts, oracle, control, strict=True)]

    def references(
        self, slug: str, tasks: Sequence[str], launcher: Launcher
    ) -> tuple[list[Attempt], list[Attempt]]:
        """Oracle and control, from the run folder or run now. One process does it, others wait."""
        path = self.folder / f"{slug}.json"
        code = self.oracle[slug]
        wanted = fingerprint(
            [list(tasks), code, self.solver.model, self.judge.endpoint.model, RULES]
        )
        with locked(self.folder / f".{slug}.lock"):
            if path.exists() and (kept := read_json(path))["of"] == wanted:
                pair = kept["oracle"], kept["control"]
            else:
                seen = Examination(code, launcher)
                try:
                    with seen.fresh_server():
                        pass
                except ModelFault as fault:
                    raise UserError(
                        f"score.oracle: {slug}",
                        str(fault),
                        "the reference server does not launch",
                        "give servers that do, for example data/mini/servers",
                    ) from fault
                pair = (
                    [asdict(attempt) for attempt in asyncio.run(self.attempts(tasks, seen))],
                    [asdict(attempt) for attempt in asyncio.run(self.attempts(tasks, None))],
                )
                write_json(path, {"of": wanted, "oracle": pair[0], "control": pair[1]})
        oracle, control = ([Attempt(**attempt) for attempt in attempts] for attempts in pair)
        return oracle, control

    async def attempts(self, tasks: Sequence[str], seen: Examination | None) -> list[Attempt]:
        """One for each task, in order; without tools where there is no server."""
        slots = asyncio.Semaphore(TASKS_AT_ONCE)

        async def one(task: str) -> Attempt:
            async with slots:
                attempt = await solve(solver, task, seen)
                if attempt.calls or attempt.answer:
                    attempt.rating, attempt.reason = await self.judge.rating(
                        judge, readable(task, TRANSCRIPT_CHARS), transcript(attempt)
                    )
                return attempt

        async with self.solver.open() as solver, self.judge.endpoint.open() as judge:
            return await gathered(one(task) for task in tasks)


RULES = fingerprint(
    [SOLVER_PROMPT, SOLVER_WITHOUT_TOOLS_PROMPT, JUDGE_TASK_PROMPT, MAX_TURNS, MAX_SOLVER_TOKENS]
)


async def solve(client: ModelClient, task: str, seen: Examination | None) -> Attempt:
    """Let the solver do one task. A server that fails is the attempt's; a solver that does not
    answer is a HarnessFault."""
    attempt = Attempt()
    with contextlib.ExitStack() as stack:
        tools: dict[str, ToolSchema] = {}
        server: ServerSession | None = None
        if seen is not None:
            try:
                server = await asyncio.to_thread(stack.enter_context, seen.fresh_server())
            except ModelFault as fault:  # it launched before and does not now
                attempt.fault = fault.kind
                return attempt
            tools = offered(server.raw_tools)
        await converse(client, task, tools, server, attempt)
    return attempt


async def converse(
    client: ModelClient,
    task: str,
    tools: Mapping[str, ToolSchema],
    server: ServerSession | None,
    attempt: Attempt,
) -> None:
    talk = solver_messages(readable(task, TRANSCRIPT_CHARS), with_tools=bool(tools))
    shown = [tool.model_copy(update={"name": name}) for name, tool in tools.items()]
    for _ in range(MAX_TURNS + 1):
        try:
            answer = await client.complete(
                talk, max_tokens=MAX_SOLVER_TOKENS, temperature=0.0, seed=0, tools=shown
            )
        except ModelFault as fault:  # tools and answers outgrew the solver's context
            attempt.fault = fault.kind
            return
        talk.append(answer.as_message())
        if answer.tool_calls:
            for call in answer.tool_calls[:MAX_CALLS_PER_TURN]:
                content = await carry_out(call, tools, server, attempt)
                talk.append(Message(role="tool", content=content, tool_call_id=call.id))
            for call in answer.tool_calls[MAX_CALLS_PER_TURN:]:
                content = f"Not called: at most {MAX_CALLS_PER_TURN} calls at once."
                talk.append(Message(role="tool", content=content, tool_call_id=call.id))
        elif answer.invalid_tool_calls:
            talk.append(Message(role="user", content=SOLVER_BROKEN_CALL))
        else:
            attempt.answer = (without_thought(answer.text) or "").strip()
            return
    attempt.fault = "turns_spent"


async def carry_out(
    call: ToolCall, tools: Mapping[str, ToolSchema], server: ServerSession | None, attempt: Attempt
) -> str:
    """Make one call, note it, and give what the solver is told."""
    noted: dict[str, Json] = {"tool": call.name, "arguments": call.arguments}
    attempt.calls.append(noted)
    if attempt.fault:
        said = f"The server no longer answers ({attempt.fault})."
    elif server is None or call.name not in tools:
        said = "There is no such tool."
    else:
        try:
            answer = await asyncio.to_thread(server.call, tools[call.name].name, call.arguments)
        except ModelFault as fault:
            attempt.fault = fault.kind
            said = f"The server does not answer ({fault.kind})."
        else:
            text = answer.text or json.dumps(answer.value)
            said = f"Error: {text}" if answer.is_error else text
            noted["is_error"] = answer.is_error
    noted["actual"] = readable(said, ANSWER_CHARS)
    return readable(said, ANSWER_CHARS)


def offered(raw_tools: Sequence[Json]) -> dict[str, ToolSchema]:
    """The tools that a chat endpoint can be given, under the names that it takes.

    An endpoint refuses a whole request for one odd schema or name, and a server must not be able
    to make the harness fail; so a tool that is not compliant, or huge, is left out, and one whose
    name is none of a function is offered as `tool_3`.
    """
    tools: dict[str, ToolSchema] = {}
    for index, raw in enumerate(raw_tools[:MAX_OFFERED_TOOLS]):
        if measure(raw, MAX_NODES)[1] or tool_fault(raw):
            continue
        name = raw["name"]
        if not OFFERED_NAME.fullmatch(name) or name in tools:
            name = f"tool_{index}"
        text = json.dumps(raw["inputSchema"], ensure_ascii=False)
        if len(text) > SCHEMA_CHARS:
            continue
        tools[name] = ToolSchema(
            name=raw["name"],
            description=readable(raw.get("description") or "", DESCRIPTION_CHARS),
            input_schema=json.loads(readable(text, SCHEMA_CHARS)),
        )
    return tools


def transcript(attempt: Attempt) -> str:
    """An attempt as the judge reads it; the middle of a very long one is left out."""
    lines = [
        f"call {number}: {json.dumps(call['tool'])} {json.dumps(call['arguments'])}"
        f"\nanswer {number}: {call['actual']}"
        for number, call in enumerate(attempt.calls, 1)
    ]
    last = attempt.answer or f"(no last words: {attempt.fault or 'empty'})"
    text = "\n".join([*lines, f"last words: {last}"])
    half = TRANSCRIPT_CHARS // 2
    if len(text) > TRANSCRIPT_CHARS:
        text = f"{text[:half]}\n... [{len(text) - 2 * half} characters]\n{text[-half:]}"
    return readable(text, 2 * TRANSCRIPT_CHARS)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, a lock that ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
