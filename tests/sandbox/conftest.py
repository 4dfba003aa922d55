"""Real jails, shared by the tests of a worker, and a watch over the host."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolgenesis_sft import config
from toolgenesis_sft.sandbox.jail import Limits
from toolgenesis_sft.sandbox.session import Sandbox

ATTACKS = Path(__file__).parent / "attacks"
CANARY_TEXT = "canary-3f9a1c"
LIMITS = Limits(
    memory_mib=256,
    num_processes=32,
    file_mib=8,
    tmp_mib=16,
    max_message_bytes=1 << 20,
    max_noise_bytes=4 << 20,
)
HASTY = Limits(initialize_s=1.5, list_s=1.0, call_s=1.0, memory_mib=256, num_processes=32)


@pytest.fixture(scope="session")
def server_python() -> Path:
    return config.server_python(None)


@pytest.fixture(scope="session")
def jailed(server_python: Path) -> Iterator[Sandbox]:
    os.environ["TOOLGENESIS_CANARY"] = CANARY_TEXT
    with Sandbox(server_python, LIMITS) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def jailed_in_haste(server_python: Path) -> Iterator[Sandbox]:
    with Sandbox(server_python, HASTY) as sandbox:
        yield sandbox


@pytest.fixture
def box(jailed: Sandbox) -> Iterator[Sandbox]:
    """A sandbox that must be as good as new after the test: no process left, servers start."""
    yield jailed
    as_good_as_new(jailed)


@pytest.fixture
def hasty_box(jailed_in_haste: Sandbox) -> Iterator[Sandbox]:
    """The same with a second or so for each phase."""
    yield jailed_in_haste
    as_good_as_new(jailed_in_haste)


def as_good_as_new(sandbox: Sandbox) -> None:
    assert sandbox._jail is not None
    bwrap = sandbox._jail._process.pid
    left = descendants(bwrap)
    assert len(left) == 2, f"bwrap's first process and the zygote, not {left}"
    with sandbox.start(attack("innocent")) as server:
        assert server.call("add", {"a": 2, "b": 3}).value == 5
        assert server.protocol_faults == []
        assert server.denied == []


def attack(name: str, **values: object) -> str:
    """The program of attacks/NAME.py, with values put before it, and the protocol by hand where
    it needs that."""
    text = (ATTACKS / f"{name}.py").read_text()
    if "serve(" in text:
        text = (ATTACKS / "raw_protocol.py").read_text() + text
    return "".join(f"{key} = {value!r}\n" for key, value in values.items()) + text


def descendants(pid: int) -> list[int]:
    """Processes below this one, as the host sees them."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(folder.name))
    found, front = [], [pid]
    while front:
        front = [child for parent in front for child in parents.get(parent, [])]
        found += front
    return found


@dataclass(frozen=True)
class Canary:
    """What no server may touch: a file, and sockets that remember who knocks."""

    file: Path
    port: int
    abstract: str


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """Fails the test where a server reached one of them."""
    file = tmp_path / f"{CANARY_TEXT}.txt"
    file.write_text(CANARY_TEXT)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        name = f"{CANARY_TEXT}-{port}"
        abstract.bind("\0" + name)
        abstract.listen()
        yield Canary(file, port, name)
        for sock in (tcp, udp, abstract):
            sock.setblocking(False)
        for knock in (tcp.accept, lambda: udp.recv(1), abstract.accept):
            with pytest.raises(BlockingIOError):
                knock()
    assert file.read_text() == CANARY_TEXT
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
