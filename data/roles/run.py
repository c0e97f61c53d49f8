"""The two-role demo: train both routers from the cache, then judge by live sampling on the test.

    hcache sample data/roles/experiment.yaml
    python data/roles/run.py [--seeds 3] [--samples 4] [--set train.settings.lr_low=0.003 …]

Every static assignment is sampled live, without adapters; the best one on train and validation is
the rival. Then for each seed the joint policy, with its ΔW and without. Intervals are paired
bootstraps over test queries, samples averaged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hcache.config import parse_settings
from hcache.experiment import Experiment
from hcache.features import make_encoder
from hcache.lowrank.live import Live, Outcome
from hcache.policies.fixed import SequencePolicy
from hcache.statistics import Interval, bootstrap_difference, bootstrap_mean
from hcache.store import Store
from hcache.trainers import fit
from hcache.trainers.joint import Joint, JointPolicy
from hcache.tree import Tree

FILE = Path(__file__).parent / "experiment.yaml"


def said(found: Interval) -> str:
    """An interval as people read it."""
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def best_assignment(trees: Sequence[Tree], alpha: float) -> tuple[int, ...]:
    """The path of highest mean reward over the given trees, as they are stored."""
    paths = sorted(product(range(len(trees[0].arms)), repeat=trees[0].hops))
    means = []
    for path in paths:
        at = [(tree.path_ML == torch.tensor(path)).all(dim=1) for tree in trees]
        rewards = [tree.reward_M(alpha)[here] for tree, here in zip(trees, at, strict=True)]
        means.append(float(torch.cat(rewards).mean()))
    return paths[int(np.argmax(means))]


def trained(experiment: Experiment, trees: dict[str, Tree], seed: int) -> JointPolicy:
    """The joint policy of a seed."""
    train = experiment.config.train
    settings = parse_settings(Joint.Settings, train.settings, "train.settings")
    trainer = Joint(trees["train"], settings, alpha=train.alpha, seed=seed)
    lines: list[dict[str, float]] = []
    fitted = fit(
        trainer, trees["valid"], iterations=train.iterations,
        evaluate_every=train.evaluate_every, patience=train.patience, on_metrics=lines.append,
    )  # fmt: skip
    last = {name: round(value, 4) for name, value in lines[-1].items()}
    print(f"seed {seed}: best at {fitted.best_iteration} of {fitted.iterations},", json.dumps(last))
    assert isinstance(fitted.policy, JointPolicy)
    return fitted.policy.cpu()


def main() -> None:
    """Train, play, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--db", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment.load(FILE, arguments.set, arguments.db)
    config = experiment.config
    with Store(experiment.db) as store:
        loaded = {split: Joint.load(store, config, split) for split in ("train", "valid")}
    trees = {split: one.tree.without_stop() for split, one in loaded.items()}
    live = Live(experiment, make_encoder(config.features), torch.device("cpu"))
    queries = experiment.splits["test"]

    def play(policy: Any, **options: Any) -> Outcome:
        return live.play(policy, queries, samples=arguments.samples, **options)

    arms = tuple(config.arms)
    outcomes = {path: play(SequencePolicy(arms, path)) for path in product(range(2), repeat=2)}
    for path, outcome in outcomes.items():
        name = ">".join(arms[place] for place in path)
        print(f"{name}: F1 {said(bootstrap_mean(outcome.quality_SQ.mean(axis=0)))}")
    best = best_assignment([trees["train"], trees["valid"]], config.train.alpha)
    print("best assignment on train and validation:", ">".join(arms[place] for place in best))
    rival_Q = outcomes[best].quality_SQ.mean(axis=0)
    joint, plain = [], []
    for seed in range(arguments.seeds):
        policy = trained(experiment, trees, seed)
        layers = policy.low.settings.adapted_layers
        joint.append(play(policy, delta=policy.delta, layers=layers).quality_SQ.mean(axis=0))
        plain.append(play(policy).quality_SQ.mean(axis=0))
        print(f"seed {seed}: F1 {joint[-1].mean():.3f} live, {plain[-1].mean():.3f} without ΔW")
    rivals = np.tile(rival_Q, (arguments.seeds, 1))
    print("joint, live: F1", said(bootstrap_mean(np.stack(joint))))
    print("its high level alone: F1", said(bootstrap_mean(np.stack(plain))))
    print("joint less best assignment:", said(bootstrap_difference(np.stack(joint), rivals)))


if __name__ == "__main__":
    main()
