"""The command line of the torture; see the package."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import scene
from .disk import disk_faults
from .findings import Finding, Table
from .kills import kills, requests
from .surroundings import (
    SAMPLE_CRASHING,
    clock_faults,
    engine_faults,
    file_faults,
    memory_faults,
    read_only,
    write_crashing,
)
from .works import SAMPLE, WORKS, staged

QUERIES = 8  # of the experiment that is disturbed at single calls
STEPS = 12


def main() -> None:
    """Do all that is asked for, print what came of it; exit code 1 if any of it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of sampling")
    parser.add_argument("--queries", type=int, default=200, help="of the sampling that is killed")
    parser.add_argument("--every", type=int, default=0, help="faults at every so manieth call")
    parser.add_argument("--works", default="", help="of the works that are called so")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    table = Table()
    gc.freeze()  # what is imported, so that no child looks through it
    with tempfile.TemporaryDirectory() as name:
        if told.kills:
            table.add(_kills(Path(name), told))
        if told.every:
            table.add(_faults(Path(name), told))
    gc.unfreeze()
    print(table)
    sys.exit(bool(table.wrong))


def _kills(folder: Path, told: argparse.Namespace) -> Iterator[Finding]:
    """Signals at random moments, in the midst of commits that follow each other fast."""
    place = folder / "killed" / "place"
    place.mkdir(parents=True)
    scene.hurry(0.05)
    scene.write_experiment(place, told.queries)
    for stage in staged([SAMPLE], place):
        yield from kills(stage, told.kills, told.seed)
        yield from requests(stage, told.kills // 10, told.seed)


def _faults(folder: Path, told: argparse.Namespace) -> Iterator[Finding]:
    """Faults of each work that is asked for, the disk's at every so manieth call."""
    place = folder / "faults" / "place"
    place.mkdir(parents=True)
    scene.hurry(0)
    scene.write_experiment(place, QUERIES)
    for stage in staged(WORKS, place):
        if not stage.work.name.startswith(told.works):
            continue
        yield from disk_faults(stage, told.every)
        if stage.work is not WORKS[-1]:
            yield from read_only(stage)
            yield from memory_faults(stage)
        yield from file_faults(stage, 4 * told.every)
        if stage.work is SAMPLE:
            yield from clock_faults(stage, 8 * told.every)
            yield from _engine_faults(folder)


def _engine_faults(folder: Path) -> Iterator[Finding]:
    place = folder / "engines" / "place"
    place.mkdir(parents=True)
    write_crashing(place, QUERIES)
    for stage in staged([SAMPLE_CRASHING], place):
        yield from engine_faults(stage, STEPS)


if __name__ == "__main__":
    main()
