"""Run a generated program and serve what it made over stdin and stdout.

The program runs as `__main__`, so that what stands in its main block happens. Every transport that
it starts becomes stdio, whichever it asked for. Where it starts none, the server object is looked
for: a class of the `src.apps` convention, then `mcp`, `server`, `app`, then the only FastMCP there.
So a main block that wants arguments, or a web server's package, keeps no server from being judged;
its fault is reported.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from toolgenesis_sft.sandbox.inside.audit import SERVER_FILE

NAMES = ("mcp", "server", "app")


class Unservable(Exception):
    """The program is at fault; `kind` is the short name of how."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def server_classes() -> tuple[Any, Any]:
    """FastMCP of the MCP SDK 1.x and of the fastmcp package."""
    return (
        importlib.import_module("mcp.server.fastmcp").FastMCP,
        importlib.import_module("fastmcp").FastMCP,
    )


def serve_over_stdio_only() -> None:
    """Every way to start a transport starts stdio."""
    for cls in server_classes():
        stdio = cls.run_stdio_async
        if "show_banner" in inspect.signature(stdio).parameters:
            stdio = functools.partialmethod(stdio, show_banner=False)
            cls.run_stdio_async = stdio

        async def run_async(self: Any, *_: Any, **__: Any) -> None:
            await self.run_stdio_async()

        def run(self: Any, *_: Any, **__: Any) -> None:
            import anyio

            anyio.run(self.run_stdio_async)

        cls.run = run
        for name in ("run_async", "run_sse_async", "run_http_async", "run_streamable_http_async"):
            if hasattr(cls, name):
                setattr(cls, name, run_async)


def serve(code: bytes, report: Callable[[str, str], None]) -> None:
    """Run the program, then serve until stdin ends. Raises Unservable; `report` is told the kind
    and the detail of a fault that the server is served in spite of."""
    program, main_block = _parse(code)
    module = ModuleType("__main__")
    module.__file__ = SERVER_FILE
    sys.modules["__main__"] = module
    sys.argv = [SERVER_FILE]
    fault = _execute(program, module)
    if fault is not None:
        raise fault
    fault = _execute(main_block, module)
    server = _find(module)
    if server is None:
        main = getattr(module, "main", None)
        if not main_block.co_names and callable(main) and not _needs_arguments(main):
            fault = _attempt(lambda: _finish(main()))
        raise fault or Unservable("no_server_object", "the program makes no FastMCP object")
    if fault is not None:
        report("main_block", fault.detail)
    server.run()


def _parse(code: bytes) -> tuple[Any, Any]:
    try:
        tree = ast.parse(code, SERVER_FILE)
        guards = [node for node in tree.body if _is_main_guard(node)]
        body = [node for node in tree.body if not _is_main_guard(node)]
        return tuple(
            compile(ast.Module(part, []), SERVER_FILE, "exec", dont_inherit=True)
            for part in (body, guards)
        )  # type: ignore[return-value]
    except (SyntaxError, ValueError) as error:
        raise Unservable("syntax_error", _line(error)) from None
    except (RecursionError, MemoryError):
        raise Unservable("syntax_error", "too large or too deep to be compiled") from None


def _is_main_guard(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and any(
            isinstance(side, ast.Name) and side.id == "__name__"
            for side in (node.test.left, *node.test.comparators)
        )
    )


def _execute(code: Any, module: ModuleType) -> Unservable | None:
    return _attempt(lambda: exec(code, module.__dict__))


def _attempt(run: Callable[[], object]) -> Unservable | None:
    """Run foreign code; whatever it raises is its own fault and is named here."""
    try:
        run()
    except ImportError as error:
        return Unservable("import_error", _line(error))
    except MemoryError as error:
        return Unservable("memory_limit", _line(error))
    except SyntaxError as error:
        return Unservable("syntax_error", _line(error))
    except SystemExit as error:
        return Unservable("crashed_at_start", f"exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001  foreign code may raise anything at all
        return Unservable("crashed_at_start", _line(error))
    return None


def _finish(result: object) -> None:
    if inspect.iscoroutine(result):
        import asyncio

        asyncio.run(result)


def _needs_arguments(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    )


def _find(module: ModuleType) -> Any:
    classes = server_classes()
    values = list(vars(module).values())
    for value in values:
        if _is_app_class(value, module):
            return _build_app(value, classes)
    for name in NAMES:
        if isinstance(getattr(module, name, None), classes):
            return getattr(module, name)
    found = {id(value): value for value in values if isinstance(value, classes)}
    if len(found) > 1:
        raise Unservable("no_server_object", f"{len(found)} FastMCP objects, none named {NAMES}")
    return next(iter(found.values()), None)


def _is_app_class(value: Any, module: ModuleType) -> bool:
    app = importlib.import_module("src.apps").App
    return (
        inspect.isclass(value)
        and issubclass(value, app)
        and value.__module__ == module.__name__
        and vars(value).get("_initialize_mcp_server") is not None
    )


def _build_app(cls: Any, classes: tuple[Any, Any]) -> Any:
    built: list[Any] = []

    def build() -> None:
        takes_spec = "spec" in inspect.signature(cls).parameters
        app = cls(spec={}) if takes_spec else cls()
        built.append(app._initialize_mcp_server())

    fault = _attempt(build)
    if fault is not None:
        raise fault
    if not isinstance(built[0], classes):
        raise Unservable("no_server_object", f"{cls.__name__} made a {type(built[0]).__name__}")
    return built[0]


def _line(error: BaseException) -> str:
    text = str(error) if not isinstance(error, SyntaxError) else f"{error.msg}, line {error.lineno}"
    return f"{type(error).__name__}: {text}"[:500]
