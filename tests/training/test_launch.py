"""How `train` starts its launcher and what it makes of the end."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training import launch
from toolgenesis_sft.training.launch import ATTEMPT_VARIABLE, Status, how_it_ended, leave_status
from toolgenesis_sft.training.machines import Machine

Tiny = tuple[Path, RunFolder]


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(text)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("exit_code", [0, 1, 2, 85])
def test_the_exit_status_is_what_a_rank_left(tmp_path: Path, exit_code: int) -> None:
    leave_status(tmp_path, Status(exit_code=exit_code))
    assert how_it_ended(tmp_path, return_code=int(exit_code != 0), stopped=False) == exit_code


def test_the_first_rank_to_end_has_the_word(tmp_path: Path) -> None:
    leave_status(tmp_path, Status(exit_code=2, detail="train.liger = True: needs a GPU"))
    leave_status(tmp_path, Status(exit_code=1, detail="connection closed by peer"))
    assert how_it_ended(tmp_path, 1, stopped=False) == 2


def test_what_a_rank_said_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_status(tmp_path, Status(exit_code=2, detail="train.liger = True: needs a GPU"))
    how_it_ended(tmp_path, 1, stopped=False)
    assert capsys.readouterr().err == "error: train.liger = True: needs a GPU\n"


def test_stopped_before_the_ranks_could_listen_means_requeue(tmp_path: Path) -> None:
    assert how_it_ended(tmp_path, return_code=-10, stopped=True) == 85


def test_an_end_that_no_rank_explained_names_its_cause_and_logs(tmp_path: Path) -> None:
    (tmp_path / "cause.txt").write_text("rank 1 was ended by SIGKILL\n")
    with pytest.raises(HarnessFault, match=r"rank 1 was ended by SIGKILL; its logs are in "):
        how_it_ended(tmp_path, return_code=1, stopped=False)
    (tmp_path / "cause.txt").unlink()
    with pytest.raises(HarnessFault, match="the launcher ended with -9"):
        how_it_ended(tmp_path, return_code=-9, stopped=False)


def test_a_launcher_that_fails_after_its_ranks_is_a_fault(tmp_path: Path) -> None:
    leave_status(tmp_path, Status(exit_code=0))
    with pytest.raises(HarnessFault):
        how_it_ended(tmp_path, return_code=1, stopped=False)


def test_a_ranks_last_words_are_its_exception(tmp_path: Path) -> None:
    (tmp_path / "rank_1.log").write_text(
        "Traceback (most recent call last):\n  File ...\nValueError: no such thing\nMend it.\n"
    )
    assert launch.last_words(tmp_path, 1) == " (ValueError: no such thing)"
    assert launch.last_words(tmp_path, 0) == ""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal: who runs the tests in the background has had Ctrl-C ignored, for all."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def watched(tmp_path: Path, expects: signal.Signals, sends: list[signal.Signals]) -> int:
    """What `watch` yields of a launcher that ends with 7 on this signal while we are sent those;
    the second only after the launcher has noted the first."""
    text = (
        "import pathlib, signal, sys, time\n"
        f"ready, noted = (pathlib.Path({str(tmp_path)!r}, name) for name in ('ready', 'noted'))\n"
        "def receive(*_):\n"
        "    noted.touch()\n"
        f"    if {len(sends)} == 1: sys.exit(7)\n"
        f"signal.signal(signal.{expects.name}, receive)\n"
        "ready.touch()\n"
        "time.sleep(60)\n"
        "time.sleep(60)\n"
    )

    def ask() -> None:
        for number, name in zip(sends, ("ready", "noted"), strict=False):
            while not (tmp_path / name).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return_code, was_asked = launch.watch(
            program(tmp_path, text), RunFolder(tmp_path), tmp_path, 10
        )
    finally:
        asking.join()
    assert was_asked
    return return_code


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        (signal.SIGUSR1, signal.SIGUSR1),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGTERM),
    ],
)
def test_a_request_to_stop_is_passed_on_to_the_launcher(
    tmp_path: Path, interruptible: None, sent: signal.Signals, passed_on: signal.Signals
) -> None:
    before = signal.getsignal(sent)
    assert watched(tmp_path, passed_on, [sent]) == 7
    assert signal.getsignal(sent) is before


def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path: Path, interruptible: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert launch.watch(program(tmp_path, ""), RunFolder(tmp_path), tmp_path, 10) == (0, False)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_second_ctrl_c_ends_the_training_at_once(tmp_path: Path, interruptible: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        watched(tmp_path, signal.SIGTERM, [signal.SIGINT, signal.SIGINT])


def test_ranks_learn_where_to_log_and_nothing_of_another_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    text = (
        "import os\n"
        f"assert os.environ[{ATTEMPT_VARIABLE!r}] == {str(tmp_path)!r}\n"
        "assert 'ACCELERATE_USE_CPU' not in os.environ\n"
    )
    command = program(tmp_path, text)
    assert launch.watch(command, RunFolder(tmp_path), tmp_path, 1) == (0, False)


def test_the_recipe_says_how_many_ranks_start_and_how(tiny: Tiny) -> None:
    recipe = load_recipe(tiny[0], ("train.num_processes=3",))
    command = launch.launcher_command(
        tiny[0], ("train.num_processes=3",), recipe, tiny[1], Machine()
    )
    text = " ".join(command)
    assert "--num_processes 3 " in text
    assert "launch/accelerate_cpu.yaml" in text
    assert text.endswith(f"{tiny[0]} train.num_processes=3 --run {tiny[1].root}")


def test_a_missing_accelerate_configuration_is_named(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"train\.accelerate_config = .*nowhere\.yaml"):
        launch.train(tiny[0], ("train.accelerate_config=nowhere.yaml",), tiny[1])


def test_without_data_training_says_what_to_run(tiny: Tiny) -> None:
    (tiny[1].data / "manifest.json").unlink()
    with pytest.raises(UserError, match="toolgenesis-sft build"):
        launch.train(tiny[0], (), tiny[1])


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (("assistant",), "message 1 has the role assistant, expected system or user"),
        (("user",), "the last message must be an assistant's"),
    ],
)
def test_data_that_cannot_be_learnt_is_refused_before_any_rank_starts(
    tiny: Tiny, roles: tuple[str, ...], says: str
) -> None:
    messages = [{"role": role, "content": "text"} for role in roles]
    line = {"id": "odd", "messages": messages, "source": "test", "licence": "MIT"}
    with (tiny[1].data / "train.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=f"line 9 = odd: .*{says}"):
        launch.train(tiny[0], (), tiny[1])
    assert not (tiny[1].root / "logs").exists()


def test_two_trainings_of_one_run_are_refused(tiny: Tiny) -> None:
    with (
        tiny[1].locked("train"),
        pytest.raises(UserError, match="another train is writing here"),
    ):
        launch.train(tiny[0], (), tiny[1])
