"""Signals to a training: a request to save and stop, and no rank that outlives its launcher."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from toolgenesis_sft.orphans import end_with

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
PARENT_VARIABLE = "TOOLGENESIS_PARENT"


class StopRequest:
    """Set by USR1 or TERM. The loop adds the ranks' flags up, so that all of them stop together."""

    def __init__(self) -> None:
        self.requested = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, kill -9 of the parent included.

    A parent that died before this call can no longer tell: where the environment names another
    than there is now, this process ends here. Its own children are told its number.
    """
    end_with(int(os.environ.get(PARENT_VARIABLE, os.getppid())))
    os.environ |= parent_of_children()


def parent_of_children() -> dict[str, str]:
    """What a process puts into the environment of children that are to end with it."""
    return {PARENT_VARIABLE: str(os.getpid())}


def end_rank(exit_code: int) -> NoReturn:
    """End a rank that has left its process group, without the interpreter's own clean-up: native
    threads that are still there would abort it (-6) now and then, after all work is done."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
