"""The rivals of d3rlpy: discrete CQL and BCQ on every transition of the training trees.

Batches are gathered from arrays, which costs less than d3rlpy's buffer of Python objects. Networks
are of 64 × 64 units, γ = 1, targets follow every 100 updates; CQL's weight of 1, which is d3rlpy's
default, is tried beside a hundredth of it, since these transitions leave no action out.

d3rlpy 2.8 pins gymnasium 1.0.0 and works with 1.4. In an environment that has hcache[rivals]:

    pip install colorama click cloudpickle h5py tqdm mypy-extensions
    pip install --no-deps d3rlpy gym gym-notices structlog
    pip install --no-deps dataclasses-json marshmallow typing-inspect
"""

from __future__ import annotations

from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import DiscreteBCQConfig, DiscreteCQLConfig
from d3rlpy.dataset import TransitionMiniBatch
from d3rlpy.models.encoders import VectorEncoderFactory
from torch import Tensor
from torch.nn.functional import one_hot

from hcache.replay.tree import Tree

from .learner import Scored, Start, at_rates
from .offline import BATCH, RATES, UPDATES, Batch, Batches

FOLLOW = 100  # updates until the target network is that of now
WEIGHTS = (1.0, 0.01)


class D3RLpy:
    """An algorithm of d3rlpy's, some updates a step."""

    def __init__(self, config: Any, tree: Tree, seed: int, rate: float, **values: Any) -> None:
        d3rlpy.seed(seed)
        self.batches = Batches(tree, seed)
        self.algorithm = config(
            learning_rate=rate,
            batch_size=BATCH,
            gamma=1.0,
            target_update_interval=FOLLOW,
            encoder_factory=VectorEncoderFactory([64, 64]),
            **values,
        ).create()
        width = self.batches.mdp.observation_NW.shape[1]
        self.algorithm.create_impl((width,), tree.actions)
        self.actions = tree.actions
        self.policy = Scored(tree.arms, self.batches.mdp.observations, self.chosen)

    def chosen(self, observation_NW: Tensor) -> Tensor:
        """Its greedy actions, one-hot."""
        action_N = torch.as_tensor(self.algorithm.predict(observation_NW.numpy()))
        return one_hot(action_N, self.actions)

    def step(self) -> None:
        """Some updates."""
        for _ in range(UPDATES):
            self.algorithm.update(mini_batch(self.batches.next()))


def mini_batch(batch: Batch) -> TransitionMiniBatch:
    """Transitions as d3rlpy has them."""
    rows = {
        "actions": batch.action_B.float(),
        "rewards": batch.reward_B,
        "next_actions": torch.zeros_like(batch.reward_B),
        "terminals": batch.over_B,
        "intervals": torch.ones_like(batch.reward_B),
    }
    return TransitionMiniBatch(
        observations=batch.observation_BW.numpy(),
        next_observations=batch.next_BW.numpy(),
        transitions=[],
        **{name: np.asarray(values)[:, None] for name, values in rows.items()},
    )


def _cql(weight: float) -> dict[str, Start]:
    return at_rates(
        f"d3rlpy DiscreteCQL, weight {weight:g}",
        RATES,
        lambda *given: D3RLpy(DiscreteCQLConfig, *given, alpha=weight),
    )


LEARNERS = {
    **{name: start for weight in WEIGHTS for name, start in _cql(weight).items()},
    **at_rates("d3rlpy DiscreteBCQ", RATES, lambda *given: D3RLpy(DiscreteBCQConfig, *given)),
}
