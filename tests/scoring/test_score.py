from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scoring.conftest import reference, write_benchmark
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError
from toolgenesis_sft.records import FIGURES, LayerScores, ServerPrediction
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.score import claimed, score_predictions

SLUGS = ("envelope-budget", "gpa-planner", "temperature-scales")
FAST: dict[str, Any] = {"layers": ("L1",), "launch_attempts": 1, "workers": 1}


@dataclass(frozen=True)
class Scored:
    """A benchmark of three servers, predictions for it, and the folder they were scored into."""

    benchmark: Path
    predictions: Path
    out: Path

    @property
    def scores(self) -> bytes:
        return (self.out / "scores.jsonl").read_bytes()

    @property
    def records(self) -> list[LayerScores]:
        return read_records(self.out / "scores.jsonl", LayerScores)

    def run(self, **settings: Any) -> bytes:
        job = ScoreJob.of_folder(self.benchmark, self.predictions, self.out, Score(**settings))
        score_predictions(job)
        return self.scores

    def copy(self, folder: Path) -> Scored:
        """The same, to be changed."""
        shutil.copytree(self.predictions, folder / "predictions")
        shutil.copytree(self.out, folder / "out")
        return Scored(self.benchmark, folder / "predictions", folder / "out")

    def afresh(self, folder: Path) -> Scored:
        """The same, not scored yet."""
        return Scored(self.benchmark, self.predictions, folder / "out")


@pytest.fixture(scope="module")
def unscored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """References of three servers: one broken, one with state, one whole."""
    root = tmp_path_factory.mktemp("score")
    benchmark = write_benchmark(root / "benchmark", *SLUGS)
    predictions = root / "predictions"
    predictions.mkdir()
    for slug in SLUGS:
        (predictions / f"{slug}.py").write_text(reference(slug))
    (predictions / "gpa-planner.py").write_text("import nothing_at_all\n")
    return Scored(benchmark, predictions, root / "out")


@pytest.fixture(scope="module")
def whole(unscored: Scored) -> Scored:
    """All layers, with two workers."""
    unscored.run(workers=2)
    return unscored


@pytest.fixture(scope="module")
def launched(unscored: Scored, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Layer 1 alone: for what does not depend on the layers."""
    result = unscored.afresh(tmp_path_factory.mktemp("launched"))
    result.run(**FAST)
    return result


def test_the_bytes_do_not_depend_on_the_number_of_workers(whole: Scored, tmp_path: Path) -> None:
    assert whole.afresh(tmp_path).run(workers=1) == whole.scores
    assert [record.slug for record in whole.records] == list(SLUGS)


def test_evidence_of_each_prediction_lies_where_its_record_says(whole: Scored) -> None:
    for record in whole.records:
        evidence = json.loads((whole.out / record.evidence).read_bytes())
        assert evidence["slug"] == record.slug
        assert evidence["code"] == (whole.predictions / f"{record.slug}.py").read_text()


def test_a_second_call_scores_nothing_again(launched: Scored, tmp_path: Path) -> None:
    again = launched.copy(tmp_path)
    shutil.rmtree(again.out / "evidence")
    assert again.run(**FAST) == launched.scores
    assert not (again.out / "evidence").exists()


def test_a_changed_prediction_is_scored_again_and_alone(launched: Scored, tmp_path: Path) -> None:
    changed = launched.copy(tmp_path)
    shutil.rmtree(changed.out / "evidence")
    (changed.predictions / "gpa-planner.py").write_text(reference("gpa-planner"))
    changed.run(**FAST)
    assert [record.figures["launch"].value for record in changed.records] == [1.0, 1.0, 1.0]
    assert [path.name for path in (changed.out / "evidence").iterdir()] == ["gpa-planner"]


def test_a_folder_scored_with_other_settings_is_refused(launched: Scored) -> None:
    with pytest.raises(UserError, match=r"launch_attempts.*was scored with 1"):
        launched.run(**{**FAST, "launch_attempts": 2})


def test_two_scorers_cannot_write_one_folder(launched: Scored) -> None:
    job = ScoreJob.of_folder(launched.benchmark, launched.predictions, launched.out, Score(**FAST))
    with job.run.locked("score"), pytest.raises(UserError, match="another score"):
        score_predictions(job)


def test_a_fault_of_the_harness_is_redone_by_the_same_command(
    launched: Scored, tmp_path: Path
) -> None:
    owed = launched.copy(tmp_path)
    first, *others = owed.records
    fault = {name: {"outcome": "harness_fault", "reason": "jail_died"} for name in first.figures}
    broken = LayerScores.model_validate({**first.model_dump(), "figures": fault})
    (owed.out / "scores.jsonl").write_text("".join(r.to_line() for r in (broken, *others)))
    assert owed.run(**FAST) == launched.scores


def test_an_empty_submission_is_zero_for_every_server_of_the_benchmark(
    unscored: Scored, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    empty = Scored(unscored.benchmark, tmp_path / "nothing", tmp_path / "out")
    empty.run()
    assert {record.slug for record in empty.records} == set(SLUGS)
    for record in empty.records:
        assert set(record.figures) == set(FIGURES)
        assert {(f.value, f.outcome) for f in record.figures.values()} == {
            (0.0, Outcome.MODEL_FAULT)
        }


def test_a_figure_that_the_benchmark_has_no_means_for_is_absent_and_not_zero(
    unscored: Scored, tmp_path: Path
) -> None:
    """The published tasks have no plan; a mean over broken servers alone would be no figure."""
    items = json.loads(unscored.benchmark.read_bytes())
    for item in items:
        item["task_example"] = ["Plan my week."]
        item["unit_test"] = {}
    (tmp_path / "benchmark.json").write_text(json.dumps(items))
    (tmp_path / "nothing").mkdir()
    empty = Scored(tmp_path / "benchmark.json", tmp_path / "nothing", tmp_path / "out")
    empty.run()
    for record in empty.records:
        assert set(record.figures) == set(FIGURES) - {"task_utility", "ut_soft", "ut_hard"}


def test_a_server_that_a_submission_leaves_out_is_named_and_zero(
    launched: Scored, tmp_path: Path
) -> None:
    left_out = launched.copy(tmp_path)
    (left_out.predictions / "envelope-budget.py").unlink()
    left_out.run(**FAST)
    missing = next(record for record in left_out.records if record.slug == "envelope-budget")
    assert missing.figures["launch"].reason == "no_prediction"


def test_predictions_for_unknown_servers_are_refused_before_any_work(
    unscored: Scored, tmp_path: Path
) -> None:
    (tmp_path / "no-such-server.py").write_text("x = 1\n")
    unknown = Scored(unscored.benchmark, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"no-such-server.*not in the benchmark"):
        unknown.run()
    assert not unknown.out.exists()


def test_the_same_prediction_twice_is_refused(unscored: Scored, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(prediction(0, "").to_line() * 2)
    with pytest.raises(UserError, match="predicted twice"):
        Scored(unscored.benchmark, path, tmp_path / "out").run()


def prediction(sample_index: int, completion: str) -> ServerPrediction:
    return ServerPrediction(
        slug="gpa-planner",
        model="m",
        strategy="direct",
        sample_index=sample_index,
        completion=completion,
        finish_reason="stop",
    )


def test_a_sandbox_that_cannot_start_is_refused_before_any_work(
    unscored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = unscored.afresh(tmp_path)
    with pytest.raises(UserError, match="bubblewrap"):
        result.run()
    assert not (result.out / "scores.jsonl").exists()


def test_evidence_that_cannot_be_written_ends_the_run_with_a_line_and_loses_nothing(
    launched: Scored, tmp_path: Path
) -> None:
    scored = launched.afresh(tmp_path)
    scored.out.mkdir()
    in_the_way = scored.out / "evidence"
    in_the_way.write_text("")
    with pytest.raises(UserError, match=r"evidence.*cannot be written"):
        scored.run(**FAST)
    in_the_way.unlink()
    assert scored.run(**FAST) == launched.scores


# --- shards ----------------------------------------------------------------------------------


def test_shards_put_together_give_the_bytes_of_one_job(launched: Scored, tmp_path: Path) -> None:
    """Whatever their order; the last call scores nothing, it only puts together."""
    scored = launched.afresh(tmp_path)
    for shard in ("2/2", "1/2"):
        with pytest.raises(FileNotFoundError):  # no scores.jsonl before all is together
            scored.run(**FAST, shard=shard)
    parts = [read_records(scored.out / f"scores_{k}_of_2.jsonl", LayerScores) for k in (1, 2)]
    assert [[record.slug for record in part] for part in parts] == [
        [SLUGS[0], SLUGS[2]],
        [SLUGS[1]],
    ]
    before = {path: path.stat().st_mtime_ns for path in finished(scored.out)}
    assert scored.run(**FAST) == launched.scores
    assert {path: path.stat().st_mtime_ns for path in finished(scored.out)} == before
    assert not list(scored.out.glob("scores_*"))
    assert "score" in json.loads((scored.out / "provenance.json").read_bytes())


def test_a_missing_shard_is_scored_by_the_run_that_puts_them_together(
    launched: Scored, tmp_path: Path
) -> None:
    scored = launched.afresh(tmp_path)
    with pytest.raises(FileNotFoundError):
        scored.run(**FAST, shard="1/2")
    assert scored.run(**FAST) == launched.scores


def test_samples_of_a_server_are_in_one_shard(launched: Scored) -> None:
    slugs = ["c", "a", "b", "a", "c", "b", "d"]
    order = {("m", "direct", slug, index): "" for index, slug in enumerate(slugs)}
    shares = []
    for shard in ("1/3", "2/3", "3/3"):
        settings = Score(shard=shard)
        job = ScoreJob.of_folder(launched.benchmark, launched.predictions, launched.out, settings)
        shares.append([key[3] for key in job.share(order)])
    assert shares == [[0, 4, 6], [1, 3], [2, 5]]


def test_shards_work_side_by_side_and_nobody_puts_them_together_meanwhile(
    launched: Scored, tmp_path: Path
) -> None:
    scored = launched.afresh(tmp_path)

    def job(shard: str | None) -> ScoreJob:
        settings = Score(**FAST, shard=shard)
        return ScoreJob.of_folder(scored.benchmark, scored.predictions, scored.out, settings)

    with claimed(job("1/2")):
        with claimed(job("2/2")):
            pass
        for other in ("1/2", None):
            with pytest.raises(UserError, match="is writing here"):
                score_predictions(job(other))


def test_a_killed_shard_is_resumed(two_layers: Scored, tmp_path: Path) -> None:
    """As Slurm does it that requeues a task whose node died."""
    settings = {"layers": ("L1", "L2"), "workers": 1}
    killed = two_layers.afresh(tmp_path)
    job = ScoreJob.of_folder(
        killed.benchmark, killed.predictions, killed.out, Score(**settings, shard="1/2")
    )
    child = multiprocessing.get_context("fork").Process(target=score_predictions, args=(job,))
    child.start()
    while child.is_alive() and not finished(killed.out):
        time.sleep(0.02)
    child.kill()
    child.join()
    score_predictions(job)
    assert len(read_records(job.scores, LayerScores)) == 2
    assert killed.run(**settings) == two_layers.scores


# --- interruptions ---------------------------------------------------------------------------


def command(scored: Scored, *options: str) -> list[str]:
    line = [sys.executable, "-m", "toolgenesis_sft.cli", "score", "--layers", "L1,L2"]
    line += ["--benchmark", str(scored.benchmark), "--predictions", str(scored.predictions)]
    return [*line, "--out", str(scored.out), *options]


@pytest.fixture(scope="module")
def two_layers(unscored: Scored, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    result = unscored.afresh(tmp_path_factory.mktemp("two"))
    result.run(layers=("L1", "L2"))
    return result


@pytest.mark.parametrize("num_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(
    two_layers: Scored, tmp_path: Path, num_kills: int
) -> None:
    """Each kill comes a random moment after a start or after a prediction was finished."""
    killed = two_layers.afresh(tmp_path)
    chance = random.Random(num_kills)
    for number in range(num_kills):
        child = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert child.stderr is not None
        before = len(finished(killed.out))
        while number % 3 and child.poll() is None and len(finished(killed.out)) == before:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(chance.uniform(0.0, 0.5 if number % 3 else 5.0))
        child.kill()
        child.communicate()
    done = subprocess.run(command(killed), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert killed.scores == two_layers.scores
    assert not leftovers(str(killed.out))


def finished(out: Path) -> list[Path]:
    return list((out / "evidence").rglob("*.json"))


def leftovers(mark: str) -> list[str]:
    """Command lines of processes that mention `mark`, a moment after their parent died."""
    found = []
    for _ in range(50):
        found = [line for line in command_lines() if mark in line]
        if not found:
            break
        time.sleep(0.1)
    return found


def command_lines() -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                yield (process / "cmdline").read_bytes().decode(errors="replace")


@contextlib.contextmanager
def killer(num_workers: int) -> Iterator[list[int]]:
    """Kill the next so many worker processes, each as soon as it is there."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and len(killed) < num_workers:
            for worker in multiprocessing.active_children():
                if worker.pid is not None and worker.pid not in killed:
                    killed.append(worker.pid)
                    os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_what_a_killed_worker_was_at_is_done_again(launched: Scored, tmp_path: Path) -> None:
    result = launched.afresh(tmp_path)
    with killer(1) as killed:
        assert result.run(**FAST) == launched.scores
    assert len(killed) == 1


def test_a_prediction_that_ends_its_worker_twice_is_owed_and_takes_no_other_with_it(
    launched: Scored, tmp_path: Path
) -> None:
    result = launched.afresh(tmp_path)
    with killer(2), pytest.raises(HarnessFault, match=r"1 of 3 .*BrokenProcessPool"):
        result.run(**FAST)
    values = [record.figures["launch"].value for record in result.records]
    assert values.count(None) == 1
    assert result.run(**FAST) == launched.scores


FULL_THEN_FREE = """
"$@"; echo "full: $?" >&2
rm "$OUT/filler"
"$@" > /dev/null; echo "free: $?" >&2
cat "$OUT/scores.jsonl"
"""


def test_a_disk_that_fills_ends_in_one_line_and_the_same_command_goes_on(
    two_layers: Scored, tmp_path: Path
) -> None:
    """On a disk of 2 MB with 20 kB left, enough for one of three servers."""
    result = two_layers.afresh(tmp_path)
    result.out.mkdir()
    fill = 'head -c 1978368 /dev/zero > "$OUT/filler"\n'
    line = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL", "--size", "1998848"]
    line += ["--tmpfs", str(result.out), "sh", "-c", fill + FULL_THEN_FREE, "sh"]
    done = subprocess.run(
        [*line, *command(result, "--workers", "1")],
        env={**os.environ, "OUT": str(result.out)},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode()
    assert "the disk is full; free space" in said
    assert "Traceback" not in said
    assert "full: 2" in said
    assert "free: 0" in said
    assert done.stdout == two_layers.scores


PEAK = """
import resource, sys
from pathlib import Path
from toolgenesis_sft.config import Score
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.score import claimed, score_predictions

benchmark, predictions, out = map(Path, sys.argv[1:])
settings = Score(layers=("L1",), workers=1)
if __name__ == "__main__":
    score_predictions(ScoreJob.of_folder(benchmark, predictions, out, settings))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_is_flat_in_the_number_of_predictions(unscored: Scored, tmp_path: Path) -> None:
    """Sixty completions of 1 MB take no more of the scorer than ten."""
    script = tmp_path / "peak.py"
    script.write_text(PEAK)
    peaks = []
    for num in (10, 60):
        path = tmp_path / f"{num}.jsonl"
        with path.open("w") as file:
            for index in range(num):
                file.write(prediction(index, "<think>" + "long " * 200_000).to_line())
        line = [sys.executable, str(script), str(unscored.benchmark), str(path)]
        done = subprocess.run(
            [*line, str(tmp_path / f"out{num}")], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 20, peaks
