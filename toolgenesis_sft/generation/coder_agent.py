"""The coder agent: a schema, then turns of write, launch, list, call, read the errors, repair.

What it reads is its own scenario and what the sandbox said about its own server; the trial calls
are its own too. It stops when its checks pass, or when turns, tokens or seconds are spent; the
turn that got furthest is the answer, and every turn is kept.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.generation.request import NO_ROOM, Request
from toolgenesis_sft.prompts import (
    NO_ANSWER,
    TrialCall,
    agent_messages,
    agent_report,
    parse_code,
    parse_schema,
    parse_trial_calls,
    schema_messages,
    schema_text,
    schema_tools,
)
from toolgenesis_sft.records import Message, ServerPrediction, ToolSchema

if TYPE_CHECKING:
    from toolgenesis_sft.sandbox.session import Sandbox, ServerSession
    from toolgenesis_sft.sandbox.workshop import Workshop

MAX_CALLS = 40  # trial calls of one turn
ANSWER_CHARS = 600  # of a tool's answer, as the model is shown it
REPORT_CHARS = 6000  # of the whole report


class Reach(NamedTuple):
    """How far a server got; compared from left to right."""

    launched: bool
    num_declared_listed: int
    num_calls_passed: int


NOWHERE = Reach(False, 0, 0)


class Attempt(NamedTuple):
    """One version of a server: how far it got, and the talk that it answers."""

    reach: Reach
    answer: Completion
    asked: tuple[Message, ...]


@dataclass
class Trial:
    """What happened to one version of a server."""

    reach: Reach = NOWHERE
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def report(self) -> str:
        """The faults as the model reads them, the first ones where there are too many."""
        text = "\n".join(f"- {fault}" for fault in self.faults)
        return text if len(text) <= REPORT_CHARS else text[:REPORT_CHARS] + "\n- (more)"


async def coder_agent(
    client: ModelClient, request: Request, workshop: Workshop
) -> ServerPrediction:
    """Design, then write and repair until the checks pass or a budget is spent."""
    settings = request.settings
    started = time.monotonic()
    asked = schema_messages(request.scenario)
    spent = [await request.ask(client, asked)]
    tools = schema_tools(parse_schema(spent[0].text))
    schema = schema_text(tools) if tools else spent[0].text
    talk = list(agent_messages(request.scenario, schema))
    calls: tuple[TrialCall, ...] = ()
    best: Attempt | None = None
    for _ in range(settings.max_turns):
        answer = await request.ask(client, talk)
        if answer is NO_ROOM:  # the talk has outgrown the context: what was written before counts
            best = best or Attempt(NOWHERE, answer, tuple(talk))
            break
        spent.append(answer)
        calls = parse_trial_calls(answer.text) or calls
        # in a thread, for the first piece of work opens the workshop
        trying = await asyncio.to_thread(workshop.submit, try_out, answer, tools, calls)
        trial = await asyncio.wrap_future(trying)
        if best is None or trial.reach >= best.reach:
            best = Attempt(trial.reach, answer, asked=tuple(talk))
        talk.append(Message(role="assistant", content=answer.text or NO_ANSWER))
        num_tokens = sum(completion.num_completion_tokens for completion in spent)
        late = time.monotonic() - started > settings.max_agent_s
        if trial.passed or late or num_tokens >= settings.max_agent_tokens:
            break
        talk.append(agent_report(trial.report))
    assert best is not None
    return request.prediction(
        best.answer,
        before=[completion for completion in spent if completion is not best.answer],
        confidence=await request.ask_confidence(client, best.asked, best.answer),
        schema_completion=spent[0].text,
        turns=(*asked, Message(role="assistant", content=spent[0].text), *talk),
    )


def try_out(
    sandbox: Sandbox,
    completion: Completion,
    tools: Sequence[ToolSchema],
    calls: Sequence[TrialCall],
) -> Trial:
    """Launch, list, call. The model's faults become sentences of the trial."""
    trial = Trial()
    code, fault = parse_code(completion.text, completion.finish_reason == "length")
    if code is None or fault:
        trial.faults.append(f"no complete Python program was found in the answer ({fault})")
        if code is not None and fault == "syntax_error":
            trial.faults[-1] = f"the program does not compile: {compile_error(code)}"
        return trial
    try:
        with sandbox.start(code) as session:
            listed = {tool.name for tool in session.list_tools()}
            trial.reach = Reach(bool(listed), 0, 0)
            check_tools(trial, listed, tools)
            check_calls(trial, session, listed, calls, sandbox.server_python)
    except ModelFault as fault_of_server:
        said = impersonal(str(fault_of_server), sandbox.server_python)
        trial.faults.append(f"the server failed: {said}")
    return trial


def check_tools(trial: Trial, listed: set[str], tools: Sequence[ToolSchema]) -> None:
    declared = {tool.name for tool in tools}
    trial.reach = trial.reach._replace(num_declared_listed=len(declared & listed))
    if not listed:
        trial.faults.append("the server started, but lists no tool")
    for name in sorted(declared - listed):
        trial.faults.append(f"the tool {name} of your schema is not listed by the server")


def check_calls(
    trial: Trial,
    session: ServerSession,
    listed: set[str],
    calls: Sequence[TrialCall],
    server_python: Path,
) -> None:
    """Make the trial calls in order, on one running server."""
    for name in sorted(listed - {call.tool for call in calls}):
        trial.faults.append(f"no call tries the tool {name}: add one to the ```json block")
    for call in calls[:MAX_CALLS]:
        shown = f"{call.tool}({json.dumps(call.arguments, ensure_ascii=False)[:ANSWER_CHARS]})"
        answer = session.call(call.tool, call.arguments)
        text = impersonal(answer.text, server_python)[:ANSWER_CHARS]
        if answer.is_error and not call.expects_error:
            trial.faults.append(f"{shown} failed: {text}")
        elif call.expects_error and not answer.is_error:
            trial.faults.append(f"{shown} should have failed, but answered: {text}")
        elif call.contains not in answer.text:
            trial.faults.append(f"{shown} answered without {call.contains!r}: {text}")
        else:
            passed = trial.reach.num_calls_passed + 1
            trial.reach = trial.reach._replace(num_calls_passed=passed)


def impersonal(text: str, server_python: Path) -> str:
    """Without what is of this machine or of one process, so that a fault reads the same anywhere:
    where the servers' libraries lie, and addresses of objects."""
    roots = {server_python.parent.parent, server_python.resolve().parent.parent}
    either = "|".join(sorted(re.escape(str(root)) for root in roots))
    text = re.sub(rf"(?:{either})/lib/python3\.\d+/(?:site-packages/)?", "", text)
    return re.sub(r"\bat 0x[0-9a-f]+", "at 0x...", text)


def compile_error(code: str) -> str:
    """Python's own words about a program that does not compile, with the line."""
    try:
        compile(code, "server.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{error.msg} in line {error.lineno}: {(error.text or '').strip()}"
    except (ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return "it is not Python"
