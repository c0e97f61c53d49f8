"""Faults of the disk at every single call: full, broken, or the process killed just before it.

A kill leaves what was written: losing what was not yet synced, as a cut of power does, is not
tried.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from .findings import Finding
from .syscalls import Call, OnCall
from .works import Stage


@dataclass(frozen=True)
class Fault:
    """What happens at a call: an error, or without one the end of the process."""

    name: str
    error: int = 0
    lasting: bool = False  # whether all further calls fail too

    def hits(self, call: Call) -> bool:
        """Whether a call can meet it: cutting and removing need no room."""
        return self.error != errno.ENOSPC or not call.name.startswith(("ftruncate", "unlink"))

    def at(self, place: int) -> OnCall:
        """The fault at the call of that place."""

        def on_call(call: Call) -> int:
            if call.place < place or (call.place > place and not self.lasting):
                return 0
            if not self.error:
                os.kill(call.pid, signal.SIGKILL)
            return self.error if self.hits(call) else 0

        return on_call


FAULTS = (
    Fault("disk full at one call", errno.ENOSPC),
    Fault("disk full from one call on", errno.ENOSPC, lasting=True),
    Fault("I/O error at one call", errno.EIO),
    Fault("I/O errors from one call on", errno.EIO, lasting=True),
    Fault("SIGKILL before one call"),
)


def disk_faults(stage: Stage, every: int) -> Iterator[Finding]:
    """Each fault at every so manieth call; in a bench, the process is a worker for most calls."""
    for fault in FAULTS[-1:] if stage.work.name == "bench" else FAULTS:
        for call in stage.calls[::every]:
            if fault.hits(call):
                yield stage.tried(fault.name, call, fault.at(call.place))
