"""A tree as a Markov decision process on tensors, for agents that hcache did not make.

In: a `Tree` and α. Out: a table of observations, the valid actions, and for every state and action
the next state and the reward, so that a step of any number of episodes is a gather. Routing is
episodic with γ = 1; the reward R = Q − α·C comes once, at the leaf (HierRouter, arXiv 2511.09873).

An observation is [text features | one-hot hop | cost so far / mean cost of the leaves]. One state
is added behind the N of the tree: the end, whose observation is zero. All actions are valid there
and lead back to it with reward 0, so that a masked softmax or maximum over it stays finite.

Axes in names as in `hcache.replay.tree`; E episodes, W = D + L + 1 width of an observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from hcache.errors import DataError
from hcache.replay.tree import NONE, States, Tree, tree_of_leaf

INVALID_REWARD = -1.0  # below any R of a sensible α, so that no agent gains by it


@dataclass(frozen=True)
class RoutingMDP:
    """States, actions, rewards of a tree.

    An action that a state does not have ends the episode with `invalid_reward`. `like` is the tree
    that the agent was or will be trained on, where that is another one: observations then have its
    number of hops and its scale of cost.

    Raises:
        DataError: `like` has other arms, other text features or fewer hops.
    """

    tree: Tree
    alpha: float
    invalid_reward: float = INVALID_REWARD
    like: Tree | None = None

    def __post_init__(self) -> None:
        tree, like = self.tree, self.like or self.tree
        if tree.arms != like.arms:
            raise DataError(
                f"the tree has the arms {', '.join(tree.arms)}, the one it should be like has "
                f"{', '.join(like.arms)}.",
                "Load both with the same experiment.",
            )
        widths = tree.features_ND.shape[1], like.features_ND.shape[1]
        if widths[0] != widths[1] or tree.hops > like.hops:
            raise DataError(
                f"the tree has {widths[0]} text features and {tree.hops} hops, the one it should "
                f"be like has {widths[1]} and {like.hops}.",
                "Load both with the same experiment and encoder.",
            )

    @property
    def end(self) -> int:
        """Index of the state behind all others, where every episode ends."""
        return len(self.tree.hop_N)

    @cached_property
    def observation_NW(self) -> Tensor:
        """Observations of the N states and the end, float32 [N + 1, W]."""
        return pad(self.observations(self.tree.states), (0, 0, 0, 1))

    def observations(self, states: States) -> Tensor:
        """Observations of some states, of this tree or of one that is like it, float32 [n, W]."""
        like = self.like or self.tree
        mean_cost = float(like.cost_M.mean())
        parts = (
            states.features_ND.float(),
            one_hot(states.hop_N, like.hops).float(),
            (states.cost_N / (mean_cost if mean_cost > 0 else 1.0)).float()[:, None],
        )
        return torch.cat(parts, dim=1)

    @cached_property
    def valid_NA(self) -> Tensor:
        """Mask of valid actions, bool [N + 1, A]."""
        return pad(self.tree.valid_NA, (0, 0, 0, 1), value=True)

    @cached_property
    def leaf_NA(self) -> Tensor:
        """Leaf that an action leads to, or NONE, int64 [N + 1, A]."""
        return pad(self.tree.leaf_NA, (0, 0, 0, 1), value=NONE)

    @cached_property
    def next_NA(self) -> Tensor:
        """State that an action leads to, int64 [N + 1, A]; the end where none."""
        child_NA = self.tree.child_NA
        return pad(child_NA.where(child_NA >= 0, self.end), (0, 0, 0, 1), value=self.end)

    @cached_property
    def reward_NA(self) -> Tensor:
        """Reward of an action, float64 [N + 1, A]: R at a leaf, 0 on the way there."""
        tree = self.tree
        reward_NA = tree.reward_M(self.alpha)[tree.leaf_NA.clamp(min=0)]
        reward_NA = reward_NA.where(tree.leaf_NA >= 0, 0.0)
        return pad(reward_NA.where(tree.valid_NA, self.invalid_reward), (0, 0, 0, 1))

    def step(self, state_E: Tensor, action_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next states, int64 [E], rewards, float64 [E], and whether the episode is over, bool [E].

        Actions lie in [0, A).
        """
        next_E = self.next_NA[state_E, action_E]
        return next_E, self.reward_NA[state_E, action_E], next_E == self.end

    @cached_property
    def tree_M(self) -> Tensor:
        """Index of the tree that each leaf ends, int64 [M]."""
        return tree_of_leaf(self.tree)

    @cached_property
    def paths(self) -> tuple[Tensor, list[tuple[str, ...]]]:
        """The path to each leaf as an index, int64 [M], into the distinct ones by names of arms."""
        rows, index_M = self.tree.path_ML.unique(dim=0, return_inverse=True)
        names = [tuple(self.tree.arms[a] for a in row if a != NONE) for row in rows.tolist()]
        return index_M, names
