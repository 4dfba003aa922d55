"""What is noted as the server's attempt, and what is not: in real jails."""

from __future__ import annotations

import pytest

from toolgenesis_sft.sandbox.inside import audit
from toolgenesis_sft.sandbox.session import Sandbox

from .conftest import attack


@pytest.mark.parametrize(
    ("tool", "noted"),
    [
        (
            "threads",
            [
                "files: open /nowhere/asyncio read",
                "files: os.listdir /nowhere/anyio",
                "files: os.remove /nowhere/pool",
                "files: os.mkdir /nowhere/thread",
            ],
        ),
        ("paths", ["files: open /nowhere/path read", "files: open /nowhere/open_file write"]),
        (
            "tasks",
            [
                "network: resolve example.com",
                "network: connect 1.2.3.4:80",
                "network: resolve example.org",
                "network: connect 1.2.3.5:80",
                "process: subprocess.Popen /nowhere/program",
                "files: os.remove /nowhere/soon",
            ],
        ),
        ("image", ["files: open /nowhere/image.png read"]),
        ("resource", ["files: open /nowhere/resource read"]),
    ],
)
def test_what_a_library_does_on_the_servers_behalf_is_the_servers(
    box: Sandbox, tool: str, noted: list[str]
) -> None:
    with box.start(attack("elsewhere")) as server:
        server.call(tool, {})
        server.list_tools()
        assert server.denied == noted


PATHS = """
import contextlib, os
from mcp.server.fastmcp import FastMCP
mcp = FastMCP("x")
for path in ("/usr/../nowhere/a", "//nowhere//b/./", b"/usr/lib/../../nowhere/c", os.__file__,
             os.path.dirname(os.__file__) + "/../x", "/dev/../dev/null", "/usr//lib/nothing"):
    with contextlib.suppress(OSError):
        open(path)
os.path.normpath = lambda path: "/usr/x"
with contextlib.suppress(OSError):
    open("/usr/../nowhere/d")
mcp.run()
"""


def test_a_path_counts_for_where_it_leads(box: Sandbox) -> None:
    with box.start(PATHS) as server:
        assert server.denied == [f"files: open /nowhere/{name} read" for name in "abcd"]


FLOOD = """
import contextlib, socket
from mcp.server.fastmcp import FastMCP
mcp = FastMCP("x")
for number in range(500):
    with contextlib.suppress(OSError):
        open(f"/nowhere/{number}")
with contextlib.suppress(OSError):
    socket.create_connection(("1.2.3.4", 80), 1)
mcp.run()
"""


def test_many_attempts_of_one_kind_hide_none_of_another(box: Sandbox) -> None:
    with box.start(FLOOD) as server:
        *files, _, connect = server.denied
        assert files == [f"files: open /nowhere/{n} read" for n in range(audit.MAX_NOTES)]
        assert connect == "network: connect 1.2.3.4:80"


# What honest servers do with their libraries, as much of it as fits.
HONEST = {
    "mcp": """
import asyncio, concurrent.futures, contextlib, datetime, json, logging, sqlite3, threading
import traceback, uuid, zoneinfo
import anyio
from pydantic import BaseModel, EmailStr
from mcp.server.fastmcp import Context, FastMCP, Image
logging.basicConfig(level=logging.DEBUG)
@contextlib.asynccontextmanager
async def lifespan(server):
    async with anyio.create_task_group():
        yield sqlite3.connect(":memory:", check_same_thread=False)
mcp = FastMCP("x", lifespan=lifespan, debug=True, log_level="DEBUG")
class Person(BaseModel):
    name: str
    mail: EmailStr | None = None
@mcp.resource("a://{x}")
def resource(x: str) -> str:
    return x
@mcp.prompt()
def prompt(x: str) -> str:
    return x
@mcp.tool()
async def talk(ctx: Context) -> Person:
    await ctx.info("x")
    await ctx.report_progress(1, 2)
    await ctx.read_resource("a://b")
    await ctx.session.send_tool_list_changed()
    ctx.request_context.lifespan_context.execute("select 1")
    return Person(name="x")
@mcp.tool()
async def work() -> list[str]:
    await asyncio.to_thread(json.dumps, {})
    await anyio.to_thread.run_sync(datetime.datetime.now, zoneinfo.ZoneInfo("Asia/Tokyo"))
    await asyncio.get_running_loop().run_in_executor(None, sorted, [2, 1])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(str, [1, 2]))
    thread = threading.Thread(target=lambda: __import__("colorsys"))
    thread.start()
    thread.join()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
    return [str(uuid.uuid4())]
@mcp.tool()
def image() -> Image:
    return Image(data=b"x", format="png")
@mcp.tool()
def fail() -> int:
    try:
        return 1 // 0
    except ZeroDivisionError:
        traceback.print_exc()
        logging.exception("no")
        raise
mcp.run()
""",
    "fastmcp": """
import asyncio
import bs4, jinja2, markdown, networkx, sympy, yaml
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.middleware.error_handling import ErrorHandlingMiddleware
from fastmcp.server.middleware.timing import TimingMiddleware
from fastmcp.utilities.logging import get_logger
from fastmcp.utilities.types import Audio, File, Image
mcp = FastMCP("x", middleware=[TimingMiddleware(), ErrorHandlingMiddleware()])
part = FastMCP("part")
mcp.mount(part, namespace="part")
@part.tool
def inner() -> int:
    return 1
@mcp.resource("a://b")
def resource() -> str:
    return "x"
@mcp.tool
async def talk(ctx: Context) -> dict[str, int]:
    await ctx.info("x")
    await ctx.set_state("a", 1)
    await ctx.read_resource("a://b")
    get_logger("x").warning("x")
    return {"a": 1}
@mcp.tool
def libraries() -> str:
    sympy.latex(sympy.integrate(sympy.Symbol("x")))
    sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x"))(1)
    networkx.shortest_path(networkx.path_graph(4), 0, 3)
    markdown.markdown("# x", extensions=["tables", "fenced_code"])
    bs4.BeautifulSoup("<a>", "html.parser")
    return jinja2.Template("{{ a }}").render(a=yaml.safe_load("a: 1"))
@mcp.tool
def contents():
    return [Image(data=b"x"), Audio(data=b"x"), File(data=b"x", name="x.txt")]
@mcp.tool
def refuse() -> int:
    raise ToolError("x")
@mcp.tool
def fail() -> int:
    raise RuntimeError("x")
asyncio.run(mcp.run_async(transport="http", port=9000))
""",
}


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST.keys())
def test_libraries_at_work_for_an_honest_server_attempt_nothing(box: Sandbox, program: str) -> None:
    with box.start(program) as server:
        failed = {tool.name for tool in server.list_tools() if server.call(tool.name, {}).is_error}
        assert failed <= {"fail", "refuse"}
        assert server.denied == []
