"""Policies without weights: a rule names one action for every state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hcache.policies.base import write_policy
from hcache.replay.tree import States


def all_on(action_N: Tensor, valid_NA: Tensor) -> Tensor:
    """All probability on one action of each state, float64 [n, A].

    A state that lacks its action has chance over the actions that are there.
    """
    chosen_NA = torch.nn.functional.one_hot(action_N, valid_NA.shape[1]).bool() & valid_NA
    chosen_NA = torch.where(chosen_NA.any(dim=1, keepdim=True), chosen_NA, valid_NA)
    return chosen_NA.double() / chosen_NA.sum(dim=1, keepdim=True)


class RulePolicy(ABC):
    """All probability on the action that the rule names; `settings` is whatever the rule needs."""

    name: ClassVar[str]  # under which it is registered

    def __init__(self, arms: Sequence[str], **settings: Any) -> None:
        self.arms, self.settings = tuple(arms), settings

    @property
    def stop(self) -> int:
        """The action that ends a trajectory."""
        return len(self.arms)

    @abstractmethod
    def actions(self, states: States) -> Tensor:
        """The action for each state, int64 [n]."""

    def probs(self, states: States) -> Tensor:
        """See `Policy`."""
        return all_on(self.actions(states), states.valid_NA)

    def state_dict(self) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Nothing to take back."""

    def save(self, folder: Path) -> None:
        """Write the names of the arms and the settings."""
        write_policy(folder, self.name, {"arms": self.arms, **self.settings}, {})

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return cls(**settings)
