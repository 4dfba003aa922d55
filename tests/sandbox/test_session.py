"""Programs of both conventions start unchanged; faults have names; answers are unwrapped."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolgenesis_sft.errors import HarnessFault, ModelFault
from toolgenesis_sft.sandbox.session import Sandbox, ServerSession

from .conftest import attack, descendants

SDK = "from mcp.server.fastmcp import FastMCP\n"
PACKAGE = "from fastmcp import FastMCP\n"
TOOL = "@{0}.tool()\ndef ping() -> str:\n    return 'pong'\n"
MAIN = "if __name__ == '__main__':\n"

PROGRAMS = {
    "sdk, object only": SDK + "mcp = FastMCP('x')\n" + TOOL.format("mcp"),
    "package, object only": PACKAGE + "mcp = FastMCP('x')\n" + TOOL.format("mcp"),
    "called server": SDK + "server = FastMCP('x')\n" + TOOL.format("server"),
    "called app": PACKAGE + "app = FastMCP('x')\n" + TOOL.format("app"),
    "the only one, by any name": SDK + "thing = FastMCP('x')\n" + TOOL.format("thing"),
    "guarded run": SDK + "mcp = FastMCP('x')\n" + TOOL.format("mcp") + MAIN + "    mcp.run()\n",
    "guarded run over http": PACKAGE
    + "mcp = FastMCP('x')\n"
    + TOOL.format("mcp")
    + MAIN
    + "    mcp.run(transport='http', host='0.0.0.0', port=8000)\n",
    "sse, sdk": SDK
    + "mcp = FastMCP('x')\n"
    + TOOL.format("mcp")
    + MAIN
    + "    mcp.run(transport='sse')\n",
    "unguarded run": PACKAGE + "mcp = FastMCP('x')\n" + TOOL.format("mcp") + "mcp.run()\n",
    "unguarded run, sdk": SDK + "mcp = FastMCP('x')\n" + TOOL.format("mcp") + "mcp.run('stdio')\n",
    "asyncio.run": "import asyncio\n"
    + SDK
    + "mcp = FastMCP('x')\n"
    + TOOL.format("mcp")
    + "asyncio.run(mcp.run_stdio_async())\n",
    "async main": "import asyncio\n"
    + PACKAGE
    + "async def main():\n    mcp = FastMCP('x')\n    mcp.tool()(ping)\n    await mcp.run_async()\n"
    + "def ping() -> str:\n    return 'pong'\n"
    + MAIN
    + "    asyncio.run(main())\n",
    "guarded main": SDK
    + "def main():\n    mcp = FastMCP('x')\n    @mcp.tool()\n    def ping() -> str:\n"
    + "        return 'pong'\n    mcp.run()\n"
    + MAIN
    + "    main()\n",
    "main that nobody calls": SDK
    + "def main():\n    mcp = FastMCP('x')\n    @mcp.tool()\n    def ping() -> str:\n"
    + "        return 'pong'\n    mcp.run()\n",
    "set-up in the main block": PACKAGE
    + "mcp = FastMCP('x')\nstore = {}\n"
    + "@mcp.tool()\ndef ping() -> str:\n    return store['word']\n"
    + MAIN
    + "    store['word'] = 'pong'\n    mcp.run()\n",
    "low level server": """
import asyncio
from mcp import types
from mcp.server import Server
from mcp.server.stdio import stdio_server
server = Server("x")
@server.list_tools()
async def tools():
    return [types.Tool(name="ping", inputSchema={"type": "object"})]
@server.call_tool()
async def call(name, arguments):
    return [types.TextContent(type="text", text="pong")]
async def main():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
if __name__ == "__main__":
    asyncio.run(main())
""",
    "benchmark convention": """
from src.apps import App
from mcp.server.fastmcp import FastMCP
class Desk(App):
    def __init__(self, spec: dict | None = None):
        super().__init__(spec)
        self.word = "pong"
        self.load_state({})
    def _initialize_mcp_server(self):
        mcp = FastMCP("desk")
        @mcp.tool()
        def ping() -> str:
            return self.word
        return mcp
    def load_state(self, state):
        self.word = state.get("word", self.word)
    def get_state(self):
        return {"word": self.word}
""",
    "benchmark convention, named": """
from src.apps import App
from fastmcp import FastMCP
class Desk(App):
    def __init__(self):
        super().__init__("desk")
        self.mcp = self._initialize_mcp_server()
    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP(self.name)
        mcp.tool()(self.ping)
        return mcp
    def ping(self) -> str:
        return "pong"
""",
    "forward references and dataclasses": """
from __future__ import annotations
import dataclasses
from typing import NamedTuple
from pydantic import BaseModel
from fastmcp import FastMCP
mcp = FastMCP("x")
class Word(BaseModel):
    text: str
    next: Word | None = None
@dataclasses.dataclass
class Note:
    text: str
class Pair(NamedTuple):
    a: int
@mcp.tool()
def ping(word: Word | None = None) -> str:
    return Note("pong").text
""",
}


FAILING_MAIN_BLOCKS = {
    "main block that fails": SDK
    + "mcp = FastMCP('x')\n"
    + TOOL.format("mcp")
    + MAIN
    + "    import uvicorn_is_not_here\n    mcp.run()\n",
    "arguments expected": "import argparse\n"
    + SDK
    + "mcp = FastMCP('x')\n"
    + TOOL.format("mcp")
    + MAIN
    + "    p = argparse.ArgumentParser()\n    p.add_argument('needed')\n"
    + "    p.parse_args()\n    mcp.run()\n",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_of_every_style_start_unchanged(box: Sandbox, program: str) -> None:
    with box.start(program) as server:
        assert [tool.name for tool in server.list_tools()] == ["ping"]
        answer = server.call("ping", {})
        assert (answer.value, answer.is_error) == ("pong", False)
        assert server.protocol_faults == []
        assert server.denied == []


@pytest.mark.parametrize("program", FAILING_MAIN_BLOCKS.values(), ids=FAILING_MAIN_BLOCKS.keys())
def test_a_main_block_that_fails_is_counted_and_keeps_no_server_from_being_judged(
    box: Sandbox, program: str
) -> None:
    with box.start(program) as server:
        assert server.call("ping", {}).value == "pong"
        [fault] = server.protocol_faults
    assert fault.startswith("the main block fails: ")


@pytest.mark.parametrize(
    ("declared", "returned", "value"),
    [
        ("int", "9", 9),
        ("list[int]", "[9]", [9]),
        ("list[list[str]]", "[['a'], []]", [["a"], []]),
        ("str", "'[9]'", "[9]"),
        ("dict[str, int]", "{'result': 9}", {"result": 9}),
        ("dict[str, int]", "{'n': 9}", {"n": 9}),
        ("Any", "{'result': 9}", {"result": 9}),
        ("None", "None", None),
    ],
)
def test_what_the_sdk_wraps_is_unwrapped_and_a_programs_own_result_is_not(
    box: Sandbox, declared: str, returned: str, value: object
) -> None:
    program = "from typing import Any\n" + SDK + "mcp = FastMCP('x')\n@mcp.tool()\n"
    program += f"def ping() -> {declared}:\n    return {returned}\n"
    with box.start(program) as server:
        assert server.call("ping", {}).value == value


def test_the_reference_servers_all_start_and_attempt_nothing(box: Sandbox) -> None:
    folder = Path(__file__).resolve().parents[2] / "data" / "mini" / "servers"
    for path in sorted(folder.glob("*.py")):
        with box.start(path.read_text()) as server:
            assert server.list_tools(), path.name
            assert server.denied == [], path.name
            assert server.protocol_faults == [], path.name


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("", "no_server_object"),
        ("x = 1", "no_server_object"),
        (SDK + "a = FastMCP('a')\nb = FastMCP('b')", "no_server_object"),
        ("def broken(:", "syntax_error"),
        ("const server = new McpServer({name: 'x'});", "syntax_error"),
        ("Here is the server you asked for:", "syntax_error"),
        ("x = 1\0", "syntax_error"),
        ("x = '\ud800'", "syntax_error"),
        ("x = " + "(" * 5000 + ")" * 5000, "syntax_error"),
        ("x = " + "-" * 100_000 + "1", "syntax_error"),
        ("#" + "x" * (50 << 20), "code_too_large"),
        ("import no_such_library", "import_error"),
        ("from mcp.server.fastmcp import NoSuchThing", "import_error"),
        ("1 / 0", "crashed_at_start"),
        ("raise KeyboardInterrupt", "crashed_at_start"),
        ("import sys\nsys.exit(3)", "crashed_at_start"),
        ("import os\nos._exit(3)", "crashed_at_start"),
        ("import ctypes\nctypes.string_at(0)", "crashed_at_start"),
        ("import os\nos.close(1)\nwhile True: pass", "crashed_at_start"),
        ("x = b'x' * (1 << 40)", "memory_limit"),
        (
            "from src.apps import App\nclass A(App):\n"
            "    def _initialize_mcp_server(self):\n        return 3",
            "no_server_object",
        ),
        (
            "from src.apps import App\nclass A(App):\n"
            "    def _initialize_mcp_server(self):\n        return self.missing",
            "crashed_at_start",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_programs_that_do_not_start_have_a_named_fault(
    box: Sandbox, program: str, kind: str
) -> None:
    with pytest.raises(ModelFault) as caught:
        box.start(program)
    assert caught.value.kind == kind
    caught.value.detail.encode()


ANSWERS = """
from mcp.server.fastmcp import FastMCP
from mcp.types import CallToolResult, TextContent, ImageContent
from typing import Any
mcp = FastMCP("x")
@mcp.tool()
def typed_dict() -> dict[str, Any]:
    return {"a": 1}
@mcp.tool()
def typed_list() -> list[int]:
    return [1, 2]
@mcp.tool()
def bare_dict() -> dict:
    return {"b": [1, None]}
@mcp.tool()
def untyped():
    return {"c": 2.5}
@mcp.tool()
def untyped_list():
    return [{"d": 1}, "two", 3]
@mcp.tool()
def words() -> str:
    return "not {json"
@mcp.tool(structured_output=False)
def json_text() -> str:
    return '{"e": true}'
@mcp.tool(structured_output=False)
def nan_text() -> str:
    return '{"f": NaN}'
@mcp.tool()
def nothing() -> None:
    return None
@mcp.tool()
def fails() -> str:
    raise ValueError("no such item")
@mcp.tool()
def picture() -> CallToolResult:
    return CallToolResult(content=[ImageContent(type="image", data="AA==", mimeType="image/png")])
@mcp.tool()
def empty():
    return CallToolResult(content=[])
@mcp.tool()
def echo(value: Any) -> Any:
    return value
"""


def test_answers_are_unwrapped_to_the_value_meant(box: Sandbox) -> None:
    with box.start(ANSWERS) as server:
        values = {
            name: server.call(name, {}).value
            for name in (
                "typed_dict",
                "typed_list",
                "bare_dict",
                "untyped",
                "untyped_list",
                "words",
                "json_text",
                "nan_text",
                "nothing",
                "empty",
            )
        }
        assert values == {
            "typed_dict": {"a": 1},
            "typed_list": [1, 2],
            "bare_dict": {"b": [1, None]},
            "untyped": {"c": 2.5},
            "untyped_list": [{"d": 1}, "two", 3],
            "words": "not {json",
            "json_text": {"e": True},
            "nan_text": '{"f": NaN}',
            "nothing": None,
            "empty": None,
        }
        assert server.call("picture", {}).value[0]["type"] == "image"
        assert server.call("untyped_list", {}).text.splitlines()[-1] == "3"


def test_a_failing_or_unknown_tool_is_an_answer_and_no_fault(box: Sandbox) -> None:
    with box.start(ANSWERS) as server:
        for name, arguments in (("fails", {}), ("no_such_tool", {}), ("echo", {"wrong": 1})):
            assert server.call(name, arguments).is_error
        assert "no such item" in server.call("fails", {}).text
        assert not server.call("typed_dict", {}).is_error
    with box.start(PROGRAMS["package, object only"]) as server:
        assert server.call("no_such_tool", {}).is_error
        assert server.call("ping", {"surplus": 1}).is_error


def test_large_arguments_reach_the_tool_and_come_back(box: Sandbox) -> None:
    with box.start(ANSWERS) as server:
        value = {"text": "é\n" * 100_000, "deep": [[[["x"]]]]}
        assert server.call("echo", {"value": value}).value == value


def test_a_list_in_pages_is_read_to_its_end(box: Sandbox) -> None:
    with box.start(attack("lists", KIND="three_pages")) as server:
        assert [tool.name for tool in server.list_tools()] == ["t0", "t1", "t2"]
        assert [tool["name"] for tool in server.raw_tools] == ["t0", "t1", "t2"]
        assert server.server_info == {"name": "raw", "version": "1"}


def test_prints_are_counted_and_stderr_is_kept(box: Sandbox) -> None:
    program = PROGRAMS["sdk, object only"] + (
        "import sys\nprint('starting')\nprint('to the log', file=sys.stderr)\n"
    )
    with box.start(program) as server:
        assert server.call("ping", {}).value == "pong"
        assert server.protocol_faults == ["no protocol on stdout: starting"]
        assert "to the log" in server.stderr_tail


def test_each_start_has_a_fresh_state_and_the_same_random_numbers(box: Sandbox) -> None:
    program = PACKAGE + (
        "import random\nmcp = FastMCP('x')\ncount = []\n@mcp.tool()\n"
        "def add() -> list[float]:\n    count.append(random.random())\n    return count\n"
    )
    with box.start(program) as server:
        first = server.call("add", {}).value
        assert len(server.call("add", {}).value) == 2
    with box.start(program) as server:
        assert server.call("add", {}).value == first


ATTEMPTS = """
import os, socket, subprocess, ctypes, sqlite3, collections, dataclasses, pathlib, tempfile
from mcp.server.fastmcp import FastMCP
mcp = FastMCP("x")
def quietly(action):
    try:
        return action()
    except Exception:
        return None
@mcp.tool()
def act() -> None:
    quietly(lambda: socket.create_connection(("1.2.3.4", 80), 1))
    quietly(lambda: subprocess.run(["ls", "-l"]))
    quietly(lambda: os.system("id"))
    quietly(lambda: pathlib.Path("/etc/x").write_text("x"))
    quietly(lambda: pathlib.Path("/home/somebody").read_text())
    quietly(lambda: os.remove("/etc/passwd"))
    quietly(lambda: eval("1 + 1"))
    quietly(lambda: sqlite3.connect("/data.db"))
    quietly(lambda: ctypes.CDLL("libc.so.6"))
    quietly(lambda: os.putenv("A", "b"))
@mcp.tool()
def harmless() -> list:
    import json, decimal, zoneinfo, uuid, csv, statistics
    point = collections.namedtuple("Point", "x y")
    dataclasses.make_dataclass("D", ["a"])
    zoneinfo.ZoneInfo("Europe/Paris")
    sqlite3.connect(":memory:").execute("select 1")
    return [point(1, 2).x, str(uuid.UUID(int=3)), json.dumps({})]
"""


def test_what_the_servers_own_code_attempts_is_noted_by_kind(box: Sandbox) -> None:
    with box.start(ATTEMPTS) as server:
        server.call("harmless", {})
        assert server.denied == []
        server.call("act", {})
        server.list_tools()
        assert server.denied == [
            "network: resolve 1.2.3.4",
            "network: connect 1.2.3.4:80",
            "process: subprocess.Popen ls",
            "process: os.system id",
            "files: open /etc/x write",
            "files: open /home/somebody read",
            "files: os.remove /etc/passwd",
            "dynamic_code: compile",
            "dynamic_code: exec",
            "files: sqlite3.connect /data.db",
            "native: ctypes.dlopen libc.so.6",
            "environment: os.putenv A",
        ]


def test_a_closed_session_refuses_further_calls(box: Sandbox) -> None:
    with box.start(ANSWERS) as server:
        pass
    with pytest.raises(HarnessFault, match="session_closed"):
        server.call("words", {})


def test_a_sandbox_outside_of_its_block_says_so(server_python: Path) -> None:
    with pytest.raises(HarnessFault, match="sandbox_closed"):
        Sandbox(server_python).start("")


def call_for_ever(server: ServerSession) -> None:
    """The end of a jail may reach its servers a moment after bwrap's own."""
    while True:
        server.call("words", {})


def test_a_dead_zygote_is_replaced_and_its_servers_are_no_fault_of_the_model(
    server_python: Path,
) -> None:
    with Sandbox(server_python) as sandbox, sandbox.start(ANSWERS) as server:
        assert sandbox._jail is not None
        _, zygote, *_ = descendants(sandbox._jail._process.pid)
        os.kill(zygote, signal.SIGKILL)
        sandbox._jail._keeper.join()
        with pytest.raises(HarnessFault, match="jail_died"):
            call_for_ever(server)
        with sandbox.start(ANSWERS) as second:
            assert second.call("words", {}).text == "not {json"


def test_several_threads_share_a_sandbox(box: Sandbox) -> None:
    def add(number: int) -> int:
        with box.start(attack("innocent")) as server:
            value: int = server.call("add", {"a": number, "b": 1}).value
            return value

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, range(12))) == list(range(1, 13))


def test_two_sandboxes_at_once_do_not_meet(box: Sandbox, hasty_box: Sandbox) -> None:
    with box.start(ANSWERS) as one, hasty_box.start(ANSWERS) as other:
        assert one.call("words", {}) == other.call("words", {})
