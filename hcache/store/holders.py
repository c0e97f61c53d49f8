"""Holders of files: processes in words, for errors that say who has one open.

Only Linux tells; elsewhere, and for a process of another container, nothing is known.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

LONGEST = 120  # characters of a command
UNKNOWN = "another process"


def process_named(pid: int) -> str:
    """A process by its id, and by the command that started it where that can be read."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return f"process {pid}"
    words = " ".join(command.replace("\0", " ").split())
    if not words:
        return f"process {pid}"
    return f"process {pid} ({words if len(words) <= LONGEST else f'{words[:LONGEST]} …'})"


def holder_of(file: IO[bytes]) -> str:
    """The process that holds the `flock` of an open file, in words."""
    inode = os.fstat(file.fileno()).st_ino
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return UNKNOWN
    for _, kind, _, _, pid, place, *_ in (lock for lock in locks if lock[1] != "->"):
        if kind == "FLOCK" and place.rpartition(":")[2] == str(inode) and int(pid) > 0:
            return process_named(int(pid))
    return UNKNOWN
