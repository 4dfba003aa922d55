"""The relay keeps the deadline and the cap, whatever comes down the pipe."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.sandbox.jail import Process
from toolgenesis_sft.sandbox.relay import Ended, Relay, TimeIsUp

CAP = 1000


@dataclass
class Far:
    """The server's ends of the pipes."""

    stdin: int
    stdout: int
    stderr: int
    report: socket.socket


@pytest.fixture
def ends() -> Iterator[tuple[Relay, Far]]:
    pipes = [os.pipe() for _ in range(3)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    process = Process(pipes[0][1], pipes[1][0], pipes[2][0], ours)
    for fd in (process.stdin, process.stdout, process.stderr):
        os.set_blocking(fd, False)
    process.pidfd = os.pidfd_open(os.getpid())
    yield Relay(process, CAP), Far(pipes[0][0], pipes[1][1], pipes[2][1], theirs)
    process.close()
    theirs.close()
    for fd in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(fd)


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def test_lines_come_one_by_one_however_they_are_cut(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    os.write(far.stdout, b"one\ntw")
    assert relay.receive(soon()) == b"one"
    os.write(far.stdout, b"o\n\nthree\n")
    assert [relay.receive(soon()) for _ in range(3)] == [b"two", b"", b"three"]


def test_a_drip_does_not_move_the_deadline(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            os.write(far.stdout, b".")

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeIsUp):
        relay.receive(soon(0.3))
    stop.set()
    thread.join()


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_beyond_the_cap_is_the_servers_fault(ends: tuple[Relay, Far], end: bytes) -> None:
    relay, far = ends
    os.write(far.stdout, b"x" * (CAP + 1) + end)
    with pytest.raises(ModelFault, match="answer_too_large"):
        relay.receive(soon())


def test_a_line_at_the_cap_is_taken(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    os.write(far.stdout, b"x" * CAP + b"\n")
    assert relay.receive(soon()) == b"x" * CAP


def test_what_was_written_before_the_end_still_arrives(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    os.write(far.stdout, b"last words\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, far.stdout)
    os.close(null)
    assert relay.receive(soon()) == b"last words"
    with pytest.raises(Ended):
        relay.receive(soon())


def test_a_long_message_leaves_while_the_other_side_reads(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    got = bytearray()

    def read() -> None:
        while not got.endswith(b"\n"):
            got.extend(os.read(far.stdin, 1 << 16))
        os.write(far.stdout, b"thanks\n")

    thread = threading.Thread(target=read)
    thread.start()
    relay.send(b"x" * (1 << 20) + b"\n")
    assert relay.receive(soon()) == b"thanks"
    thread.join()
    assert len(got) == (1 << 20) + 1


def test_only_the_tail_of_stderr_is_kept(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    for number in range(20):
        os.write(far.stderr, b"%04d" % number * 1000)
        relay.settle()
    assert len(relay.stderr_tail) == 1 << 13
    assert relay.stderr_tail.endswith("0019")


def test_reports_are_kept_up_to_a_number_and_junk_is_dropped(ends: tuple[Relay, Far]) -> None:
    relay, far = ends
    far.report.send(b'{"kind": "denied", "detail": "network: connect"}')
    for junk in (b"x", b"[]", b"3", b"\xff", b'{"kind": 1}', b"[" * 5000):
        far.report.send(junk)
    relay.settle()
    assert relay.reports == [("denied", "network: connect")]
    for _ in range(5):
        for number in range(100):
            far.report.send(b'{"kind": "denied", "detail": "%d"}' % number)
        relay.settle()
    assert len(relay.reports) == 100
