"""The interface of a learner in the table: steps, and a policy as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hcache.policies import Policy
from hcache.replay.tree import States, Tree

ALPHA = 0.25


class Learner(Protocol):
    """Something that learns step by step."""

    @property
    def policy(self) -> Policy:
        """The policy as it stands."""

    def step(self) -> Any:
        """One iteration."""


Start = Callable[[Tree, int], Learner]
"""From training trees and a seed to a learner."""


@dataclass(frozen=True)
class Scored:
    """A rival's policy as hcache's evaluation asks one: softmax of its scores of valid actions."""

    arms: tuple[str, ...]
    observe: Callable[[States], Tensor]  # observations of n states, [n, W]
    scores: Callable[[Tensor], Tensor]  # from those to scores of actions, [n, A]

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """See `Policy`."""
        scores_NA = self.scores(self.observe(states)).double()
        return scores_NA.masked_fill(~states.valid_NA, -torch.inf).softmax(dim=1)

    def save(self, folder: Path) -> None:
        """It is never saved."""
        raise NotImplementedError


def at_rates(
    name: str, rates: tuple[float, ...], make: Callable[[Tree, int, float], Learner]
) -> dict[str, Start]:
    """The same learner at several learning rates, each under a name of its own."""

    def at(rate: float) -> Start:
        return lambda tree, seed: make(tree, seed, rate)

    return {f"{name}, rate {rate:g}": at(rate) for rate in rates}
