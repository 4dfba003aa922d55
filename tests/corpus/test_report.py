"""What the data report says beyond the samples: what gave none, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.corpus.conftest import Workbench
from toolgenesis_sft.corpus import report
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.sources import resolve_sources
from toolgenesis_sft.corpus.table import Table
from toolgenesis_sft.records import ChatSample, Json, Message


def sample(source: str, slug: str) -> ChatSample:
    messages = (Message(role="user", content="go"), Message(role="assistant", content=slug))
    return ChatSample(
        id=f"{source}/{slug}", messages=messages, source=source, licence="MIT", scenario=slug
    )


def report_of(bench: Workbench) -> tuple[Path, dict[str, Json]]:
    """Of two verified servers one became a sample; a second source gave nothing."""
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (bench.root / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    recipe = bench.recipe(f"data.sources=[benchmark, {bench.root / 'chats.jsonl'}]")
    sources = resolve_sources(recipe)
    label = sources[0].label
    servers = [
        Server(Pair(slug=slug, code="", source=label, licence="MIT", primary_label="Maths"), ())
        for slug in ("used", "idle")
    ]
    with Table(bench.root / "samples.jsonl") as table:
        table.add(sample(label, "used"), 1)
    table.num_tokens[:], table.num_supervised[:] = 10, 5
    drops = Drops()
    drops.add("overlap: prompt", "chats/1")
    drops.add("overlap: code", "chats/2")
    drops.add("syntax", "x", "line 1: mail jane.doe" + "@gmail.com")
    facts = report.summarise(
        recipe, table, np.zeros(1, dtype=np.bool_), servers, sources, drops, [], 2
    )
    report.write(recipe, bench.root, facts, report.examples(recipe, table))
    return bench.root, facts


def test_a_source_that_gave_nothing_is_listed_with_zero(bench: Workbench) -> None:
    folder, facts = report_of(bench)
    assert facts["samples_by_source"] == {"bench": 1, "chats": 0}
    assert "| chats | messages | 0 | not stated |" in (folder / "README.md").read_text()


def test_verified_servers_without_a_sample_are_counted(bench: Workbench) -> None:
    folder, facts = report_of(bench)
    assert facts["num_idle_servers"] == 1
    for name in ("README.md", "data_report.html"):
        assert "1 verified servers gave no sample" in (folder / name).read_text(), name


def test_what_was_left_out_for_overlap_is_said_beside_what_overlaps(bench: Workbench) -> None:
    folder, facts = report_of(bench)
    assert facts["overlap"]["num_left_out"] == 2
    assert "2 candidates were left out for it" in (folder / "data_report.html").read_text()
    assert "one that was written anew or encoded is not" in (folder / "README.md").read_text()


def test_an_example_of_a_drop_shows_no_personal_data(bench: Workbench) -> None:
    folder, facts = report_of(bench)
    [syntax] = [drop for drop in facts["drops"] if drop["reason"] == "syntax"]
    assert syntax["examples"] == [{"what": "x", "detail": report.UNSHOWN}]
    assert "jane.doe" not in (folder / "data_report.html").read_text()
