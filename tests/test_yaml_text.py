"""YAML files of people: read whole, or refused in one line that says where."""

from pathlib import Path

import pytest

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.yaml_text import parse_yaml, read_yaml


def test_a_key_may_stand_in_two_mappings_but_not_twice_in_one() -> None:
    assert parse_yaml("a: {x: 1}\nb: {x: 2}") == {"a": {"x": 1}, "b": {"x": 2}}
    with pytest.raises(UserError, match="line 3 = x: the key is given twice"):
        parse_yaml("a:\n  x: 1\n  x: 2")


def test_an_empty_text_is_nothing() -> None:
    assert parse_yaml("# only a comment") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1, 2", "is not YAML"),
        (b"a: \xff", "is not UTF-8 text"),
        (b"!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_the_file(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_yaml(path)
    assert "odd.yaml" in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "missing.yaml")
