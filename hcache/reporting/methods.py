"""Methods: runs that differ in the seed alone, under the name that their row has in a report.

Here is what a report says of them besides their row: how they were trained, and where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hcache.policies import AnyAlpha, Policy, at_alpha, load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query
from hcache.replay.tree import Tree
from hcache.runs.evaluating import labelled
from hcache.runs.folder import Run

Curve = tuple[tuple[float, float, float, float], ...]  # iteration, mean, lowest, highest


@dataclass(frozen=True)
class Method:
    """A row of the report with its runs, one a seed."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def policies(self) -> list[Policy]:
        """The trained policies, in the order of the runs."""
        return [load_policy(run.policy_folder) for run in self.runs]

    @property
    def any_alpha(self) -> bool:
        """Whether it serves any α, and is therefore validated on a scale of its own."""
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

    def leaves(self, tree: Tree, alpha: float, seed: int = 0) -> torch.Tensor:
        """Where one of its policies ends in each tree."""
        return greedy_leaves(at_alpha(self.policies[seed], alpha), tree)

    def reward(self, tree: Tree, alpha: float) -> float:
        """Its mean reward over queries and seeds."""
        reward_M = tree.reward_M(alpha)
        means = [
            float(mean_by_query(tree, reward_M[self.leaves(tree, alpha, seed)]).mean())
            for seed in range(len(self.runs))
        ]
        return float(np.mean(means))


def methods(runs: Sequence[Run]) -> list[Method]:
    """The methods that the runs make up, in the order of a report's rows."""
    return [Method(name, tuple(members)) for name, members in labelled(runs).items()]


def best_method(found: Sequence[Method], tree: Tree, alpha: float) -> Method | None:
    """The method of the highest reward on a tree, that of validation; the first of equals."""
    return max(found, key=lambda method: method.reward(tree, alpha), default=None)


def _validated(run: Run) -> dict[float, float]:
    lines = run.metrics()
    return {line["iteration"]: line["valid_reward"] for line in lines if "valid_reward" in line}
