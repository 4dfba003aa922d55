"""Bytes between a server and the protocol client: under a cap, with a deadline, in flat memory.

One loop moves everything: what we send, lines from stdout, the tail of stderr, the loader's
reports, and the end of the process. A deadline is a point in time, so a server that drips a byte a
second wins nothing by it.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.sandbox.jail import Process

CHUNK = 1 << 16
TAIL_BYTES = 1 << 13
MAX_REPORTS = 100


class TimeIsUp(Exception):
    """The deadline has passed."""


class Ended(Exception):
    """The server has ended, or has closed its stdout."""


class Relay:
    """The harness's side of a server's pipes. `reports` holds (kind, detail) of the loader."""

    def __init__(self, process: Process, max_message_bytes: int) -> None:
        self._process, self._max = process, max_message_bytes
        self._outgoing, self._incoming, self._tail = bytearray(), bytearray(), bytearray()
        self._searched = 0
        self._ended = False
        self.reports: list[tuple[str, str]] = []
        self._poll = select.poll()
        for fd in (process.stdout, process.stderr, process.report.fileno(), process.pidfd):
            self._poll.register(fd, select.POLLIN)

    @property
    def stderr_tail(self) -> str:
        """The last 8 KiB that the server wrote to stderr."""
        return self._tail.decode("utf-8", "replace")

    def send(self, line: bytes) -> None:
        """Queue a line; it leaves while lines are awaited."""
        if not self._outgoing:
            self._poll.register(self._process.stdin, select.POLLOUT)
        self._outgoing += line

    def receive(self, deadline: float) -> bytes:
        """The next line without its newline; `deadline` is in seconds of `time.monotonic`.

        Raises TimeIsUp, Ended, or ModelFault where the line is longer than the cap.
        """
        while (line := self.take()) is None:
            if self._ended:
                raise Ended
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeIsUp
            self._pump(left_s)
        return line

    def take(self) -> bytes | None:
        """A line that has already come, or None."""
        end = self._incoming.find(b"\n", self._searched)
        if end > self._max or (end < 0 and len(self._incoming) > self._max):
            raise ModelFault("answer_too_large", f"a message of more than {self._max} bytes")
        self._searched = 0 if end >= 0 else len(self._incoming)
        if end < 0:
            return None
        line = bytes(self._incoming[:end])
        del self._incoming[: end + 1]
        return line

    def settle(self) -> None:
        """Take in what the server has written up to now, without waiting."""
        self._pump(0.0)

    def _pump(self, wait_s: float) -> None:
        """Wait until something can move, and move it once."""
        ready = dict(self._poll.poll(wait_s * 1000))
        process = self._process
        if process.pidfd in ready:
            self._ended = True  # what it wrote before is still in the pipes: one pipe's worth
        if process.stdin in ready:
            self._write()
        if process.report.fileno() in ready:
            self._read_reports()
        if process.stderr in ready and not self._read(process.stderr, self._tail):
            self._poll.unregister(process.stderr)
        del self._tail[:-TAIL_BYTES]
        if process.stdout in ready:
            more = self._read(process.stdout, self._incoming)
            while more and self._ended and len(self._incoming) <= self._max:
                more = self._read(process.stdout, self._incoming)
            self._ended = self._ended or not more

    def _write(self) -> None:
        try:
            written = os.write(self._process.stdin, self._outgoing[:CHUNK])
            del self._outgoing[:written]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outgoing.clear()  # it does not listen: the answer's deadline will tell
        if not self._outgoing:
            self._poll.unregister(self._process.stdin)

    def _read(self, fd: int, into: bytearray) -> bool:
        """Whether more may come."""
        try:
            part = os.read(fd, CHUNK)
        except BlockingIOError:
            return not self._ended
        into += part
        return bool(part)

    def _read_reports(self) -> None:
        for _ in range(MAX_REPORTS):
            try:
                message = self._process.report.recv(1 << 14)
            except BlockingIOError:
                return
            if not message:
                self._poll.unregister(self._process.report.fileno())
                return
            report = _report(message)
            if report is not None and len(self.reports) < MAX_REPORTS:
                self.reports.append(report)


def _report(message: bytes) -> tuple[str, str] | None:
    """(kind, detail), or None where the server itself wrote something else there."""
    try:
        said: Any = json.loads(message)
        return str(said["kind"])[:40], str(said["detail"])[:1000]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
