"""A million trajectories from the database, beside `numpy.load` of the bytes of their tensors.

    python -m benchmarks.speed.loading hcache FOLDER     # one load, its figures as JSON
    python -m benchmarks.speed.loading numpy FOLDER

Each load is a process of its own. Processor time, and peak memory, are those from when the imports
are done. Memory mapped from files counts as memory: the features are read from such maps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import hcache

from .contest import Figures, in_a_process, processor_time
from .database import make_database
from .memory import peak_bytes, save_arrays, tensors_of

TRAJECTORIES = 1_000_000


def rows(rounds: int, work: Path) -> list[Figures]:
    """Loads that take turns, over files in a folder that is made where it is not there."""
    folder = work / "loading"
    if not folder.exists():
        file = make_database(folder, TRAJECTORIES)
        save_arrays(tensors_of(load_tree(file)), folder / "arrays")
    found: dict[str, list[Figures]] = {"hcache": [], "numpy": []}
    for number in range(rounds):
        for name in sorted(found, reverse=bool(number % 2)):
            found[name].append(in_a_process("loading", name, folder))
    seconds = {name: [each["seconds"] for each in loads] for name, loads in found.items()}
    return [
        {
            "part": "loading",
            "name": name,
            "unit": "trajectories/s",
            "rates": [each["trajectories"] / each["seconds"] for each in loads],
            "times": [
                other / ours for ours, other in zip(seconds["hcache"], seconds[name], strict=True)
            ],
            "peak over the tensors": [each["peak"] / each["tensors"] for each in loads],
            "loads": loads,
        }
        for name, loads in found.items()
    ]


def load_tree(file: Path) -> hcache.Tree:
    """The training tree of an experiment."""
    experiment = hcache.Experiment.load(file)
    with hcache.Store(experiment.db) as store:
        return hcache.load_replay(store, experiment.config, "train").tree


def load(name: str, folder: Path) -> dict[str, Any]:
    """The tensors, by hcache or by numpy."""
    if name == "hcache":
        return tensors_of(load_tree(folder / "experiment.yaml"))
    return {path.stem: np.load(path) for path in sorted((folder / "arrays").glob("*.npy"))}


def main() -> None:
    """One load."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    before, spent = peak_bytes(), -processor_time()
    tensors = load(name, folder)
    spent += processor_time()
    figures = {
        "seconds": spent,
        "peak": peak_bytes() - before,
        "tensors": sum(each.nbytes for each in tensors.values()),
        "trajectories": len(tensors["quality_M"]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
