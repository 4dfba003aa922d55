"""The stage: what it asks of whom, what it keeps, and that nothing is asked twice or lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generation.conftest import PROMPTS
from tests.generation.scripted_server import Fault, ScriptedServer, reply
from toolgenesis_sft import client
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation.generate import chosen_scenarios, generate, spent
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.prompts import CONFIDENCE_PROMPT, DIRECT_PROMPT
from toolgenesis_sft.records import ChatSample, Message, ServerPrediction
from toolgenesis_sft.runs import RunFolder, append_record, claim, read_json


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)


def code_for(body: dict[str, Any]) -> dict[str, Any]:
    """A program whose text tells which scenario and seed it answers."""
    prompt = body["messages"][0]["content"]
    slug = next(slug for slug, text in PROMPTS.items() if text in prompt)
    return reply(f"```python\nprint('{slug}', {body['seed']})\n```", logprobs=[-1.0, -2.0])


def predictions_of(run: RunFolder) -> list[ServerPrediction]:
    return list(read_predictions(run.predictions)) if run.predictions.exists() else []


def endpoint(url: str, *more: str) -> tuple[str, ...]:
    return ("generate.engine=endpoint", f"generate.endpoint_url={url}", *more)


def test_every_scenario_strategy_and_sample_is_asked_once(make_recipe, run: RunFolder) -> None:
    settings = ("generate.strategies=[direct, direct_two_calls]", "generate.num_samples=2")
    with ScriptedServer(code_for, models=("some-model",)) as server:
        recipe = make_recipe(*endpoint(server.url, *settings, "generate.seed=5"))
        generate(recipe, run)
        asked = len(server.bodies)
        generate(recipe, run)
    assert asked == len(server.bodies) == 3 * 2 + 3 * 2 * 2
    keys = Counter(prediction.key for prediction in predictions_of(run))
    assert keys == {
        ("some-model", strategy, slug, sample): 1
        for strategy in ("direct", "direct_two_calls")
        for slug in PROMPTS
        for sample in (0, 1)
    }
    for prediction in predictions_of(run):
        assert prediction.seed == 5 + prediction.sample_index
        assert f"print('{prediction.slug}', {prediction.seed})" in prediction.completion
        assert prediction.mean_logprob == -1.5


def test_two_calls_hand_the_schema_of_the_first_to_the_second(make_recipe, run: RunFolder) -> None:
    schema = {"tools": [{"name": "add", "description": "Add.", "inputSchema": {"type": "object"}}]}

    def script(body: dict[str, Any]) -> dict[str, Any]:
        if "JSON object" in body["messages"][0]["content"]:
            return reply(f"Here it is:\n```json\n{json.dumps(schema)}\n```")
        return reply("import this")

    with ScriptedServer(script) as server:
        options = ("generate.strategies=[direct_two_calls]", "generate.scenarios=train")
        generate(make_recipe(*endpoint(server.url, *options)), run)
    [prediction] = predictions_of(run)
    assert prediction.schema_completion.startswith("Here it is:")
    assert prediction.num_prompt_tokens == 20
    second = server.bodies[1]["messages"][0]["content"]
    assert '"name": "add"' in second
    assert "Here it is" not in second


@pytest.mark.parametrize("strategy", ["direct", "direct_two_calls", "coder_agent"])
def test_no_word_of_the_answer_key_reaches_a_prompt_or_a_prediction(
    strategy: str, make_recipe, run: RunFolder
) -> None:
    settings = ("generate.stated_confidence=true", "generate.max_turns=2")
    strategies = f"generate.strategies=[{strategy}]"
    with ScriptedServer(code_for) as server:
        generate(make_recipe(*endpoint(server.url, strategies, *settings)), run)
    num_calls = {"direct": 2, "direct_two_calls": 3, "coder_agent": 4}[strategy]
    assert len(server.bodies) == 3 * num_calls
    assert "CANARY" not in json.dumps(server.bodies) + run.predictions.read_text()


def test_the_oracle_setting_shows_the_gold_schema_and_nothing_else(
    make_recipe, run: RunFolder
) -> None:
    with ScriptedServer(code_for) as server:
        generate(make_recipe(*endpoint(server.url, "generate.strategies=[oracle]")), run)
    text = json.dumps(server.bodies)
    for word in ("adder_CANARY_tool", "CANARY description", "CANARY_argument"):
        assert word in text
    for word in ("CANARY value", "CANARY answer", "CANARY task"):
        assert word not in text


@pytest.mark.parametrize("strategy", ["direct", "direct_two_calls", "oracle"])
def test_a_stated_confidence_is_asked_after_the_answer_kept_raw_and_paid_for(
    strategy: str, make_recipe, run: RunFolder
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][-1]["content"] == CONFIDENCE_PROMPT:
            return reply("Rather sure:\n0.8", prompt_tokens=100, completion_tokens=5)
        return reply("import this", prompt_tokens=10, completion_tokens=2)

    settings = (f"generate.strategies=[{strategy}]", "generate.scenarios=train")
    with ScriptedServer(script) as server:
        asking = "generate.stated_confidence=true"
        generate(make_recipe(*endpoint(server.url, *settings, asking)), run)
        bodies = list(server.bodies)
        generate(make_recipe(*endpoint(server.url, *settings)), RunFolder(run.root / "without"))
    [prediction] = predictions_of(run)
    *asked, answer, _ = bodies[-1]["messages"]
    assert asked == bodies[-2]["messages"]
    assert answer == {"role": "assistant", "content": "import this"}
    assert prediction.completion == "import this"
    assert prediction.confidence_completion == "Rather sure:\n0.8"
    assert prediction.num_prompt_tokens == 100 + 10 * (len(bodies) - 1)
    assert prediction.num_completion_tokens == 5 + 2 * (len(bodies) - 1)
    [plain] = predictions_of(RunFolder(run.root / "without"))
    assert plain.confidence_completion is None
    assert len(server.bodies) == 2 * len(bodies) - 1


def test_no_room_for_the_question_of_confidence_is_not_stated(make_recipe, run: RunFolder) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if len(body["messages"]) > 1:
            return Fault("status", 400, text="maximum context length is 10 tokens")
        return reply("" if PROMPTS["clock"] in body["messages"][0]["content"] else "import this")

    with ScriptedServer(script) as server:
        generate(make_recipe(*endpoint(server.url, "generate.stated_confidence=true")), run)
    assert [p.confidence_completion for p in predictions_of(run)] == ["", "", ""]
    assert len([body for body in server.bodies if "max_tokens" in body]) == 3 + 2


def test_a_context_that_ends_after_the_schema_keeps_it_and_its_tokens(
    make_recipe, run: RunFolder
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        if "JSON object" in body["messages"][0]["content"]:
            return reply("[]", completion_tokens=7)
        return Fault("status", 400, text="maximum context length is 10 tokens")

    settings = ("generate.strategies=[direct_two_calls, coder_agent]", "generate.scenarios=train")
    with ScriptedServer(script) as server:
        generate(make_recipe(*endpoint(server.url, *settings)), run)
    for prediction in predictions_of(run):
        assert (prediction.completion, prediction.finish_reason) == ("", "length")
        assert (prediction.schema_completion, prediction.num_completion_tokens) == ("[]", 7)


def test_a_cut_answer_is_kept_with_its_reason(make_recipe, run: RunFolder) -> None:
    with ScriptedServer(lambda body: reply("import thi", finish_reason="length")) as server:
        generate(make_recipe(*endpoint(server.url)), run)
    assert {p.finish_reason for p in predictions_of(run)} == {"length"}


def test_a_model_out_of_context_has_answered_nothing(make_recipe, run: RunFolder) -> None:
    said = Fault("status", 400, text="maximum context length is 10 tokens")
    with ScriptedServer(lambda body: said) as server:
        generate(make_recipe(*endpoint(server.url)), run)
    assert {(p.completion, p.finish_reason) for p in predictions_of(run)} == {("", "length")}


def test_what_had_no_answer_is_asked_again_and_only_that(make_recipe, run: RunFolder) -> None:
    broken = True

    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        clock = PROMPTS["clock"] in body["messages"][0]["content"]
        return Fault("garbage") if clock and broken else code_for(body)

    with ScriptedServer(script) as server:
        recipe = make_recipe(*endpoint(server.url))
        with pytest.raises(HarnessFault, match=r"1 requests had no answer, first clock .invalid"):
            generate(recipe, run)
        assert {p.slug for p in predictions_of(run)} == {"adder", "greeter"}
        broken, before = False, len(server.bodies)
        generate(recipe, run)
    assert len(server.bodies) == before + 1
    assert sorted(p.slug for p in predictions_of(run)) == sorted(PROMPTS)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("status", 401), r"generate\.api_key_variable = not set: .* answered 401"),
        (Fault("status", 404, text="no such model"), r"endpoint_model = scripted: .*no such model"),
        (Fault("status", 404, text="Not Found"), r"endpoint_url = http.*; check the URL: most end"),
        (
            Fault("status", 400, text="temperature must be 1"),
            r"generate\.temperature = 0\.0: .*be 1",
        ),
    ],
    ids=["key", "model", "url", "temperature"],
)
def test_a_fault_that_every_request_would_meet_ends_the_stage(
    fault: Fault, words: str, make_recipe, run: RunFolder
) -> None:
    with ScriptedServer(lambda body: fault) as server, pytest.raises(UserError, match=words):
        generate(make_recipe(*endpoint(server.url, "generate.concurrency=1")), run)
    assert len(server.bodies) == 1
    assert predictions_of(run) == []


@pytest.mark.parametrize("refused", ["adder", "clock", "greeter"])
def test_a_prompt_that_a_content_filter_refuses_has_no_answer_and_is_not_asked_again(
    refused: str, make_recipe, run: RunFolder
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        is_refused = PROMPTS[refused] in body["messages"][0]["content"]
        said = Fault("status", 400, text="content management policy")
        return said if is_refused else code_for(body)

    with ScriptedServer(script) as server:
        recipe = make_recipe(*endpoint(server.url, "generate.concurrency=1"))
        generate(recipe, run)
        asked = len(server.bodies)
        generate(recipe, run)
    assert len(server.bodies) == asked == 3
    answers = {p.slug: (bool(p.completion), p.finish_reason) for p in predictions_of(run)}
    assert answers == {**dict.fromkeys(PROMPTS, (True, "stop")), refused: (False, "error")}


def test_a_run_without_an_answer_binds_nothing(make_recipe, run: RunFolder) -> None:
    wrong = make_recipe(*endpoint("http://127.0.0.1:1/v1", "generate.endpoint_model=scripted"))
    claim(run, wrong)
    with pytest.raises(HarnessFault, match="endpoint_unreachable"):
        generate(wrong, run)
    with ScriptedServer(code_for) as server:
        right = make_recipe(*endpoint(server.url))
        claim(run, right)
        generate(right, run)
        with pytest.raises(UserError, match=r"generate\.endpoint_url = changed"):
            claim(run, wrong)
    assert len(predictions_of(run)) == 3


def test_the_first_answer_stands_beside_its_provenance(make_recipe, run: RunFolder) -> None:
    seen: list[bool] = []

    def script(body: dict[str, Any]) -> dict[str, Any]:
        seen.append(run.provenance.exists())
        return code_for(body)

    with ScriptedServer(script) as server:
        generate(make_recipe(*endpoint(server.url, "generate.concurrency=1")), run)
    assert seen == [False, True, True]


def test_an_answer_drawn_without_a_seed_or_at_the_endpoints_temperature_says_so(
    make_recipe, run: RunFolder
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        for field in ("seed", "temperature"):
            if field in body:
                return Fault("status", 400, text=f"Unsupported parameter: '{field}'")
        return reply("import this")

    with ScriptedServer(script) as server:
        generate(make_recipe(*endpoint(server.url)), run)
    assert {(p.seed, p.temperature) for p in predictions_of(run)} == {(None, None)}
    found = read_json(run.provenance)["generate"]["spent"]["scripted"]
    assert (found["num_without_seed"], found["num_without_temperature"]) == (3, 3)


@pytest.mark.parametrize("strategy", ["direct", "direct_two_calls", "coder_agent"])
def test_an_answer_with_half_a_surrogate_pair_is_kept(
    strategy: str, make_recipe, run: RunFolder
) -> None:
    settings = (f"generate.strategies=[{strategy}]", "generate.max_turns=2")
    with ScriptedServer(lambda body: reply("1 / 0  # \0 \ud800")) as server:
        generate(make_recipe(*endpoint(server.url, *settings, "generate.scenarios=train")), run)
    assert [p.completion for p in predictions_of(run)] == ["1 / 0  # \0 \ufffd"]


def test_a_torn_last_line_is_done_again(make_recipe, run: RunFolder) -> None:
    with ScriptedServer(code_for) as server:
        recipe = make_recipe(*endpoint(server.url))
        generate(recipe, run)
        whole = run.predictions.read_bytes()
        run.predictions.write_bytes(whole[:-30])
        generate(recipe, run)
    assert len(server.bodies) == 4
    assert Counter(p.slug for p in predictions_of(run)) == dict.fromkeys(PROMPTS, 1)


def test_the_scenarios_of_training_are_those_of_the_training_data(
    make_recipe, run: RunFolder
) -> None:
    def chosen(which: str) -> list[str]:
        recipe = make_recipe(f"generate.scenarios={which}")
        benchmark = load_benchmark(Path(recipe.benchmark))
        return [scenario.slug for scenario in chosen_scenarios(recipe, benchmark, run)]

    assert chosen("train") == ["adder"]
    turns = (Message(role="user"), Message(role="assistant"))
    for slug in ("clock", None):
        sample = ChatSample(
            id=str(slug), messages=turns, source="test", licence="MIT", scenario=slug
        )
        append_record(run.data / "train.jsonl", sample)
    assert chosen("train") == ["clock"]
    assert chosen("held_out") == ["greeter"]
    assert chosen("train_and_held_out") == ["clock", "greeter"]
    assert chosen("all") == list(PROMPTS)


def test_an_unknown_strategy_for_generation_is_refused_before_it_asks(
    make_recipe, run: RunFolder
) -> None:
    with (
        ScriptedServer(code_for) as server,
        pytest.raises(UserError, match=r"generate\.strategies"),
    ):
        generate(make_recipe(*endpoint(server.url, "generate.strategies=[imported]")), run)
    assert server.bodies == []


def test_an_export_that_is_not_there_is_refused(make_recipe, run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"export = .*: is not there; run `toolgenesis-sft export`"):
        generate(make_recipe("generate.compare_before_training=false"), run)
    assert not run.predictions.exists()


def test_the_key_is_in_no_file_no_log_and_no_error(
    make_recipe, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that repeats the key in each kind of refusal, and the real command against it."""
    key = "sk-very-secret"
    monkeypatch.setenv("SOME_KEY", key)
    said = [
        reply("import this"),
        Fault("status", 500, text=f"internal: Bearer {key}"),
        Fault("status", 400, text=f"bad request of {key}"),
        Fault("status", 401, text=f"key {key} is revoked"),
    ]
    make_recipe()
    with ScriptedServer(lambda body: said.pop(0) if len(said) > 1 else said[0]) as server:
        options = endpoint(
            server.url, "generate.api_key_variable=SOME_KEY", "generate.concurrency=1"
        )
        command = [sys.executable, "-m", "toolgenesis_sft.cli", "generate"]
        done = subprocess.run(
            [*command, str(tmp_path / "recipe.yaml"), *options, "--run", str(run.root)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert all(f"Bearer {key}" in head for head in server.headers if head.startswith("POST"))
    assert done.returncode == 2
    assert "generate.api_key_variable = SOME_KEY" in done.stderr
    assert key not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert run.predictions in written
    assert not [path for path in written if key.encode() in path.read_bytes()]


KILLED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from toolgenesis_sft.config import load_recipe
    from toolgenesis_sft.generation.generate import generate
    from toolgenesis_sft.runs import RunFolder

    generate(load_recipe(Path(sys.argv[1]), tuple(sys.argv[3:])), RunFolder(Path(sys.argv[2])))
    """
)


def stage(tmp_path: Path, run: RunFolder, *overrides: str) -> subprocess.Popen[bytes]:
    """The stage in a process of its own, to be killed."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "recipe.yaml"), str(run.root)]
    return subprocess.Popen([*command, *overrides])


def repairing_coder(body: dict[str, Any]) -> dict[str, Any]:
    """Three calls of 7 tokens each: a schema, a program that does not start, one that lists."""
    if "Design the tools" in body["messages"][0]["content"]:
        return reply("[]", completion_tokens=7)
    started = len(body["messages"]) > 1
    program = "from mcp.server.fastmcp import FastMCP\nmcp = FastMCP('a')\n"
    program += "@mcp.tool()\ndef a() -> int:\n    return 1\nmcp.run()\n" if started else "1 / 0\n"
    calls = '```json\n[{"tool": "a", "arguments": {}}]\n```'
    return reply(f"```python\n{program}```\n{calls}", completion_tokens=7)


@pytest.mark.parametrize(
    ("strategy", "num_samples", "coder", "num_tokens"),
    [("direct", 12, code_for, None), ("coder_agent", 4, repairing_coder, 21)],
    ids=["direct", "coder_agent"],
)
def test_killed_at_any_moment_it_continues_and_every_token_counts_once(
    strategy: str,
    num_samples: int,
    coder: Callable[[dict[str, Any]], dict[str, Any]],
    num_tokens: int | None,
    make_recipe,
    run: RunFolder,
    tmp_path: Path,
) -> None:
    make_recipe()

    def slowly(body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.05)
        return coder(body)

    chance = random.Random(strategy)
    with ScriptedServer(slowly) as server:
        settings = (f"generate.num_samples={num_samples}", f"generate.strategies=[{strategy}]")
        options = endpoint(server.url, "generate.concurrency=3", *settings)
        for _ in range(4):
            process = stage(tmp_path, run, *options)
            before = len(server.bodies)
            while process.poll() is None and len(server.bodies) == before:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            process.wait(20)
        assert stage(tmp_path, run, *options).wait(60) == 0
    predictions = predictions_of(run)
    assert len(predictions) == len({p.key for p in predictions}) == 3 * num_samples
    if num_tokens is not None:
        assert {p.num_completion_tokens for p in predictions} == {num_tokens}
    spent = read_json(run.provenance)["generate"]["spent"]["scripted"]
    assert spent["num_predictions"] == 3 * num_samples
    assert spent["num_completion_tokens"] == sum(p.num_completion_tokens for p in predictions)


def test_what_an_endpoint_did_not_count_is_said() -> None:
    def prediction(number: int, num_tokens: int) -> ServerPrediction:
        return ServerPrediction(
            slug="one",
            model="m",
            strategy="direct",
            sample_index=number,
            completion="x",
            finish_reason="stop",
            num_prompt_tokens=num_tokens,
        )

    found = spent([prediction(0, 7), prediction(1, 0)])["m"]
    assert (found["num_predictions"], found["num_without_usage"]) == (2, 1)


# Stands in for a vLLM environment: takes its command line and answers, until it is told to die.
FAKE_VLLM = textwrap.dedent(
    """
    import http.server, json, os, sys
    from pathlib import Path

    arguments = sys.argv[1:]
    port = int(arguments[arguments.index("--port") + 1])
    deaths = Path("{deaths}")

    class Handler(http.server.BaseHTTPRequestHandler):
        def say(self, value):
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.say({{}})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            left = int(deaths.read_text())
            if left:
                deaths.write_text(str(left - 1))
                print("CUDA error: the scripted one", flush=True)
                os._exit(1)
            message = {{"role": "assistant", "content": "import this"}}
            choice = {{"message": message, "finish_reason": "stop"}}
            self.say({{"choices": [choice], "usage": {{}}}})

    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """
).lstrip()


@pytest.fixture
def fake_vllm(tmp_path: Path, run: RunFolder, tiny_model: Path):
    """fake_vllm(deaths) -> overrides for an engine that dies so often, and then answers."""

    def make(deaths: int) -> tuple[str, ...]:
        (tmp_path / "deaths").write_text(str(deaths))
        script, program = tmp_path / "fake_vllm.py", tmp_path / "python"
        script.write_text(FAKE_VLLM.format(deaths=tmp_path / "deaths"))
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        program.chmod(0o755)
        run.root.mkdir(parents=True, exist_ok=True)
        run.export.symlink_to(tiny_model)
        return (
            "generate.engine=vllm",
            f"generate.engine_python={program}",
            "generate.compare_before_training=false",
            "generate.concurrency=2",
        )

    return make


def test_a_server_that_dies_in_the_middle_is_started_again_once(
    make_recipe, run: RunFolder, fake_vllm
) -> None:
    generate(make_recipe(*fake_vllm(1)), run)
    assert Counter(p.slug for p in predictions_of(run)) == dict.fromkeys(PROMPTS, 1)


def test_a_server_that_dies_twice_is_a_harness_fault_that_names_the_log(
    make_recipe, run: RunFolder, fake_vllm
) -> None:
    with pytest.raises(HarnessFault, match=r"engine_died: .*server\.log .CUDA error") as raised:
        generate(make_recipe(*fake_vllm(1000)), run)
    log = Path(raised.value.detail.split("log: ")[1].split(" (")[0])
    assert "CUDA error" in log.read_text()
    assert predictions_of(run) == []


def test_predictions_of_another_checkpoint_are_neither_mixed_nor_lost(
    make_recipe, run: RunFolder, fake_vllm, other_model: Path
) -> None:
    recipe = make_recipe(*fake_vllm(0))
    generate(recipe, run)
    before = run.predictions.read_bytes()
    run.export.unlink()
    run.export.symlink_to(other_model)
    with pytest.raises(
        UserError, match=r"were made by another `trained`.*remove predictions\.jsonl"
    ):
        generate(recipe, run)
    assert run.predictions.read_bytes() == before
    run.predictions.unlink()
    generate(recipe, run)
    assert len(predictions_of(run)) == 3


def processes_with(text: str) -> list[int]:
    """Running processes that have this text in their command line or working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                place = str((entry / "cwd").readlink())
            except OSError:
                continue
            if words and (text in words or text in place):
                found.append(int(entry.name))
    return found


def test_transformers_serve_gives_the_model_s_own_greedy_text_and_leaves_no_process(
    make_recipe, run: RunFolder, tmp_path: Path, tiny_model: Path, other_model: Path
) -> None:
    """The real server, killed with its stage at a moment when it is up, and then in one piece."""
    import torch
    import transformers

    run.root.mkdir(parents=True)
    run.base_model.symlink_to(tiny_model)
    run.export.symlink_to(other_model)
    recipe = make_recipe()

    killed = stage(tmp_path, run)
    try:
        while not processes_with(f"{run.root}/logs") or not run.predictions.exists():
            time.sleep(0.05)
            assert killed.poll() is None
    finally:
        killed.kill()
        killed.wait(20)
    deadline = time.monotonic() + 20
    while processes_with(str(tmp_path)):
        assert time.monotonic() < deadline, "an orphan server"
        time.sleep(0.1)

    generate(recipe, run)
    assert not processes_with(str(tmp_path))
    predictions = predictions_of(run)
    assert Counter(p.model for p in predictions) == {"before_training": 3, "trained": 3}
    for label, folder in (("before_training", tiny_model), ("trained", other_model)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        for prediction in (p for p in predictions if p.model == label):
            prompt = DIRECT_PROMPT.format(scenario=PROMPTS[prediction.slug])
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            with torch.no_grad():
                tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0]
            answer = tokens[inputs["input_ids"].shape[1] :]
            text = tokenizer.decode(answer)
            assert prediction.completion == text.removesuffix("<|im_end|>")
            assert prediction.num_prompt_tokens == inputs["input_ids"].shape[1]
            assert prediction.num_completion_tokens == len(answer)
            cut = len(answer) == 24
            assert prediction.finish_reason == ("length" if cut else "stop")


def test_an_endpoint_whose_filter_refuses_every_prompt_has_answered_none(
    make_recipe, run: RunFolder
) -> None:
    """It may be the account that is refused: nothing of it is the model's zero."""
    said = Fault("status", 400, text="your account is held back by our content policy")
    with (
        ScriptedServer(lambda body: said) as server,
        pytest.raises(HarnessFault, match="3 requests had no answer"),
    ):
        generate(make_recipe(*endpoint(server.url)), run)
    assert predictions_of(run) == []


def test_a_prompt_that_is_refused_for_ever_stays_owed_and_the_fault_says_how_to_finish(
    make_recipe, run: RunFolder
) -> None:
    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        clock = PROMPTS["clock"] in body["messages"][0]["content"]
        return Fault("status", 402, text="no credit is left") if clock else code_for(body)

    with ScriptedServer(script) as server:
        recipe = make_recipe(*endpoint(server.url, "generate.concurrency=1"))
        for _ in range(2):  # alone, too, it is about that request and not about the model's name
            with pytest.raises(HarnessFault, match="1 requests had no answer, first clock") as said:
                generate(recipe, run)
    assert f"score --benchmark {recipe.benchmark} --predictions" in str(said.value)
    assert str(run.predictions) in str(said.value)
    assert {p.slug for p in predictions_of(run)} == {"adder", "greeter"}
