"""A run told in numbers, without a GPU and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.cli import main
from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Message
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.plan import TrainingPlan, make_plan, show
from toolgenesis_sft.training.tokenizer import train_tokenizer
from toolgenesis_sft.training.tokens import load_tokens

CHECKOUT = Path(__file__).parents[2]
QWEN3_8B = CHECKOUT / "recipes/qwen3_8b_sft.yaml"
TINY = CHECKOUT / "recipes/tiny_cpu.yaml"


def plan_of(path: Path, run: Path, *overrides: str) -> TrainingPlan:
    return make_plan(load_recipe(path, overrides), RunFolder(run))


def built(folder: Path, num_samples: int) -> RunFolder:
    """A run folder with a data set of `num_samples` short chats."""
    run = RunFolder(folder)
    (run.data).mkdir(parents=True)
    texts = [f"answer {number} " * (number + 1) for number in range(num_samples)]
    train_tokenizer(texts, 300, run.data / "tokenizer", thinking=False, max_length=4096)
    lines = [
        ChatSample(
            id=f"s{number}",
            messages=(Message(role="user", content="q"), Message(role="assistant", content=text)),
            source="test",
            licence="CC0-1.0",
        ).to_line()
        for number, text in enumerate(texts)
    ]
    (run.data / "train.jsonl").write_text("".join(lines))
    (run.data / "manifest.json").write_text("{}")
    return run


def test_the_command_says_39_steps_an_epoch_and_117_in_all_without_data(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "toolgenesis_sft.cli", "plan", str(QWEN3_8B), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(answer.stdout)
    assert (plan["num_samples"], plan["steps_per_epoch"], plan["total_steps"]) == (2496, 39, 117)
    assert plan["global_batch_size"] == 64
    assert plan["tokens_per_epoch"] == pytest.approx(2496 * 2500, rel=0.01)
    assert plan["hours"] > 0
    assert plan["memory_gib_per_gpu"]["total"] > 0
    assert plan["assumed"] is True
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, toolgenesis_sft.training.plan, toolgenesis_sft.training.tokens;"
        "print(sorted({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_built_data_goes_before_what_the_recipe_expects(tmp_path: Path) -> None:
    run = built(tmp_path, 25)
    overrides = ("data.expected_num_samples=9999", "train.epochs=2", "train.global_batch_size=10")
    recipe = load_recipe(TINY, overrides)
    plan, tokens = make_plan(recipe, run), load_tokens(recipe, run)
    assert not plan.assumed
    assert (plan.num_samples, plan.steps_per_epoch, plan.total_steps) == (25, 3, 6)
    assert plan.tokens_per_epoch == tokens.lengths.sum()
    assert plan.total_tokens == 2 * plan.tokens_per_epoch
    assert plan.supervised_share == pytest.approx(
        tokens.num_supervised.sum() / tokens.lengths.sum(), abs=1e-4
    )
    assert any("5 samples instead of 10" in warning for warning in plan.warnings)


def test_no_data_and_no_expectation_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"toolgenesis-sft build.*data\.expected_num_samples"):
        plan_of(TINY, tmp_path)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.global_batch_size=0", "train.global_batch_size = 0"),
        ("train.epohcs=3", "did you mean train.epochs?"),
        ("train.batch_unit=tokens", "train.global_batch_size in tokens must hold a row"),
        ("model.name_or_path=nobody/nothing", "its size is not known here"),
        ("data.expected_num_samples=null", "run `toolgenesis-sft build` first"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(
    override: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(QWEN3_8B), override, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert says in captured.err


def test_data_that_cannot_be_learnt_is_not_planned_with(tmp_path: Path) -> None:
    run = built(tmp_path, 3)
    with (run.data / "train.jsonl").open("a") as file:
        file.write('{"id": "odd"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: line 4"):
        make_plan(load_recipe(TINY), run)


def test_without_data_the_plan_says_what_it_assumes(tmp_path: Path) -> None:
    [said, *_] = plan_of(QWEN3_8B, tmp_path).warnings
    assert "no data is built: 2496 samples (data.expected_num_samples)" in said


def test_all_eight_sizes_of_cluster_are_judged(tmp_path: Path) -> None:
    plan = plan_of(QWEN3_8B, tmp_path, "train.activation_checkpointing=none")
    sizes = [(item.num_gpus, item.gpu_gb) for item in plan.fits]
    assert sizes == [(count, size) for count in (1, 8, 16, 64) for size in (80, 141)]
    by_size = dict(zip(sizes, plan.fits, strict=True))
    assert not by_size[8, 80].fits
    assert by_size[8, 141].fits
    assert any("does not fit 8 GPUs of 80 GB: set train." in text for text in plan.warnings)


def test_hours_follow_from_the_stated_speed(tmp_path: Path) -> None:
    plan = plan_of(QWEN3_8B, tmp_path)
    flops = plan.flops_per_token * plan.total_tokens
    assert plan.seconds == pytest.approx(flops / (8 * 0.45 * 989e12) / plan.balance, rel=1e-3)
    assert "45%" in plan.speed_assumption
    assert "989" in plan.speed_assumption


def test_twice_the_ranks_take_about_half_the_time(tmp_path: Path) -> None:
    few = plan_of(QWEN3_8B, tmp_path, "train.num_processes=2")
    many = plan_of(QWEN3_8B, tmp_path, "train.num_processes=4")
    assert few.seconds / many.seconds == pytest.approx(2, rel=0.1)


def test_ranks_that_would_wait_are_warned_of(tmp_path: Path) -> None:
    plan = plan_of(QWEN3_8B, tmp_path, "train.num_processes=64", "train.global_batch_size=8")
    assert any("64 ranks wait" in warning for warning in plan.warnings)


def test_the_page_shows_what_a_person_asks_for(tmp_path: Path) -> None:
    page = show(plan_of(QWEN3_8B, tmp_path))
    for text in ("39 an epoch, 117 in all", "8.191 B", "(assumed)", "GiB a checkpoint", "141 GB"):
        assert text in page
    assert max(len(line) for line in page.splitlines()) < 250
