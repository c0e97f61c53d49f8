"""Several networks that vote, and a static sequence in their place where they are not trusted.

The mean of the members' probabilities decides (Lakshminarayanan et al., Simple and Scalable
Predictive Uncertainty Estimation using Deep Ensembles, arXiv 1612.01474). Whether they are trusted
is found on validation; see the trainer.

Axes in names: n states asked about, D text features, A actions, L hops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from hcache.policies.base import POLICIES, with_weights, write_policy
from hcache.policies.mlp import MLPPolicy
from hcache.policies.rules import all_on
from hcache.replay.tree import NONE, States


@POLICIES.register("ensemble")
class EnsemblePolicy(nn.Module):
    """The mean of π(a | s) over the members, or one static sequence for all queries."""

    name = "ensemble"

    def __init__(self, members: Sequence[MLPPolicy]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        first = members[0]
        self.arms, self.hops = first.arms, first.hops
        self.trusted: Tensor
        self.path_L: Tensor
        self.register_buffer("trusted", torch.tensor(True))
        self.register_buffer("path_L", torch.full((first.hops,), NONE))

    @property
    def networks(self) -> list[MLPPolicy]:
        """The members, as what they are."""
        return cast("list[MLPPolicy]", list(self.members))

    def fall_back(self, path: Sequence[int]) -> None:
        """From here on the sequence answers, not the members."""
        self.path_L.fill_(NONE)
        self.path_L[: len(path)] = torch.tensor(path)
        self.trusted.fill_(False)

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """π(a | s), float64 [n, A], on the device of the states."""
        if bool(self.trusted):
            return torch.stack([member.probs(states) for member in self.networks]).mean(dim=0)
        path_L = self.path_L.to(states.hop_N.device)
        action_N = path_L[states.hop_N]
        return all_on(action_N.masked_fill(action_N == NONE, len(self.arms)), states.valid_NA)

    def save(self, folder: Path) -> None:
        """Write weights, scales, settings, and the sequence."""
        networks = self.networks
        settings = {"members": len(networks), **networks[0].shape}
        write_policy(folder, self.name, settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        shape = dict(settings)
        count = min(shape.pop("members"), len(tensors))  # however many it claims
        return with_weights(lambda: cls([MLPPolicy.of_shape(shape) for _ in range(count)]), tensors)
