"""Every fault of the catalogue applies to our servers and changes the text; the sandbox then says
what it breaks (test_repairs.py)."""

from __future__ import annotations

import pytest

from tests.corpus.conftest import MINI
from toolgenesis_sft.corpus.breakages import CATALOGUE, Breakage

SERVERS = [path.read_text(encoding="utf-8") for path in sorted((MINI / "servers").glob("*.py"))]


@pytest.mark.parametrize("breakage", CATALOGUE, ids=lambda breakage: breakage.name)
def test_a_fault_applies_to_some_servers_and_always_changes_them(breakage: Breakage) -> None:
    broken = [(code, breakage.apply(code, 3)) for code in SERVERS]
    applied = [(code, text) for code, text in broken if text is not None]
    assert applied
    assert all(text != code for code, text in applied)


@pytest.mark.parametrize("breakage", CATALOGUE, ids=lambda breakage: breakage.name)
def test_the_same_number_gives_the_same_fault(breakage: Breakage) -> None:
    for code in SERVERS[:6]:
        assert breakage.apply(code, 12345) == breakage.apply(code, 12345)


@pytest.mark.parametrize("breakage", CATALOGUE, ids=lambda breakage: breakage.name)
def test_what_is_no_server_is_left_alone_or_cut(breakage: Breakage) -> None:
    assert breakage.apply("", 0) in (None, "\n")


def test_names_are_distinct_and_explained() -> None:
    assert len({breakage.name for breakage in CATALOGUE}) == len(CATALOGUE)
    assert all(breakage.what for breakage in CATALOGUE)
