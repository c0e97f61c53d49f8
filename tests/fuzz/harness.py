"""The loop: cases from a seed, and findings where one ends in anything but an `HcacheError`."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import NoReturn

from polars.exceptions import PanicException

from hcache.errors import HcacheError

CASE_SECONDS = 5.0  # a case that takes longer on the CPU is a finding
SHOWN = 1_500  # characters of an input that are printed

Case = tuple[str, Callable[[], object]]
"""The input as a text for people, and what is done with it."""
Target = Callable[[Path], Callable[[Random], Case]]
"""Prepares a folder; what it returns makes one case from a source of chance."""


class TooSlow(BaseException):
    """A case took more than `CASE_SECONDS` of the CPU; no code that is tried catches it."""


@dataclass
class Finding:
    """One place where something else than an `HcacheError` came from."""

    place: str  # type of the exception, and the innermost line of the package
    number: int  # of the first case that showed it
    shown: str
    trace: str
    count: int = 1


@dataclass
class Outcome:
    """What the cases of one target and seed came to."""

    target: str
    seed: int
    cases: int = 0
    refused: int = 0  # by an HcacheError, which is as it should be
    findings: dict[str, Finding] = field(default_factory=dict)

    def __str__(self) -> str:
        total = sum(finding.count for finding in self.findings.values())
        lines = [
            f"{self.target}, seed {self.seed}: {self.cases:,} cases, {self.refused:,} refused, "
            f"{total:,} findings of {len(self.findings)} kinds"
        ]
        for finding in self.findings.values():
            again = f"--seed {self.seed} --case {finding.number}"
            lines.append(f"\n{finding.place}, {finding.count} times; again with {again}")
            lines.append(finding.trace + finding.shown)
        return "\n".join(lines)


def fuzz(
    name: str,
    target: Target,
    folder: Path,
    seed: int,
    *,
    seconds: float | None = None,
    cases: int | None = None,
    only: int | None = None,
) -> Outcome:
    """Run a target for some CPU seconds, or some cases, or the one of that number."""
    outcome = Outcome(name, seed)
    with _inside(folder):
        make = target(folder)
        end = None if seconds is None else time.process_time() + seconds
        number = 0 if only is None else only
        while cases is None or outcome.cases < cases:
            if end is not None and time.process_time() > end:
                break
            _try(outcome, number, make(Random(f"{name} {seed} {number}")))
            number += 1
            if only is not None:
                break
    return outcome


def _try(outcome: Outcome, number: int, case: Case) -> None:
    shown, run = case
    outcome.cases += 1
    try:
        with _at_most(CASE_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except HcacheError as error:
        outcome.refused += 1
        str(error).encode("utf-8", "backslashreplace")
    except (Exception, TooSlow, PanicException) as error:  # any other is a finding
        place = _place(error)
        if place in outcome.findings:
            outcome.findings[place].count += 1
            return
        trace = "".join(traceback.format_exception(error, limit=-6))
        outcome.findings[place] = Finding(place, number, shown[:SHOWN], trace[-SHOWN:])


def _place(error: BaseException) -> str:
    """Type of an exception, and the innermost line of the package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}hcache{os.sep}" in frame.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside"
    return f"{type(error).__name__} at {where}"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise TooSlow(f"after {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
