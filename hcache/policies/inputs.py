"""Checks and scales that policies over text features share."""

from __future__ import annotations

import torch
from torch import Tensor

from hcache.errors import RunError
from hcache.replay.tree import States

ROWS = 4096  # states scaled at once, so that a large tree is not copied


def check_states(states: States, features: int, hops: int) -> None:
    """Refuse states that a policy was not made for.

    Raises:
        RunError: if they have other features or more hops.
    """
    width = states.features_ND.shape[1]
    if width != features:
        raise RunError(
            f"the states have {width} text features, the policy was made for {features}.",
            "Load the tree with the encoder that the policy was trained on.",
        )
    if len(states) and int(states.hop_N.max()) >= hops:
        raise RunError(
            f"the tree has {int(states.hop_N.max()) + 1} hops, the policy knows {hops}.",
            "Train a policy on trees with as many hops.",
        )


def text_scale(features_ND: Tensor, norm: float) -> tuple[Tensor, float]:
    """Mean [D] of text features, and what to divide the rest by for this typical length.

    The longer they are, the faster a network learns from them, and the sooner by heart.
    """
    count, parts = len(features_ND), features_ND.split(ROWS)
    sum_D = features_ND.new_zeros(features_ND.shape[1], dtype=torch.float64)
    square = sum_D.new_zeros(())
    for rows in parts:  # sums in place: a list of results would leave holes in the heap
        sum_D += rows.double().sum(dim=0)
    mean_D = (sum_D / count).float()
    for rows in parts:
        square += (rows.float() - mean_D).square().sum()
    found = float((square / count).sqrt())
    return mean_D, found / norm if found > 0 else 1.0
