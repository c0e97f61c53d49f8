"""Methods: runs that differ in the seed alone, under the name that their row has in a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from hcache.config.schema import ExperimentConfig
from hcache.keys import canonical
from hcache.policies import AnyAlpha, Policy, at_alpha
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query
from hcache.replay.tree import Tree
from hcache.runs.folder import Run

Curve = tuple[tuple[float, float, float, float], ...]  # iteration, mean, lowest, highest


@dataclass(frozen=True)
class Method:
    """A row of a report with its runs, one a seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def policies(self) -> list[Policy]:
        """The trained policies, in the order of the runs."""
        return [run.policy for run in self.runs]

    @property
    def any_alpha(self) -> bool:
        """True if it serves any α, and is therefore validated on a scale of its own."""
        return all(isinstance(policy, AnyAlpha) for policy in self.policies)

    def curve(self) -> Curve:
        """Validation reward over iterations, as far as all seeds were trained."""
        seeds = [_validated(run) for run in self.runs]
        common = sorted(set.intersection(*(set(seed) for seed in seeds)))
        values = [[seed[iteration] for seed in seeds] for iteration in common]
        return tuple(
            (iteration, float(np.mean(own)), min(own), max(own))
            for iteration, own in zip(common, values, strict=True)
        )

    def reward(self, tree: Tree, alpha: float) -> float:
        """Mean reward over queries and seeds."""
        reward_M = tree.reward_M(alpha)
        with threadpool_limits(1):
            leaves = [greedy_leaves(at_alpha(policy, alpha), tree) for policy in self.policies]
        means = [float(mean_by_query(tree, reward_M[leaf_T]).mean()) for leaf_T in leaves]
        return float(np.mean(means))


def methods(runs: Sequence[Run], suffix: str = "") -> list[Method]:
    """The methods that runs make up, in the order of a report's rows; names end in `suffix`.

    A name says more than the algorithm only where it has to.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        variant = canonical(run.config.train.model_dump(mode="json", exclude={"seed", "also"}))
        groups.setdefault((_algorithm(run) + suffix, variant), []).append(run)
    names = [name for name, _ in groups]
    return [
        Method(name if names.count(name) == 1 else f"{name} ({own[0].name})", tuple(own))
        for (name, _), own in groups.items()
    ]


def best_method(found: Sequence[Method], tree: Tree, alpha: float) -> Method | None:
    """The method of the highest reward on a tree, that of validation; the first of equals."""
    return max(found, key=lambda method: method.reward(tree, alpha), default=None)


def comparable_runs(runs: Sequence[Run], config: ExperimentConfig) -> list[Run]:
    """The runs whose figures can stand in one table with the config's α."""
    return [
        run
        for run in runs
        if run.config.train.stop == config.train.stop
        and run.config.features == config.features
        and list(run.config.arms) == list(config.arms)
        and _serves(run, config.train.alpha)
    ]


def _serves(run: Run, alpha: float) -> bool:
    return run.config.train.alpha == alpha or isinstance(run.policy, AnyAlpha)


def _algorithm(run: Run) -> str:
    """The algorithm, behind that of the run it started from."""
    algo, init = str(run.manifest["algo"]), run.manifest["init"]
    return f"{Run(Path(init)).manifest['algo']}+{algo}" if init else algo


def _validated(run: Run) -> dict[float, float]:
    lines = run.metrics()
    return {line["iteration"]: line["valid_reward"] for line in lines if "valid_reward" in line}
