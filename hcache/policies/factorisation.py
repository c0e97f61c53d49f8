"""The policy of matrix factorisation on preferences."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hcache.policies.base import POLICIES, with_weights, write_policy
from hcache.policies.inputs import text_scale
from hcache.policies.planning import Paths, PlanningPolicy, paths_from_json
from hcache.replay.tree import Tree

TEXT_NORM = 4.0  # typical length of the text features as the factors see them


@POLICIES.register("factorisation")
class FactorisationPolicy(PlanningPolicy, nn.Module):
    """δ of every continuation, from the text of the state."""

    def __init__(self, arms: tuple[str, ...], features: int, paths: Paths, factors: int) -> None:
        super().__init__()
        self.arms, self.features, self.paths, self.factors = arms, features, paths, factors
        self.text = nn.Linear(features, factors)  # W₁ and b
        self.weight_E = nn.Parameter(torch.ones(factors))  # w₂
        self.plans = nn.ParameterList(torch.zeros(len(level), factors) for level in paths)  # v
        self.mean_D: Tensor
        self.scale: Tensor
        self.register_buffer("mean_D", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def for_tree(cls, train: Tree, paths: Paths, factors: int, *, seed: int) -> Self:
        """A fresh policy for a training tree, its text features brought to a common length."""
        policy = cls(train.arms, train.features_ND.shape[1], paths, factors)
        generator = torch.Generator().manual_seed(seed)
        nn.init.orthogonal_(policy.text.weight, generator=generator)
        nn.init.zeros_(policy.text.bias)
        for plans_SE in policy.plans:
            nn.init.normal_(plans_SE, std=1 / math.sqrt(factors), generator=generator)
        mean_D, scale = text_scale(train.features_ND, TEXT_NORM)
        policy.mean_D.copy_(mean_D)
        policy.scale.fill_(scale)
        return policy

    def scores(self, hop: int, features_ND: Tensor) -> Tensor:
        """δ of each continuation, float32 [n, S], on the device of the weights."""
        text_ND = (features_ND.to(self.mean_D.device).float() - self.mean_D) / self.scale
        scores_NS: Tensor = (self.text(text_ND) * self.weight_E) @ self.plans[hop].T
        return scores_NS

    def save(self, folder: Path) -> None:
        """Write weights, scale and continuations."""
        names = ("arms", "features", "paths", "factors")
        settings = {name: getattr(self, name) for name in names}
        write_policy(folder, "factorisation", settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        arms, paths = tuple(settings["arms"]), paths_from_json(settings["paths"])
        features, factors = settings["features"], settings["factors"]
        return with_weights(lambda: cls(arms, features, paths, factors), tensors)
