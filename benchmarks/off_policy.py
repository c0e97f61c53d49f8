"""Estimators of a router's value from logs, held against the exact value on complete trees.

    python -m benchmarks.off_policy                     # the tables of docs/logged.md
    python -m benchmarks.off_policy --draws 1000        # with a smaller Monte Carlo error
    python -m benchmarks.off_policy EXPERIMENT.yaml     # on the test split of a sampled experiment

The target is a trained router, played greedily. Logs are drawn from other policies whose
probabilities are known: chance, ε-greedy around a good and around a poor router, and the poor
router itself, which leaves most of what the target does untried. The forest is that of
`benchmarks.learning`, with noise in its qualities; queries are drawn with replacement from so many
that few come twice, or each is asked five times. The exact value is the mean over all of them.

Each cell: bias and RMSE of the reward, coverage of the 95% interval over all draws and over those
that are answered, the share that is answered, and the mean width of the intervals that are.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hcache
from benchmarks.learning.forest import forest
from hcache.files import json_text
from hcache.logged.estimate import MOST_UNTRIED, Estimates, estimate
from hcache.logged.log import draw
from hcache.policies.base import Policy
from hcache.policies.rollout import greedy_probs
from hcache.replay.exact import returns
from hcache.replay.tree import Tree
from hcache.trainers import TRAINERS
from hcache.trainers.loop import fit

ALPHA = 0.25
FEATURES = 24
POPULATION, TRAINING = 40_000, 600  # queries of the synthetic forests
NOISE = 0.2
EPSILON = 0.3
SIZES = (100, 1_000, 10_000)
REPEATS = 5  # episodes of a query, in the rows that say so
BINS = (0, 10, 20, 30, 50, 100, 200, 500, math.inf)  # of effective sizes


def main() -> None:
    """Draw the logs, print both tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", nargs="?", help="in place of a synthetic forest")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="episodes of a log")
    parser.add_argument("--population", type=int, default=POPULATION)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/off_policy.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = _stored(given.experiment) if given.experiment else _synthetic(given.population)
    tree, target_NA, logging = policies(*splits)
    truth = float(returns(tree, tree.reward_M(ALPHA), target_NA).mean())
    cells: list[dict[str, Any]] = []
    found: list[Estimates] = []
    for name, probs_NA in logging.items():
        for size, repeats in [*((size, 1) for size in given.sizes), (given.sizes[1], REPEATS)]:
            drawn = [
                _one(tree, target_NA, probs_NA, size, repeats, seed) for seed in range(given.draws)
            ]
            cells += _cells({"log": name, "episodes": size, "per query": repeats}, drawn, truth)
            found += drawn
            print(*map(_line, cells[-4:]), sep="\n", flush=True)
    bins = list(_by_effective(found, truth))
    print(*map(_line, bins), sep="\n")
    rows = {"truth": truth, "draws": given.draws, "cells": cells, "by effective size": bins}
    given.out.write_text(json_text(rows, 1) + "\n")


def policies(train: Tree, valid: Tree, tree: Tree) -> tuple[Tree, Tensor, dict[str, Tensor]]:
    """The population, the target's probabilities in it, and those of policies that log."""
    target_NA = greedy_probs(_trained(train, valid, ALPHA, seed=0), tree)
    good_NA = greedy_probs(_trained(train, valid, ALPHA, seed=1, iterations=5), tree)
    poor_NA = greedy_probs(_trained(train, valid, 8 * ALPHA, seed=2, iterations=5), tree)
    valid_NA = tree.valid_NA.double()
    chance_NA = valid_NA / valid_NA.sum(dim=1, keepdim=True)
    logging = {"chance": chance_NA}
    for name, greedy_NA in (("a good router", good_NA), ("a poor router", poor_NA)):
        logging[f"ε-greedy, {name}"] = EPSILON * chance_NA + (1 - EPSILON) * greedy_NA
    return tree, target_NA, logging | {"a poor router alone": poor_NA}


def _synthetic(population: int) -> tuple[Tree, Tree, Tree]:
    sizes = (TRAINING, TRAINING, population)
    train, valid, test = (
        forest(size, seed=seed, noise=NOISE, features=FEATURES) for seed, size in enumerate(sizes)
    )
    return train, valid, test


def _stored(file: str) -> tuple[Tree, Tree, Tree]:
    experiment = hcache.Experiment.load(file)
    with hcache.Store(experiment.db) as store:
        train, valid, test = (
            hcache.load_replay(store, experiment.config, split).tree
            for split in ("train", "valid", "test")
        )
    return train, valid, test


def _trained(train: Tree, valid: Tree, alpha: float, seed: int, iterations: int = 200) -> Policy:
    kind = TRAINERS["soft"]
    trainer = kind(train, kind.Settings(), alpha=alpha, seed=seed)
    every = min(10, iterations)
    fitted = fit(
        trainer, valid, iterations=iterations, evaluate_every=every, patience=5,
        on_metrics=lambda metrics: None,
    )  # fmt: skip
    return fitted.policy


def _one(
    tree: Tree, target_NA: Tensor, probs_NA: Tensor, size: int, repeats: int, seed: int
) -> Estimates:
    """The estimates from one log."""
    generator = torch.Generator().manual_seed(seed)
    tree_E = torch.randint(len(tree), (size // repeats,), generator=generator)
    log = draw(tree, probs_NA, tree_E.repeat_interleave(repeats), seed + 1_000_000)
    return estimate(tree, log, target_NA, ALPHA)


def _cells(
    cell: dict[str, Any], drawn: Sequence[Estimates], truth: float
) -> Iterator[dict[str, Any]]:
    """Figures of each estimator."""
    effective = sorted(one.support.effective for one in drawn)[len(drawn) // 2]
    answered = sum(one.answers for one in drawn) / len(drawn)
    for name in drawn[0].computed:
        rewards = [(one.computed[name]["reward"], one.answers) for one in drawn]
        known = [interval for interval, _ in rewards if not math.isnan(interval.estimate)]
        told = [interval for interval, answers in rewards if answers]
        errors = [interval.estimate - truth for interval in known]
        yield cell | {
            "estimator": name,
            "effective": round(effective, 1),
            "bias": _mean(errors),
            "rmse": math.sqrt(_mean([error**2 for error in errors])),
            "coverage": _mean([one.low <= truth <= one.high for one in known]),
            "answered": answered,
            "coverage of answered": _mean([one.low <= truth <= one.high for one in told]),
            "width of answered": _mean([one.high - one.low for one in told]),
        }


def _by_effective(drawn: Sequence[Estimates], truth: float) -> Iterator[dict[str, Any]]:
    """Coverage by the effective size of the log, of logs whose actions were all tried."""
    held: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for one in drawn:
        if one.support.untried > MOST_UNTRIED:
            continue
        place = sum(one.support.effective >= edge for edge in BINS) - 1
        for name, row in one.computed.items():
            held[place, name].append(row["reward"].low <= truth <= row["reward"].high)
    for (place, name), hits in sorted(held.items()):
        effective = f"{BINS[place]} to {BINS[place + 1]}"
        yield {
            "effective": effective, "estimator": name, "logs": len(hits), "coverage": _mean(hits)
        }  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _line(cell: dict[str, Any]) -> str:
    """A row of a table in docs/logged.md."""
    texts = (
        f"{value:.3f}" if isinstance(value, float) and name != "effective" else str(value)
        for name, value in cell.items()
    )
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    main()
