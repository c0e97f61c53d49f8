"""Both routers of arXiv 2601.05903 as one policy: who speaks, and with which ΔW."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from hcache.joint.generator import Generator, LowRank, LowRankSettings
from hcache.policies.base import POLICIES, with_weights, write_policy
from hcache.policies.mlp import MLPPolicy, MLPSettings


@POLICIES.register("joint")
class JointPolicy(MLPPolicy):
    """The high-level router, with the generator of ΔW for the arms it may choose."""

    name = "joint"

    def __init__(
        self, arms: Sequence[str], features: int, hops: int, settings: MLPSettings
    ) -> None:
        super().__init__(arms, features, hops, settings)
        self.low = Generator(features, {}, LowRankSettings())

    @classmethod
    def around(cls, high: MLPPolicy) -> Self:
        """A policy whose high-level router is a copy of `high`, as SFT has warmed it up."""
        policy = cls(high.arms, high.features, high.hops, high.settings)
        policy.load_state_dict(high.state_dict())
        return policy

    def delta(self, arm: int, features_BD: Tensor) -> LowRank:
        """ΔW of an arm for queries, by the features of their first state."""
        features_BD = features_BD.to(self.mean_D.device).float()
        low: LowRank = self.low.arm(arm)((features_BD - self.mean_D) / self.text_scale)
        return low

    def save(self, folder: Path) -> None:
        """Write weights, scales, settings and the shapes of the arms' o_proj."""
        settings = {
            "arms": self.arms,
            "features": self.features,
            "hops": self.hops,
            "high": {name: getattr(self.settings, name) for name in MLPSettings.model_fields},
            "low": {
                name: getattr(self.low.settings, name) for name in LowRankSettings.model_fields
            },
            "shapes": [[arm, *shape] for arm, shape in self.low.shapes.items()],
        }
        write_policy(folder, self.name, settings, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return with_weights(lambda: cls._of(settings), tensors)

    @classmethod
    def _of(cls, settings: dict[str, Any]) -> Self:
        """Networks as `save` described them, whose weights are yet to be loaded."""
        high, low = MLPSettings(**settings["high"]), LowRankSettings(**settings["low"])
        policy = cls(settings["arms"], settings["features"], settings["hops"], high)
        shapes = {arm: (out, into) for arm, out, into in settings["shapes"]}
        policy.low = Generator(policy.features, shapes, low)
        return policy
