"""What a build looks at before any work, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.conftest import HELD_OUT, TRAIN, Workbench
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.inputs import check
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import BEFORE, TRAINED, ServerPrediction
from toolgenesis_sft.runs import RunFolder, append_record, read_json
from toolgenesis_sft.training.checkpoint import Marker, mark_complete, step_folder


def quick(bench: Workbench, tmp_path: Path) -> tuple[RunFolder, Callable[..., None]]:
    """A run of one chat, and its build: no server is run."""
    rows = [{"role": "user", "content": "What is a triangle?"}]
    rows.append({"role": "assistant", "content": "Three points, and the lines between them."})
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": rows}) + "\n")
    run = bench.run("quick")
    return run, lambda *more: build(bench.recipe(f"data.sources=[{chats}]", *more), run)


def predict(run: RunFolder, model: str) -> None:
    append_record(
        run.predictions,
        ServerPrediction(
            slug=TRAIN[0], model=model, strategy="direct", completion="x", finish_reason="stop"
        ),
    )


def save(run: RunFolder) -> None:
    folder = step_folder(run, 10)
    folder.mkdir(parents=True)
    mark_complete(folder, Marker(step=10, num_steps=10, world_size=1, identity="x", files={}))


TRACES = {
    "checkpoints": save,
    "export": lambda run: run.export.mkdir(),
    "predictions.jsonl": lambda run: predict(run, TRAINED),
}


@pytest.mark.parametrize("trace", TRACES)
def test_the_data_of_a_trained_model_are_not_replaced(
    trace: str, bench: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a scenario that it was trained on could move to the held-out ones, without a mark."""
    run, rebuild = quick(bench, tmp_path)
    rebuild()
    before = (run.data / "manifest.json").read_bytes()
    TRACES[trace](run)
    rebuild()
    assert "up to date" in capsys.readouterr().err
    bench.write_splits((*TRAIN[1:], HELD_OUT[0]), (HELD_OUT[1], TRAIN[0]))
    with pytest.raises(UserError) as caught:
        rebuild()
    assert "a model was trained on the data that is there" in str(caught.value)
    assert str(caught.value).endswith(f"or remove {run.root / trace} to train again")
    assert (run.data / "manifest.json").read_bytes() == before


def test_before_training_has_saved_anything_the_data_may_be_replaced(
    bench: Workbench, tmp_path: Path
) -> None:
    """A killed save has no marker; what the model before training said is nobody's memory."""
    run, rebuild = quick(bench, tmp_path)
    rebuild()
    before = read_json(run.data / "manifest.json")["fingerprint"]
    step_folder(run, 10).mkdir(parents=True)
    run.base_model.mkdir()
    predict(run, BEFORE)
    rebuild("seed=1")
    assert read_json(run.data / "manifest.json")["fingerprint"] != before
    assert not run.base_model.exists(), "its tokenizer is the former data's"


def test_data_that_are_linked_to_another_runs_are_that_runs(
    bench: Workbench, tmp_path: Path
) -> None:
    run, rebuild = quick(bench, tmp_path)
    rebuild()
    save(run)
    borrower = bench.run("borrower")
    borrower.root.mkdir()
    borrower.data.symlink_to(run.data)
    with pytest.raises(UserError, match="runs/quick: a model was trained"):
        build(bench.recipe("data.sources=[benchmark]"), borrower)
    assert (run.data / "manifest.json").exists()


def test_a_training_that_goes_on_keeps_its_data(bench: Workbench, tmp_path: Path) -> None:
    run, rebuild = quick(bench, tmp_path)
    rebuild()
    with run.locked("train"), pytest.raises(UserError, match="another train is writing here"):
        rebuild("seed=1")
    assert (run.data / "manifest.json").exists()


def test_a_check_says_what_a_build_would_refuse(bench: Workbench, tmp_path: Path) -> None:
    run, rebuild = quick(bench, tmp_path)
    check(bench.recipe(), run)
    assert not run.root.exists()
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    sources = {"gone": {"layout": "pairs", "path": "gone.jsonl", "licence": "MIT"}}
    sources["none"] = {"layout": "messages", "path": str(empty), "licence": "MIT"}
    sources["other"] = {
        "layout": "servers",
        "path": str(bench.servers),
        "licence": "MIT",
        "digest": "0" * 64,
    }
    catalogue = tmp_path / "sources.yaml"
    catalogue.write_text(json.dumps(sources))
    for name, says in (
        ("gone", "is not there"),
        ("none", "holds no row"),
        ("other", "the source has changed"),
        ("nowhere", "is neither a path nor a name"),
    ):
        recipe = bench.recipe(f"data.catalogue={catalogue}", f"data.sources=[{name}]")
        with pytest.raises(UserError, match=says):
            check(recipe, run)
    (bench.servers / f"{TRAIN[0]}.py").unlink()
    with pytest.raises(UserError, match="has no server"):
        check(bench.recipe(), run)
    rebuild()
    save(run)
    (bench.root / "splits.json").unlink()
    with pytest.raises(UserError, match="a model was trained on the data"):
        check(bench.recipe(f"data.sources=[{tmp_path / 'chats.jsonl'}]"), run)
