"""Files of trajectories through the whole stage: counted drops, several processes, formats."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.corpus.conftest import HELD_OUT, Workbench
from tests.corpus.test_build import files
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.sources import ROWS_PER_CHUNK
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.runs import RunFolder, read_json, read_records

LAYOUTS = Path(__file__).with_name("layouts")


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def numbers(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        words = " ".join(str((n * 7919 + k * k * 104729) % 99991) for k in range(12))
        yield chat(f"Add up {words}.", f"The sum of these {n % 9 + 2} groups is {n * 31}: {words}")


def write(path: Path, rows: list[Any]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def build_from(bench: Workbench, *sources: Path, overrides: tuple[str, ...] = ()) -> RunFolder:
    names = ", ".join(map(str, sources))
    build(bench.recipe(f"data.sources=[{names}]", *overrides), bench.run())
    return bench.run()


def samples(run: RunFolder, split: str = "train") -> list[ChatSample]:
    return read_records(run.data / f"{split}.jsonl", ChatSample)


def drops(run: RunFolder) -> dict[str, Any]:
    report = read_json(run.data / "data_report.json")
    return {drop["reason"]: drop for drop in report["drops"]}


def test_every_layout_of_trajectories_is_built(bench: Workbench) -> None:
    run = build_from(bench, *sorted(LAYOUTS.glob("*.jsonl")))
    found = samples(run)
    assert {sample.kind for sample in found} == {"trajectory"}
    assert all(sample.scenario is None for sample in found)
    num_rows = sum(len(path.read_text().splitlines()) for path in LAYOUTS.glob("*.jsonl"))
    counts = {reason: drop["count"] for reason, drop in drops(run).items()}
    # The layouts tell one story, so most of the files are duplicates of each other, and only that.
    assert set(counts) == {"exact duplicate", "near duplicate"}
    assert len(found) + sum(counts.values()) == num_rows


def test_broken_lines_are_counted_with_their_number(bench: Workbench) -> None:
    rows = [
        *numbers(3),
        '{"messages": [{"role": "user"',
        chat("hello?", ""),
        {"messages": [{"role": "assistant", "content": "first"}]},
        "[1, 2]",
    ]
    run = build_from(bench, write(bench.root / "mixed.jsonl", rows))
    assert len(samples(run)) == 3
    found = drops(run)
    assert found["broken JSON"]["examples"][0]["what"] == "mixed: line 4"
    assert found["wrong role order or empty answer"]["count"] == 2
    assert found["row is no JSON object"]["examples"][0]["what"] == "mixed: line 7"


def test_a_control_token_is_the_reason_wherever_it_stands(bench: Workbench) -> None:
    tool = {"type": "function", "function": {"name": "fetch", "description": "<|endoftext|>"}}
    rows = [
        *numbers(2),
        chat("What ends a turn?", "It ends with <|im_end|>, always."),
        {**chat("Which tools?", "One."), "tools": [tool]},
    ]
    run = build_from(bench, write(bench.root / "control.jsonl", rows))
    assert len(samples(run)) == 2
    [(reason, drop)] = drops(run).items()
    assert (reason, drop["count"]) == ("control token", 2)
    assert [example["detail"] for example in drop["examples"]] == ["<|im_end|>", "<|endoftext|>"]


def test_a_file_from_another_system_is_read_like_any(bench: Workbench) -> None:
    """Byte order mark, CRLF, blank lines, no newline at the end, a number that is none."""
    rows = [json.dumps(row) for row in numbers(3)]
    rows[1] = rows[1].replace("{", '{"score": NaN, ', 1)
    path = bench.root / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n  \r\n".join(rows).encode())
    run = build_from(bench, path)
    assert [sample.id for sample in samples(run)] == ["windows/1", "windows/4", "windows/7"]
    assert drops(run) == {}


def test_text_that_lost_characters_is_dropped_and_can_be_reported(bench: Workbench) -> None:
    rows = [
        *numbers(2),
        json.dumps(chat("half \ud800", "a pair")),
        chat("lost", "the umlaut in M\ufffdnchen"),
        json.dumps({"messages": [{"role": "tool_call", "content": "\ud800{"}]}),
    ]
    run = build_from(bench, write(bench.root / "torn.jsonl", rows))
    assert len(samples(run)) == 2
    counts = {reason: drop["count"] for reason, drop in drops(run).items()}
    assert counts == {"not Unicode text": 2, "invalid tool call": 1}


def test_a_secret_before_the_talk_is_found_as_one_in_it(bench: Workbench) -> None:
    secret = "hf_" + "aB3dE6gH9kL2nP5rS8uV1xY4" * 2
    system = {
        "messages": [{"role": "system", "content": f"Use {secret}."}, *chat("a", "b")["messages"]]
    }
    tool = {
        "type": "function",
        "function": {
            "name": "fetch",
            "description": "Fetch a page.",
            "parameters": {"type": "object", "properties": {"key": {"default": secret}}},
        },
    }
    rows = [*numbers(2), system, system, {**chat("c", "d"), "tools": [tool]}]
    run = build_from(bench, write(bench.root / "keys.jsonl", rows))
    assert drops(run)["secret: Hugging Face token"]["count"] == 3
    assert len(samples(run)) == 2


def test_a_row_keeps_its_side_wherever_it_lies(bench: Workbench) -> None:
    """Which rows validate is a matter of what they say, not of their number."""
    rows = list(numbers(30))
    path = bench.root / "rows.jsonl"

    def validating(some: list[Any]) -> set[str]:
        run = build_from(bench, write(path, some), overrides=("data.val_share=0.3",))
        return {sample.messages[0].content for sample in samples(run, "val")}

    before = validating(rows)
    assert before
    assert validating([chat("Something new?", "Indeed, quite new."), *reversed(rows)]) >= before


def test_too_long_samples_are_dropped_and_never_cut(bench: Workbench) -> None:
    long = chat("Count to a lot.", " ".join(map(str, range(5000))))
    run = build_from(bench, write(bench.root / "long.jsonl", [*numbers(2), long]))
    assert drops(run)["too long"]["count"] == 1
    assert len(samples(run)) == 2


def test_duplicates_are_dropped_and_name_their_original(bench: Workbench) -> None:
    rows = list(numbers(5))
    nearly = json.loads(json.dumps(rows[2]).replace("Add up", "Sum up"))
    run = build_from(bench, write(bench.root / "twice.jsonl", [*rows, rows[0], nearly]))
    found = drops(run)
    assert found["exact duplicate"]["examples"][0]["what"] == "twice/6"
    assert found["near duplicate"]["examples"][0]["what"] == "twice/7"
    assert found["near duplicate"]["examples"][0]["detail"].endswith("twice/3")


def test_a_chat_about_a_held_out_scenario_is_overlap(bench: Workbench) -> None:
    scenarios = {s.slug: s for s in load_benchmark(bench.benchmark).scenarios}
    rows = [*numbers(2), chat(scenarios[HELD_OUT[0]].prompt, "Here is how I would build it: ...")]
    run = build_from(bench, write(bench.root / "leak.jsonl", rows))
    assert drops(run)["overlap: prompt"]["count"] == 1
    assert drops(run)["overlap: prompt"]["examples"][0]["detail"].startswith(HELD_OUT[0])


def test_trajectories_validate_by_their_share(bench: Workbench) -> None:
    path = write(bench.root / "many.jsonl", list(numbers(400)))
    run = build_from(bench, path, overrides=("data.val_share=0.2",))
    assert 50 < len(samples(run, "val")) < 110
    assert len(samples(run)) + len(samples(run, "val")) == 400


def test_one_and_two_processes_give_the_same_bytes(bench: Workbench) -> None:
    rows = list(numbers(2 * ROWS_PER_CHUNK + 17))
    path = write(bench.root / "many.jsonl", [*rows, rows[5], "{broken"])
    options = (f"data.sources=[{path}]", "data.val_share=0.1")
    build(bench.recipe(*options, "data.num_processes=1"), bench.run("one"))
    build(bench.recipe(*options, "data.num_processes=2"), bench.run("two"))
    assert files(bench.run("one")) == files(bench.run("two"))


def test_parquet_gives_what_json_lines_give(bench: Workbench) -> None:
    rows = [json.loads(line) for line in (LAYOUTS / "hermes.jsonl").read_text().splitlines()]
    path = bench.root / "hermes.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    run = build_from(bench, path)
    [sample] = samples(run)
    build(bench.recipe(f"data.sources=[{LAYOUTS / 'hermes.jsonl'}]"), bench.run("lines"))
    [same] = samples(bench.run("lines"))
    assert sample == same


def test_a_file_in_no_known_layout_is_one_clear_line(bench: Workbench) -> None:
    path = write(bench.root / "odd.jsonl", [{"text": "hello"}])
    with pytest.raises(UserError, match="no known layout"):
        build_from(bench, path)
    empty = write(bench.root / "empty.jsonl", [])
    with pytest.raises(UserError, match="holds no row"):
        build_from(bench, empty)
    path = bench.root / "odd.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="is no parquet file"):
        build_from(bench, path)


def test_a_list_and_a_packed_file_give_what_lines_give(bench: Workbench) -> None:
    rows_ = [
        chat(f"What is {number} squared, and why?", f"{number * number}.") for number in range(5)
    ]
    lines = write(bench.root / "rows.jsonl", rows_)
    packed = bench.root / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    whole = bench.root / "whole.json"
    whole.write_text(json.dumps(rows_, indent=1))
    texts = []
    for number, path in enumerate((lines, packed, whole)):
        build(bench.recipe(f"data.sources=[{path}]"), bench.run(str(number)))
        texts.append([sample.messages for sample in samples(bench.run(str(number)))])
    assert texts[0] == texts[1] == texts[2]
    assert len(texts[0]) == 5
    assert samples(bench.run("1"))[0].id == "packed/1"


def test_nulls_that_a_table_adds_are_taken_out_again(bench: Workbench) -> None:
    """Arrow gives every call the arguments of all others, and every schema their properties."""

    def row(name: str, argument: str) -> dict:
        call = {"id": "1", "function": {"name": name, "arguments": {argument: "x"}}}
        schema = {"type": "object", "properties": {argument: {"type": "string"}}}
        return chat(f"Please {name} it.", f"{name} is done.") | {
            "messages": [
                {"role": "user", "content": f"Please {name} it."},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "ok", "tool_call_id": "1"},
                {"role": "assistant", "content": f"The {name} is done and all is well."},
            ],
            "tools": [{"function": {"name": name, "parameters": schema}}],
        }

    table = pyarrow.Table.from_pylist([row("open", "door"), row("read", "book")])
    pyarrow.parquet.write_table(table, bench.root / "calls.parquet")
    run = build_from(bench, bench.root / "calls.parquet")
    for sample, argument in zip(samples(run), ("door", "book"), strict=True):
        assert sample.messages[1].tool_calls[0].arguments == {argument: "x"}
        assert list(sample.tools[0].input_schema["properties"]) == [argument]


def test_the_first_row_that_is_json_tells_the_layout(bench: Workbench) -> None:
    path = write(bench.root / "torn.jsonl", [chat("Who?", "Nobody in particular.")])
    path.write_text('{"messages": [\n' + path.read_text())
    assert [sample.id for sample in samples(build_from(bench, path))] == ["torn/2"]
    path.write_text("nothing\nhere\n")
    with pytest.raises(UserError, match="no known layout"):
        build_from(bench, path)


def test_a_source_without_a_row_and_a_folder_of_rows_are_refused_by_name(bench: Workbench) -> None:
    entry = {"layout": "messages", "licence": "MIT"}
    (bench.root / "nothing.jsonl").write_text("\n")
    for path, rule in ((bench.root / "nothing.jsonl", "no row"), (bench.root, "is a folder")):
        (bench.root / "sources.yaml").write_text(json.dumps({"odd": entry | {"path": str(path)}}))
        catalogue = f"data.catalogue={bench.root / 'sources.yaml'}"
        with pytest.raises(UserError, match=rule) as caught:
            build(bench.recipe("data.sources=[odd, benchmark]", catalogue), bench.run())
        assert "source odd" in str(caught.value)


def test_a_catalogued_source_brings_its_licence(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    entry = {"layout": "xlam", "path": str(LAYOUTS / "xlam.jsonl"), "licence": "CC-BY-4.0"}
    catalogue.write_text(json.dumps({"calls": entry}))
    run = bench.run()
    build(bench.recipe(f"data.catalogue={catalogue}", "data.sources=[calls]"), run)
    assert {sample.licence for sample in samples(run)} == {"CC-BY-4.0"}
    assert read_json(run.data / "data_report.json")["licences"] == {"CC-BY-4.0": 1}
    assert "CC-BY-4.0" in (run.data / "README.md").read_text()


def test_the_catalogue_refuses_what_it_does_not_know(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    catalogue.write_text(json.dumps({"calls": {"layout": "xlam", "licence": "MIT"}}))
    recipe = bench.recipe(f"data.catalogue={catalogue}", "data.sources=[calls]")
    with pytest.raises(UserError, match="exactly one of path and hub"):
        build(recipe, bench.run())


def test_untrusted_text_never_becomes_markup(bench: Workbench) -> None:
    rows = [chat("Say <script>alert(1)</script>", "<img src=x onerror=alert(2)>")]
    run = build_from(bench, write(bench.root / "evil.jsonl", rows))
    page = (run.data / "data_report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;img src=x" in page
