"""Policies that learn nothing, for tests: one static sequence for every query, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from hcache.errors import ConfigError
from hcache.policies.base import POLICIES, write_policy
from hcache.replay.tree import States, path_name


@POLICIES.register("sequence")
class SequencePolicy:
    """The arms of `path` in turn, then STOP; `path` holds indices into `arms`.

    In a state that lacks the action it falls back to chance over the actions that are there.
    """

    def __init__(self, arms: Sequence[str], path: Sequence[int]) -> None:
        self.arms = tuple(arms)
        self.path = tuple(path)
        if not self.path or not all(0 <= action < len(self.arms) for action in self.path):
            raise ConfigError(
                f"{list(path)} is no sequence of the arms {', '.join(self.arms)}.",
                f"Give one or more indices from 0 to {len(self.arms) - 1}.",
            )

    def __repr__(self) -> str:
        return f"SequencePolicy({path_name(self.path, self.arms)!r})"

    def probs(self, states: States) -> Tensor:
        """All probability on the action of the state's hop."""
        plan = torch.tensor([*self.path, len(self.arms)], device=states.hop_N.device)
        action_N = plan[states.hop_N.clamp(max=len(self.path))]
        chosen_NA = torch.nn.functional.one_hot(action_N, len(self.arms) + 1).bool()
        chosen_NA &= states.valid_NA
        has_it = chosen_NA.any(dim=1, keepdim=True)
        return _uniform(torch.where(has_it, chosen_NA, states.valid_NA))

    def save(self, folder: Path) -> None:
        """Write the sequence; there are no tensors in it."""
        write_policy(folder, "sequence", {"arms": self.arms, "path": self.path}, {})

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return cls(settings["arms"], settings["path"])


@POLICIES.register("random")
class RandomPolicy:
    """Every valid action with the same probability."""

    def __init__(self, arms: Sequence[str]) -> None:
        self.arms = tuple(arms)

    def probs(self, states: States) -> Tensor:
        """Uniform over the valid actions."""
        return _uniform(states.valid_NA)

    def save(self, folder: Path) -> None:
        """Write the names of the arms; there are no tensors in it."""
        write_policy(folder, "random", {"arms": self.arms}, {})

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return cls(settings["arms"])


def _uniform(chosen_NA: Tensor) -> Tensor:
    return chosen_NA.double() / chosen_NA.sum(dim=1, keepdim=True)
