"""Policies that plan: score every way on from a state, then take the first step of the best.

A *continuation* of a state is a path of actions from there to a leaf: arms, then STOP, unless the
last arm ends the trajectory by itself. Which continuations there are is derived from the training
trees, for each hop its own. At a later hop the policy does not follow the plan that it made at
the root but plans again, from the text that it sees by then, replies included.

Axes in names: N states (of one hop), S continuations (of that hop), n states asked about,
A actions (arms, then STOP), D text features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hcache.policies.inputs import check_states
from hcache.replay.tree import NONE, States, Tree

TIE = 1e-9  # scores this close are equal: rounding may differ with the number of rows
Path = tuple[int, ...]  # actions, STOP included
Paths = tuple[tuple[Path, ...], ...]  # of each hop


@dataclass(frozen=True)
class Continuations:
    """The distinct continuations of one hop, shortest first, then in the order of the actions."""

    paths: tuple[Path, ...]
    leaf_NS: Tensor  # where each leads from each state of the hop; NONE where the tree lacks it

    def values(self, value_M: Tensor) -> Tensor:
        """A value of the leaves by state and continuation, [N, S]; NaN where there is none."""
        value_NS = value_M[self.leaf_NS.clamp(min=0)]
        return value_NS.masked_fill(self.leaf_NS == NONE, torch.nan)


def continuations(tree: Tree) -> list[Continuations]:
    """The continuations of every hop, the first hop first."""
    last_first: list[Continuations] = []
    for level in reversed(tree.levels):
        last_first.append(_of_level(tree, level, last_first[-1:]))
    return last_first[::-1]


def _of_level(tree: Tree, level: slice, below: Sequence[Continuations]) -> Continuations:
    """The continuations of a hop from those of the next; `below` is empty at the last."""
    columns: dict[Path, Tensor] = {}
    for action in range(tree.actions):
        columns[(action,)] = tree.leaf_NA[level, action]
        child_N = tree.child_NA[level, action]
        row_N = (child_N - level.stop).clamp(min=0)
        for later in below:
            leaf_NS = later.leaf_NS[row_N].masked_fill(child_N[:, None] == NONE, NONE)
            columns |= {
                (action, *path): leaf_NS[:, index] for index, path in enumerate(later.paths)
            }
    paths = tuple(
        sorted(
            (path for path, leaf_N in columns.items() if bool((leaf_N != NONE).any())),
            key=lambda path: (len(path), path),
        )
    )
    return Continuations(paths, torch.stack([columns[path] for path in paths], dim=1))


class PlanningPolicy(ABC):
    """All probability on the first action of the continuation that scores best."""

    arms: tuple[str, ...]
    features: int  # D
    paths: Paths

    @abstractmethod
    def scores(self, hop: int, features_ND: Tensor) -> Tensor:
        """Scores of the continuations of states of a hop, [n, S] in the order of `paths`."""

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """Probabilities, float64 [n, A]; uniform over the valid actions where no plan is possible.

        Raises:
            RunError: if the states have other features or more hops than the policy knows.
        """
        chosen_NA = states.valid_NA.clone()
        for at_N, first_S, score_NS in self._plans(states):
            chosen_NA[at_N] = _first_actions(first_S, score_NS, states.valid_NA[at_N])
        return chosen_NA.double() / chosen_NA.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def margin(self, states: States, action: int) -> Tensor:
        """Lead of the best plan that begins with an action over the best other one, float64 [n].

        Infinite where only one of the two is possible, NaN where neither is.

        Raises:
            RunError: as `probs`.
        """
        margin_N = torch.full((len(states.hop_N),), torch.nan, dtype=torch.float64)
        for at_N, first_S, score_NS in self._plans(states):
            own_S = first_S == action
            with_NS, without_NS = (
                score_NS.masked_fill(left_out, -torch.inf) for left_out in (~own_S, own_S)
            )
            margin_N[at_N.cpu()] = (with_NS.amax(dim=1) - without_NS.amax(dim=1)).double().cpu()
        return margin_N

    def _plans(self, states: States) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """By hop: rows of its states, first actions [S] and scores [n, S] of their plans.

        A plan that is not possible scores −∞.
        """
        check_states(states, self.features, len(self.paths))
        for hop in states.hop_N.unique().tolist():
            at_N = (states.hop_N == hop).nonzero()[:, 0]
            score_NS = self.scores(hop, states.features_ND[at_N]).to(at_N.device)
            first_S = torch.tensor([path[0] for path in self.paths[hop]], device=at_N.device)
            possible_NS = states.valid_NA[at_N][:, first_S]
            yield at_N, first_S, score_NS.masked_fill(~possible_NS, -torch.inf)


def _first_actions(first_S: Tensor, score_NS: Tensor, valid_NA: Tensor) -> Tensor:
    """The first action of each best plan as a mask [n, A]; all that is valid without one."""
    near_NS = score_NS >= score_NS.max(dim=1, keepdim=True).values - TIE
    best_N = near_NS.byte().argmax(dim=1)  # of equals the first, which is the shortest
    one_NA = torch.nn.functional.one_hot(first_S[best_N], valid_NA.shape[1]).bool()
    possible_N1 = (score_NS > -torch.inf).any(dim=1, keepdim=True)
    return torch.where(possible_N1, one_NA, valid_NA)


def paths_from_json(paths: Sequence[Sequence[Sequence[Any]]]) -> Paths:
    """Paths as they come back from JSON."""
    return tuple(tuple(tuple(map(int, path)) for path in level) for level in paths)
