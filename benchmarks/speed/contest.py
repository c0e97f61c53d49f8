"""Contestants that take turns, and what they come to for each second of processor time."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

Figures = dict[str, Any]
Action = Callable[[], float]
"""Does some work; how much it was."""


def contest(part: str, unit: str, actions: Mapping[str, Action], rounds: int) -> list[Figures]:
    """Rates of each contestant in units per second of processor time, one a round.

    The first is hcache's: `times` is how many times as fast it is as the others in each round.
    """
    torch.set_num_threads(1)  # TorchRL's ParallelEnv sets more
    names = [*actions]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for action in actions.values():
        action()  # to warm up
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            rates[name].append(rate(actions[name]))
    ours = rates[names[0]]
    return [
        {
            "part": part,
            "name": name,
            "unit": unit,
            "rates": rates[name],
            "times": [one / other for one, other in zip(ours, rates[name], strict=True)],
        }
        for name in names
    ]


def rate(action: Action) -> float:
    """Units per second of processor time in one call."""
    spent = -processor_time()
    done = action()
    spent += processor_time()
    return done / spent


def processor_time() -> float:
    """Seconds that this process and the workers that it has now have computed."""
    workers = (worker.pid for worker in multiprocessing.active_children())
    return time.process_time() + sum(map(_seconds_of, filter(None, workers)))


def _seconds_of(pid: int) -> float:
    with suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def in_a_process(module: str, *arguments: object) -> Figures:
    """The figures that a module of this package prints as JSON when it is run."""
    command = [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{shown(middle)} ({shown(low)} to {shown(high)})"


def shown(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
