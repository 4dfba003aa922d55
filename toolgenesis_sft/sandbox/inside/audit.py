"""Note what a server's own code attempts: files, processes, network, dynamic code, native code.

A Python audit hook, armed after the libraries are warm. It measures and forbids nothing (the
namespaces and the system-call filter forbid): code that means to hide from it, or that runs outside
of Python, can.

What is attempted is the server's wherever it happens: in its own frames, or in a worker thread, a
task or an answer that a library makes on its behalf. For once they are warm, the libraries that
serve over stdio open, start and connect nothing on their own account, except what an import reads;
that, and what the loader below the server does, is known by its frames. Dynamic code is the one
exception: many libraries compile, so only what the server's own frame compiles is noted.
"""

from __future__ import annotations

import os
import sys
from asyncio.events import Handle
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

SERVER_FILE = "/tmp/server.py"
MAX_NOTES = 16  # of a kind: many of one hide none of another, all fit the relay's 100 reports
MAX_NOTE_LENGTH = 300

KINDS = {
    "socket.connect": "network", "socket.bind": "network", "socket.sendto": "network",
    "socket.sendmsg": "network", "socket.getaddrinfo": "network", "socket.getnameinfo": "network",
    "socket.gethostbyname": "network", "socket.gethostbyaddr": "network",
    "urllib.Request": "network", "http.client.connect": "network", "ftplib.connect": "network",
    "smtplib.connect": "network", "imaplib.open": "network", "poplib.connect": "network",
    "subprocess.Popen": "process", "os.system": "process", "os.exec": "process",
    "os.posix_spawn": "process", "os.fork": "process", "os.forkpty": "process",
    "os.kill": "process", "os.killpg": "process", "pty.spawn": "process",
    "webbrowser.open": "process", "signal.pthread_kill": "process",
    "open": "files", "os.remove": "files", "os.rename": "files", "os.mkdir": "files",
    "os.rmdir": "files", "os.listdir": "files", "os.scandir": "files", "os.chmod": "files",
    "os.chown": "files", "os.link": "files", "os.symlink": "files", "os.truncate": "files",
    "os.utime": "files", "os.chdir": "files", "shutil.rmtree": "files", "shutil.move": "files",
    "shutil.copyfile": "files", "shutil.make_archive": "files", "shutil.unpack_archive": "files",
    "glob.glob": "files", "tempfile.mkstemp": "files", "tempfile.mkdtemp": "files",
    "sqlite3.connect": "files",
    "exec": "dynamic_code", "compile": "dynamic_code",
    "ctypes.dlopen": "native", "ctypes.dlsym": "native",
    "os.putenv": "environment", "os.unsetenv": "environment",
}  # fmt: skip
LIBRARY_AT_WORK = ("<frozen importlib", "/opt/toolgenesis/toolgenesis_sft/")
CALLBACK = Handle._run.__code__  # below it lies whoever started the event loop
HARMLESS_FILES = ("/dev/null", "/dev/urandom", "/dev/random", SERVER_FILE)
SYSTEM_FOLDERS = tuple(
    folder.rstrip("/") + "/" for folder in {sys.prefix, sys.base_prefix, "/usr", "/opt/toolgenesis"}
)

normpath = os.path.normpath  # as it was before the server's code could put another in its place


def arm(note: Callable[[str], None]) -> None:
    """Call `note("kind: what")` once for each distinct thing attempted, at most MAX_NOTES times for
    a kind. The hook cannot be taken off again."""
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS.values()}
    get_frame = sys._getframe

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        kind = KINDS.get(event)
        if kind is None or len(seen[kind]) >= MAX_NOTES or not is_servers(kind, get_frame().f_back):
            return
        what = describe(event, arguments)
        if what is None:
            return
        line = f"{kind}: {what}"[:MAX_NOTE_LENGTH]
        if line not in seen[kind]:
            seen[kind].add(line)
            note(line)

    sys.addaudithook(hook)


def is_servers(kind: str, frame: FrameType | None) -> bool:
    """Whether the server, or a library on its behalf, attempts what happens in this frame."""
    if kind == "dynamic_code":
        return frame is not None and frame.f_code.co_filename == SERVER_FILE
    while frame is not None:
        name = frame.f_code.co_filename
        if name == SERVER_FILE or frame.f_code is CALLBACK:
            return True
        if name.startswith(LIBRARY_AT_WORK) or "/importlib/" in name:
            return False
        frame = frame.f_back
    return True  # the foot of a worker thread


def describe(event: str, arguments: tuple[Any, ...]) -> str | None:
    """One line for an audit event, or None where it is harmless."""
    if event == "open":
        return _describe_open(arguments)
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        return f"{event.removeprefix('socket.')} {_address(arguments[1])}"
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return f"resolve {_text(arguments[0])}"
    if event == "exec":
        return "exec" if isinstance(arguments[0], CodeType) else None
    if event == "compile":
        return "compile"
    if event == "sqlite3.connect" and arguments[0] in (":memory:", b":memory:"):
        return None
    return f"{event} {_text(arguments[0])}".strip() if arguments else event


def _describe_open(arguments: tuple[Any, ...]) -> str | None:
    path, _, flags = arguments
    if isinstance(path, int):
        return None
    name = normpath(_text(path))
    name = f"/{name.lstrip('/')}" if name.startswith("/") else name
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
    if name in HARMLESS_FILES or (not writes and name.startswith(SYSTEM_FOLDERS)):
        return None
    return f"open {name} {'write' if writes else 'read'}"


def _address(address: Any) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        return f"{_text(address[0])}:{address[1]}"
    return _text(address)


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, (list, tuple)):
        return " ".join(_text(item) for item in value[:8])
    return "" if value is None else str(value)
