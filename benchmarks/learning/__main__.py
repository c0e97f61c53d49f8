"""The command line of the benchmark of learning; see the package."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from hcache.policies import Policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves, sequences, static_leaves
from hcache.replay.tree import Tree
from hcache.trainers import TRAINERS

from .forest import forest
from .plain_ppo import PlainPPO

ALPHA = 0.25
MARKS = (0.90, 0.95, 0.99)

Figures = dict[str, Any]


class Learner(Protocol):
    """Something that learns step by step."""

    def step(self) -> Any:
        """One iteration."""


Start = Callable[[Tree, int], tuple[Learner, Callable[[], Policy]]]
"""From training trees and a seed: the learner, and its policy as it stands."""


def ours(name: str, iterations: int) -> Start:
    """A trainer of hcache with its defaults, whose schedules end after so many iterations."""

    def start(train: Tree, seed: int) -> tuple[Learner, Callable[[], Policy]]:
        kind = TRAINERS.find(name, "benchmark")
        trainer = kind(train, kind.Settings(), alpha=ALPHA, seed=seed)
        return Scheduled(trainer, iterations), lambda: trainer.policy

    return start


class Scheduled:
    """A trainer that is told how far it has come, as `fit` does."""

    def __init__(self, trainer: Any, iterations: int) -> None:
        self.trainer, self.iterations, self.count = trainer, iterations, 0

    def step(self) -> None:
        """One iteration."""
        self.trainer.done = min(1.0, self.count / self.iterations)
        self.trainer.step()
        self.count += 1


def cleanrl(updates: int) -> Start:
    """PPO in CleanRL's style."""

    def start(train: Tree, seed: int) -> tuple[Learner, Callable[[], Policy]]:
        learner = PlainPPO(train, alpha=ALPHA, seed=seed, updates=updates)
        return learner, lambda: learner

    return start


LEARNERS: dict[str, Start] = {
    "hcache soft": ours("soft", 60),
    "hcache ppo": ours("ppo", 200),
    "hcache sft": ours("sft", 60),
    "PPO in CleanRL's style": cleanrl(200),
}


def main() -> None:
    """Measure all learners on all seeds; write and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15, help="of processor time for each")
    parser.add_argument("--noise", type=float, default=0.0, help="of each leaf's quality")
    parser.add_argument("--only", default="", help="learners whose names hold this")
    parser.add_argument("--out", type=Path, default=Path("learning.json"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in LEARNERS if told.only in name]
    found: list[Figures] = []
    for seed in range(told.seeds):
        train = forest(1600, seed=seed, noise=told.noise)
        test = forest(400, seed=10_000 + seed, noise=told.noise)
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            row = measured(LEARNERS[name], train, test, seed, told.seconds)
            found.append({"learner": name, "seed": seed, **row})
            print(json.dumps(found[-1]), flush=True)
            told.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1))
    print(table(names, found))


def measured(start: Start, train: Tree, test: Tree, seed: int, seconds: float) -> Figures:
    """Processor time until each mark, and the shares of the gap closed at the end."""
    spent = -time.process_time()
    learner, policy = start(train, seed)
    spent += time.process_time()
    gap_train, gap_test = gap(train), gap(test)
    marks: dict[float, float] = {}
    steps, best, last = 0, 0.0, 0.0
    while spent < seconds:
        spent -= time.process_time()
        learner.step()
        spent += time.process_time()
        steps += 1
        last = gap_train(policy())
        best = max(best, last)
        for mark in MARKS:
            if last >= mark:
                marks.setdefault(mark, spent)
    return {
        **{f"to {mark:.0%}": marks.get(mark) for mark in MARKS},
        "steps": steps,
        "train": last,
        "fall": best - last,
        "test": gap_test(policy()),
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
    }


def table(names: Sequence[str], found: Sequence[Figures]) -> str:
    """A row for each learner: medians, ranges, and how many seeds never came there."""
    columns = [f"to {mark:.0%}" for mark in MARKS] + ["train", "fall", "test"]
    lines = ["| learner | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        rows = [row for row in found if row["learner"] == name]
        cells = [cell([row[column] for row in rows]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: Sequence[float | None]) -> str:
    """Median and range of what there is, and how many are missing."""
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    text = f"{statistics.median(known):.3g} ({min(known):.3g} to {max(known):.3g})"
    return text if len(known) == len(values) else f"{text}, {len(values) - len(known)} never"


if __name__ == "__main__":
    main()
