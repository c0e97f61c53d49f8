"""A log: episodes in which a known policy chose, with the probability of each choice.

Only what was chosen has an outcome. `draw` makes logs from complete trees, on which the exact
value of every policy is known: a benchmark of estimators.

Axes in names: E episodes, L steps, T trees, N states, A actions (arms, then STOP).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hcache.replay.tree import NONE, Tree


@dataclass(frozen=True)
class Log:
    """Episodes in the states of a tree; behind the last step of an episode stands NONE, or 0."""

    query_E: Tensor  # int64, index of the query of each episode
    state_EL: Tensor  # int64, state of the tree in which each step was chosen
    action_EL: Tensor  # int64
    propensity_EL: Tensor  # float64, probability with which that action was chosen
    cost_EL: Tensor  # float64, cost of each step
    quality_E: Tensor  # float64, quality of the outcome

    def __len__(self) -> int:
        return len(self.query_E)

    @property
    def taken_EL(self) -> Tensor:
        """Mask of the steps that were taken."""
        return self.state_EL != NONE

    @property
    def reward_ELV(self) -> Tensor:
        """Quality, which comes with the last step, and cost of each step, float64 [E, L, 2]."""
        last_E = self.taken_EL.sum(dim=1, keepdim=True) - 1
        quality_EL = torch.zeros_like(self.cost_EL).scatter(1, last_E, self.quality_E[:, None])
        return torch.stack([quality_EL, self.cost_EL], dim=2)


def draw(tree: Tree, probs_NA: Tensor, tree_E: Tensor, seed: int) -> Log:
    """The log of a policy that plays some trees, int64 [E], each as often as it is named."""
    generator = torch.Generator().manual_seed(seed)
    state_E, quality_E = tree.root_T[tree_E], torch.zeros(len(tree_E), dtype=torch.float64)
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(tree.hops):
        on_E, at_E = state_E != NONE, state_E.clamp(min=0)
        probs_EA = probs_NA[at_E].double()
        action_E = torch.multinomial(probs_EA, 1, generator=generator)[:, 0]
        leaf_E, next_E = tree.leaf_NA[at_E, action_E], tree.child_NA[at_E, action_E]
        ends_E = on_E & (leaf_E != NONE)
        quality_E = torch.where(ends_E, tree.quality_M[leaf_E.clamp(min=0)], quality_E)
        paid_E = torch.where(ends_E, tree.cost_M[leaf_E.clamp(min=0)], tree.cost_N[next_E])
        steps.append(
            (
                state_E,
                action_E.where(on_E, NONE),
                probs_EA.gather(1, action_E[:, None])[:, 0].where(on_E, 0.0),
                (paid_E - tree.cost_N[at_E]).where(on_E, 0.0),
            )
        )
        state_E = next_E.where(on_E, NONE)
    state_EL, action_EL, propensity_EL, cost_EL = (
        torch.stack(column, dim=1) for column in zip(*steps, strict=True)
    )
    return Log(tree.query_T[tree_E], state_EL, action_EL, propensity_EL, cost_EL, quality_E)
