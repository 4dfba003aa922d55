"""Signals to a training: a request to save and stop, and no rank that outlives its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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

    A parent that is gone already can no longer tell: then this process ends here.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
