"""An actor-critic that takes α as an input: one training serves the whole cost-quality front.

α enters as u = α / (α + α₀) in [0, 1), where α₀ is the experiment's α, so that every weight of
cost from 0 (quality alone) to infinity (cost alone) has its place; the idea is that of
preference-conditioned policies (Abels et al., arXiv 1809.07803). `at` gives the same policy at
another α; both share the weights.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor

from hcache.policies import register
from hcache.policies.mlp import MLPPolicy, MLPSettings
from hcache.tree import States

SPAN = 4.0  # range of the input that stands for u, of the order of the other inputs


@register("conditioned")
class ConditionedPolicy(MLPPolicy):
    """π(a | s, α) and V(s, α); made for the α that its training was given."""

    name = "conditioned"
    extra_inputs = 1

    def __init__(
        self, arms: tuple[str, ...], features: int, hops: int, settings: MLPSettings
    ) -> None:
        super().__init__(arms, features, hops, settings)
        self.alpha_0: Tensor
        self.register_buffer("alpha_0", torch.ones((), dtype=torch.float64))
        self._alpha: Tensor | None = None

    def centred_at(self, alpha: float) -> Self:
        """The same policy with α₀ = `alpha`, or 1 where that is 0."""
        self.alpha_0.fill_(alpha if alpha > 0 else 1.0)
        return self

    def at(self, alpha: float | Tensor) -> Self:
        """The same weights at another α; a tensor [n] gives each of n states its own."""
        view = copy.copy(self)
        view._alpha = torch.as_tensor(alpha, dtype=torch.float64, device=self.alpha_0.device)
        return view

    def inputs(self, states: States) -> Tensor:
        """What both networks see, float32 [n, I]: as without α, and u."""
        inputs_NI = super().inputs(states)
        alpha = self.alpha_0 if self._alpha is None else self._alpha
        u = (SPAN * (alpha / (alpha + self.alpha_0) - 0.5)).float()
        return torch.cat([inputs_NI, u.expand(len(states))[:, None]], dim=1)
