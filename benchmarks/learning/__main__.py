"""The command line of the benchmark of learning; see the package."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hcache.errors import ConfigError
from hcache.policies import Policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves, sequences, static_leaves
from hcache.replay.tree import Tree
from hcache.trainers import TRAINERS

from .forest import forest
from .learner import ALPHA, Start

MARKS = (0.90, 0.95, 0.99)
RIVALS = ("plain_ppo", "sb3", "torchrl_ppo", "d3rlpy_offline", "iql")  # modules with LEARNERS

Figures = dict[str, Any]


class Scheduled:
    """A trainer of hcache with its defaults, told how far it has come, as `fit` does."""

    def __init__(self, name: str, iterations: int, train: Tree, seed: int) -> None:
        kind = TRAINERS.find(name, "benchmark")
        self.trainer = kind(train, kind.Settings(), alpha=ALPHA, seed=seed)
        self.iterations, self.count = iterations, 0

    @property
    def policy(self) -> Policy:
        """The policy as it stands."""
        return self.trainer.policy

    def step(self) -> None:
        """One iteration."""
        self.trainer.done = min(1.0, self.count / self.iterations)
        self.trainer.step()
        self.count += 1


def ours(name: str, iterations: int) -> Start:
    """A trainer of hcache, whose schedules end after so many iterations."""
    return lambda train, seed: Scheduled(name, iterations, train, seed)


def learners() -> dict[str, Start]:
    """All learners by name; a rival whose package is missing is left out, and said so."""
    found = {
        "hcache soft": ours("soft", 60),
        "hcache ppo": ours("ppo", 200),
        "hcache sft": ours("sft", 60),
    }
    for name in RIVALS:
        try:
            found |= importlib.import_module(f"{__package__}.{name}").LEARNERS
        except (ImportError, ConfigError) as error:
            print(f"without {name}: {error} (pip install 'hcache[rivals]')")
    return found


def main() -> None:
    """Measure all learners on all seeds; write and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=2000, help="a fifth of them to test on")
    parser.add_argument("--seconds", type=float, default=15, help="of processor time for each")
    parser.add_argument("--noise", type=float, default=0.0, help="of each leaf's quality")
    parser.add_argument("--only", default="", help="learners whose names match this")
    parser.add_argument("--out", type=Path, default=Path("learning.json"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    starts = {name: start for name, start in learners().items() if re.search(told.only, name)}
    names = [*starts]
    found: list[Figures] = []
    for seed in range(told.seeds):
        held_out = told.questions // 5
        train = forest(told.questions - held_out, seed=seed, noise=told.noise)
        test = forest(held_out, seed=10_000 + seed, noise=told.noise)
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            row = measured(starts[name], train, test, seed, told.seconds)
            found.append({"learner": name, "seed": seed, **row})
            print(json.dumps(found[-1]), flush=True)
            told.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1))
    print(table(names, found))


def measured(start: Start, train: Tree, test: Tree, seed: int, seconds: float) -> Figures:
    """Processor time until each mark, and the shares of the gap closed at the end."""
    spent = -time.process_time()
    learner = start(train, seed)
    spent += time.process_time()
    gap_train, gap_test = gap(train), gap(test)
    marks: dict[float, float] = {}
    steps, best, last = 0, 0.0, 0.0
    while not steps or spent < seconds:
        spent -= time.process_time()
        learner.step()
        spent += time.process_time()
        steps += 1
        last = gap_train(learner.policy)
        best = max(best, last)
        for mark in MARKS:
            if last >= mark:
                marks.setdefault(mark, spent)
    return {
        **{f"to {mark:.0%}": marks.get(mark) for mark in MARKS},
        "steps": steps,
        "train": last,
        "fall": best - last,
        "test": gap_test(learner.policy),
    }


def gap(tree: Tree) -> Callable[[Policy], float]:
    """What share of the way from the best static sequence to the oracle a greedy policy goes."""
    reward_M = tree.reward_M(ALPHA)
    static = float(reward_M[static_leaves(tree, sequences(tree))].mean(dim=0).max())
    oracle = float(reward_M[oracle_leaves(tree, reward_M)].mean())

    def closed(policy: Policy) -> float:
        reward = float(reward_M[greedy_leaves(policy, tree)].mean())
        return (reward - static) / (oracle - static)

    return closed


def machine() -> Figures:
    """What it ran on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load": os.getloadavg(),
    }


def table(names: Sequence[str], found: Sequence[Figures]) -> str:
    """A row for each learner: medians, ranges, and how many seeds never came there.

    Of one that learns at several rates, the row that came first to 90% of training is in bold.
    """
    columns = [f"to {mark:.0%}" for mark in MARKS] + ["train", "fall", "test"]
    lines = ["| learner | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    rows_of = {name: [row for row in found if row["learner"] == name] for name in names}
    best = set(best_rates(rows_of))
    for name, rows in rows_of.items():
        cells = [cell([row[column] for row in rows]) for column in columns]
        shown = f"**{name}**" if name in best else name
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_rates(rows_of: dict[str, list[Figures]]) -> Iterator[str]:
    """Of each learner the name at its best rate: least median time to 90%, then most closed."""
    for family in dict.fromkeys(map(family_of, rows_of)):
        yield min((name for name in rows_of if family_of(name) == family), key=rank(rows_of))


def family_of(name: str) -> str:
    """A learner without its settings."""
    return name.split(",")[0]


def rank(rows_of: dict[str, list[Figures]]) -> Callable[[str], tuple[float, float]]:
    """A key that orders names by how well they learned the training questions."""

    def order(name: str) -> tuple[float, float]:
        rows = rows_of[name]
        times = [math.inf if row["to 90%"] is None else row["to 90%"] for row in rows]
        return statistics.median(times), -statistics.median(row["train"] for row in rows)

    return order


def cell(values: Sequence[float | None]) -> str:
    """Median and range of what there is, and how many are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    text = f"{statistics.median(known):.3g} ({min(known):.3g} to {max(known):.3g})"
    return text if len(known) == len(values) else f"{text}, {len(values) - len(known)} never"


if __name__ == "__main__":
    main()
