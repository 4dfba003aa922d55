"""Programs against all of data/mini: copies of its servers, and small servers that are none."""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.conftest import MINI
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.corpus.overlap import HeldOut, Traces
from toolgenesis_sft.corpus.shingles import code_shingles

CODES = {path.stem: path.read_text(encoding="utf-8") for path in MINI.glob("servers/*.py")}
HEAD = 'from mcp.server.fastmcp import FastMCP\n\nmcp = FastMCP("small")\n\n\n'
TAIL = '\n\nif __name__ == "__main__":\n    mcp.run()\n'
SMALL = {
    "vat": '''
@mcp.tool()
def add_vat(net: float, rate: float) -> float:
    """Add value added tax to a net price."""
    return round(net * (1 + rate / 100), 2)
''',
    "clamp": '''
@mcp.tool()
def clamp(value: float, low: float, high: float) -> float:
    """Hold a value between two bounds."""
    return max(low, min(high, value))
''',
    "reverse": '''
@mcp.tool()
def reverse(text: str) -> str:
    """A text from its end."""
    return text[::-1]
''',
    "area": '''
import math


@mcp.tool()
def circle_area(radius: float) -> dict:
    """Area of a circle."""
    if radius <= 0:
        raise ValueError("radius must be positive")
    return {"area": round(math.pi * radius ** 2, 4)}


@mcp.tool()
def square_area(side: float) -> dict:
    """Area of a square."""
    if side <= 0:
        raise ValueError("side must be positive")
    return {"area": round(side ** 2, 4)}
''',
    "to do": '''
items: list[dict] = []


@mcp.tool()
def add(title: str) -> dict:
    """Add something to do."""
    item = {"id": len(items) + 1, "title": title, "done": False}
    items.append(item)
    return item


@mcp.tool()
def finish(item_id: int) -> dict:
    """Mark something as done."""
    for item in items:
        if item["id"] == item_id:
            item["done"] = True
            return item
    raise ValueError(f"no item {item_id}")
''',
}


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """Every server of data/mini is one to be judged by."""
    benchmark = load_benchmark(MINI / "benchmark.json")
    everything = dataclasses.replace(benchmark, held_out=benchmark.slugs)
    return HeldOut.of(everything, {}, MINI / "servers")


@pytest.mark.parametrize("name", SMALL)
def test_what_every_small_server_has_is_no_overlap(name: str, held_out: HeldOut) -> None:
    traces = Traces(code=code_shingles(HEAD + SMALL[name] + TAIL))
    assert held_out.overlap(traces) is None


def test_a_benchmark_of_copies_finds_them_all_the_same(tmp_path: Path) -> None:
    """What four servers share is boilerplate, but not where nothing else would be left."""
    benchmark = load_benchmark(MINI / "benchmark.json")
    scenarios = benchmark.scenarios[:4]
    alike = dataclasses.replace(
        benchmark, scenarios=scenarios, held_out=tuple(each.slug for each in scenarios), train=()
    )
    code = CODES["stockroom"]
    for scenario in scenarios:
        (tmp_path / f"{scenario.slug}.py").write_text(code, encoding="utf-8")
    judge = HeldOut.of(alike, {}, tmp_path)
    found = judge.overlap(Traces(code=code_shingles(code.replace("def ", "def my_"))))
    assert found is not None
    assert found.sign == "code"


def tools_of(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(".tool" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]


def with_helpers(code: str) -> str:
    """Each tool hands its work to a function of its own."""
    tree = ast.parse(code)
    helpers: list[ast.stmt] = []
    for tool in tools_of(tree):
        helper = copy.deepcopy(tool)
        helper.name, helper.decorator_list = f"_{tool.name}", []
        helpers.append(helper)
        names = ", ".join(argument.arg for argument in tool.args.args)
        tool.body = ast.parse(f"value = _{tool.name}({names})").body
    return ast.unparse(ast.fix_missing_locations(ast.Module(helpers + tree.body, [])))


def with_more_statements(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [
                part
                for number, statement in enumerate(node.body)
                for part in (ast.parse(f"log.info('step {number}')").body[0], statement)[
                    number % 2 :
                ]
            ]
    return ast.unparse(ast.fix_missing_locations(tree))


def with_other_texts(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = f"x{node.value}"
    return ast.unparse(tree)


def with_half_of_the_tools(code: str) -> str:
    tree = ast.parse(code)
    dropped = tools_of(tree)[: len(tools_of(tree)) // 2]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            node.body = [part for part in node.body if part not in dropped] or [ast.Pass()]
    return ast.unparse(tree)


def beside_another(code: str) -> str:
    return f"{code.replace('def ', 'def my_')}\n{HEAD}{SMALL['to do']}"


@pytest.mark.parametrize(
    "change",
    [with_helpers, with_more_statements, with_other_texts, with_half_of_the_tools, beside_another],
    ids=lambda change: change.__name__,
)
def test_no_changed_copy_of_any_server_is_lost(
    change: Callable[[str], str], held_out: HeldOut
) -> None:
    for slug, code in CODES.items():
        found = held_out.overlap(Traces(code=code_shingles(change(code))))
        assert found is not None, slug
        assert (found.slug, found.sign) == (slug, "code")
