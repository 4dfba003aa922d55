from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolgenesis_sft.cli import main, read_options

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "recipes" / "tiny_cpu.yaml")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command refuses with; asserts exit code 2 and an empty stdout."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", "no_such.yaml"), "no_such.yaml"),
        (("build", TINY, "train.epohcs=1"), "did you mean train.epochs"),
        (("build", TINY, "train.epochs=many"), "train.epochs"),
        (("build", TINY, "benchmark=no_such.json"), "no_such.json"),
        (("score", "--benchmark", "no.json"), "--predictions"),
        (("score", TINY, "--workers", "2"), "score.workers=N"),
        (("score", TINY, "--benchmark", "b.json"), "with benchmark=FILE"),
        (("report", TINY, "--out", "x"), "give --run"),
        (("score", TINY), "toolgenesis-sft generate"),
        (("report", "--out", "x"), "--benchmark = nothing: is needed"),
        (("compare", "a", "b"), "compare = a: has no report.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("paint",),
        ("train",),
        ("train", TINY, "--epochs", "3"),
        ("train", TINY, "--run", "x", "y"),
        ("train", TINY, "--epochs=3"),
        ("doctor", "train.epochs=3"),
    ],
)
def test_bad_usage_exits_with_2_too(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", TINY, "--dry-run"]) == 0
    score = ("score", "--benchmark", "data/mini/benchmark.json")
    assert main([*score, "--predictions", "data/mini/servers", "--out", "out", "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


CARD = str(ROOT / "recipes" / "qwen3_8b_sft.yaml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", TINY, "data.sources=[gone]"), "is neither a path nor a name"),
        (("run", TINY, "data.sources=[gone]"), "is neither a path nor a name"),
        (("build", TINY, "data.catalogue=sources.yaml", "data.sources=[a]"), "add up to 1"),
        (("build", TINY, "data.catalogue=sources.yaml", "data.sources=[b]"), "mean licence"),
        (("plan", TINY), "holds no built data set to plan with"),
        (("train", TINY), "holds no built data set"),
        (("export", TINY), "holds no complete checkpoint"),
        (("generate", TINY), "model.random = runs/tiny-cpu/base_model: is not there"),
        (("score", TINY), "toolgenesis-sft generate"),
        (("report", TINY), "toolgenesis-sft generate"),
    ],
)
def test_a_dry_run_says_what_the_stage_lacks(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = tmp_path / "sources.yaml"
    if "sources=[a]" in arguments[-1]:
        rows = ROOT / "tests" / "corpus" / "layouts" / "xlam.jsonl"
        catalogue.write_text(f"a: {{layout: xlam, path: {rows}, licence: MIT, weight: 0.4}}")
    elif "sources=[b]" in arguments[-1]:
        catalogue.write_text("b: {layout: xlam, path: rows.jsonl, license: MIT}")
    assert says in refused(capsys, *arguments, "--dry-run")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_a_plan_needs_no_data_where_the_recipe_says_how_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", CARD, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_score_reads_the_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no-such-server.py").write_text("print()")
    score = ("score", "--benchmark", "data/mini/benchmark.json", "--out", str(tmp_path / "out"))
    said = refused(capsys, *score, "--predictions", str(tmp_path), "--dry-run")
    assert "slug = no-such-server: is not in the benchmark" in said


@pytest.mark.parametrize("name", ["file", "file/inner"])
def test_a_file_of_the_runs_name_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    said = refused(capsys, "build", TINY, "--run", str(tmp_path / name))
    assert "cannot be written" in said


def test_a_dry_run_of_a_report_leaves_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.jsonl").touch()
    options = ("--benchmark", "data/mini/benchmark.json", "--out", str(tmp_path))
    assert main(["report", *options, "--dry-run"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scores.jsonl"]
    assert main(["report", *options]) == 0
    assert (tmp_path / "report.html").exists()


def test_overrides_may_stand_behind_options() -> None:
    options = read_options(["plan", TINY, "train.epochs=5", "--run", "x", "seed=1"])
    assert options.overrides == ["train.epochs=5", "seed=1"]
    assert options.run == "x"


def test_the_model_cards_run_is_117_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(ROOT / "recipes" / "qwen3_8b_sft.yaml"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps_per_epoch"], plan["total_steps"], plan["global_batch_size"]) == (
        39,
        117,
        64,
    )


@pytest.mark.parametrize("arguments", [["score", "--benchmark", "b.json"], ["train"]])
def test_an_override_without_a_recipe_is_told_from_a_recipe(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "score.workers=1"])
    assert ended.value.code == 2
    assert "score.workers=1 changes a recipe, and none stands before it" in capsys.readouterr().err
