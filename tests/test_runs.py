from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Message
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    append_record,
    claim,
    disk_error,
    fingerprint,
    mend_torn_line,
    read_json,
    read_records,
    write_text,
)

RECIPE = Recipe.model_validate({"name": "x", "model": {"random": {}}})
FIRST, SECOND = Message(role="user", content="one"), Message(role="user", content="two")


def test_a_torn_last_line_does_not_count_and_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + SECOND.to_line().encode()[:7])
    assert read_records(path, Message) == [FIRST]
    mend_torn_line(path)
    append_record(path, SECOND)
    assert read_records(path, Message) == [FIRST, SECOND]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    path.with_name("file.txt").chmod(0o644)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_record(path, FIRST)
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(UserError, match=r"log.jsonl: line 2 = \{\}: is no Message .Field required"):
        read_records(path, Message)


@pytest.mark.parametrize("name", ["file", "file/inner"])
def test_a_file_in_the_way_of_a_run_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"), run.locked("score"):
        pass
    with pytest.raises(UserError, match="cannot be written"):
        run.new_attempt("train")


@pytest.mark.parametrize("name", ["file", "file/inner"])
def test_a_file_in_the_way_of_what_is_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"):
        claim(run, RECIPE)
    with pytest.raises(UserError, match="cannot be written"):
        append_record(run.predictions, FIRST)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    """What cannot be opened, whoever asks: root may write into a folder that says otherwise."""
    run = RunFolder(tmp_path)
    (tmp_path / ".build.lock").mkdir()
    with pytest.raises(UserError, match="cannot be written"), run.locked("build"):
        pass
    run.predictions.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        mend_torn_line(run.predictions)


def test_a_full_disk_is_one_line_for_the_user(tmp_path: Path) -> None:
    error = disk_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert "the disk is full" in str(error)


def test_a_write_to_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the kernel fails the write in both cases."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from toolgenesis_sft.runs import write_text\n"
        "from toolgenesis_sft.errors import UserError\n"
        "path = Path(sys.argv[1]); write_text(path, 'old')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try: write_text(path, 'x' * 100)\n"
        "except UserError as error: print(error)\n"
    )
    path = tmp_path / "file.txt"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "free space" in done.stdout
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_folder_belongs_to_one_recipe(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    claim(run, RECIPE)
    run.predictions.touch()
    other = RECIPE.model_copy(update={"seed": 7})
    with pytest.raises(UserError, match=r"seed.*--run NEW_NAME"):
        claim(run, other)


def test_a_recipe_that_got_nowhere_may_be_mended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    claim(run, RECIPE)
    run.new_attempt("generate")
    run.export.symlink_to(tmp_path)
    mended = RECIPE.model_copy(update={"seed": 7})
    claim(run, mended)
    assert read_json(run.config)["seed"] == 7


def test_a_run_may_continue_with_other_workers(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    claim(run, RECIPE)
    run.predictions.touch()
    more = RECIPE.model_copy(update={"score": RECIPE.score.model_copy(update={"workers": 9})})
    claim(run, more)


def test_two_processes_of_one_stage_cannot_share_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.locked("score"), pytest.raises(UserError, match="another score"), run.locked("score"):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from toolgenesis_sft.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked('score'): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with RunFolder(tmp_path).locked("score"):
        pass


def test_each_attempt_has_a_log_folder_of_its_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.new_attempt("train") != run.new_attempt("train")


def test_provenance_keeps_the_parts_of_the_other_stages(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add_provenance(run, "train", {"world_size": 2})
    add_provenance(run, "score", {"profile": "strict"})
    whole = read_json(run.provenance)
    assert whole["train"]["world_size"] == 2
    assert whole["score"]["versions"]["python"]


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
