"""A policy's ΔW by arm and question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hcache.config.schema import LowRankConfig
from hcache.engines import Request
from hcache.errors import EngineError
from hcache.joint.generator import LowRank, Shape
from hcache.joint.policy import JointPolicy
from hcache.models.arms import Arm
from hcache.policies import load_policy
from hcache.replay.features import QuestionFeatures, make_encoder


class Adapter:
    """A policy's ΔW by arm and question."""

    def __init__(self, policy: JointPolicy, low_rank: LowRankConfig, device: torch.device) -> None:
        self.policy = policy.to(device)
        self.features = QuestionFeatures(make_encoder(low_rank.features))

    @property
    def layers(self) -> int:
        """Number of the last layers that get the ΔW."""
        return self.policy.low.settings.adapted_layers

    @property
    def rank(self) -> int:
        """r of A [O, r] and B [r, I]."""
        return self.policy.low.settings.rank

    @torch.no_grad()
    def of(self, arm: int, questions: Sequence[str]) -> LowRank:
        """ΔW of an arm, by its number in the pool, for each question."""
        return self.policy.delta(arm, self.features(questions))

    def fitting(self, requests: Sequence[Request], shape: Shape) -> LowRank:
        """ΔW of each of some requests of one arm, for a model whose o_proj has a shape.

        Raises:
            EngineError: it was made for another model.
        """
        arm, arms = requests[0].arm, self.policy.arms
        index = arms.index(arm.name) if arm.name in arms else None
        if index is None or self.policy.low.shapes.get(index) != shape:
            raise EngineError(
                f"models.{arm.model}: the ΔW for the arm {arm.name} was made for another model.",
                "Give the models that the policy was trained on.",
            )
        return self.of(index, [request.question for request in requests])


def load_adapter(arm: Arm, device: torch.device) -> Adapter:
    """The ΔW that the settings of an arm's model name.

    Raises:
        EngineError: the policy makes none, or none for this arm.
    """
    low_rank = arm.model_config.low_rank
    assert low_rank is not None
    policy = load_policy(Path(low_rank.policy))
    if not isinstance(policy, JointPolicy) or arm.name not in policy.arms:
        raise EngineError(
            f"models.{arm.model}.low_rank: {low_rank.policy} makes no ΔW for the arm {arm.name}.",
            "Give the policy of a joint run on this pool.",
        )
    return Adapter(policy, low_rank, device)
