"""What all files of settings have in common, on a small one."""

from __future__ import annotations

from typing import Self

import pytest
from pydantic import Field, model_validator

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.sections import (
    Section,
    broken_rule,
    check_keys,
    checked,
    differing_fields,
    execution,
)


class Inner(Section):
    depth: int = Field(3, ge=1)
    workers: int = execution(2, "side by side", ge=1)


class Part(Section):
    size: int


class Outer(Section):
    name: str
    low: float = 0.0
    high: float = 1.0
    inner: Inner = Inner()
    parts: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def in_order(self) -> Self:
        if self.low > self.high:
            raise broken_rule(self, "low must not exceed high", "low", "high")
        return self


def test_values_are_compared_field_by_field_but_for_how_a_stage_runs() -> None:
    stored = Outer(name="a").model_dump(mode="json")
    assert list(differing_fields(stored, Outer(name="a", inner=Inner(workers=9)))) == []
    changed = Outer(name="b", inner=Inner(depth=4, workers=9))
    assert list(differing_fields(stored, changed)) == ["name", "inner.depth"]


def test_a_field_that_came_later_counts_with_its_default() -> None:
    stored = {"name": "a", "low": 0.0, "inner": {"depth": 3}}
    assert list(differing_fields(stored, Outer(name="a"))) == []
    assert list(differing_fields(stored, Outer(name="a", high=2.0))) == ["high"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "x.name = nothing: is required"),
        ({"name": 1}, "x.name = 1: must be text; put it in quotes"),
        ({"name": "a", "inner": {"depth": 0}}, "x.inner.depth = 0: Input should be greater"),
        ({"name": "a", "inner": 7}, "x.inner = 7: must be a section, with keys below it"),
        ({"name": "a", "low": 2}, "x.low, x.high = 2.0, 1.0: low must not exceed high"),
        ({"nmae": "a"}, "x = nmae: is not a known key; did you mean name?"),
        ({"name": "a", "parts": [{"colour": 1}]}, "x.parts.0.colour = 1: is not a known key"),
    ],
)
def test_what_is_wrong_is_one_line_with_fields_values_and_rule(values: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(Outer, values, "x.")
    assert str(caught.value).startswith(line)


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"file = inner\.dept: is not a known key.*inner\.depth\?"):
        check_keys("file", {"name": "a", "inner": {"dept": 1}}, Outer)
