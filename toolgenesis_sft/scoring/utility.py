"""Layer 4 by replay: a task's reference plan, run on the generated server.

Exact and without a model: each planned call is mapped through the tool and argument match of
layer 2, and the answers are checked against the task's outcome. The reference server passes every
check of its own tasks (a test runs them), so a score is already normalised by an oracle that ran:
clip(s_generated / s_oracle, 0, 1) with s_oracle = 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.records import Json, Task
from toolgenesis_sft.sandbox.session import ToolAnswer
from toolgenesis_sft.scoring.examination import Examination
from toolgenesis_sft.scoring.presentable import excerpt
from toolgenesis_sft.scoring.schema import SchemaMatch
from toolgenesis_sft.scoring.unit_tests import compare, decode, rename_arguments


@dataclass
class TaskResult:
    """`score` is the share of the outcome's checks that hold; `solved` means all of them."""

    prompt: str
    score: float = 0.0
    fault: str = ""
    calls: list[dict[str, Json]] = field(default_factory=list)
    checks: list[dict[str, Json]] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        return self.score == 1.0

    def evidence(self) -> Json:
        return {**asdict(self), "solved": self.solved}


class MissingValue(Exception):
    """A planned call or a check asks for a value that no earlier answer has."""


def replay(task: Task, match: SchemaMatch, seen: Examination) -> TaskResult:
    """Run the plan on a fresh server of the task's own and check its outcome.

    A call that cannot be made (no such tool, a value that an earlier answer lacks) or that ends
    in a fault leaves no answer, and the checks on it fail; the other calls still run.
    """
    result = TaskResult(task.prompt)
    answers: list[ToolAnswer | None] = []
    with seen.fresh_server() as server:
        for planned in task.plan:
            live = match.tools.get(planned.tool)
            record: dict[str, Json] = {"tool": planned.tool, "live_tool": live}
            result.calls.append(record)
            answers.append(None)
            if result.fault:
                record["fault"] = result.fault
                continue
            if live is None:
                record["fault"] = "no_tool"
                continue
            if seen.is_mute(live):
                record["fault"] = result.fault = "call_timeout"
                continue
            try:
                arguments = fill(planned.arguments, answers)
            except MissingValue as error:
                record["fault"] = f"missing_value: {error}"
                continue
            assert isinstance(arguments, dict)
            renamed = rename_arguments(arguments, match.arguments.get(planned.tool, {}))
            record["arguments"] = excerpt(renamed)
            try:
                answer = server.call(live, renamed)
            except ModelFault as fault:  # the server is gone or mute: the rest cannot run
                record["fault"] = result.fault = seen.note(live, fault)
                continue
            record["actual"], record["is_error"] = excerpt(answer.value), answer.is_error
            answers[-1] = answer
    for check in task.outcome:
        shown: dict[str, Json] = check.model_dump(mode="json")
        found = answers[check.call]
        try:
            if found is None or found.is_error:
                raise MissingValue(f"call {check.call} has no answer")
            value = value_at(found.value, check.path)
            shown["found"], shown["ok"] = excerpt(value), compare(check.equals, value) == 1.0
        except MissingValue as error:
            shown["ok"], shown["reason"] = False, str(error)
        result.checks.append(shown)
    result.score = sum(bool(check["ok"]) for check in result.checks) / len(result.checks)
    return result


def fill(value: Json, answers: list[ToolAnswer | None]) -> Json:
    """A planned argument with each `{"$from": "CALL.path"}` replaced by what that call answered."""
    if isinstance(value, dict) and set(value) == {"$from"}:
        call, _, path = str(value["$from"]).partition(".")
        answer = answers[int(call)]
        if answer is None:
            raise MissingValue(f"call {call} has no answer")
        return value_at(answer.value, path)
    if isinstance(value, dict):
        return {key: fill(inner, answers) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, answers) for inner in value]
    return value


def value_at(value: Json, path: str) -> Json:
    """The value at a dotted path, list items by number; the empty path is the whole value. A text
    on the way may be JSON: tools declared `-> str` answer so."""
    for step in filter(None, path.split(".")):
        if isinstance(value, str):
            value = decode(value)
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise MissingValue(f"no `{step}` on the path `{path}`") from error
    return value
