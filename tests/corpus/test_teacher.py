"""A scripted teacher over HTTP, its servers run in the real sandbox."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.corpus.conftest import Workbench, start_build, wait_for
from tests.generation.scripted_server import Fault, ScriptedServer, reply
from tests.sandbox.ray_cluster import two_machines
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import ChatSample, ServerPrediction
from toolgenesis_sft.runs import read_json, read_records

SLUG = "triangle-solver"
CANDIDATES = 6


class Script:
    """Every second answer is good: the reference server with another greeting in it; the others
    are broken, each in its own way."""

    def __init__(self, bench: Workbench) -> None:
        self.code = (bench.servers / f"{SLUG}.py").read_text()
        self.asked: list[int] = []
        self.refuse_after: int | None = None
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any] | Fault:
        number = int(body["seed"])
        with self._lock:
            if self.refuse_after is not None and len(self.asked) >= self.refuse_after:
                return Fault("status", 401)
            self.asked.append(number)
        return reply(self.answer(number), prompt_tokens=100, completion_tokens=50)

    def answer(self, number: int) -> str:
        if number % 2 == 0:
            return f"```python\n{self.code}{self.padding(number)}```"
        broken = ("", "def broken(:", self.code.replace("mcp = FastMCP(", "mcp = MCP("))
        return broken[number // 2]

    @staticmethod
    def padding(number: int) -> str:
        """A helper that no tool uses, long and different enough to be no near duplicate."""
        lines = "\n".join(
            f"    total += {number}.{line} * value ** {line + number} - len(str(value % {line}))"
            for line in range(7, 67)
        )
        return (
            f"\n\ndef extra(value: float) -> float:\n    total = 0.0\n{lines}\n    return total\n"
        )


def recipe_of(bench: Workbench, url: str, *overrides: str):
    bench.write_splits((SLUG,), bench_held_out(bench))
    teacher = {"url": url, "model": "scripted", "num_candidates": CANDIDATES, "licence": "MIT"}
    return bench.recipe(
        "data.sources=[teacher]",
        f"data.teacher={json.dumps(teacher)}",
        "data.kinds={server: 1}",
        "generate.concurrency=2",
        *overrides,
    )


def bench_held_out(bench: Workbench) -> tuple[str, ...]:
    return tuple(read_json(bench.root / "splits.json")["held_out"])


def kept(bench: Workbench) -> list[str]:
    samples = read_records(bench.run().data / "train.jsonl", ChatSample)
    return [sample.id for sample in samples]


def test_exactly_the_good_half_is_kept_and_the_yield_is_reported(bench: Workbench) -> None:
    with ScriptedServer(Script(bench)) as server:
        build(recipe_of(bench, server.url), bench.run())
    assert kept(bench) == [f"teacher/{SLUG}/{number:03d}" for number in (0, 2, 4)]
    report = read_json(bench.run().data / "data_report.json")
    assert report["teacher"] == {
        SLUG: {
            "num_asked": CANDIDATES,
            "num_kept": 3,
            "num_prompt_tokens": 600,
            "num_completion_tokens": 300,
        }
    }
    assert report["licences"] == {"MIT": 3}
    reasons = {drop["reason"] for drop in report["drops"]}
    assert {"teacher: empty_completion", "teacher: syntax_error"} <= reasons
    assert any("does not launch" in reason for reason in reasons)


def test_only_training_scenarios_are_shown_to_the_teacher(bench: Workbench) -> None:
    with ScriptedServer(Script(bench)) as server:
        build(recipe_of(bench, server.url), bench.run())
        prompts = {body["messages"][0]["content"] for body in server.bodies}
    assert len(prompts) == 1


def test_what_was_answered_is_never_asked_again(bench: Workbench) -> None:
    """The teacher refuses in the middle, as if the build had been killed there."""
    script = Script(bench)
    script.refuse_after = 3
    with ScriptedServer(script) as server:
        recipe = recipe_of(bench, server.url)
        with pytest.raises(HarnessFault):
            build(recipe, bench.run())
        assert not (bench.run().data / "manifest.json").exists()
        with (bench.run().data / "teacher.jsonl").open("a") as file:
            file.write('{"slug": "torn')
        script.refuse_after = None
        build(recipe, bench.run())
    assert sorted(script.asked) == list(range(CANDIDATES))
    assert len(kept(bench)) == 3


@pytest.mark.parametrize("num_answers", [1, 3, 5])
def test_a_kill_in_the_middle_loses_no_answer_and_counts_no_token_twice(
    bench: Workbench, num_answers: int
) -> None:
    """kill -9 of the process that asks, while one request is in flight."""
    script = Script(bench)
    in_flight = threading.Event()

    def stall(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if not in_flight.is_set() and len(script.asked) >= num_answers:
            in_flight.set()
            return Fault("hang")
        return script(body)

    memory = bench.run().data / "teacher.jsonl"
    with ScriptedServer(stall) as server:
        recipe = recipe_of(bench, server.url, "generate.concurrency=1")
        child = start_build(recipe, bench.run())
        wait_for(in_flight.is_set)
        child.kill()
        child.wait()
        before = memory.read_text()
        assert len(before.splitlines()) == num_answers
        build(recipe, bench.run())
    assert memory.read_text().startswith(before)
    assert sorted(script.asked) == list(range(CANDIDATES))
    yields = read_json(bench.run().data / "data_report.json")["teacher"][SLUG]
    assert yields["num_prompt_tokens"] == 100 * CANDIDATES
    assert yields["num_completion_tokens"] == 50 * CANDIDATES
    assert len(kept(bench)) == 3


def test_the_most_different_candidates_are_kept_first(bench: Workbench) -> None:
    with ScriptedServer(Script(bench)) as server:
        build(recipe_of(bench, server.url, "data.teacher.keep_per_scenario=2"), bench.run())
    assert len(kept(bench)) == 2
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops["teacher: more than data.teacher.keep_per_scenario"] == 1


def test_a_teacher_that_repeats_itself_gives_one_sample(bench: Workbench) -> None:
    script = Script(bench)
    good = script.answer(0)
    with ScriptedServer(lambda body: reply(good)) as server:
        build(recipe_of(bench, server.url), bench.run())
    assert len(kept(bench)) == 1
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops == {"exact duplicate": CANDIDATES - 1}


def test_a_teacher_that_is_down_is_the_harness_fault(bench: Workbench) -> None:
    with ScriptedServer(Script(bench)) as server:
        recipe = recipe_of(bench, server.url, "generate.request_timeout_s=2")
    with pytest.raises(HarnessFault):
        build(recipe, bench.run())


def test_a_prompt_that_the_provider_refuses_is_a_counted_drop_and_not_asked_again(
    bench: Workbench,
) -> None:
    """The refused one is the first in line, when nothing has been answered yet."""
    script = Script(bench)
    asked: list[int] = []

    def refuse(body: dict[str, Any]) -> dict[str, Any] | Fault:
        asked.append(int(body["seed"]))
        return Fault("status", 400, "flagged as harmful") if asked[-1] == 0 else script(body)

    with ScriptedServer(refuse) as server:
        recipe = recipe_of(bench, server.url, "generate.concurrency=1")
        build(recipe, bench.run())
        (bench.run().data / "manifest.json").unlink()
        build(recipe, bench.run())
    assert asked == list(range(CANDIDATES))
    assert len(kept(bench)) == 2
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops["teacher: refused to answer"] == 1


def test_a_teacher_that_refuses_everything_ends_the_build_and_nothing_is_remembered(
    bench: Workbench,
) -> None:
    with ScriptedServer(lambda body: Fault("status", 400, "no such model")) as server:
        with pytest.raises(HarnessFault, match="no such model"):
            build(recipe_of(bench, server.url), bench.run())
        assert len(server.bodies) < CANDIDATES
    memory = bench.run().data / "teacher.jsonl"
    assert not memory.exists() or not memory.read_text()


def test_the_source_teacher_needs_its_section(bench: Workbench) -> None:
    with pytest.raises(UserError, match="go together"):
        bench.recipe("data.sources=[teacher]")


class AgentScript(Script):
    """A coder agent's teacher: it designs, writes a server that does not launch, and mends it."""

    CALL = '```json\n[{"tool": "triangle_area", "arguments": {"a": 3, "b": 4, "c": 5}}]\n```\n'

    def __call__(self, body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "Design the tools" in body["messages"][0]["content"]:
            return reply('{"tools": [{"name": "triangle_area", "inputSchema": {}}]}')
        code = self.code + self.padding(int(body["seed"]))
        if len(body["messages"]) < 3:
            code = code.replace("mcp = FastMCP(", "mcp = MCP(")
        return reply(f"```python\n{code}```\n{self.CALL}")


@pytest.mark.slow
def test_a_teacher_whose_servers_run_on_a_ray_gives_the_data_of_one_machine(
    bench: Workbench,
) -> None:
    def data_of(name: str, *where: str) -> tuple[list[dict[str, Any]], bytes]:
        run = bench.run(name)
        with ScriptedServer(AgentScript(bench)) as server:
            teacher = {"url": server.url, "strategy": "coder_agent", "num_candidates": 2}
            teacher |= {"model": "scripted", "licence": "MIT"}
            build(recipe_of(bench, server.url, f"data.teacher={json.dumps(teacher)}", *where), run)
        answers = read_records(run.data / "teacher.jsonl", ServerPrediction)
        told = sorted(
            (answer.model_dump(exclude={"elapsed_s"}) for answer in answers),
            key=lambda answer: str(answer["sample_index"]),
        )
        return told, (run.data / "train.jsonl").read_bytes()

    with two_machines() as cluster:
        address = f"score.ray_address={cluster.address}"
        there = data_of("there", "score.executor=ray", address, "score.workers=2")
    here = data_of("here")
    assert there == here
    answers, train = here
    assert all("name 'MCP' is not defined" in str(answer["turns"]) for answer in answers)
    assert len(train.splitlines()) == 2
