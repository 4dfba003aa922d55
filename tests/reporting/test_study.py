"""What a report may say of whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reporting.conftest import World
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.reporting.study import Contestant, study_run
from toolgenesis_sft.runs import RunFolder, add_provenance, sha256_file, write_json


def test_data_that_the_model_was_not_trained_on_say_nothing_of_what_it_has_seen(
    make_world: Callable[..., World],
) -> None:
    world = make_world(num_servers=2)
    world.scored(world.slugs[0])
    run = world.written()
    world.trained_on([world.slugs[0]])
    manifest = run.data / "manifest.json"
    write_json(manifest, {"files": {}})
    add_provenance(run, "train", {"data_manifest": sha256_file(manifest)})
    assert study_run(world.recipe(), run).trained_on == {world.slugs[0]}
    write_json(manifest, {"files": {"train.jsonl": "another"}})
    with pytest.raises(UserError, match="is not the data that the model was trained on"):
        study_run(world.recipe(), run)
    manifest.unlink()
    with pytest.raises(UserError, match="is not the data that the model was trained on"):
        study_run(world.recipe(), RunFolder(run.root))


def test_a_checkpoint_that_is_named_by_its_folder_is_the_runs_own(
    make_world: Callable[..., World],
) -> None:
    """generate.model=runs/NAME/checkpoints/step_000039-export is asked as `step_000039-export`."""
    world = make_world(num_servers=2, num_train=1)
    world.scored(world.slugs[0], model="step_000039-export")
    run = world.written()
    world.trained_on([world.slugs[0]])
    source = str(run.root / "step_000039-export")
    for where, is_own in ((source, True), ("elsewhere/step_000039-export", False)):
        models = {"step_000039-export": {"source": where, "digest": "x"}}
        add_provenance(run, "generate", {"models": models})
        study = study_run(world.recipe(), run)
        assert study.memorised(Contestant("step_000039-export", "direct"), "train") is is_own
