"""Processes as tests look at them from outside."""

from __future__ import annotations

import subprocess
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> list[int]:
    """The processes below another one."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()[1:]]
    found = [pid]
    for above in found:
        found += [child for child, parent in parents if parent == above]
    return found[1:]
