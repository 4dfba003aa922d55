"""A teacher writes the scenarios of servers that came without one.

What it writes must be of use as a prompt: it says what is wanted, and neither names the tools nor
quotes the program. Every answer is stored as it arrives and never asked for twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Recipe, Teacher
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.teacher import Errand, run_errands
from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.generation.request import NO_ROOM, REFUSED
from toolgenesis_sft.prompts import scenario_messages, without_thought
from toolgenesis_sft.records import FinishReason, Json, Record, ToolSchema
from toolgenesis_sft.runs import fingerprint

CODE = re.compile(
    r"```|FastMCP\(|@mcp\.|^\s*(?:import [\w.]+|from [\w.]+ import .+)$", re.MULTILINE
)
MANY_WORDS = re.compile(r"[^\W_](?:_|-|(?<=[a-z])[A-Z])\w")  # get_rate, get-rate, getRate


class Written(Record):
    """One answer, as it came. key: of the server and of who was asked."""

    key: str
    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_completion_tokens: int


@dataclass
class ScenarioWriter:
    """Called with verified servers; what it says of each is a scenario or the reason for none."""

    recipe: Recipe
    teacher: Teacher
    memory: Path
    answers: list[Written] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def __call__(self, servers: Sequence[Server]) -> list[str | Unfit]:
        """May be called with more servers: what it wrote before is not written again. Raises
        HarnessFault where the teacher cannot be reached or leaves servers unanswered."""
        errands = [
            Errand(
                self._key(server),
                server.pair.id,
                partial(self._ask, server),
                self._written(server, REFUSED),
            )
            for server in servers
        ]
        answers = run_errands(self.recipe, self.teacher, errands, self.memory, Written, "scenarios")
        self.answers += answers
        verdicts: list[str | Unfit] = []
        for server, answer in zip(servers, answers, strict=True):
            try:
                text = checked_scenario(answer, server.tools)
                if text in self.kept:
                    raise Unfit("scenario: the same as another server's", text)
            except Unfit as unfit:
                verdicts.append(unfit)
            else:
                self.kept.add(text)
                verdicts.append(text)
        return verdicts

    def facts(self) -> dict[str, Json]:
        """What the report says of it; tokens are counted once, whenever they were spent."""
        return {
            "num_asked": len(self.answers),
            "num_kept": len(self.kept),
            "num_prompt_tokens": sum(answer.num_prompt_tokens for answer in self.answers),
            "num_completion_tokens": sum(answer.num_completion_tokens for answer in self.answers),
        }

    def _key(self, server: Server) -> str:
        asked = [message.content for message in scenario_messages(server.pair.code)]
        teacher = self.teacher
        return fingerprint([asked, teacher.model, teacher.temperature, teacher.seed])

    async def _ask(self, server: Server, client: ModelClient) -> Written:
        try:
            answer = await client.complete(
                scenario_messages(server.pair.code),
                max_tokens=self.teacher.max_tokens,
                temperature=self.teacher.temperature,
                seed=self.teacher.seed,
            )
        except ModelFault:
            answer = NO_ROOM
        return self._written(server, answer)

    def _written(self, server: Server, answer: Completion) -> Written:
        return Written(
            key=self._key(server),
            text=answer.text,
            finish_reason=answer.finish_reason,
            num_prompt_tokens=answer.num_prompt_tokens,
            num_completion_tokens=answer.num_completion_tokens,
        )


def checked_scenario(answer: Written, tools: Sequence[ToolSchema]) -> str:
    """The scenario in an answer. Raises Unfit where it cannot be a prompt.

    A tool's name of one word (`convert`) is a word that a scenario may need, so only those of
    several are looked for.
    """
    text = (without_thought(answer.text) or "").strip()
    if answer.finish_reason == "error":
        raise Unfit("scenario: the teacher refused to answer", text[-80:])
    if answer.finish_reason == "length":
        raise Unfit("scenario: cut off", text[-80:])
    if not text:
        raise Unfit("scenario: empty answer", answer.text)
    if code := CODE.search(text):
        raise Unfit("scenario: quotes code", code[0].strip())
    for tool in tools:
        if MANY_WORDS.search(tool.name) and re.search(
            rf"(?<!\w){re.escape(tool.name)}(?!\w)", text
        ):
            raise Unfit("scenario: gives away a tool's name", tool.name)
    return text
