"""Which checkpoints count, which one is taken, which ones go."""

from pathlib import Path

import pytest

from toolgenesis_sft.config import Model, RandomModel, Recipe, Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.runs import COMPLETE, RunFolder
from toolgenesis_sft.training.checkpoint import (
    Marker,
    complete_checkpoints,
    digests,
    files_in,
    identity_of,
    mark_complete,
    newest_whole,
    prune,
    require_same_identity,
    require_space,
    step_folder,
)


def recipe(**train: object) -> Recipe:
    return Recipe(name="r", model=Model(random=RandomModel()), train=Train.model_validate(train))


def write(run: RunFolder, step: int, val_loss: float | None = None) -> Path:
    folder = step_folder(run, step)
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.pt").write_bytes(b"w" * step)
    (folder / "deep" / "state.pt").write_bytes(b"s" * step)
    marker = Marker(
        step=step,
        num_steps=30,
        world_size=2,
        identity="same",
        val_loss=val_loss,
        files=digests(folder, files_in(folder)),
    )
    mark_complete(folder, marker)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_the_newest_complete_checkpoint_is_taken(run: RunFolder) -> None:
    write(run, 10)
    write(run, 20)
    newest = newest_whole(complete_checkpoints(run))
    assert newest is not None
    assert (newest.step, newest.finished) == (20, False)
    write(run, 30)
    assert complete_checkpoints(run)[0].finished


def test_a_folder_without_a_marker_is_no_checkpoint(run: RunFolder) -> None:
    write(run, 10)
    (write(run, 20) / COMPLETE).unlink()
    assert [one.step for one in complete_checkpoints(run)] == [10]


def test_a_torn_marker_is_no_marker(run: RunFolder) -> None:
    write(run, 10)
    marker = write(run, 20) / COMPLETE
    marker.write_bytes(marker.read_bytes()[:-9])
    assert [one.step for one in complete_checkpoints(run)] == [10]


@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_a_corrupt_newest_checkpoint_is_passed_by_and_named(
    run: RunFolder, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, 10)
    file = write(run, 20) / "deep" / "state.pt"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"X" + content[1:] if damage == "flipped" else content[:-1])
    newest = newest_whole(complete_checkpoints(run))
    assert newest is not None
    assert newest.step == 10
    said = capsys.readouterr().err
    assert "step_000020 is corrupt (deep/state.pt" in said


def test_the_last_ones_and_the_best_are_kept(run: RunFolder) -> None:
    for step, val_loss in ((5, 0.9), (10, 0.2), (15, 0.4), (20, 0.5), (25, None)):
        write(run, step, val_loss)
    prune(run, keep_last=2)
    assert [one.step for one in complete_checkpoints(run)] == [25, 20, 10]


def test_leftovers_of_an_interrupted_save_go(run: RunFolder) -> None:
    (write(run, 10) / COMPLETE).unlink()
    write(run, 20)
    prune(run, keep_last=1)
    assert [folder.name for folder in run.checkpoints.iterdir()] == ["step_000020"]


def test_a_disk_without_room_is_refused_before_a_save(run: RunFolder) -> None:
    require_space(run, needed_bytes=2**30, free_bytes=2**30)
    with pytest.raises(UserError, match=r"1\.0 GiB free .* a checkpoint takes 2\.0 GiB"):
        require_space(run, needed_bytes=2**31, free_bytes=2**30)


def test_a_checkpoint_of_another_recipe_or_data_set_is_refused(run: RunFolder) -> None:
    write(run, 10)
    [checkpoint] = complete_checkpoints(run)
    require_same_identity(checkpoint, "same")
    with pytest.raises(UserError, match="another model, recipe or data set"):
        require_same_identity(checkpoint, "other")


def test_identity_depends_on_what_shapes_the_weights_and_not_on_ranks() -> None:
    same = identity_of(recipe(), "tokens")
    assert identity_of(recipe(num_processes=3, timeout_s=77), "tokens") == same
    assert identity_of(recipe(learning_rate=0.5), "tokens") != same
    assert identity_of(recipe(), "other tokens") != same
    assert identity_of(recipe().model_copy(update={"seed": 1}), "tokens") != same
