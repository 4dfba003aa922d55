"""The benchmark file in the v3 layout: scenarios, and apart from them the answer key.

A benchmark is one JSON list (`tool_genesis_v3.json`, `data/mini/benchmark.json`). Two optional
files beside it extend it without touching its layout: `tasks.json` ({slug: [task with plan and
outcome]}) and `splits.json` ({"train": [slug], "held_out": [slug]}).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import AnswerKey, Json, Scenario, Task, ToolSchema, UnitTest

REQUIRED_KEYS = ("server_slug", "agent_input_prompt", "tool_definitions", "unit_test")
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# How servers and the collecting harness spell an error in a recorded answer. Only the start of
# the text counts, so an answer that merely speaks about errors is none.
ERROR_START = re.compile(
    r"(error executing tool|error calling tool|an error occurred|input validation error"
    r"|output validation error|unknown tool|error\b|.{0,60}\berror:|connect ECONN"
    r"|\d+ validation errors? for|traceback \(most recent call last\))",
    re.IGNORECASE,
)
# Faults of whoever recorded the answer, not of the recorded server's logic: no server written
# from the prompt can be asked to reproduce them.
COLLECTOR_FAULT = re.compile(
    r"status code:? (429|5\d\d)|\b429 too many requests|rate limit|ECONNREFUSED|ECONNRESET"
    r"|ETIMEDOUT|ENOTFOUND|JSONDecodeError|object has no attribute|timed? ?out",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Benchmark:
    """What a model may be asked. `digest` is the SHA-256 of the file's bytes."""

    path: Path
    digest: str
    scenarios: tuple[Scenario, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def slugs(self) -> tuple[str, ...]:
        return tuple(scenario.slug for scenario in self.scenarios)


def load_benchmark(path: Path) -> Benchmark:
    """Read the scenarios. Raises UserError that names the item and the rule it breaks."""
    raw, items = _read_items(path)
    scenarios = tuple(_scenario(item, index, path) for index, item in enumerate(items))
    splits = _read_beside(path, "splits.json", {"train": [], "held_out": []})
    known = {scenario.slug for scenario in scenarios}
    for name, slugs in splits.items():
        for slug in slugs:
            if slug not in known:
                raise UserError(
                    f"splits.json: {name}",
                    slug,
                    "is not in the benchmark",
                    f"remove it, or add it to {path.name}",
                )
    both = set(splits["train"]) & set(splits["held_out"])
    if both:
        raise UserError(
            "splits.json",
            sorted(both)[0],
            "a server is either for training or held out",
            "remove it from one of the two lists",
        )
    return Benchmark(
        path=path,
        digest=hashlib.sha256(raw).hexdigest(),
        scenarios=scenarios,
        train=tuple(splits["train"]),
        held_out=tuple(splits["held_out"])
        or tuple(s.slug for s in scenarios if s.slug not in set(splits["train"])),
    )


def load_answer_keys(path: Path) -> dict[str, AnswerKey]:
    """Read what is held out, by slug. For scoring, verification and the report only."""
    _, items = _read_items(path)
    tasks = _read_beside(path, "tasks.json", {})
    return {
        item["server_slug"]: _answer_key(item, index, path, tasks)
        for index, item in enumerate(items)
    }


def load_gold_schemas(path: Path) -> dict[str, tuple[ToolSchema, ...]]:
    """The gold tools alone, by slug: what the oracle setting of generation shows a model."""
    return {slug: key.tools for slug, key in load_answer_keys(path).items()}


def is_error_text(text: str) -> bool:
    """Whether a recorded or live answer says that the call failed.

    True for the SDKs' error texts and for a JSON object with a truthy `error` or with
    `isError`, or with `success`/`ok` false. `{"ok": true, "errors": []}` is no error.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, str):
        return ERROR_START.match(value.lstrip()) is not None
    return is_error_value(value)


def is_error_value(value: Json) -> bool:
    """As is_error_text, for a decoded answer. A text in it may be JSON: tools declared `-> str`
    answer so."""
    if isinstance(value, str):
        return is_error_text(value)
    if not isinstance(value, dict):
        return False
    if value.get("isError") is True or value.get("error"):
        return True
    return value.get("success") is False or value.get("ok") is False


def expected_text(recorded: Json) -> str:
    """The text of a recorded answer. Some items hold a whole MCP text block as JSON."""
    text = recorded if isinstance(recorded, str) else json.dumps(recorded)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if (
        isinstance(value, dict)
        and value.get("type") == "text"
        and isinstance(value.get("text"), str)
    ):
        return str(value["text"])
    return text


def _read_items(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            "benchmark",
            str(path),
            f"cannot be read ({error.strerror})",
            "give the path of a tool_genesis_v3.json or of data/mini/benchmark.json",
        ) from error
    try:
        items = json.loads(raw)
    except ValueError as error:
        raise UserError(
            "benchmark", str(path), f"is not JSON ({error})", "give a JSON list in the v3 layout"
        ) from error
    if not isinstance(items, list) or not items:
        raise UserError(
            "benchmark",
            str(path),
            "must be a non-empty JSON list of servers",
            "give a file in the v3 layout",
        )
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        where = f"{path.name}: item {index}"
        if not isinstance(item, dict):
            raise UserError(where, item, "must be a JSON object", "mend or remove the item")
        for key in REQUIRED_KEYS:
            if key not in item:
                raise UserError(where, key, "is missing", "add the key, or remove the item")
        slug = item["server_slug"]
        if not isinstance(slug, str) or not SLUG.fullmatch(slug):
            raise UserError(
                f"{where}: server_slug",
                slug,
                "must be letters, digits, '.', '_' or '-'",
                "rename it",
            )
        if slug in seen:
            raise UserError(
                f"{where}: server_slug",
                slug,
                f"is also the slug of item {seen[slug]}",
                "slugs are the key everywhere: rename one of the two",
            )
        seen[slug] = index
    return raw, items


def _scenario(item: dict[str, Any], index: int, path: Path) -> Scenario:
    prompt = item["agent_input_prompt"]
    try:
        return Scenario(
            slug=item["server_slug"],
            prompt=prompt,
            primary_label=item.get("primary_label") or "",
            secondary_labels=tuple(item.get("secondary_labels") or ()),
            server_class=item.get("server_class") or "stateless",
            requires_api=bool(item.get("requires_api")),
            sandbox_level=item.get("sandbox_level") or "",
            digest=hashlib.sha256(str(prompt).encode()).hexdigest(),
        )
    except (ValidationError, TypeError, UnicodeEncodeError) as error:
        raise _broken_item(error, item, index, path) from error


def _answer_key(
    item: dict[str, Any], index: int, path: Path, tasks: dict[str, list[Json]]
) -> AnswerKey:
    slug = item["server_slug"]
    try:
        declared = {tool["name"] for tool in item["tool_definitions"]}
        key = AnswerKey(
            slug=slug,
            tools=tuple(
                ToolSchema(
                    name=tool["name"],
                    description=tool.get("description") or "",
                    input_schema=tool.get("input_schema") or {},
                )
                for tool in item["tool_definitions"]
            ),
            unit_tests=tuple(
                _unit_test(tool, test, tool in declared)
                for tool, tests in item["unit_test"].items()
                for test in tests
            ),
            tasks=tuple(Task.model_validate(task) for task in tasks[slug])
            if slug in tasks
            else tuple(Task(prompt=text) for text in item.get("task_example") or ()),
            requires_api=bool(item.get("requires_api")),
        )
    except (ValidationError, TypeError, KeyError, AttributeError) as error:
        raise _broken_item(error, item, index, path) from error
    beside = path.with_name("tasks.json") if slug in tasks else path
    for number, task in enumerate(key.tasks):
        _check_task(task, key, f"{beside.name}: {slug}: task {number}")
    return key


def _check_task(task: Task, key: AnswerKey, where: str) -> None:
    """Raises UserError for a plan that no server can follow, or an outcome beyond its calls."""
    declared = {tool.name for tool in key.tools}
    for number, planned in enumerate(task.plan):
        if planned.tool not in declared:
            raise UserError(
                f"{where}: plan.{number}.tool",
                planned.tool,
                f"is no tool of the item's tool_definitions ({', '.join(sorted(declared))})",
                "rename it, or remove the task",
            )
        for taken in _taken(planned.arguments):
            call = str(taken).partition(".")[0]
            if not (call.isdecimal() and int(call) < number):
                raise UserError(
                    f"{where}: plan.{number}.$from",
                    str(taken),
                    f"must begin with the number of a call before call {number}, counted from 0",
                    "give that number, or the value itself",
                )
    for number, check in enumerate(task.outcome):
        if not 0 <= check.call < len(task.plan):
            raise UserError(
                f"{where}: outcome.{number}.call",
                check.call,
                f"is no call of the plan, which has {len(task.plan)}, counted from 0",
                "give the number of the call to check, or remove the check",
            )


def _taken(value: Json) -> Iterator[Json]:
    """What the `{"$from": ...}` in a planned argument name."""
    if isinstance(value, dict) and set(value) == {"$from"}:
        yield value["$from"]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _taken(inner)


def _unit_test(tool: str, test: dict[str, Any], is_declared: bool) -> UnitTest:
    arguments = test["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    expected = expected_text(test["function_output_content"])
    failed = is_error_text(expected)
    return UnitTest(
        tool=tool,
        arguments=arguments if isinstance(arguments, dict) else None,
        expected=expected,
        expects_error=failed,
        unanswerable=not is_declared
        or not isinstance(arguments, dict)
        or (failed and COLLECTOR_FAULT.search(expected) is not None),
    )


def _read_beside(path: Path, name: str, default: dict[str, Any]) -> dict[str, Any]:
    beside = path.with_name(name)
    if not beside.exists():
        return default
    try:
        value = json.loads(beside.read_bytes())
    except ValueError as error:
        raise UserError(str(beside), "", f"is not JSON ({error})", "record it again") from error
    if not isinstance(value, dict):
        raise UserError(str(beside), value, "must be a JSON object", "record it again")
    return {**default, **value}


def _broken_item(error: Exception, item: dict[str, Any], index: int, path: Path) -> UserError:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        detail = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    else:
        detail = repr(error)
    return UserError(
        f"{path.name}: item {index}",
        str(item.get("server_slug")),
        f"is broken ({detail})",
        "mend or remove the item",
    )
