"""A catalogue of faults that language models really put into MCP servers.

Each breakage takes the source of a working server and gives a broken one, or None where it does
not apply. Where a fault may stand in several places, a number chooses one, so the same server and
number always give the same fault. Nothing here proves that the result is broken: the sandbox does,
and its words become the repair's question.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from toolgenesis_sft.prompts import compiles

Break = Callable[[str, int], "str | None"]

TOOL_DECORATOR = re.compile(r"^([ \t]*)@(\w+)\.tool\(\)[ \t]*\n", re.MULTILINE)
SDK_IMPORT = re.compile(
    r"^([ \t]*)from (mcp\.server\.fastmcp|fastmcp) import FastMCP\b", re.MULTILINE
)
CONSTRUCTOR = re.compile(r"(FastMCP\((?:\"[^\"\n]*\"|'[^'\n]*'))")
SERVER_OBJECT = re.compile(r"^(\w+) = FastMCP\([^\n]*\)\n", re.MULTILINE)


@dataclass(frozen=True)
class Breakage:
    """name: short and stable; what: the fault in words, for the data card."""

    name: str
    what: str
    apply: Break


def wrong_sdk_import(code: str, choice: int) -> str | None:
    wrong = {"mcp.server.fastmcp": "mcp.fastmcp", "fastmcp": "fastmcp.server.fastmcp"}
    return _replaced(SDK_IMPORT, code, choice, lambda m: f"{m[1]}from {wrong[m[2]]} import FastMCP")


def unknown_constructor_argument(code: str, choice: int) -> str | None:
    return _replaced(CONSTRUCTOR, code, choice, lambda m: f'{m[1]}, description="MCP server"')


def decorator_not_called(code: str, choice: int) -> str | None:
    return _replaced(TOOL_DECORATOR, code, choice, lambda m: f"{m[1]}@{m[2]}.tool\n")


def decorator_that_does_not_exist(code: str, choice: int) -> str | None:
    return _replaced(TOOL_DECORATOR, code, choice, lambda m: f"{m[1]}@{m[2]}.add_tool_handler()\n")


def decorator_of_another_name(code: str, choice: int) -> str | None:
    return _replaced(
        TOOL_DECORATOR,
        code,
        choice,
        lambda m: f"{m[1]}@{'server' if m[2] != 'server' else 'app'}.tool()\n",
    )


def forgotten_decorator(code: str, choice: int) -> str | None:
    return _replaced(TOOL_DECORATOR, code, choice, lambda m: "")


def forgotten_import(code: str, choice: int) -> str | None:
    lines = [
        node.lineno
        for node in _tree(code).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and node.lineno == node.end_lineno
        and not (isinstance(node, ast.ImportFrom) and node.module in (None, "__future__"))
        and "FastMCP" not in ast.unparse(node)
    ]
    return _edited(code, lines, choice, lambda line: None)


def unimported_annotation(code: str, choice: int) -> str | None:
    """`Dict[str, Any]` and the like, from a habit older than Python 3.9."""
    spelled = {"dict": "Dict[str, Any]", "list": "List[Any]"}
    places = [
        (returns.lineno, returns.col_offset, returns.id)
        for tool in _tools(code)
        if isinstance(returns := tool.returns, ast.Name) and returns.id in spelled
    ]
    if not places or "typing" in code:
        return None
    row, column, name = places[choice % len(places)]
    return _spliced(code, row, column, len(name), spelled[name])


def wrong_return_annotation(code: str, choice: int) -> str | None:
    """The declared output does not fit what is returned, so the SDK refuses every answer."""
    other = {"dict": "str", "list": "str", "str": "int", "float": "list[str]", "int": "list[str]"}
    places = [
        (returns.lineno, returns.col_offset, returns.id)
        for tool in _tools(code)
        if isinstance(returns := tool.returns, ast.Name) and returns.id in other
    ]
    if not places:
        return None
    row, column, name = places[choice % len(places)]
    return _spliced(code, row, column, len(name), other[name])


def misspelt_variable(code: str, choice: int) -> str | None:
    known = set(dir(builtins))
    places = [
        (node.lineno, node.col_offset, node.id)
        for tool in _tools(code)
        for statement in tool.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and node.id not in known
        and len(node.id) > 2
    ]
    if not places:
        return None
    row, column, name = places[choice % len(places)]
    return _spliced(code, row, column, len(name), name[:-1] if name[-1] == "s" else name + "s")


def forgotten_parameter(code: str, choice: int) -> str | None:
    """The body uses an argument that the signature has lost."""
    places = [
        (argument.lineno, argument.col_offset, following.col_offset)
        for tool in _tools(code)
        for argument, following in zip(tool.args.args, tool.args.args[1:], strict=False)
        if argument.lineno == following.lineno and argument.arg != "self"
    ]
    if not places:
        return None
    row, start, stop = places[choice % len(places)]
    return _spliced(code, row, start, stop - start, "")


def default_before_required(code: str, choice: int) -> str | None:
    places = [
        (first.lineno, first.end_col_offset or 0)
        for tool in _tools(code)
        if len(tool.args.args) > max(1, len(tool.args.defaults) + 1)
        and (first := tool.args.args[0]).arg != "self"
    ]
    if not places:
        return None
    row, column = places[choice % len(places)]
    return _spliced(code, row, column, 0, " = None")


def unclosed_bracket(code: str, choice: int) -> str | None:
    lines = [
        number
        for number, line in enumerate(code.splitlines(), start=1)
        if line.rstrip().endswith((")", "]", "}")) and line.strip() not in (")", "]", "}")
    ]
    return _edited(code, lines, choice, lambda line: line.rstrip()[:-1])


def wrong_indentation(code: str, choice: int) -> str | None:
    lines = [
        node.lineno
        for tool in _tools(code)
        for node in tool.body[1:]
        if not isinstance(node, ast.Expr)
    ]
    return _edited(code, lines, choice, lambda line: line[2:])


def cut_off(code: str, choice: int) -> str | None:
    """An answer that ran into its limit of tokens."""
    share = 0.6 + 0.3 * (choice % 100) / 100
    return code[: int(len(code) * share)].rstrip() + "\n"


def runs_before_its_tools(code: str, choice: int) -> str | None:
    """The server blocks in `run()` before a tool is registered."""
    found = SERVER_OBJECT.search(code)
    if not found:
        return None
    return code[: found.end()] + f"\n{found[1]}.run()\n" + code[found.end() :]


def server_not_returned(code: str, choice: int) -> str | None:
    """The benchmark's App convention: `_initialize_mcp_server` builds a server and keeps it."""
    return _replaced(
        re.compile(r"^[ \t]+return (?:mcp|server|app)[ \t]*\n", re.MULTILINE),
        code,
        choice,
        lambda m: "",
    )


CATALOGUE: tuple[Breakage, ...] = (
    Breakage("wrong_sdk_import", "FastMCP imported from a module that has none", wrong_sdk_import),
    Breakage(
        "unknown_constructor_argument",
        "FastMCP(...) given an argument that it does not take",
        unknown_constructor_argument,
    ),
    Breakage("decorator_not_called", "`@mcp.tool` without its parentheses", decorator_not_called),
    Breakage(
        "decorator_that_does_not_exist",
        "a decorator that the SDK does not have",
        decorator_that_does_not_exist,
    ),
    Breakage(
        "decorator_of_another_name",
        "a decorator on an object that does not exist",
        decorator_of_another_name,
    ),
    Breakage("forgotten_decorator", "a tool that was never registered", forgotten_decorator),
    Breakage("forgotten_import", "a module used and not imported", forgotten_import),
    Breakage("unimported_annotation", "`Dict[str, Any]` without its import", unimported_annotation),
    Breakage(
        "wrong_return_annotation",
        "a return annotation that the answer does not fit",
        wrong_return_annotation,
    ),
    Breakage("misspelt_variable", "a variable misspelt where it is used", misspelt_variable),
    Breakage("forgotten_parameter", "an argument missing in the signature", forgotten_parameter),
    Breakage(
        "default_before_required",
        "an argument with a default before one without",
        default_before_required,
    ),
    Breakage("unclosed_bracket", "a bracket that is never closed", unclosed_bracket),
    Breakage("wrong_indentation", "a line at the wrong depth", wrong_indentation),
    Breakage("cut_off", "a program cut off in the middle", cut_off),
    Breakage(
        "runs_before_its_tools", "`run()` called before the tools exist", runs_before_its_tools
    ),
    Breakage("server_not_returned", "an App that does not return its server", server_not_returned),
)


def _tree(code: str) -> ast.Module:
    return ast.parse(code) if compiles(code) else ast.Module(body=[], type_ignores=[])


def _tools(code: str) -> Sequence[ast.FunctionDef]:
    """Functions under a `.tool` decorator, in the order of the text."""

    def decorators(node: ast.FunctionDef) -> Iterator[ast.expr]:
        for decorator in node.decorator_list:
            yield decorator.func if isinstance(decorator, ast.Call) else decorator

    found = [
        node
        for node in ast.walk(_tree(code))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Attribute) and d.attr == "tool" for d in decorators(node))
    ]
    return sorted(found, key=lambda node: node.lineno)


def _replaced(
    pattern: re.Pattern[str], code: str, choice: int, text: Callable[[re.Match[str]], str]
) -> str | None:
    """One match replaced; None where there is none."""
    found = list(pattern.finditer(code))
    if not found:
        return None
    match = found[choice % len(found)]
    return code[: match.start()] + text(match) + code[match.end() :]


def _edited(
    code: str, numbers: Sequence[int], choice: int, edit: Callable[[str], str | None]
) -> str | None:
    """One of these lines (from 1) edited, or taken out where the edit gives None."""
    if not numbers:
        return None
    lines = code.splitlines()
    at = numbers[choice % len(numbers)] - 1
    edited = edit(lines[at])
    lines[at : at + 1] = [] if edited is None else [edited]
    return "\n".join(lines) + "\n"


def _spliced(code: str, row: int, column: int, length: int, text: str) -> str:
    """Bytes replaced in a row (from 1), as ast counts columns."""
    lines = code.splitlines(keepends=True)
    line = lines[row - 1].encode()
    lines[row - 1] = (line[:column] + text.encode() + line[column + length :]).decode()
    return "".join(lines)
