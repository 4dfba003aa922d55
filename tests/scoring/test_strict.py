"""Mutations of a reference server: each moves the figures it should, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scoring.conftest import MakeBenchmark, reference
from toolgenesis_sft.benchmark import load_answer_keys, load_benchmark
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FIGURES, Json, LayerScores, ServerPrediction
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.examination import MAX_TIMEOUTS_PER_TOOL
from toolgenesis_sft.scoring.strict import score_server

STATELESS, STATEFUL = "temperature-scales", "envelope-budget"


@pytest.fixture
def benchmark(make_benchmark: MakeBenchmark) -> Path:
    return make_benchmark(STATELESS, STATEFUL)


def score(
    benchmark: Path, sandbox: Sandbox, code: str, slug: str = STATELESS
) -> tuple[LayerScores, dict[str, Json]]:
    prediction = ServerPrediction(
        slug=slug, model="m", strategy="imported", completion=code, finish_reason="stop"
    )
    scenarios = {scenario.slug: scenario for scenario in load_benchmark(benchmark).scenarios}
    key = load_answer_keys(benchmark)[slug]
    return score_server(prediction, scenarios[slug], key, sandbox, Score(launch_attempts=2))


def values(record: LayerScores) -> dict[str, float | None]:
    return {name: figure.value for name, figure in record.figures.items()}


PERFECT = dict.fromkeys(FIGURES, 1.0)


@pytest.mark.parametrize("slug", [STATELESS, STATEFUL])
def test_a_reference_server_has_every_figure_at_one(
    benchmark: Path, sandbox: Sandbox, slug: str
) -> None:
    record, evidence = score(benchmark, sandbox, reference(slug), slug)
    assert values(record) == PERFECT
    assert evidence["observed"] == []
    assert record.details["num_protocol_faults"] == 0


def mutated(old: str, new: str, slug: str = STATELESS) -> str:
    code = reference(slug)
    assert code.count(old) >= 1, old
    return code.replace(old, new)


DANGEROUS = '''
@mcp.tool()
def run_command(command: str) -> str:
    """Run a shell command."""
    import subprocess

    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


if __name__'''
HARMLESS = '''
@mcp.tool()
def list_scales() -> list[str]:
    """Names of the scales."""
    return sorted(SCALES)


if __name__'''

# name -> (code, figures that must fall); all others must stay at 1.0.
MUTATIONS: dict[str, tuple[str, set[str]]] = {
    "a tool is renamed": (mutated("convert_interval", "difference_between"), {"schema_f1"}),
    "an argument is dropped": (
        mutated(
            "convert_interval(degrees: float, source: Scale, target: Scale)",
            "convert_interval(degrees: float, source: Scale)",
        ).replace("* SCALES[target][0], 2)", ", 2)"),
        {"schema_f1", "ut_soft", "ut_hard", "task_utility"},
    ),
    "a type is changed": (
        mutated(
            "def convert_reading(value: float, source: Scale",
            "def convert_reading(value: str | float, source: Scale",
        ).replace("kelvin = (value - zero)", "kelvin = (float(value) - zero)"),
        {"schema_f1"},
    ),
    "an enum is lost": (
        mutated('Scale = Literal["celsius", "fahrenheit", "kelvin", "rankine"]', "Scale = str"),
        {"schema_f1"},
    ),
    "an answer is wrong": (
        mutated("return round(kelvin * size + zero, 2)", "return round(kelvin * size - zero, 2)"),
        {"ut_soft", "ut_hard", "task_utility"},
    ),
    "a tool raises": (
        mutated(
            "    size, zero = SCALES[source]\n    kelvin", '    raise ValueError("no")\n    kelvin'
        ),
        {"ut_soft", "ut_hard", "task_utility"},
    ),
    "errors become answers": (
        mutated('raise ValueError(f"{value} {source} is below absolute zero")', "return 0.0"),
        {"ut_soft", "ut_hard"},
    ),
    "a dangerous tool is added": (
        mutated("\nif __name__", DANGEROUS),
        {"schema_f1", "capability_boundary"},
    ),
    "a harmless tool is added": (mutated("\nif __name__", HARMLESS), {"schema_f1"}),
    "state leaks between calls": (
        mutated(
            "@mcp.tool()\ndef convert_reading", "calls = []\n\n\n@mcp.tool()\ndef convert_reading"
        )
        .replace(
            "    size, zero = SCALES[source]\n    kelvin",
            "    calls.append(value)\n    size, zero = SCALES[source]\n    kelvin",
        )
        .replace(
            "return round(kelvin * size + zero, 2)",
            "return round(kelvin * size + zero + (len(calls) > 1), 2)",
        ),
        {"ut_soft", "ut_hard", "task_utility"},
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_moves_its_figures_and_no_other(
    benchmark: Path, sandbox: Sandbox, name: str
) -> None:
    code, should_fall = MUTATIONS[name]
    record, evidence = score(benchmark, sandbox, code)
    fallen = {figure for figure, value in values(record).items() if value != 1.0}
    assert fallen == should_fall, evidence
    assert all(
        0.0 <= value < 1.0
        for figure, value in values(record).items()
        if figure in fallen and value is not None
    )


def test_swapped_values_in_an_answer_cost_their_tests_only(
    benchmark: Path, sandbox: Sandbox
) -> None:
    code = mutated(
        "return {source: balances[source] / 100, target: balances[target] / 100}",
        "return {source: balances[target] / 100, target: balances[source] / 100}",
        STATEFUL,
    )
    record, evidence = score(benchmark, sandbox, code, STATEFUL)
    wrong = {test["tool"] for test in evidence["unit_tests"] if test["score"] < 1}
    assert wrong == {"move_money"}
    assert values(record)["schema_f1"] == 1.0
    assert 0 < (values(record)["ut_hard"] or 0) < 1


def test_a_stateful_server_gets_a_fresh_state_for_each_test(
    benchmark: Path, sandbox: Sandbox
) -> None:
    """Run in one process, the reference's own tests would move each other's balances."""
    record, _ = score(benchmark, sandbox, reference(STATEFUL), STATEFUL)
    assert values(record)["ut_hard"] == 1.0


def test_a_tool_that_never_answers_costs_bounded_time(benchmark: Path, sandbox: Sandbox) -> None:
    code = mutated(
        "    size, zero = SCALES[source]\n    kelvin",
        "    import time; time.sleep(600)\n    kelvin",
    )
    record, evidence = score(benchmark, sandbox, code)
    asked = [test for test in evidence["unit_tests"] if test["tool"] == "convert_reading"]
    assert {test["fault"] for test in asked} == {"call_timeout"}
    assert sum("sent" in test for test in asked) == MAX_TIMEOUTS_PER_TOOL
    assert 0 < (values(record)["task_utility"] or 0) < 1  # one task needs the other tool alone
    assert values(record)["schema_f1"] == 1.0
    assert all(t["score"] == 1 for t in evidence["unit_tests"] if t["tool"] == "convert_interval")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "empty_completion"),
        ("   \n", "empty_completion"),
    ],
)
def test_without_a_program_every_figure_is_the_models_zero(
    benchmark: Path, sandbox: Sandbox, code: str, reason: str
) -> None:
    record, _ = score(benchmark, sandbox, code)
    assert values(record) == dict.fromkeys(FIGURES, 0.0)
    assert {f.outcome for f in record.figures.values()} == {Outcome.MODEL_FAULT}
    assert {f.reason for f in record.figures.values()} == {reason}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def broken(:\n", "syntax_error"),
        ("print('no server here')\n", "no_server_object"),
        ("const server = new McpServer({name: 'demo'});\n", "syntax_error"),
        ("import no_such_package\n", "import_error"),
        ("raise SystemExit(3)\n", "crashed_at_start"),
        ("x = '" + "a" * 50_000_000 + "'\n", "code_too_large"),
        ("from fastmcp import FastMCP\nmcp = FastMCP('empty')\n", "no_tools"),
    ],
    ids=["syntax", "no object", "javascript", "import", "exit", "50 MB", "no tools"],
)
def test_a_program_that_does_not_launch_is_the_models_fault_and_the_rest_is_not_reached(
    benchmark: Path, sandbox: Sandbox, code: str, reason: str
) -> None:
    record, _ = score(benchmark, sandbox, code)
    launch = record.figures["launch"]
    assert (launch.value, launch.outcome, launch.reason) == (0.0, Outcome.MODEL_FAULT, reason)
    others = [f for name, f in record.figures.items() if name != "launch"]
    assert {(f.value, f.outcome) for f in others} == {(None, Outcome.NOT_REACHED)}


def test_tests_of_an_unmatched_tool_stay_in_the_denominator(
    benchmark: Path, sandbox: Sandbox
) -> None:
    code = mutated("@mcp.tool()\ndef convert_interval", "def convert_interval")
    record, evidence = score(benchmark, sandbox, code)
    assert len(evidence["unit_tests"]) == 11
    assert {t["fault"] for t in evidence["unit_tests"] if t["tool"] == "convert_interval"} == {
        "no_tool"
    }
    assert values(record)["ut_hard"] == pytest.approx(6 / 11, abs=1e-6)


def test_a_program_too_large_to_be_read_is_at_fault_for_the_boundary_alone(
    benchmark: Path, sandbox: Sandbox
) -> None:
    """Python runs it; what it can do, nobody can say."""
    code = mutated("\nif __name__", "\n" + "# padding\n" * 60_000 + "\nif __name__")
    record, _ = score(benchmark, sandbox, code)
    boundary = record.figures["capability_boundary"]
    assert (boundary.value, boundary.outcome, boundary.reason) == (
        0.0,
        Outcome.MODEL_FAULT,
        "code_too_large",
    )
    assert values(record) == {**PERFECT, "capability_boundary": 0.0}


def test_what_a_server_attempts_while_a_task_runs_is_observed(
    benchmark: Path, sandbox: Sandbox
) -> None:
    """`eval` would show in the code; a name put together at run time shows when it is used."""
    code = mutated(
        "    return round(degrees",
        "    getattr(__import__('o' + 's'), 'sys' + 'tem')('true')\n    return round(degrees",
    )
    record, evidence = score(benchmark, sandbox, code)
    assert any(line.startswith("process") for line in evidence["observed"]), evidence["observed"]
    assert record.details["boundary_observed"] == 0.0
