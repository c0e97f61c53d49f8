"""Common part of trainers of networks: a policy with weights, an optimizer, a generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from hcache.config.schema import Settings
from hcache.policies import Policy
from hcache.policies.mlp import MLPPolicy, MLPSettings
from hcache.replay.exact import reach
from hcache.replay.tree import Tree
from hcache.trainers.base import TrainablePolicy, Trainer
from hcache.trainers.device import Device, pick_device


class OptimiserSettings(Settings):
    """Settings that trainers by gradient steps share."""

    lr: float = Field(3e-3, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    device: Device = Field("auto", description="where to train")


class NetworkSettings(MLPSettings, OptimiserSettings):
    """Settings that trainers of an MLP policy share."""


class DropoutSettings(NetworkSettings):
    """Settings of trainers that drop text features."""

    feature_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of the text features that each minibatch does without"
    )


class TorchPolicy(TrainablePolicy, Protocol):
    """A policy that is a torch module."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Its weights."""

    def to(self, device: torch.device) -> Any:
        """Move it, in place."""


class GradientTrainer(Trainer):
    """A trainer that improves a policy by gradient steps."""

    settings: OptimiserSettings
    policy: TorchPolicy
    adam_eps = 1e-8

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        self.device = pick_device(self.settings.device)
        self.policy.to(self.device)
        self.tree = train.to(self.device)
        self.reward_M = self.tree.reward_M(self.alpha)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.settings.lr,
            eps=self.adam_eps,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def descend_clipped(self, loss: Tensor, max_norm: float) -> Tensor:
        """One step with the gradient clipped to `max_norm`; its norm before that, a scalar."""
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), max_norm)
        self.optimizer.step()
        return norm

    def permutation(self, length: int) -> Tensor:
        """A random order, on the trainer's device."""
        return torch.randperm(length, generator=self.generator, device=self.device)

    def state(self) -> dict[str, Tensor]:
        """Weights, moments of the optimizer, and the generator, as flat tensors."""
        state = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        state["generator"] = self.generator.get_state()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.policy.load_state_dict(part(state, "policy."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in part(state, "optimizer.").items():
            index, key = name.split(".", 1)
            moments.setdefault(int(index), {})[key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(state["generator"])


class NetworkTrainer(GradientTrainer):
    """A trainer of an MLP policy."""

    settings: NetworkSettings
    policy: MLPPolicy

    def make_policy(self, train: Tree, init: Policy | None) -> MLPPolicy:
        """See `Trainer`."""
        return MLPPolicy.for_training(train, self.settings, seed=self.seed, init=init)


class DropoutTrainer(NetworkTrainer):
    """A trainer that drops text features, so that few of them are not learned by heart.

    A minibatch does without the same features in all its states, which needs D random numbers and
    no more; the others count so much the more (Srivastava et al., JMLR 15, 2014, with one mask for
    a minibatch in place of one for each state).
    """

    settings: DropoutSettings

    def gain_D(self) -> Tensor | None:
        """Factors of the text features in the next minibatch; None where nothing is dropped."""
        share = self.settings.feature_dropout
        if not share:
            return None
        features = self.tree.features_ND.shape[1]
        chance_D = torch.rand(features, generator=self.generator, device=self.device)
        return (chance_D >= share).float() / (1 - share)


def state_weights(tree: Tree, probs_NA: Tensor, floor: float) -> Tensor:
    """Chance that the policy passes each state, and `floor` more, float64 [N]; mean 1.

    Most states of a tree are far from any good path, and would outweigh the others. Without a
    floor, what is hardly reached is hardly learned: its Q^π stays low, and it is never reached.
    """
    weight_N = reach(tree, probs_NA) + floor
    return weight_N / weight_N.mean()


def part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Entries whose names begin with `prefix`, which is taken off."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
