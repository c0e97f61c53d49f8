"""Devices that run models: NVIDIA GPUs that are visible, or shares of the cores.

What there is is read from `nvidia-smi` and the kernel; no library that could take memory of a GPU
is imported.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hcache.errors import ConfigError
from hcache.processes.children import own_cores

MIB = 1 << 20
GPU_SHARE = 0.92  # of a GPU's memory at most: what vLLM and CUDA need besides is in the rest
PROCESS = 1024 * MIB  # of a worker on a CPU before a model is loaded: Python, torch and vLLM
FIELDS = "index,uuid,memory.total,memory.free"
QUERY = ("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
CONTROL_GROUP = Path("/sys/fs/cgroup")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Device:
    """A GPU, or a share of the cores."""

    number: int  # among those that are used
    name: str  # of a GPU as CUDA_VISIBLE_DEVICES has it
    memory: int  # bytes in all, of which engines are given shares
    free: int  # bytes that engines may take
    cores: tuple[int, ...] = ()  # none: it is a GPU
    node: str = ""  # of a cluster, by its id; models are not split over several


def has_gpu() -> bool:
    """True if an NVIDIA device is there, without importing torch."""
    return Path("/proc/driver/nvidia/version").exists()


def find_gpus(asked: int | None) -> tuple[Device, ...]:
    """All GPUs that are visible, or as many as are asked for.

    Raises:
        ConfigError: fewer than asked for.
    """
    gpus = visible_gpus(nvidia_smi(), os.environ.get(VISIBLE))
    if asked is not None and asked > len(gpus):
        raise ConfigError(
            f"sampling.workers: {asked} workers, a GPU each; {len(gpus)} can be seen.",
            f"Ask for {len(gpus)}, or make more visible (`nvidia-smi`, {VISIBLE})."
            if gpus
            else "Make one visible (`nvidia-smi` lists them), or leave the setting out.",
        )
    return gpus[:asked]


def nvidia_smi() -> str:
    """The GPUs of this machine, a line each; nothing where it cannot be asked."""
    try:
        return subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):  # it is not installed, or has nothing to say
        return ""


def visible_gpus(listed: str, visible: str | None) -> tuple[Device, ...]:
    """The GPUs of `nvidia-smi`'s list that CUDA_VISIBLE_DEVICES lets be seen, in its order.

    As CUDA has it, what stands behind a name that fits no GPU is not seen either.
    """
    lines = filter(str.strip, listed.splitlines())
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    seen = rows if visible is None else _seen(rows, visible)
    return tuple(
        _gpu(number, index, int(total) * MIB, int(free) * MIB)
        for number, (index, _, total, free) in enumerate(seen)
    )


def _seen(rows: list[list[str]], visible: str) -> list[list[str]]:
    seen: list[list[str]] = []
    for name in map(str.strip, visible.split(",")):
        found = [row for row in rows if _is_called(name, *row[:2])]
        if len(found) != 1 or found[0] in seen:
            break
        seen += found
    return seen


def _is_called(name: str, index: str, uuid: str) -> bool:
    return name == index or (name.startswith("GPU-") and uuid.startswith(name))


def _gpu(number: int, index: str, memory: int, free: int) -> Device:
    return Device(number, index, memory, min(free, int(GPU_SHARE * memory)))


def core_shares(workers: int, free: int) -> tuple[Device, ...]:
    """The cores in as many parts as there are workers, and with each its part of free memory.

    Neighbours stay together; where there are more workers than cores, they share them.
    """
    cores = own_cores()
    parts = [_part(cores, number, workers) for number in range(workers)]
    memory = free // workers
    usable = max(0, memory - PROCESS)
    return tuple(
        Device(number, _span(part), memory, usable, part) for number, part in enumerate(parts)
    )


def default_shares() -> int:
    """Number of workers where none is asked for: half the cores."""
    return max(1, len(own_cores()) // 2)


def _part(cores: Sequence[int], number: int, workers: int) -> tuple[int, ...]:
    first, last = (len(cores) * place // workers for place in (number, number + 1))
    return tuple(cores[first:last]) or (cores[number % len(cores)],)


def _span(cores: Sequence[int]) -> str:
    return f"{cores[0]}" if len(cores) == 1 else f"{cores[0]}-{cores[-1]}"


def free_memory() -> int:
    """Bytes of memory that this process could take, by the kernel and by its control group."""
    return min([_available(), *_left_of_group()])


def _available() -> int:
    """Bytes that the kernel could give; all that there is, where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # it is not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _left_of_group() -> list[int]:
    try:
        most = (CONTROL_GROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = int((CONTROL_GROUP / "memory.current").read_text(encoding="utf-8"))
        return [] if most == "max" else [max(0, int(most) - used)]
    except (OSError, ValueError):  # no control groups, or of the first kind
        return []
