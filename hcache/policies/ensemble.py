"""Several networks that vote, and a static sequence in their place where they are not trusted.

The mean of the members' probabilities decides (Lakshminarayanan et al., Simple and Scalable
Predictive Uncertainty Estimation using Deep Ensembles, arXiv 1612.01474). Whether they are trusted
is found on validation; see the trainer.

Axes in names: n states asked about, D text features, A actions, L hops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hcache.policies.base import POLICIES, write_policy
from hcache.policies.mlp import MLPPolicy, MLPSettings
from hcache.replay.tree import NONE, States


@POLICIES.register("ensemble")
class EnsemblePolicy(nn.Module):
    """The mean of π(a | s) over the members, or one static sequence for all queries."""

    name = "ensemble"

    def __init__(self, members: Sequence[MLPPolicy]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)  # by which their tensors are saved
        self.networks = tuple(members)
        first = members[0]
        self.arms, self.hops = first.arms, first.hops
        self.trusted: Tensor
        self.path_L: Tensor
        self.register_buffer("trusted", torch.tensor(True))
        self.register_buffer("path_L", torch.full((first.hops,), NONE))

    def fall_back(self, path: Sequence[int]) -> None:
        """From here on the sequence answers, not the members."""
        self.path_L.fill_(NONE)
        self.path_L[: len(path)] = torch.tensor(path)
        self.trusted.fill_(False)

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """π(a | s), float64 [n, A], on the device of the states.

        A state that lacks the action of the sequence, as one off its path may, has chance over the
        actions that it has.
        """
        if bool(self.trusted):
            return torch.stack([member.probs(states) for member in self.networks]).mean(dim=0)
        path_L = self.path_L.to(states.hop_N.device)
        action_N = path_L[states.hop_N]
        stop_N = torch.full_like(action_N, len(self.arms))
        action_N = torch.where(action_N == NONE, stop_N, action_N)
        chosen_NA = nn.functional.one_hot(action_N, len(self.arms) + 1).bool() & states.valid_NA
        chosen_NA = torch.where(chosen_NA.any(dim=1, keepdim=True), chosen_NA, states.valid_NA)
        return chosen_NA.double() / chosen_NA.sum(dim=1, keepdim=True)

    def save(self, folder: Path) -> None:
        """Write weights, scales, settings, and the sequence."""
        first = self.networks[0]
        settings = {
            "members": len(self.networks),
            "arms": self.arms,
            "features": first.features,
            "hops": self.hops,
            **{name: getattr(first.settings, name) for name in MLPSettings.model_fields},
        }
        write_policy(folder, self.name, settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        sizes = dict(settings)
        count, arms, features, hops = (
            sizes.pop(name) for name in ("members", "arms", "features", "hops")
        )
        chosen = MLPSettings(**sizes)
        policy = cls([MLPPolicy(arms, features, hops, chosen) for _ in range(count)])
        policy.load_state_dict(tensors)
        return policy
