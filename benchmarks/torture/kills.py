"""Signals at random moments: a work is ended, and another goes on, until one comes to its end.

Then it must have made what an undisturbed one makes. So on, from the beginning, until there were as
many signals as asked for. Commits follow each other fast, so that many signals fall into one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

from .findings import Finding
from .scene import Ended
from .works import Stage

ENDING = (SIGINT, SIGTERM, SIGHUP)
SOONEST = 0.1  # seconds until a process has said what is to be done about the others


def kills(stage: Stage, count: int, seed: int) -> Iterator[Finding]:
    """So many SIGKILLs."""
    yield from _signals(stage, "SIGKILL at a random moment", (SIGKILL,), count, seed)


def requests(stage: Stage, count: int, seed: int) -> Iterator[Finding]:
    """So many signals that ask a process to end."""
    yield from _signals(stage, "SIGINT, SIGTERM, SIGHUP at a random moment", ENDING, count, seed)


def _signals(
    stage: Stage, fault: str, numbers: Sequence[Signals], count: int, seed: int
) -> Iterator[Finding]:
    name, rng, done = f"{stage.work.name}: {fault}", random.Random(seed), 0
    stage.restore()
    began = time.monotonic()
    stage.run()
    span = time.monotonic() - began
    while done < count:
        stage.restore()
        chain = [stage.run(ending=_some_end(rng, span, numbers))]
        while chain[-1].code and done + len(chain) < count:
            chain.append(stage.run(ending=_some_end(rng, span, numbers)))
        ended = [each for each in chain if each.code]
        done += len(ended)
        last = stage.run()
        differs = "" if stage.found() == stage.wanted else f"by signal {done} it differs; {last}"
        yield from (Finding(name, "ended, then equal", _unasked(each) or differs) for each in ended)


def _some_end(rng: random.Random, span: float, numbers: Sequence[Signals]) -> tuple[float, Signals]:
    return max(SOONEST, rng.uniform(0, span)), rng.choice(numbers)


def _unasked(ended: Ended) -> str:
    """What a signal did not ask for."""
    if ended.code == -SIGKILL or (
        ended.code - 128 in ENDING and ended.said.count("stopped by") == 1
    ):
        return ""
    return str(ended)
