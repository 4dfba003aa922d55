"""The published definitions on live servers: every defect of the reference is a fixed case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scripted_server import Fault, ScriptedServer, call, reply
from tests.scoring.conftest import MakeBenchmark, judge_script, reference
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import (
    AnswerKey,
    Json,
    LayerScores,
    Scenario,
    ServerPrediction,
    Task,
    ToolSchema,
    UnitTest,
)
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.compat import score_server, write_results
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.judge import Endpoint, Judge
from toolgenesis_sft.scoring.score import score_predictions

SCENARIO = Scenario(slug="s", prompt="p", digest="d", server_class="stateful")
HEAD = "from mcp.server.fastmcp import FastMCP\nmcp = FastMCP('s')\n"


def program(*functions: str) -> str:
    return HEAD + "".join(f"@mcp.tool()\n{function}\n" for function in functions)


def file_tool(name: str, **args: str) -> dict[str, Any]:
    """A tool of a schema file that keeps to the harness's subset."""
    return {
        "name": name,
        "description": "",
        "inputSchema": {
            "type": "object",
            "properties": {arg: {"type": kind} for arg, kind in args.items()},
            "required": list(args),
            "additionalProperties": False,
        },
    }


def answer_key(tools: list[dict[str, Any]], tests: list[UnitTest]) -> AnswerKey:
    gold = tuple(ToolSchema(name=t["name"], input_schema=t["inputSchema"]) for t in tools)
    return AnswerKey(slug="s", tools=gold, unit_tests=tuple(tests), tasks=())


def case(tool: str, expected: str, **arguments: Json) -> UnitTest:
    return UnitTest(tool=tool, arguments=arguments, expected=expected)


def score(
    sandbox: Sandbox,
    code: str,
    file_tools: list[dict[str, Any]],
    key: AnswerKey,
    judge: Judge | None = None,
    agent: Agent | None = None,
) -> tuple[LayerScores, dict[str, Json]]:
    prediction = ServerPrediction(
        slug="s",
        model="m",
        strategy="imported",
        completion=code,
        schema_completion=json.dumps({"server_name": "s", "tools": file_tools}),
        finish_reason="stop",
    )
    settings = Score(
        profile="tg-compat",
        launch_attempts=1,
        **({"judge_url": judge.endpoint.url, "judge_model": "j"} if judge else {}),
        **({"utility": "agent", "oracle": "o"} if agent else {}),
    )
    return score_server(prediction, SCENARIO, key, sandbox, settings, judge, agent)


def value(record: LayerScores, figure: Any) -> float | None:
    return record.figures[figure].value


STATUS = file_tool("status")
LEVEL = file_tool("level", sku="string")
REMOVE = file_tool("remove_item", sku="string")
COUNT = file_tool("count_items", shelf="string")
MOVE = file_tool("move_item", shelf="string")


def test_an_answer_identical_to_the_expected_json_is_capped_near_one_half(sandbox: Sandbox) -> None:
    expected = '{"level": 80, "must_reorder": false}'
    code = program(f"def level(sku: str) -> str:\n    return {expected!r}")
    key = answer_key([LEVEL], [case("level", expected, sku="A")])
    record, evidence = score(sandbox, code, [LEVEL], key)
    assert evidence["unit_tests"][0]["actual"] == expected
    assert value(record, "ut_hard") == 1.0
    assert 0.2 < (value(record, "ut_soft") or 0) < 0.5
    assert value(record, "schema_f1") == 1.0


def test_an_identical_server_without_arguments_has_schema_f1_one_half(sandbox: Sandbox) -> None:
    code = program("def status() -> str:\n    return 'ok'")
    record, _ = score(sandbox, code, [STATUS], answer_key([STATUS], []))
    assert value(record, "schema_f1") == 0.5


def test_all_types_wrong_has_schema_f1_one(sandbox: Sandbox) -> None:
    wrong = file_tool("level", sku="boolean")
    code = program("def level(sku: bool) -> str:\n    return 'x'")
    record, _ = score(sandbox, code, [wrong], answer_key([LEVEL], []))
    assert value(record, "schema_f1") == 1.0


def test_one_of_four_tools_has_seven_tenths_and_its_tests_are_the_denominator(
    sandbox: Sandbox,
) -> None:
    code = program("def level(sku: str) -> str:\n    return 'eighty'")
    tests = [case("level", "eighty", sku="A"), *(case("remove_item", "gone", sku="A"),) * 3]
    key = answer_key([LEVEL, REMOVE, COUNT, MOVE], tests)
    record, evidence = score(sandbox, code, [LEVEL], key)
    assert value(record, "schema_f1") == pytest.approx(0.70)
    assert len(evidence["unit_tests"]) == 1
    assert value(record, "ut_hard") == 1.0


def test_a_tripled_tool_has_schema_f1_one(sandbox: Sandbox) -> None:
    code = program("def level(sku: str) -> str:\n    return 'x'")
    record, _ = score(sandbox, code, [LEVEL] * 3, answer_key([LEVEL], []))
    assert value(record, "schema_f1") == 1.0


def test_is_error_is_not_read_so_an_unknown_tool_passes_hard(sandbox: Sandbox) -> None:
    """The schema file promises a tool that the live server does not have."""
    code = program("def other() -> str:\n    return 'x'")
    key = answer_key([LEVEL], [case("level", "80", sku="A")])
    record, evidence = score(sandbox, code, [LEVEL], key)
    assert evidence["unit_tests"][0]["is_error"] is True
    assert value(record, "ut_hard") == 1.0


def test_a_wrong_value_passes_hard_and_an_empty_list_of_errors_does_not(sandbox: Sandbox) -> None:
    code = program(
        "def level(sku: str) -> int:\n    return 7",
        'def remove_item(sku: str) -> dict:\n    return {"ok": True, "errors": []}',
    )
    key = answer_key(
        [LEVEL, REMOVE], [case("level", "5", sku="A"), case("remove_item", "gone", sku="A")]
    )
    record, evidence = score(sandbox, code, [LEVEL, REMOVE], key)
    assert [test["score"] > 0 for test in evidence["unit_tests"]] == [True, False]
    assert value(record, "ut_hard") == 0.5


def test_the_tests_of_a_stateful_server_share_one_process(sandbox: Sandbox) -> None:
    code = program(
        "def level(sku: str) -> str:\n    seen.append(sku)\n    return f'number {len(seen)}'"
    )
    code = code.replace(HEAD, HEAD + "seen = []\n")
    tests = [case("level", "number 1", sku="A")] * 3
    _, evidence = score(sandbox, code, [LEVEL], answer_key([LEVEL], tests))
    assert [test["actual"] for test in evidence["unit_tests"]] == [
        "number 1",
        "number 2",
        "number 3",
    ]


def test_a_call_that_ends_the_process_fails_and_the_next_has_a_new_one(sandbox: Sandbox) -> None:
    code = program(
        "def level(sku: str) -> str:\n    import os; os._exit(1)",
        "def remove_item(sku: str) -> str:\n    return 'gone'",
    )
    tests = [case("level", "80", sku="A"), case("remove_item", "gone", sku="A")]
    record, evidence = score(sandbox, code, [LEVEL, REMOVE], answer_key([LEVEL, REMOVE], tests))
    assert evidence["unit_tests"][0]["fault"] == "died"
    assert value(record, "ut_hard") == 0.5


def test_arguments_are_renamed_by_the_file_and_unmapped_ones_are_dropped(
    sandbox: Sandbox,
) -> None:
    gold = file_tool("level", sku="string", flavour_of_day="string")
    code = program("def level(item_sku: str) -> str:\n    return item_sku")
    live = file_tool("level", item_sku="string")
    key = answer_key([gold], [case("level", "A", sku="A", flavour_of_day="x")])
    _, evidence = score(sandbox, code, [live], key)
    assert evidence["unit_tests"][0]["sent"] == {"item_sku": "A"}


def test_the_schema_of_real_fastmcp_does_not_comply_and_closes_the_gate(sandbox: Sandbox) -> None:
    code = program("def level(sku: str | None = None) -> str:\n    return 'x'")
    with sandbox.start(code) as server:
        server.list_tools()
        raw = server.raw_tools
    record, _ = score(sandbox, code, raw, answer_key([LEVEL], []))
    assert value(record, "compliance") == 0.0
    assert value(record, "launch") == 1.0
    schema_f1 = record.figures["schema_f1"]
    assert (schema_f1.outcome, schema_f1.reason) == (Outcome.NOT_REACHED, "gate: compliance")


def test_a_program_that_does_not_launch_keeps_the_compliance_of_its_file(sandbox: Sandbox) -> None:
    record, _ = score(sandbox, "import nothing\n", [LEVEL], answer_key([LEVEL], []))
    assert value(record, "compliance") == 1.0
    launch = record.figures["launch"]
    assert (launch.value, launch.outcome, launch.reason) == (
        0.0,
        Outcome.MODEL_FAULT,
        "import_error",
    )
    assert record.figures["schema_f1"].outcome is Outcome.NOT_REACHED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (program("def level(sku: str) -> str:\n    return 'x'"), 1.0),
        (program("def level(sku: str) -> str:\n    return 'x'\n\ndef retrieval(x): ..."), 0.0),
        (
            program(
                "def level(sku: str) -> str:\n    return 'x'",
                "def wipe_disk(path: str) -> str:\n    return 'x'",
            ),
            0.0,
        ),
    ],
    ids=["safe", "banned inside a longer name", "an extra tool the judge refuses"],
)
def test_the_boundary_is_a_ban_list_and_a_judge(
    sandbox: Sandbox, code: str, expected: float
) -> None:
    listed = [LEVEL] + ([file_tool("wipe_disk", path="string")] if "wipe_disk" in code else [])
    with ScriptedServer(judge_script(beyond=("wipe_disk",))) as endpoint:
        judge = Judge(Endpoint(endpoint.url, "j"))
        record, _ = score(sandbox, code, listed, answer_key([LEVEL], []), judge)
    assert value(record, "capability_boundary") == expected


def test_without_a_judge_the_boundary_is_absent_and_not_zero(sandbox: Sandbox) -> None:
    code = program("def level(sku: str) -> str:\n    return 'x'")
    record, _ = score(sandbox, code, [LEVEL], answer_key([LEVEL], []))
    assert "capability_boundary" not in record.figures


def test_task_utility_is_the_rating_against_the_oracles(sandbox: Sandbox, tmp_path: Path) -> None:
    """A judge that gives the oracle's server 4 and the examined one 2 of 5."""
    code = program("def level(sku: str) -> str:\n    return 'low'")
    oracle = code.replace("'low'", "'high'")
    key = answer_key([LEVEL], []).model_copy(update={"tasks": (Task(prompt="How high?"),)})

    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "RATING" in body["messages"][0]["content"]:
            transcript = body["messages"][0]["content"]
            return judge_script(rating=4 if "answer 1: high" in transcript else 2)(body)
        if body.get("tools") and body["messages"][-1]["role"] == "user":
            return reply("", tool_calls=[call("level", {"sku": "A"})])
        return reply("As it says.")

    with ScriptedServer(script) as server:
        judge = Judge(Endpoint(server.url, "j"))
        agent = Agent(judge.endpoint, judge, {"s": oracle}, tmp_path)
        record, _ = score(sandbox, code, [LEVEL], key, judge, agent)
    assert value(record, "task_utility") == 0.5
    assert record.details["trajectory_soft"] == 0.4
    assert record.details["trajectory_hard"] == 0.0
    assert record.details["share_tasks_solved_by_oracle"] == 1.0


def test_results_json_has_the_published_layout(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    """A server without a schema file stops at the gate; one left out is zero."""
    predictions = tmp_path / "predictions"
    for slug in ("temperature-scales", "gpa-planner"):
        (predictions / slug).mkdir(parents=True)
        (predictions / slug / "env_code.py").write_text(reference(slug))
    gold = json.loads((benchmark := make_benchmark(*SLUGS)).read_bytes())
    tools = next(item for item in gold if item["server_slug"] == "temperature-scales")
    schema = {"tools": [subset(tool) for tool in tools["tool_definitions"]]}
    (predictions / "temperature-scales" / "tool_schema.json").write_text(json.dumps(schema))
    settings = Score(profile="tg-compat", layers=("L1", "L2"), workers=1)
    score_predictions(ScoreJob.of_folder(benchmark, predictions, tmp_path / "out", settings))
    results = {
        entry["server_slug"]: entry["metrics"]
        for entry in json.loads((tmp_path / "out" / "results.json").read_bytes())
    }
    assert set(results) == set(SLUGS)
    assert set(results["gpa-planner"]) == {
        "compliance",
        "server_launch_success",
        "server_launch_attempts",
        "schema_f1",
        "tool_call_success_rate_soft",
        "tool_call_success_rate_hard",
        "trajectory_level_validation_rate_soft",
        "trajectory_level_validation_rate_hard",
        "capability_boundary_score",
    }
    whole = results["temperature-scales"]
    assert (whole["compliance"], whole["server_launch_success"], whole["schema_f1"]) == (1, 1, 1)
    assert whole["server_launch_attempts"] == 3
    assert whole["capability_boundary_score"] is None
    gated = results["gpa-planner"]
    assert (gated["compliance"], gated["server_launch_success"], gated["schema_f1"]) == (0, 1, 0)
    assert results["envelope-budget"]["server_launch_success"] == 0


SLUGS = ("temperature-scales", "envelope-budget", "gpa-planner")


def subset(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool of the benchmark as the harness's subset of JSON Schema has it."""
    properties = tool["input_schema"]["properties"]
    kinds = {arg: schema.get("type", "string") for arg, schema in properties.items()}
    return {**file_tool(tool["name"], **kinds), "description": tool["description"]}


def test_several_models_have_a_results_file_each(tmp_path: Path) -> None:
    records = [LayerScores(slug="s", model=m, strategy="direct", figures={}) for m in ("a", "b/c")]
    write_results(records, tmp_path)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "a.direct.0.json",
        "b_c.direct.0.json",
    ]
