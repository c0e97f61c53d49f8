"""Estimators of the value of a policy from what another one did.

Each gives values of the episodes whose mean is the estimate, so that all have the same intervals.
ρ = π(a | s) / μ(a | s) is the ratio of a step, w_t = ρ_1 ⋯ ρ_t, r what a step brings:

    IPS           w_L · Σ r                               Precup, Sutton and Singh, 2000
    per-decision  Σ w_t r_t                               the same; what comes later has no part
    SNIPS         Σ w_L Σ r / Σ w_L                       Swaminathan and Joachims, 2015
    DR            Σ w_t (r_t − Q̂_t) + w_{t−1} V̂_t         Jiang and Li, 2016; of one step Dudík,
                                                          Langford and Li, 2011

IPS, per-decision IPS and DR are unbiased where μ takes every action that π takes. SNIPS is biased
by the order of 1 / E, and has less variance. The values of SNIPS are linearised at the estimate
(the delta method).

Axes in names: E episodes, L steps, V quantities (quality, cost). Behind the end of an episode
ratios are 1 and all else is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ips(ratio_EL: Tensor, reward_ELV: Tensor) -> Tensor:
    """Importance sampling of whole episodes, float64 [E, V]."""
    return weights(ratio_EL)[:, None] * reward_ELV.sum(dim=1)


def per_decision(ratio_EL: Tensor, reward_ELV: Tensor) -> Tensor:
    """Importance sampling of each step by the ratios up to it, float64 [E, V]."""
    return (ratio_EL.cumprod(dim=1)[..., None] * reward_ELV).sum(dim=1)


def self_normalised(ratio_EL: Tensor, reward_ELV: Tensor) -> Tensor:
    """Importance sampling divided by the mean weight, float64 [E, V]; NaN where all weights are 0.

    The mean of the rows is the estimate, their spread that of its influence function.
    """
    weight_E1, total_EV = weights(ratio_EL)[:, None], reward_ELV.sum(dim=1)
    estimate_V = (weight_E1 * total_EV).sum(dim=0) / weight_E1.sum()
    return estimate_V + weight_E1 * (total_EV - estimate_V) / weight_E1.mean()


def doubly_robust(
    ratio_EL: Tensor, reward_ELV: Tensor, taken_q_ELV: Tensor, value_ELV: Tensor
) -> Tensor:
    """A model's value, corrected by what the steps brought beyond it, float64 [E, V].

    `taken_q_ELV` is the model's Q of the actions that were taken, `value_ELV` its value of the
    states; both have to be of episodes that the model has not seen.
    """
    weight_EL = ratio_EL.cumprod(dim=1)
    before_EL = torch.cat([torch.ones_like(weight_EL[:, :1]), weight_EL[:, :-1]], dim=1)
    beyond_ELV = weight_EL[..., None] * (reward_ELV - taken_q_ELV)
    return (beyond_ELV + before_EL[..., None] * value_ELV).sum(dim=1)


def weights(ratio_EL: Tensor) -> Tensor:
    """Weight of each episode, float64 [E]; 1 in the mean where the log covers the policy."""
    return ratio_EL.prod(dim=1)


def effective_size(weight_n: Tensor) -> float:
    """Number of equal weights that are worth as much (Kish, Survey Sampling, 1965); 0 if all are 0.

    At most n.
    """
    squares = float(weight_n.square().sum())
    return float(weight_n.sum()) ** 2 / squares if squares else 0.0
