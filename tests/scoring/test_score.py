from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scoring.conftest import MakeBenchmark, reference
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError
from toolgenesis_sft.records import FIGURES, LayerScores, ServerPrediction
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.scoring.score import ScoreJob, presentable, score_predictions

SLUGS = ("temperature-scales", "envelope-budget", "gpa-planner")


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """References of three servers: one broken, one in state, one whole."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for slug in SLUGS:
        (folder / f"{slug}.py").write_text(reference(slug))
    (folder / "gpa-planner.py").write_text("import nothing_at_all\n")
    return folder


def scored(out: Path) -> list[LayerScores]:
    return read_records(out / "scores.jsonl", LayerScores)


def run(benchmark: Path, predictions: Path, out: Path, **settings: int) -> bytes:
    score_predictions(ScoreJob.of_folder(benchmark, predictions, out, Score(**settings)))
    return (out / "scores.jsonl").read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_workers(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark = make_benchmark(*SLUGS)
    one = run(benchmark, predictions, tmp_path / "one", workers=1)
    two = run(benchmark, predictions, tmp_path / "two", workers=2)
    assert one == two
    assert [record.slug for record in scored(tmp_path / "one")] == sorted(SLUGS)


def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark = make_benchmark(*SLUGS)
    whole = run(benchmark, predictions, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "toolgenesis_sft.cli", "score"]
    command += ["--benchmark", str(benchmark), "--predictions", str(predictions), "--out", str(out)]
    chance = random.Random(7)
    for _ in range(4):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 4.0))
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "scores.jsonl").read_bytes() == whole
    assert not leftovers(str(out))


def leftovers(mark: str) -> list[str]:
    """Command lines of processes that mention `mark`, a moment after their parent died."""
    for _ in range(50):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
        if not found:
            return []
        time.sleep(0.1)
    return found


def test_a_second_call_scores_nothing_again(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark = make_benchmark(*SLUGS)
    run(benchmark, predictions, tmp_path / "out")
    evidence = sorted((tmp_path / "out" / "evidence").rglob("*.json"))
    before = [path.stat().st_mtime_ns for path in evidence]
    run(benchmark, predictions, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in evidence] == before


def test_a_changed_prediction_is_scored_again(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark = make_benchmark(*SLUGS)
    run(benchmark, predictions, tmp_path / "out")
    (predictions / "gpa-planner.py").write_text(reference("gpa-planner"))
    run(benchmark, predictions, tmp_path / "out")
    assert all(
        f.value == 1.0 for record in scored(tmp_path / "out") for f in record.figures.values()
    )
    assert len(scored(tmp_path / "out")) == 3


def test_an_empty_submission_is_zero_for_every_server_of_the_benchmark(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    run(make_benchmark(*SLUGS), empty, tmp_path / "out")
    records = scored(tmp_path / "out")
    assert {record.slug for record in records} == set(SLUGS)
    for record in records:
        assert set(record.figures) == set(FIGURES)
        assert {(f.value, f.outcome) for f in record.figures.values()} == {
            (0.0, Outcome.MODEL_FAULT)
        }


def test_a_server_that_a_submission_leaves_out_is_named_and_zero(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    (predictions / "envelope-budget.py").unlink()
    run(make_benchmark(*SLUGS), predictions, tmp_path / "out")
    missing = next(r for r in scored(tmp_path / "out") if r.slug == "envelope-budget")
    assert missing.figures["launch"].reason == "no_prediction"


def test_predictions_for_unknown_servers_are_refused_before_any_work(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    (predictions / "no-such-server.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"no-such-server.*not in the benchmark"):
        run(make_benchmark(*SLUGS), predictions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_prediction_twice_is_refused(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    line = ServerPrediction(
        slug="gpa-planner", model="m", strategy="direct", completion="", finish_reason="stop"
    ).to_line()
    path = tmp_path / "predictions.jsonl"
    path.write_text(line * 2)
    with pytest.raises(UserError, match="predicted twice"):
        run(make_benchmark(*SLUGS), path, tmp_path / "out")


def test_a_folder_scored_with_other_settings_is_refused(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark = make_benchmark(*SLUGS)
    run(benchmark, predictions, tmp_path / "out")
    with pytest.raises(UserError, match=r"launch_attempts.*was scored with 3"):
        run(benchmark, predictions, tmp_path / "out", launch_attempts=1)


def test_two_scorers_cannot_write_one_folder(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    job = ScoreJob.of_folder(make_benchmark(*SLUGS), predictions, tmp_path / "out", Score())
    with job.run.locked("score"), pytest.raises(UserError, match="another score"):
        score_predictions(job)


def test_a_sandbox_that_cannot_start_is_refused_before_any_work(
    make_benchmark: MakeBenchmark,
    predictions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="bubblewrap"):
        run(make_benchmark(*SLUGS), predictions, tmp_path / "out")
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_a_fault_of_the_harness_is_redone_by_the_same_command(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    benchmark, out = make_benchmark(*SLUGS), tmp_path / "out"
    whole = run(benchmark, predictions, out)
    records = scored(out)
    fault = {
        name: {"outcome": "harness_fault", "reason": "judge: down"} for name in records[0].figures
    }
    broken = LayerScores.model_validate({**records[0].model_dump(), "figures": fault})
    rest = [record.to_line() for record in records[1:]]
    (out / "scores.jsonl").write_text("".join([broken.to_line(), *rest]))
    assert run(benchmark, predictions, out) == whole


def test_what_stays_unscored_is_a_harness_fault_and_not_a_zero(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    """The evidence folder is a file: no worker can write, whatever the server does."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "evidence").write_text("")
    with pytest.raises((HarnessFault, UserError)):
        run(make_benchmark(*SLUGS), predictions, out)
    assert not any(
        figure.value is not None for record in scored(out) for figure in record.figures.values()
    )


def test_evidence_is_json_that_any_reader_takes() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    shown = presentable(
        {"a": float("nan"), "b": 10**5000, "c": "x" * 10**6, "d": deep, "e": "\ud800"}
    )
    text = json.dumps(shown, allow_nan=False)
    assert len(text) < 300_000


def test_evidence_of_each_prediction_lies_where_its_record_says(
    make_benchmark: MakeBenchmark, predictions: Path, tmp_path: Path
) -> None:
    run(make_benchmark(*SLUGS), predictions, tmp_path / "out")
    for record in scored(tmp_path / "out"):
        evidence = json.loads((tmp_path / "out" / record.evidence).read_bytes())
        assert evidence["slug"] == record.slug
        code = (predictions / f"{record.slug}.py").read_text()
        assert evidence["code"] == code
