"""Both routers of HAPS (arXiv 2601.05903) in training: what the two ways to train them share."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from hcache.errors import RunError
from hcache.joint.calls import speakers_of
from hcache.joint.checkpoint import Checkpoints
from hcache.joint.generator import Generator, LowRankSettings
from hcache.joint.policy import JointPolicy
from hcache.policies import Policy
from hcache.policies.mlp import MLPPolicy
from hcache.replay.tree import Tree
from hcache.trainers.device import pick_device
from hcache.trainers.network import NetworkSettings, NetworkTrainer


class PairSettings(NetworkSettings, LowRankSettings):
    """Settings of both routers; `lr` is the high-level router's."""

    lr: float = Field(1e-3, gt=0, description="learning rate of the high-level router")
    lr_low: float = Field(1e-4, gt=0, description="learning rate of the low-level router")
    cosine_steps: int = Field(
        0, ge=0, description="steps in which both rates fall to 0 by a cosine; 0: they stay"
    )
    failure: float = Field(
        0.0, ge=-1, le=0, description="Q of a trajectory without any quality; published: -1"
    )
    batch_turns: int = Field(256, ge=1, description="calls that are scored at once")


class PairTrainer(NetworkTrainer):
    """A trainer of the high-level and the low-level router; the models stay loaded."""

    settings: PairSettings
    policy: JointPolicy

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        high = [value for name, value in self.policy.named_parameters() if name[:4] != "low."]
        groups = [
            (high, self.settings.lr),
            (list(self.policy.low.parameters()), self.settings.lr_low),
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": weights, "lr": lr, "initial_lr": lr} for weights, lr in groups if weights],
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.steps, self.halted = 0, False

    def make_policy(self, train: Tree, init: Policy | None) -> JointPolicy:
        """See `Trainer`; a router that SFT has warmed up is taken as the high level."""
        start = JointPolicy.around(init) if type(init) is MLPPolicy else init
        policy = JointPolicy.for_training(train, self.settings, seed=self.seed, init=start)
        device = pick_device(self.settings.device)
        self.checkpoints = Checkpoints(speakers_of(train), device)
        if isinstance(init, JointPolicy):
            _check_shapes(policy, self.checkpoints)
            return policy
        low = LowRankSettings(
            **{name: getattr(self.settings, name) for name in LowRankSettings.model_fields}
        )
        policy.low = Generator.fresh(policy.features, self.checkpoints.shapes, low, self.seed)
        return policy

    def value_of(self, quality: Tensor) -> Tensor:
        """Q with what a failure counts in place of 0."""
        return torch.where(quality > 0, quality, self.settings.failure)

    def set_rates(self) -> None:
        """The learning rates of the step that comes."""
        if self.settings.cosine_steps:
            done = min(1.0, self.steps / self.settings.cosine_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * (1 + math.cos(math.pi * done)) / 2

    def state(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        return super().state() | {"progress": torch.tensor([self.steps, int(self.halted)])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        super().load_state(state)
        self.steps, self.halted = int(state["progress"][0]), bool(state["progress"][1])


def _check_shapes(policy: JointPolicy, checkpoints: Checkpoints) -> None:
    if policy.low.shapes != checkpoints.shapes:
        raise RunError(
            "the policy to start from was made for other checkpoints: its ΔW do not fit.",
            "Start from a run on the same models, or from SFT.",
        )
