"""The command line of the torture; see the package."""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from . import scene
from .disk import disk_faults
from .findings import Finding, tabulate
from .kills import kills, requests
from .surroundings import (
    clock_faults,
    engine_faults,
    file_faults,
    memory_faults,
    read_only,
    write_crashing,
)
from .works import SAMPLE, SAMPLE_CRASHING, SAMPLE_VLLM, WORKS, staged

QUERIES = 8  # of the experiment that is disturbed at single calls
FAMILIES = {
    "disk": disk_faults,
    "files": file_faults,
    "rights": read_only,
    "memory": memory_faults,
    "clock": clock_faults,
}


def main() -> None:
    """Do all that is asked for, print what came of it; exit code 1 if any of it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of sampling")
    parser.add_argument("--requests", type=int, default=0, help="other signals to sampling")
    parser.add_argument("--vllm", type=int, default=0, help="SIGKILLs of sampling with vLLM")
    parser.add_argument("--queries", type=int, default=200, help="of the sampling that is killed")
    parser.add_argument("--every", type=int, default=0, help="faults at every so manieth call")
    parser.add_argument("--works", default="", help="of the works whose names begin like this")
    parser.add_argument("--faults", default=",".join((*FAMILIES, "engine")), help="families")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    gc.freeze()  # what is imported, so that no child looks through it
    folder = Path(tempfile.mkdtemp())  # which no child removes at its own end
    try:
        right = tabulate(chain(_signals(folder, told), _faults(folder, told)))
    finally:
        shutil.rmtree(folder)
    gc.unfreeze()
    sys.exit(not right)


def _signals(folder: Path, told: argparse.Namespace) -> Iterator[Finding]:
    """Signals at random moments, in the midst of commits that follow each other fast."""
    scene.hurry(0.05)
    if told.kills or told.requests:
        place = _place(folder, "signals")
        scene.write_experiment(place, told.queries)
        for stage in staged([SAMPLE], place):
            yield from kills(stage, told.kills, told.seed)
            yield from requests(stage, told.requests, told.seed)
    if told.vllm:
        for stage in staged([SAMPLE_VLLM], _place(folder, "vllm")):
            yield from kills(stage, told.vllm, told.seed)


def _faults(folder: Path, told: argparse.Namespace) -> Iterator[Finding]:
    """The families of faults, for each work that is asked for."""
    if not told.every:
        return
    scene.hurry(0)
    families, place = told.faults.split(","), _place(folder, "faults")
    scene.write_experiment(place, QUERIES)
    wanted = [work for work in WORKS if work.name.startswith(told.works)]
    for stage in staged(WORKS[: WORKS.index(wanted[-1]) + 1], place):
        for name, family in FAMILIES.items():
            if stage.work in wanted and name in families:
                yield from family(stage, told.every)
    if SAMPLE in wanted and "engine" in families:
        place = _place(folder, "engine")
        write_crashing(place, QUERIES)
        for stage in staged([SAMPLE_CRASHING], place):
            yield from engine_faults(stage, told.every)


def _place(folder: Path, name: str) -> Path:
    place = folder / name / "place"
    place.mkdir(parents=True)
    return place


if __name__ == "__main__":
    main()
