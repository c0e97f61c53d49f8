"""Training `soft` on many queries, beside few: states per second of processor time, and memory.

    python -m benchmarks.speed.scale FOLDER SECONDS      # passes over a tree, figures as JSON

Three hops make 13 states of a query, four hops 40, so 100,000 queries have 1.3 and 4 million.
Trees are joined from forests of 2,000 questions and have float16 features, as those loaded from a
database do. Each training is a process of its own; its peak is of the whole process, torch and all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.forest import ARMS, forest
from benchmarks.learning.learner import ALPHA
from hcache.replay.tree import Tree
from hcache.trainers.soft import Soft

from .contest import Figures, in_a_process
from .memory import peak_bytes, save_arrays, tensors_of

QUERIES = {"100,000": 50, "2,000": 1}  # forests of 2,000 questions
DISTINCT = 5  # of the forests; to make more takes long, and changes neither speed nor memory
SHAPES = ((3, 384), (4, 256), (4, 384))  # hops, and features: 256 are the encoder's default
SECONDS = 10  # of training at least


def rows(rounds: int, work: Path) -> list[Figures]:
    """Trainings that take turns."""
    return [row for shape in SHAPES for row in rows_of(*shape, rounds, work)]


def rows_of(hops: int, features: int, rounds: int, work: Path) -> list[Figures]:
    """Rows of trees of so many hops, with so many features."""
    folder = work / f"scale-{hops}-{features}"
    if not folder.exists():
        forests = [half(hops, features, seed) for seed in range(DISTINCT)]
        for name, count in QUERIES.items():
            some = list(islice(cycle(forests), count))
            save_arrays(joined(some), folder / name)
    found: dict[str, list[Figures]] = {name: [] for name in QUERIES}
    for number in range(rounds):
        for name in sorted(found, reverse=bool(number % 2)):
            found[name].append(in_a_process("scale", folder / name, SECONDS))
    rates = {name: [each["rate"] for each in trained] for name, trained in found.items()}
    return [
        {
            "part": f"soft, {hops} hops, {features} features",
            "name": f"{name} queries, {trained[0]['states']:,} states",
            "unit": "states/s",
            "rates": rates[name],
            "times": [a / b for a, b in zip(rates["100,000"], rates[name], strict=True)],
            "peak in GiB": [each["peak"] / 2**30 for each in trained],
            "tensors in GiB": trained[0]["tensors"] / 2**30,
        }
        for name, trained in found.items()
    ]


def half(hops: int, features: int, seed: int) -> dict[str, Tensor]:
    """The tensors of a forest of 2,000 questions, with features as they are stored."""
    tensors = tensors_of(forest(2000, seed=seed, hops=hops))
    return tensors | {"features_ND": tensors["features_ND"][:, :features].half()}


def joined(forests: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One forest of several, its states by hop again."""
    places = [*places_of([each["hop_N"] for each in forests])]
    leaves = np.cumsum([0, *(len(each["quality_M"]) for each in forests)]).tolist()
    queries = np.cumsum([0, *(len(each["root_T"]) for each in forests)]).tolist()
    made: dict[str, Tensor] = {}
    for name in forests[0]:
        parts = [each[name] for each in forests]
        if name in ("root_T", "child_NA"):
            parts = [renumbered(part, place) for part, place in zip(parts, places, strict=True)]
        elif name == "leaf_NA":
            parts = [p.where(p < 0, p + n) for p, n in zip(parts, leaves[:-1], strict=True)]
        elif name == "query_T":
            parts = [p + n for p, n in zip(parts, queries[:-1], strict=True)]
        made[name] = torch.cat(parts)
        if "_N" in name:  # states move to where they belong
            made[name][torch.cat(places)] = made[name].clone()
    return made


def places_of(hops: Sequence[Tensor]) -> Iterator[Tensor]:
    """Places of the states of each forest, by hop and then by forest."""
    order = torch.cat([*hops]).argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    yield from place.split([len(hop_N) for hop_N in hops])


def renumbered(state: Tensor, place_N: Tensor) -> Tensor:
    """States under their new numbers; NONE stays."""
    return place_N[state.clamp(min=0)].where(state >= 0, state)


def tree_of(folder: Path) -> Tree:
    """The tree whose arrays are in a folder."""
    arrays: dict[str, Any] = {
        path.stem: torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")
    }
    count = len(arrays["root_T"])
    queries = tuple(map(str, range(count)))
    labels: dict[str, Any] = {"datasets": ("made",) * count, "kinds": ("",) * count}
    return Tree(arms=ARMS, queries=queries, **labels, **arrays)


def main() -> None:
    """Passes over a tree until their time is up."""
    torch.set_num_threads(1)
    tree = tree_of(Path(sys.argv[1]))
    trainer, passes, spent = Soft(tree, alpha=ALPHA, seed=0), 0, 0.0
    while spent < float(sys.argv[2]):
        spent -= time.process_time()
        trainer.step()
        spent += time.process_time()
        passes += 1
    figures = {
        "rate": passes * len(tree.hop_N) / spent,
        "states": len(tree.hop_N),
        "peak": peak_bytes(),
        "tensors": sum(each.nbytes for each in tensors_of(tree).values()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
