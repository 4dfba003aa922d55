"""What wandb really writes offline, read with its own messages."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import Outcome, UserError
from toolgenesis_sft.records import FigureSummary, GroupSummary, RunReport
from toolgenesis_sft.runs import RunFolder, write_json
from toolgenesis_sft.tracking import figures, open_wandb, track_report, wandb_id
from toolgenesis_sft.training.metrics import MetricsLog, StepMetrics


def recipe(mode: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tracked",
            "benchmark": "b.json",
            "model": {"random": {}},
            "train": {"wandb": mode},
        }
    )


def report(mean: float | None = 0.25) -> RunReport:
    summary = FigureSummary(
        mean_all=mean,
        mean_reached=0.5,
        n=4,
        ci95=None if mean is None else (0.125, 0.375),
        outcomes={Outcome.SCORED: 4},
    )
    group = GroupSummary(
        model="trained",
        strategy="direct",
        scenarios="held_out",
        memorisation=False,
        num_servers=4,
        figures={"launch": summary},
    )
    return RunReport(
        name="tracked",
        benchmark="b.json",
        benchmark_digest="",
        profile="strict",
        provenance={},
        groups=(group,),
    )


def step(number: int) -> StepMetrics:
    return StepMetrics(
        step=number,
        epoch=0.5,
        loss=1 / number,
        grad_norm=1.0,
        lr=1e-5,
        num_tokens=10,
        num_supervised_tokens=5,
        seconds=1.0,
        data_wait_s=0.0,
        tokens_per_s=10.0,
        memory_gib=1.0,
    )


def chunks(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format: 7 bytes of wandb's header, then blocks of 32 KiB that hold
    chunks of (checksum: 4 bytes, length: 2, kind: 1), kind 1 whole, 2 first, 3 middle, 4 last."""
    assert content.startswith(b":W&B")
    at, record = 7, b""
    while at + 7 <= len(content):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def records_of(run: RunFolder) -> dict[str, list[Any]]:
    """All records of all offline attempts in the folder, by kind, oldest attempt first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = defaultdict(list)
    attempts = run.root.glob("wandb/offline-run-*/*.wandb")
    for path in sorted(attempts, key=lambda attempt: attempt.stat().st_mtime_ns):
        for chunk in chunks(path.read_bytes()):
            record = Record.FromString(chunk)
            kind = record.WhichOneof("record_type")
            found[kind].append(getattr(record, kind))
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_offline_two_attempts_and_the_report_are_one_run_with_steps_figures_data_and_files(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for place in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{place}_DIR", str(tmp_path / place))
    run = RunFolder(tmp_path / "tracked")
    for first, steps in ((0, (1, 2)), (2, (3,))):
        log = MetricsLog(recipe("offline"), run, first_step=first)
        for number in steps:
            log.append(step(number))
        log.close()
    write_json(run.data / "manifest.json", {})
    write_json(run.data / "data_report.json", {"num_train": 7, "drops": {"too long": 2}, "by": []})
    write_json(run.report_json, {})
    track_report(recipe("offline"), run, report())

    for _ in range(600):  # wandb's own process writes what is left
        records = records_of(run)
        if len(records["exit"]) == 3:
            break
        time.sleep(0.1)
    assert {record.run_id for record in records["run"]} == {wandb_id(run)}
    assert {record.display_name for record in records["run"]} == {"tracked"}
    assert len(list(run.root.glob("wandb/offline-run-*"))) == 3
    history = [values(record.item) for record in records["history"]]
    assert [(line["step"], line["loss"]) for line in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    summary = {}
    for record in records["summary"]:
        summary |= values(record.update)
    shown = "report/held_out/trained/direct/launch"
    assert summary[shown] == 0.25
    assert (summary[f"{shown}_low"], summary[f"{shown}_high"]) == (0.125, 0.375)
    assert summary["data/num_train"] == 7
    assert summary["data/drops.too long"] == 2
    files = {
        artefact.name: {entry.path for entry in artefact.manifest.contents}
        for artefact in records["artifact"]
    }
    assert files == {
        "tracked-report": {"report.json"},
        "tracked-data": {"data_report.json", "manifest.json"},
    }


def test_a_folder_made_anew_is_another_run(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "a" / "tiny"), RunFolder(tmp_path / "b" / "tiny")
    assert wandb_id(first) == wandb_id(first)
    assert wandb_id(first) != wandb_id(second)


def test_off_needs_no_package_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert open_wandb(recipe("off"), RunFolder(tmp_path)) is None
    track_report(recipe("off"), RunFolder(tmp_path), report())
    assert list(tmp_path.iterdir()) == []


def test_tracking_without_the_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"train.wandb = offline: .*pip install wandb"):
        open_wandb(recipe("offline"), RunFolder(tmp_path))


def test_online_without_a_key_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"train.wandb = online: wandb refuses .*API key.*offline"):
        open_wandb(recipe("online"), RunFolder(tmp_path))


def test_a_blocked_headline_is_absent_and_not_zero() -> None:
    assert figures(report(mean=None)) == {}
