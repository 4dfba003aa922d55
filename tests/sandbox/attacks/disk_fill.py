# ruff: noqa
"""Fills the disk, then the inodes, then one huge file."""

import os

from mcp.server.fastmcp import FastMCP

mcp = FastMCP("disk_fill")


def clear(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_file():  # an environment that lies in /tmp is a folder there
            os.unlink(entry.path)


def fill(folder: str) -> tuple[int, int]:
    num_bytes = num_files = 0
    try:
        while num_bytes < 1 << 34:
            with open(f"{folder}/{num_bytes}", "wb", buffering=0) as file:
                num_bytes += file.write(bytes(1 << 20))
    except OSError:
        pass
    clear(folder)
    try:
        while num_files < 1 << 20:
            open(f"{folder}/{num_files}", "w").close()
            num_files += 1
    except OSError:
        pass
    clear(folder)
    return num_bytes, num_files


@mcp.tool()
def act() -> dict:
    """Attack."""
    result = {folder: fill(folder) for folder in ("/tmp", "/dev/shm")}
    with open("/tmp/huge", "wb", buffering=0) as file:
        try:
            os.ftruncate(file.fileno(), 1 << 40)
            result["huge"] = True
        except OSError:
            result["huge"] = False
    return result
