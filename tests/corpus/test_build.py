"""The stage as a whole, with the real sandbox."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.corpus.conftest import HELD_OUT, TRAIN, Workbench, mini_items, start_build, wait_for
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.config import Recipe, server_python
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.inputs import what_shapes_data
from toolgenesis_sft.corpus.show import show
from toolgenesis_sft.corpus.sources import resolve_sources
from toolgenesis_sft.corpus.verify import Verification
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.runs import RunFolder, fingerprint, read_json, read_records, sha256_file
from toolgenesis_sft.training.tokenizer import load_tokenizer
from toolgenesis_sft.training.tokens import tokenize

SERVERS_ONLY = "data.kinds={server: 1}"
MEMORIES = ("verified.jsonl", "tried.jsonl")
MOMENTS = (*MEMORIES, "tokenizer/tokenizer.json")


def samples(run: RunFolder, split: str = "train") -> list[ChatSample]:
    return read_records(run.data / f"{split}.jsonl", ChatSample)


def files(run: RunFolder) -> dict[str, bytes]:
    """Every file of the data set but what the sandbox said, which stands in order of arrival."""
    return {
        str(path.relative_to(run.data)): path.read_bytes()
        for path in sorted(run.data.rglob("*"))
        if path.is_file() and path.name not in MEMORIES
    }


def drops(run: RunFolder) -> dict[str, int]:
    counts: dict[str, int] = read_json(run.data / "manifest.json")["drops"]
    return counts


def test_every_training_server_becomes_the_model_cards_sample(built) -> None:
    bench, run = built
    found = {sample.scenario: sample for sample in samples(run) if sample.kind == "server"}
    assert set(found) == set(TRAIN)
    for slug, sample in found.items():
        user, assistant = sample.messages
        assert user.content.startswith("You are a developer building MCP tool servers in Python.")
        assert assistant.content == (bench.servers / f"{slug}.py").read_text().strip() + "\n"


def test_all_four_kinds_come_in_the_recipes_shares(built) -> None:
    kinds = Counter(sample.kind for sample in samples(built[1]))
    assert kinds == {"server": 4, "schema": 2, "schema_to_server": 2, "repair": 2}


def test_every_server_sample_was_run_and_passed(built) -> None:
    """The sandbox's verdicts lie beside the samples; a program without one is no sample."""
    _, run = built
    verdicts = read_records(run.data / "verified.jsonl", Verification)
    servers = {sample.scenario for sample in samples(run) if sample.kind == "server"}
    passed = [verdict for verdict in verdicts if not verdict.reason]
    assert len(passed) == len(servers) == len(TRAIN)
    assert all(verdict.ut_hard == 1.0 for verdict in passed)
    assert {tool.name for verdict in passed for tool in verdict.tools} == {
        tool["name"] for slug in TRAIN for tool in mini_items()[slug]["tool_definitions"]
    }


def test_the_report_tells_what_training_will_see(built) -> None:
    bench, run = built
    report = read_json(run.data / "data_report.json")
    assert {part["kind"]: part["num_train"] for part in report["parts"]} == {
        "server": 4,
        "schema": 2,
        "schema_to_server": 2,
        "repair": 2,
    }
    tokenizer = load_tokenizer(run.data / "tokenizer")
    tokens = [tokenize(sample, tokenizer, bench.recipe().train) for sample in samples(run)]
    num_tokens = sum(len(each.ids) for each in tokens)
    num_supervised = sum(int(each.mask.sum()) for each in tokens)
    assert report["num_tokens"] == num_tokens
    assert report["supervised_share"] == round(num_supervised / num_tokens, 4)
    assert report["lengths"]["quantiles"]["max"] == max(len(each.ids) for each in tokens)
    assert report["stop_tokens"] == {"num_samples": 10, "num_that_end_their_turn": 10}
    assert report["steps"]["per_epoch"] == 5
    assert sum(count["train"] for count in report["domains"].values()) == len(TRAIN)
    page = (run.data / "data_report.html").read_text()
    card = (run.data / "README.md").read_text()
    for text in (page, card):
        assert "broken server to mended server" in text


@pytest.mark.parametrize(
    "override",
    ["seed=1", "train.thinking=true", "train.loss_on=last_turn", "data.overlap=report"],
)
def test_a_change_of_any_option_is_a_change_of_the_fingerprint(built, override: str) -> None:
    bench, run = built

    def made_of(recipe: Recipe) -> str:
        benchmark, sources = load_benchmark(bench.benchmark), resolve_sources(recipe)
        python = server_python(None)
        return fingerprint(what_shapes_data(recipe, run, benchmark, sources, python))

    assert made_of(bench.recipe()) == read_json(run.data / "manifest.json")["fingerprint"]
    assert made_of(bench.recipe(override)) != made_of(bench.recipe())


def test_no_held_out_scenario_is_in_any_sample(built) -> None:
    _, run = built
    text = (run.data / "train.jsonl").read_text() + (run.data / "val.jsonl").read_text()
    for slug in HELD_OUT:
        assert slug not in text


def test_the_manifest_names_every_file_with_its_digest(built) -> None:
    _, run = built
    manifest = read_json(run.data / "manifest.json")
    assert manifest["num_train"] == len(samples(run)) == 10
    assert manifest["scenarios"] == {"train": sorted(TRAIN), "val": []}
    assert {"train.jsonl", "val.jsonl", "tokenizer/tokenizer.json"} <= set(manifest["files"])
    for name, digest in manifest["files"].items():
        assert sha256_file(run.data / name) == digest


def test_the_tokenizer_of_a_random_model_can_be_loaded(built) -> None:
    _, run = built
    assert load_tokenizer(run.data / "tokenizer").get_vocab_size() > 300


def test_a_second_call_does_nothing(built, capsys) -> None:
    bench, run = built
    before = {path: path.stat().st_mtime_ns for path in run.data.rglob("*")}
    build(bench.recipe(), run)
    assert {path: path.stat().st_mtime_ns for path in run.data.rglob("*")} == before
    assert "up to date" in capsys.readouterr().err


def test_another_number_of_processes_is_the_same_data_set(built, capsys) -> None:
    bench, run = built
    build(bench.recipe("data.num_processes=2"), run)
    assert "up to date" in capsys.readouterr().err


def test_a_changed_server_is_built_again_and_only_it_is_run(bench: Workbench) -> None:
    path = bench.servers / f"{TRAIN[0]}.py"
    path.write_text(path.read_text() + "\n# one more line\n")
    memory = bench.run().data / "verified.jsonl"
    num_verdicts = len(memory.read_text().splitlines())
    build(bench.recipe(SERVERS_ONLY), bench.run())
    assert "# one more line" in samples(bench.run())[0].messages[-1].content
    assert len(memory.read_text().splitlines()) == num_verdicts + 1


def test_what_lies_there_of_another_build_is_no_part_of_the_next(bench: Workbench) -> None:
    data = bench.run().data
    (data / "tokenizer").mkdir()
    (data / "tokenizer" / ".tokenizer.json.host.1.partial").write_text("{")
    (data / ".train.jsonl.host.1.partial").write_text("{")
    stale = data / "tokens" / "train-0123456789abcdef"
    stale.mkdir(parents=True)
    build(bench.recipe(SERVERS_ONLY), bench.run())
    assert not list(data.rglob("*.partial"))
    assert not stale.exists(), "the token ids of the data that was replaced"
    assert not any("partial" in name for name in read_json(data / "manifest.json")["files"])


def test_a_server_that_fails_is_dropped_counted_and_named(bench: Workbench, capsys) -> None:
    broken, silent, wrong, whole = TRAIN
    (bench.servers / f"{broken}.py").write_text("def broken(:\n")
    (bench.servers / f"{silent}.py").write_text("print('no server here')\n")
    path = bench.servers / f"{wrong}.py"
    path.write_text(path.read_text().replace("round(", "1 + round("))
    build(bench.recipe(SERVERS_ONLY), bench.run())
    assert [sample.scenario for sample in samples(bench.run())] == [whole]
    found = drops(bench.run())
    assert found["syntax"] == 1
    assert found["verification: ut_hard is too low"] == 1
    assert sum(count for reason, count in found.items() if "does not launch" in reason) == 1
    report = read_json(bench.run().data / "data_report.json")
    what = {drop["reason"]: drop["examples"][0]["what"] for drop in report["drops"]}
    assert what["syntax"] == f"bench/{broken}"
    assert "1 syntax" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 3])
def test_servers_that_fail_do_not_count_among_the_max_scenarios(
    bench: Workbench, workers: int
) -> None:
    """Two that are shorter do not launch, and a third is a held-out one's copy."""
    folder = plant(bench)
    for name in ("a", "b"):
        (folder / f"{name}.py").write_text(f"print('no server here, {name}')\n")
    build(
        bench.recipe(
            f"data.sources=[benchmark, {folder}]",
            "data.max_scenarios=2",
            f"score.workers={workers}",
            SERVERS_ONLY,
        ),
        bench.run(),
    )
    lengths = {slug: len((bench.servers / f"{slug}.py").read_text()) for slug in TRAIN}
    shortest = sorted(lengths, key=lengths.__getitem__)[:2]
    assert {sample.scenario for sample in samples(bench.run())} == set(shortest)
    found = drops(bench.run())
    assert found["data.max_scenarios (the shortest answers are kept)"] == len(TRAIN) - 2
    assert sum(count for reason, count in found.items() if "does not launch" in reason) == 2
    assert found["overlap: code"] == 1


def plant(bench: Workbench) -> Path:
    """A held-out server, renamed and reformatted, under another slug, as a source of its own."""
    code = (bench.servers / f"{HELD_OUT[0]}.py").read_text()
    for number, name in enumerate(("formula", "counts", "element", "mass", "molecule")):
        code = code.replace(name, f"zz{number}")
    folder = bench.root / "planted"
    folder.mkdir()
    (folder / "innocent.py").write_text("# All new.\n" + code.replace("    ", "  "))
    return folder


def test_a_planted_copy_of_a_held_out_server_is_found(bench: Workbench) -> None:
    recipe = bench.recipe(f"data.sources=[benchmark, {plant(bench)}]", SERVERS_ONLY)
    build(recipe, bench.run())
    assert {sample.scenario for sample in samples(bench.run())} == set(TRAIN)
    assert drops(bench.run()) == {"overlap: code": 1}


def test_overlap_that_is_only_reported_stays_and_is_listed(bench: Workbench) -> None:
    recipe = bench.recipe(
        f"data.sources=[benchmark, {plant(bench)}]", "data.overlap=report", SERVERS_ONLY
    )
    build(recipe, bench.run())
    report = read_json(bench.run().data / "data_report.json")["overlap"]
    [overlap] = report["samples"]
    assert (overlap["sample"], overlap["held_out"]) == ("planted/innocent", HELD_OUT[0])
    assert read_json(bench.run().data / "manifest.json")["overlapping_held_out"] == [HELD_OUT[0]]
    assert len(samples(bench.run())) == len(TRAIN) + 1


def test_a_server_without_a_scenario_gets_one_from_its_live_tools(bench: Workbench) -> None:
    folder = bench.root / "found"
    folder.mkdir()
    (folder / "greeter.py").write_text(
        '"""Greets people in several languages."""\n'
        "from mcp.server.fastmcp import FastMCP\n\n"
        'mcp = FastMCP("Greeter")\n\n\n'
        "@mcp.tool()\ndef greet_person(full_name: str, times: int = 1) -> str:\n"
        '    """Say hello to somebody by name."""\n'
        '    return f"Hello {full_name}! " * times\n'
    )
    build(bench.recipe(f"data.sources=[benchmark, {folder}]", SERVERS_ONLY), bench.run())
    prompt = samples(bench.run())[-1].messages[0].content
    assert "Greets people in several languages." in prompt
    assert "full name (string), times (integer, default 1)" in prompt
    assert "greet_person" not in prompt


def test_servers_validate_with_all_their_samples(bench: Workbench) -> None:
    build(bench.recipe("data.val_share=0.25"), bench.run())
    train = {sample.scenario for sample in samples(bench.run())}
    val = {sample.scenario for sample in samples(bench.run(), "val")}
    assert len(val) == 1
    assert train | val == set(TRAIN)
    assert not train & val


def test_sources_keep_their_weights(bench: Workbench) -> None:
    chats = bench.root / "chats.jsonl"
    chats.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"What is {n} times {n}?"},
                        {"role": "assistant", "content": f"{n} times {n} is {n * n}, surely."},
                    ]
                }
            )
            + "\n"
            for n in range(12)
        )
    )
    sources = f"data.sources=[benchmark, {chats}]"
    weights = f"data.weights={{benchmark: 0.5, {chats}: 0.5}}"
    build(bench.recipe(sources, weights, SERVERS_ONLY), bench.run())
    assert Counter(sample.source for sample in samples(bench.run())) == {"bench": 4, "chats": 4}
    assert drops(bench.run())["left out to hold the weights"] == 8
    with pytest.raises(UserError, match="add up to 1"):
        bench.recipe(sources, f"data.weights={{benchmark: 0.5, {chats}: 0.4}}")
    with pytest.raises(UserError, match="add up to 1"):
        bench.recipe(sources, f"data.weights={{benchmark: .nan, {chats}: 0.5}}")
    chats.write_text('{"messages": []}\n')
    refused = refuse(bench.recipe(sources, weights, SERVERS_ONLY), bench)
    assert "data.weights = chats: 0.5: no sample of this source is left" in refused
    assert not (bench.run().data / "work").exists()


def test_a_change_of_a_reference_server_builds_again(bench: Workbench) -> None:
    """Overlap is looked for in it, though no source names it."""
    chats = bench.root / "chats.jsonl"
    rows = [
        {"role": "user", "content": "What is a triangle?"},
        {"role": "assistant", "content": "Three points, and the lines between them."},
    ]
    chats.write_text(json.dumps({"messages": rows}) + "\n")
    recipe = bench.recipe(f"data.sources=[{chats}]")
    build(recipe, bench.run())
    before = read_json(bench.run().data / "manifest.json")["fingerprint"]
    path = bench.servers / f"{HELD_OUT[0]}.py"
    path.write_text(path.read_text() + "\n# one more line\n")
    build(recipe, bench.run())
    assert read_json(bench.run().data / "manifest.json")["fingerprint"] != before


def test_a_sample_is_shown_with_its_supervised_part_marked(built) -> None:
    bench, run = built
    text = show(bench.recipe(), run, f"bench/{TRAIN[0]}")
    head, _, body = text.partition("\n\n")
    assert "server, " in head
    code = (bench.servers / f"{TRAIN[0]}.py").read_text().strip() + "\n"
    assert body.endswith(f"</think>\n\n[[{code}<|im_end|>]]\n")
    with pytest.raises(UserError, match="is no sample of this run"):
        show(bench.recipe(), run, "bench/nothing")


def refuse(recipe: Recipe, bench: Workbench) -> str:
    with pytest.raises(UserError) as caught:
        build(recipe, bench.run())
    assert not (bench.run().data / "manifest.json").exists()
    return str(caught.value)


def test_bad_input_is_one_clear_line(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    catalogue.write_text("gone: {layout: pairs, path: gone.jsonl, licence: MIT}")
    gone = bench.recipe(f"data.catalogue={catalogue}", "data.sources=[gone]")
    assert "source gone = gone.jsonl: is not there" in refuse(gone, bench)
    assert "is neither a path nor a name" in refuse(bench.recipe("data.sources=[nowhere]"), bench)
    assert "data.servers" in refuse(bench.recipe("data.servers=null"), bench)
    missing = bench.servers / f"{TRAIN[0]}.py"
    missing.unlink()
    assert f"the training scenario {TRAIN[0]} has no server" in refuse(bench.recipe(), bench)
    (bench.root / "splits.json").unlink()
    assert "has no training split" in refuse(bench.recipe(), bench)


def test_nothing_left_to_train_on_says_why(bench: Workbench) -> None:
    """A source that overlaps with the benchmark entirely."""
    folder = bench.root / "copies"
    folder.mkdir()
    for slug in HELD_OUT:
        code = (bench.servers / f"{slug}.py").read_text()
        (folder / f"{slug}.py").write_text(code)
    line = refuse(bench.recipe(f"data.sources=[{folder}]"), bench)
    assert "no sample is left to train on (dropped: 2 overlap: slug)" in line


def test_a_source_whose_digest_changed_is_refused(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    entry = {"layout": "servers", "path": str(bench.servers), "licence": "MIT", "digest": "0" * 64}
    catalogue.write_text(json.dumps({"ours": entry}))
    line = refuse(bench.recipe(f"data.catalogue={catalogue}", "data.sources=[ours]"), bench)
    assert "the source has changed" in line


@pytest.mark.parametrize("reached", MOMENTS)
def test_killed_at_any_moment_the_same_command_gives_the_same_bytes(
    built, reached: str, tmp_path: Path
) -> None:
    """In the middle of the servers, of the trials, and while the files are written."""
    bench, finished = built
    run = RunFolder(tmp_path / "killed")
    run.data.mkdir(parents=True)
    for known in MEMORIES[: MOMENTS.index(reached)]:  # what came before need not be waited for
        shutil.copy(finished.data / known, run.data)
    child = start_build(bench.recipe(), run)
    memory = run.data / reached
    wait_for(lambda: memory.exists() and memory.stat().st_size > 0)
    child.kill()
    child.wait()
    assert not (run.data / "manifest.json").exists()
    with (run.data / "verified.jsonl").open("a") as file:
        file.write('{"key": "torn')  # what a kill in the middle of an append leaves
    build(bench.recipe(), run)
    assert files(run) == files(finished)
