"""What is remembered of a server that was run, and what is not; and the same on a Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.corpus.conftest import Workbench, make_workbench
from tests.sandbox.ray_cluster import kill_one, machines, meanwhile, two_machines
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.pairs import Pair, of_scenario
from toolgenesis_sft.corpus.verify import Thresholds, Verification, Verifier
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.runs import RunFolder, read_records
from toolgenesis_sft.sandbox.jail import Limits
from toolgenesis_sft.sandbox.workshop import Workshop

MINI = Path(__file__).resolve().parents[2] / "data" / "mini" / "benchmark.json"


NOWHERE = Score(executor="ray", ray_address="127.0.0.1:9")


def pairs(**programs: str) -> list[Pair]:
    return [
        Pair(slug=slug, code=code, source="mine", licence="mine") for slug, code in programs.items()
    ]


def test_a_verdict_is_remembered_but_for_a_server_that_was_too_slow(tmp_path: Path) -> None:
    memory = tmp_path / "verified.jsonl"
    found = pairs(slow="while True: pass\n", broken="import nothing_like_it\n")
    with Workshop(server_python(None), Score(workers=1), Limits(initialize_s=1.0)) as workshop:
        verifier = Verifier(MINI, workshop, "runtime", memory)
        verdicts = list(verifier.verify(found, lambda _: Thresholds()))
    assert [verdict.reason for verdict in verdicts] == [
        "verification: does not launch (initialize_timeout)",
        "verification: does not launch (import_error)",
    ]
    assert list(read_records(memory, Verification)) == verdicts[1:]


def triangle_solver(benchmark: Path, code: str) -> Pair:
    scenarios = load_benchmark(benchmark).scenarios
    [scenario] = [each for each in scenarios if each.slug == "triangle-solver"]
    return of_scenario(scenario, code, "mine", "mine")


SLOW_TOOL = """
import time
from mcp.server.fastmcp import FastMCP

mcp = FastMCP("slow")


@mcp.tool()
def triangle_area(a: float, b: float, c: float) -> float:
    \"\"\"Area of a triangle, some day.\"\"\"
    time.sleep(60)
    return 0.0
"""


def test_a_low_score_for_want_of_time_is_not_remembered(tmp_path: Path) -> None:
    memory = tmp_path / "verified.jsonl"
    pair = triangle_solver(MINI, SLOW_TOOL)
    with Workshop(server_python(None), Score(workers=1), Limits(call_s=1.0)) as workshop:
        verifier = Verifier(MINI, workshop, "runtime", memory)
        [verdict] = verifier.verify([pair], lambda _: Thresholds())
    assert verdict.reason == "verification: ut_hard is too low (call_timeout)"
    assert not read_records(memory, Verification)


def test_a_test_that_no_server_can_pass_decides_nothing(tmp_path: Path) -> None:
    """Its recorded arguments are no JSON object: a fault of whoever recorded it."""
    items = json.loads(MINI.read_text())
    [item] = [item for item in items if item["server_slug"] == "triangle-solver"]
    tool, tests = next(iter(item["unit_test"].items()))
    item["unit_test"][tool] = [*tests, {**tests[0], "arguments": "{broken"}]
    broken = tmp_path / "benchmark.json"
    broken.write_text(json.dumps(items))
    code = (MINI.parent / "servers" / "triangle-solver.py").read_text()
    pair = triangle_solver(broken, code)
    with Workshop(server_python(None), Score(workers=1)) as workshop:
        verifier = Verifier(broken, workshop, "runtime", tmp_path / "verified.jsonl")
        [verdict] = verifier.verify([pair], lambda _: Thresholds())
    assert (verdict.reason, verdict.ut_hard) == ("", 1.0)


def test_verdicts_come_in_the_order_of_the_pairs_whichever_is_found_first(tmp_path: Path) -> None:
    late = "import time\ntime.sleep(1)\nimport nothing_like_it\n"
    found = pairs(late=late, early="import nothing_at_all\n", again=late)
    with Workshop(server_python(None), Score(workers=2)) as workshop:
        verifier = Verifier(MINI, workshop, "runtime", tmp_path / "verified.jsonl")
        details = [v.detail for v in verifier.verify(found, lambda _: Thresholds())]
    assert ["like_it" in detail for detail in details] == [True, False, True]


def test_what_is_known_is_sent_nowhere(tmp_path: Path) -> None:
    memory = tmp_path / "verified.jsonl"
    found = pairs(broken="import nothing_like_it\n")
    with Workshop(server_python(None), Score()) as workshop:
        [verdict] = Verifier(MINI, workshop, "", memory).verify(found, lambda _: Thresholds())
    with Workshop(server_python(None), NOWHERE) as workshop:
        verifier = Verifier(MINI, workshop, "", memory)
        assert list(verifier.verify(found, lambda _: Thresholds())) == [verdict]
        with pytest.raises(UserError, match="no Ray cluster answers"):
            list(verifier.verify(pairs(other="import something_else\n"), lambda _: Thresholds()))


@pytest.mark.slow
def test_a_build_on_a_ray_that_loses_a_worker_is_to_the_byte_that_of_one_machine(
    tmp_path: Path, built: tuple[Workbench, RunFolder]
) -> None:
    bench = make_workbench(tmp_path / "bench")
    with two_machines() as cluster:
        where = ("score.executor=ray", f"score.ray_address={cluster.address}", "score.workers=2")
        parents = machines(cluster)
        with meanwhile(lambda: kill_one(parents)):
            build(bench.recipe(*where), bench.run())
    for name in ("verified.jsonl", "tried.jsonl", "train.jsonl", "val.jsonl"):
        expected = (built[1].data / name).read_bytes()
        assert expected or name == "val.jsonl"
        assert (bench.run().data / name).read_bytes() == expected
