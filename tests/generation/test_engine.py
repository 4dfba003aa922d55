"""Engines: opened for the length of a block, and closed when one of them does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.engine import open_engines
from toolgenesis_sft.generation.models import AskedModel


def test_a_server_that_ends_while_starting_is_told_by_its_last_words(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of memory, says the GPU >&2\nexit 3\n")
    broken.chmod(0o755)
    settings = Generate(engine_python=str(broken))
    model = AskedModel("trained", "export", tiny_model, "digest")
    with (
        pytest.raises(UserError, match=r"ended while starting .out of memory, says the GPU"),
        open_engines(settings, model, False, tmp_path, num_requests=3),
    ):
        pass
