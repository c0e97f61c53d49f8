"""Child processes: the cores there are for them, and an end with their parent at the latest.

No child outlives its parent, however that ends: Linux kills it, and elsewhere, or where the parent
has ended before Linux was asked to, a thread of the child sees the end of a pipe. This module is
light, since a child reads it first.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from threading import Thread

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables from which libraries take the number of their threads when they are loaded."""

PR_SET_PDEATHSIG = 1  # of prctl(2)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(own_cores())


def own_cores() -> list[int]:
    """The cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def end_with_parent() -> None:
    """Have this process killed when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
