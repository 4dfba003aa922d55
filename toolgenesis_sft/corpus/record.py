"""Record a benchmark of our own from hand-written scenarios and reference servers.

`python -m toolgenesis_sft.corpus.record data/mini` reads scenarios/<slug>.yaml and
servers/<slug>.py, runs every unit test on a fresh server in the sandbox, and writes
benchmark.json (exactly the keys of the v3 layout), tasks.json and splits.json. Expected answers
are recorded, never written by hand; outcomes of tasks are written by hand, and must hold.
With `--check` nothing is written: the exit code says whether the files are what a recording gives.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from toolgenesis_sft.benchmark import is_error_text
from toolgenesis_sft.config import server_python
from toolgenesis_sft.errors import EXIT_USER_ERROR, ModelFault, UserError
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import Json, OutcomeCheck, PlannedCall, Task
from toolgenesis_sft.runs import write_text
from toolgenesis_sft.sandbox.session import Sandbox, ToolAnswer
from toolgenesis_sft.scoring.examination import Examination
from toolgenesis_sft.scoring.schema import match_schema
from toolgenesis_sft.scoring.utility import replay
from toolgenesis_sft.sections import Section, checked
from toolgenesis_sft.yaml_text import read_yaml

MIN_TESTS_PER_TOOL = 4
MIN_EDGE_SHARE = 0.25  # of a server's unit tests, negative or boundary


class TestCase(Section):
    kind: Literal["typical", "boundary", "negative"]
    arguments: dict[str, Json]


class TaskCase(Section):
    prompt: str
    plan: tuple[PlannedCall, ...]
    outcome: tuple[OutcomeCheck, ...] = Field(min_length=1)


class ScenarioFile(Section):
    """scenarios/<slug>.yaml, as a person writes it."""

    server_name: str
    split: Literal["train", "held_out"]
    primary_label: str
    secondary_labels: tuple[str, ...] = ()
    server_class: Literal["stateless", "stateful"]
    requires_api: bool = False
    sandbox_level: str
    agent_input_prompt: str
    unit_tests: dict[str, tuple[TestCase, ...]]
    tasks: tuple[TaskCase, ...] = Field(min_length=1)


def record(folder: Path) -> dict[str, str]:
    """File name -> content of the three files. Raises UserError that names the broken scenario."""
    paths = sorted((folder / "scenarios").glob("*.yaml"))
    if not paths:
        raise UserError("folder", str(folder), "has no scenarios/*.yaml", "give data/mini")
    items: list[Json] = []
    tasks: dict[str, Json] = {}
    splits: dict[str, list[str]] = {"train": [], "held_out": []}
    with (
        Sandbox(server_python(None)) as sandbox,
        Progress("record", len(paths), "servers") as progress,
    ):
        for path in paths:
            slug = path.stem
            scenario = checked(ScenarioFile, read_yaml(path), f"{path.name}: ")
            code = (folder / "servers" / f"{slug}.py").read_text(encoding="utf-8")
            try:
                items.append(record_server(slug, scenario, code, sandbox))
            except ModelFault as fault:
                raise broken(slug, f"the reference server fails ({fault})") from fault
            tasks[slug] = [task.model_dump(mode="json") for task in scenario.tasks]
            splits[scenario.split].append(slug)
            progress.done()
    return {
        name: json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        for name, value in (
            ("benchmark.json", items),
            ("tasks.json", tasks),
            ("splits.json", splits),
        )
    }


def record_server(slug: str, scenario: ScenarioFile, code: str, sandbox: Sandbox) -> Json:
    """One item of the v3 layout, with every rule of data/README.md checked."""
    with sandbox.start(code) as server:
        tools = server.list_tools()
        raw = {tool["name"]: tool for tool in server.raw_tools}
    names = [tool.name for tool in tools]
    if sorted(names) != sorted(scenario.unit_tests):
        raise broken(slug, f"unit_tests must name exactly the tools {sorted(names)}")
    for name in names:
        if name in scenario.agent_input_prompt:
            raise broken(slug, f"the prompt gives away the tool name {name}")
        if len(scenario.unit_tests[name]) < MIN_TESTS_PER_TOOL:
            raise broken(slug, f"{name} has fewer than {MIN_TESTS_PER_TOOL} unit tests")
    kinds = [test.kind for tests in scenario.unit_tests.values() for test in tests]
    if sum(kind != "typical" for kind in kinds) < MIN_EDGE_SHARE * len(kinds):
        raise broken(slug, "fewer than a quarter of the unit tests are negative or boundary")

    unit_test: dict[str, list[Json]] = {}
    for name in names:
        unit_test[name] = []
        for test in scenario.unit_tests[name]:
            with sandbox.start(code) as server:
                server.list_tools()
                answer = server.call(name, test.arguments)
            expected = recorded_text(answer)
            if answer.is_error != (test.kind == "negative"):
                raise broken(slug, f"{name} {test.arguments} is {test.kind}, but gave {expected}")
            if is_error_text(expected) != answer.is_error:
                raise broken(slug, f"{name} {test.arguments}: {expected} hides whether it failed")
            unit_test[name].append(
                {
                    "function_name": name,
                    "arguments": test.arguments,
                    "function_output_content": expected,
                }
            )

    match = match_schema(tools, tools)
    for number, case in enumerate(scenario.tasks):
        task = Task(prompt=case.prompt, plan=case.plan, outcome=case.outcome)
        result = replay(task, match, Examination(code, sandbox))
        if not result.solved:
            wrong = next(check for check in result.checks if not check["ok"])
            raise broken(slug, f"task {number}: the outcome {wrong} does not hold")
    return {
        "server_id": None,
        "server_name": scenario.server_name,
        "server_slug": slug,
        "primary_label": scenario.primary_label,
        "secondary_labels": list(scenario.secondary_labels),
        "agent_input_prompt": scenario.agent_input_prompt.strip(),
        "task_example": [case.prompt for case in scenario.tasks],
        "tool_definitions": [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.input_schema,
                "annotations": raw[tool.name].get("annotations"),
            }
            for tool in tools
        ],
        "unit_test": unit_test,
        "server_class": scenario.server_class,
        "requires_api": scenario.requires_api,
        "sandbox_level": scenario.sandbox_level,
    }


def recorded_text(answer: ToolAnswer) -> str:
    """The answer as the v3 layout keeps it: an error's or a string's text, else JSON text."""
    if answer.is_error:
        return answer.text
    if isinstance(answer.value, str):
        return answer.value
    return json.dumps(answer.value, ensure_ascii=False)


def broken(slug: str, rule: str) -> UserError:
    return UserError("scenario", slug, rule, f"mend scenarios/{slug}.yaml or servers/{slug}.py")


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    folders = [argument for argument in arguments if argument != "--check"]
    if len(folders) != 1:
        print("usage: python -m toolgenesis_sft.corpus.record FOLDER [--check]", file=sys.stderr)
        return EXIT_USER_ERROR
    folder = Path(folders[0])
    try:
        files = record(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    differing = [
        name
        for name, content in files.items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != content
    ]
    if check:
        print("differs: " + ", ".join(differing) if differing else "as recorded", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        write_text(folder / name, files[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
