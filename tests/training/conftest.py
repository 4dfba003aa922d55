"""A run folder with a few short samples and a very small model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.tiny import build_tiny
from toolgenesis_sft.runs import RunFolder


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, RunFolder]:
    return build_tiny(tmp_path)


@pytest.fixture
def make_tiny(tmp_path: Path) -> Callable[[str], tuple[Path, RunFolder]]:
    return lambda name: build_tiny(tmp_path / name)
