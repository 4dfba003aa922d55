"""No child process outlives its parent, whatever ended that: kill -9 too."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with(parent: int) -> None:
    """Called in a child: the kernel kills it when its parent, which had this pid, ends. One that
    has ended already can no longer tell, so then the child ends here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
