"""Reaches files, processes and the network without a frame of its own at work: in threads, in
tasks, in callbacks and in the answer that the SDK makes."""

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.fastmcp.resources import FileResource

mcp = FastMCP("elsewhere")
mcp.add_resource(FileResource(uri="a://file", name="file", path=Path("/nowhere/resource")))


async def quietly(attempt) -> None:
    with contextlib.suppress(OSError, ValueError):
        await attempt


@mcp.tool()
async def threads() -> None:
    await quietly(asyncio.to_thread(open, "/nowhere/asyncio"))
    await quietly(anyio.to_thread.run_sync(os.listdir, "/nowhere/anyio"))
    with ThreadPoolExecutor() as pool:
        pool.submit(os.remove, "/nowhere/pool")
    thread = threading.Thread(target=os.mkdir, args=("/nowhere/thread",))
    thread.start()
    thread.join()


@mcp.tool()
async def paths() -> None:
    await quietly(anyio.Path("/nowhere/path").read_text())
    await quietly(anyio.open_file("/nowhere/open_file", "w"))


@mcp.tool()
async def tasks() -> None:
    loop = asyncio.get_running_loop()
    await quietly(anyio.connect_tcp("example.com", 80))
    await quietly(anyio.connect_tcp("1.2.3.4", 80))
    await quietly(loop.getaddrinfo("example.org", 80))
    await quietly(loop.create_connection(asyncio.Protocol, "1.2.3.5", 80))
    await quietly(anyio.run_process(["/nowhere/program"]))
    loop.call_soon(os.remove, "/nowhere/soon")
    await asyncio.sleep(0)


@mcp.tool()
def image() -> Image:
    return Image(path="/nowhere/image.png")


@mcp.tool()
async def resource(ctx: Context) -> None:
    await quietly(ctx.read_resource("a://file"))


if __name__ == "__main__":
    mcp.run()
