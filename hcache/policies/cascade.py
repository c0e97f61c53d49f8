"""The policy of a cascade with learned thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hcache.policies.base import POLICIES, with_weights, write_policy
from hcache.policies.inputs import check_states
from hcache.replay.tree import NONE, States


@POLICIES.register("cascade")
class CascadePolicy(nn.Module):
    """Asks the arms of its order until the scorer of the hop is content."""

    def __init__(self, arms: Sequence[str], features: int, hops: int) -> None:
        super().__init__()
        self.arms, self.features, self.hops = tuple(arms), features, hops
        self.order_L: Tensor
        self.coef_LD: Tensor
        self.intercept_L: Tensor
        self.threshold_L: Tensor
        exact = torch.float64
        self.register_buffer("order_L", torch.full((hops,), NONE))
        self.register_buffer("coef_LD", torch.zeros(hops, features, dtype=exact))
        self.register_buffer("intercept_L", torch.zeros(hops, dtype=exact))
        self.register_buffer("threshold_L", torch.full((hops,), torch.inf, dtype=exact))

    def scores(self, features_ND: Tensor, hop_N: Tensor) -> Tensor:
        """g, the quality that stopping now is expected to have, float64 [n] in [0, 1]."""
        coef_ND = self.coef_LD[hop_N]
        return ((features_ND.double() * coef_ND).sum(dim=1) + self.intercept_L[hop_N]).sigmoid()

    def probs(self, states: States) -> Tensor:
        """All probability on one action, float64 [n, A].

        Raises:
            RunError: if the states have other features or more hops than the policy knows.
        """
        check_states(states, self.features, self.hops)
        hop_N, stop = states.hop_N, len(self.arms)
        content_N = self.scores(states.features_ND, hop_N) >= self.threshold_L[hop_N]
        action_N = next_arm(self.order_L[hop_N], states.valid_NA)
        action_N = torch.where(content_N & states.valid_NA[:, stop], stop, action_N)
        return nn.functional.one_hot(action_N, stop + 1).double()

    def save(self, folder: Path) -> None:
        """Write scorers, order and thresholds."""
        settings = {"arms": self.arms, "features": self.features, "hops": self.hops}
        write_policy(folder, "cascade", settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return with_weights(lambda: cls(**settings), tensors)


def next_arm(arm_N: Tensor, valid_NA: Tensor) -> Tensor:
    """The arm wanted where it is valid; else the first valid action, STOP after all arms."""
    has_N = valid_NA.gather(1, arm_N.clamp(min=0)[:, None])[:, 0] & (arm_N != NONE)
    return torch.where(has_N, arm_N, valid_NA.byte().argmax(dim=1))
