"""Servers from wherever they lie: folders with facts, registries, rows, hub data sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.corpus.conftest import TRAIN, Workbench
from tests.corpus.test_chats import LAYOUTS
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.pairs import folder_pairs, shortest_first
from toolgenesis_sft.corpus.sources import resolve_sources, rows, weights_of
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.predictions import write_registry
from toolgenesis_sft.records import ChatSample, ServerPrediction
from toolgenesis_sft.runs import RunFolder, read_json, read_records

SERVER = '''"""Doubles numbers."""
from fastmcp import FastMCP

mcp = FastMCP("Doubler")


@mcp.tool()
def double_number(number: float) -> float:
    """Twice the number."""
    return 2 * number


if __name__ == "__main__":
    mcp.run()
'''
OTHER = '''"""Joins words."""
from fastmcp import FastMCP

mcp = FastMCP("Joiner")


@mcp.tool()
def join_words(words: list[str], sign: str = "-") -> str:
    """One word of several, with a sign between them."""
    if not words:
        raise ValueError("no words")
    return sign.join(word.strip() for word in words)


if __name__ == "__main__":
    mcp.run()
'''
FACTS = """
prompt: Somebody who doubles what I give.
primary_label: Mathematics
examples:
  - {tool: double_number, arguments: {number: 4}, answer: 8}
  - {tool: double_number, arguments: {number: 0.5}}
"""


def servers_only(bench: Workbench, source: Path) -> RunFolder:
    build(bench.recipe(f"data.sources=[{source}]", "data.kinds={server: 1}"), bench.run())
    return bench.run()


def samples(run: RunFolder) -> list[ChatSample]:
    return read_records(run.data / "train.jsonl", ChatSample)


def test_a_server_answers_its_own_examples_or_is_dropped(bench: Workbench) -> None:
    folder = bench.root / "found"
    folder.mkdir()
    (folder / "doubler.py").write_text(SERVER)
    (folder / "doubler.yaml").write_text(FACTS)
    (folder / "liar.py").write_text(SERVER.replace("2 * number", "3 * number"))
    (folder / "liar.yaml").write_text(FACTS)
    run = servers_only(bench, folder)
    [sample] = samples(run)
    assert (sample.id, sample.scenario) == ("found/doubler", "doubler")
    assert "Somebody who doubles what I give." in sample.messages[0].content
    assert read_json(run.data / "manifest.json")["drops"] == {
        "verification: fails its own example": 1
    }
    assert read_json(run.data / "data_report.json")["domains"] == {"Mathematics": {"train": 1}}


def test_files_of_other_systems_are_read_and_those_that_lost_bytes_are_not(
    bench: Workbench,
) -> None:
    folder = bench.root / "found"
    folder.mkdir()
    (folder / "marked.py").write_bytes(b"\xef\xbb\xbf" + SERVER.replace("\n", "\r\n").encode())
    (folder / "latin.py").write_bytes(SERVER.replace("Twice", "Zw\xf6lfmal").encode("latin-1"))
    run = servers_only(bench, folder)
    [sample] = samples(run)
    assert sample.messages[-1].content.startswith('"""Doubles')
    assert read_json(run.data / "manifest.json")["drops"] == {"not Unicode text": 1}


def test_facts_with_an_unknown_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "doubler.py").write_text(SERVER)
    (tmp_path / "doubler.yaml").write_text("promt: typo")
    with pytest.raises(UserError, match=r"doubler.yaml = promt: .* did you mean prompt"):
        list(folder_pairs(tmp_path, "found", "MIT"))


def test_rows_with_a_program_become_servers(bench: Workbench) -> None:
    path = bench.root / "rows.jsonl"
    lines = [
        {"slug": "doubler", "prompt": "Double it.", "code": SERVER, "label": "Mathematics"},
        {"prompt": "Nothing here."},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = servers_only(bench, path)
    [sample] = samples(run)
    assert sample.id == "rows/doubler"
    drops = read_json(run.data / "manifest.json")["drops"]
    assert drops == {"a column of the layout is missing": 1}


def test_rows_without_a_slug_of_two_files_are_scenarios_of_their_own(bench: Workbench) -> None:
    for name, code, label in (("pa", SERVER, "Mathematics"), ("pb", OTHER, "Text")):
        row = {"prompt": f"Make it, {name}.", "code": code, "label": label}
        (bench.root / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    sources = f"data.sources=[{bench.root / 'pa.jsonl'}, {bench.root / 'pb.jsonl'}]"
    build(bench.recipe(sources, "data.kinds={server: 1}"), bench.run())
    assert [sample.scenario for sample in samples(bench.run())] == ["pa-1", "pb-1"]
    domains = read_json(bench.run().data / "data_report.json")["domains"]
    assert domains == {"Mathematics": {"train": 1}, "Text": {"train": 1}}


def test_an_unknown_key_of_the_catalogue_is_told_before_what_is_missing(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    catalogue.write_text("a: {layout: pairs, path: rows.jsonl, license: MIT}")
    recipe = bench.recipe(f"data.catalogue={catalogue}", "data.sources=[a]")
    with pytest.raises(UserError, match=r"a = license: is not a known key; did you mean licence"):
        resolve_sources(recipe)


def test_a_registry_of_the_reference_harness_is_a_source(bench: Workbench) -> None:
    folder = bench.root / "predictions"
    prediction = ServerPrediction(
        slug="doubler", model="m", strategy="imported", completion=SERVER, finish_reason="stop"
    )
    write_registry([prediction], folder)
    [sample] = samples(servers_only(bench, folder / "registry.json"))
    assert sample.messages[-1].content == SERVER


def test_a_program_that_a_registry_names_is_part_of_its_digest(bench: Workbench) -> None:
    prediction = ServerPrediction(
        slug="doubler", model="m", strategy="imported", completion=SERVER, finish_reason="stop"
    )
    write_registry([prediction], bench.root / "predictions")
    recipe = bench.recipe(f"data.sources=[{bench.root / 'predictions' / 'registry.json'}]")
    [before] = resolve_sources(recipe)
    (bench.root / "predictions" / "doubler" / "env_code.py").write_text(SERVER + "# changed\n")
    [after] = resolve_sources(recipe)
    assert before.digest != after.digest


def test_two_servers_of_one_slug_are_two_samples_with_ids_of_their_own(bench: Workbench) -> None:
    rows_ = [
        {"slug": "doubler", "prompt": "Double it.", "code": SERVER},
        {"slug": "doubler", "prompt": " ", "code": OTHER},
    ]
    path = bench.root / "twice.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    first, second = samples(servers_only(bench, path))
    assert (first.id, second.id) == ("twice/doubler", "twice/doubler/row-2")
    assert "Double it." in first.messages[0].content
    assert "Feature: Join Words" in second.messages[0].content, "a blank prompt is none"


def test_a_hub_data_set_is_read_without_a_network(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set's folder stands for one that is in the hub's cache already."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", bench.root / "cache")
    folder = bench.root / "dataset"
    folder.mkdir()
    (folder / "train.jsonl").write_text((LAYOUTS / "sharegpt.jsonl").read_text())
    catalogue = bench.root / "sources.yaml"
    entry = {"layout": "sharegpt", "hub": str(folder), "licence": "MIT"}
    catalogue.write_text(json.dumps({"calls": entry, "gone": entry | {"hub": "no/such-set"}}))
    recipe = bench.recipe(f"data.catalogue={catalogue}", "data.sources=[calls]")
    [source] = resolve_sources(recipe)
    [(where, row)] = rows(source)
    assert where == "row 1"
    assert isinstance(row, dict)
    assert row["conversations"][0]["from"] == "human"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be loaded"):
        resolve_sources(bench.recipe(f"data.catalogue={catalogue}", "data.sources=[gone]"))


def test_weights_of_the_catalogue_must_all_be_given_and_add_up(bench: Workbench) -> None:
    catalogue = bench.root / "sources.yaml"
    path = str(LAYOUTS / "xlam.jsonl")
    entries = {
        name: {"layout": "xlam", "path": path, "licence": "MIT", "weight": weight}
        for name, weight in (("a", 0.25), ("b", 0.75), ("c", 0.5))
    }
    catalogue.write_text(json.dumps(entries))
    for names, fits in ((("a", "b"), True), (("a", "c"), False)):
        text = ", ".join(names)
        recipe = bench.recipe(f"data.catalogue={catalogue}", f"data.sources=[{text}]")
        sources = resolve_sources(recipe)
        if fits:
            assert weights_of(recipe, sources) == {"a": 0.25, "b": 0.75}
        else:
            with pytest.raises(UserError, match="add up to 1"):
                weights_of(recipe, sources)


def test_scenarios_are_put_in_order_by_their_shortest_server(bench: Workbench) -> None:
    pairs = list(folder_pairs(bench.servers, "bench", "MIT"))
    assert len(pairs) > len(TRAIN)
    longest = max(pairs, key=lambda pair: len(pair.code))
    again = dataclasses.replace(longest, code="short", variant="again")
    order = shortest_first([*pairs, again])
    assert order[0] == longest.slug
    lengths = {pair.slug: len(pair.code) for pair in pairs}
    assert [lengths[slug] for slug in order[1:]] == sorted(lengths.values())[:-1]
