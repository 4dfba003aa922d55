from __future__ import annotations

import ast
from pathlib import Path

import pytest

from toolgenesis_sft.prompts import compiles
from toolgenesis_sft.python_source import parser_bomb


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = f'" + "{a}" * 160_000 + "'", "an f-string with too many fields"),
        ('x = rF"""\n' + "{a}" * 160_000 + '"""', "an f-string with too many fields"),
        ("import a" + ".a" * 100_000, "more than 1000 dots"),
        ("x = a" + ". \\\n a" * 50_000, "more than 1000 dots"),
    ],
)
def test_what_the_parser_would_take_minutes_for_is_not_parsed(code: str, says: str) -> None:
    assert says in parser_bomb(code)
    assert not compiles(code)


@pytest.mark.parametrize("name", ["ast.py", "argparse.py", "typing.py"])
def test_honest_programs_are_parsed(name: str) -> None:
    code = Path(ast.__file__).with_name(name).read_text(encoding="utf-8")
    assert parser_bomb(code) == ""
    assert compiles(code)
