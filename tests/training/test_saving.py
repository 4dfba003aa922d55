"""What is written in the background is a copy, and a failed write is not passed over.

Whole trainings that save so are in e2e/test_training_faults.py.
"""

import threading
from pathlib import Path

import pytest
import torch

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.runs import sha256_file
from toolgenesis_sft.training import saving
from toolgenesis_sft.training.saving import BackgroundWriter, failed_writes_named


def test_what_is_written_is_the_state_at_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, write = threading.Event(), saving.write
    monkeypatch.setattr(saving, "write", lambda *each: gate.wait() and write(*each))
    writer = BackgroundWriter()
    weight = torch.ones(1000)
    writer.save({"weight": weight, "again": weight[:10]}, str(tmp_path / "states.pt"))
    weight.zero_()
    assert not writer.is_idle
    assert not (tmp_path / "states.pt").exists()
    gate.set()
    assert writer.collect(tmp_path) == {"states.pt": sha256_file(tmp_path / "states.pt")}
    assert writer.is_idle
    saved = writer.load(str(tmp_path / "states.pt"))
    assert torch.equal(saved["weight"], torch.ones(1000))
    assert saved["again"].data_ptr() == saved["weight"].data_ptr(), "shared memory stays shared"


def test_the_file_is_that_of_a_plain_save(tmp_path: Path) -> None:
    state = {"step": 3, "weights": [torch.arange(5), torch.zeros(2, 2, dtype=torch.bfloat16)]}
    writer = BackgroundWriter()
    (tmp_path / "deep").mkdir()
    writer.save(state, str(tmp_path / "deep" / "states.pt"))
    assert list(writer.collect(tmp_path)) == ["deep/states.pt"]
    plain = torch.load(tmp_path / "deep" / "states.pt")
    assert plain["step"] == 3
    assert all(map(torch.equal, plain["weights"], state["weights"]))


def test_a_write_that_failed_is_raised_for_the_user(tmp_path: Path) -> None:
    writer = BackgroundWriter()
    (tmp_path / "states.pt").mkdir()
    writer.save({}, str(tmp_path / "states.pt"))
    with pytest.raises(UserError, match="cannot be written"), failed_writes_named(tmp_path):
        writer.collect(tmp_path)


def test_torchs_own_words_for_a_full_disk_are_a_line_for_the_user(tmp_path: Path) -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed")
    with pytest.raises(UserError, match="a write failed with"), failed_writes_named(tmp_path):
        raise error
    with pytest.raises(RuntimeError, match="another"), failed_writes_named(tmp_path):
        raise RuntimeError("another")
