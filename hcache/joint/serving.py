"""The engine of an arm whose weights are changed for each question by a policy's ΔW."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hcache.config.schema import LowRankConfig, ModelConfig
from hcache.engines import ENGINES, Engine, Request
from hcache.engines.vllm import CheckpointType
from hcache.errors import EngineError
from hcache.joint.adapter import load_adapter
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.engine import LowRankEngine
from hcache.joint.generator import LowRank
from hcache.keys import digest_file
from hcache.models.arms import Arm
from hcache.models.files import encoder_digest, locate


@ENGINES.register("low-rank")
class LowRankServing(CheckpointType):
    """The engines of arms whose weights are changed for each question.

    Arguments that can change a reply are refused when one is made.
    """

    @staticmethod
    def content(model: ModelConfig, place: str) -> dict[str, object]:
        """See `EngineType`: the checkpoint, and what a ΔW depends on besides the question."""
        assert model.low_rank is not None
        checkpoint = CheckpointType.content(model, place)
        return {**checkpoint, "low_rank": _delta_content(model.low_rank, place)}

    @staticmethod
    def serving(arm: Arm, logprobs: bool) -> Engine:
        """See `EngineType`; transformers keeps log-probabilities anyway."""
        low_rank = arm.model_config.low_rank
        assert low_rank is not None
        if low_rank.engine == "vllm":
            from hcache.joint.vllm_lora import VllmLowRankEngine

            return VllmLowRankEngine(arm, logprobs, load_adapter(arm, torch.device("cpu")))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        adapter, checkpoint = load_adapter(arm, device), Checkpoint(arm, device)

        def adapt(requests: Sequence[Request]) -> LowRank:
            return adapter.fitting(requests, checkpoint.shape)

        return LowRankEngine(checkpoint, adapter.layers, adapt)


def _delta_content(low_rank: LowRankConfig, place: str) -> dict[str, object]:
    """The source of ΔW besides the question: the policy, and the encoder of its features."""
    file = Path(low_rank.policy) / "policy.json"  # it holds the digest of the tensors
    if not file.is_file():
        raise EngineError(
            f"{place}.low_rank.policy: {low_rank.policy} holds no policy.",
            "Give the folder `policy` of a finished run.",
        )
    features = low_rank.features
    settings = features.model_dump(mode="json", exclude={"path"})
    model = (
        None
        if features.path is None
        else encoder_digest(locate(features.path, Path(), f"{place}.low_rank.features.path"))
    )
    return {"policy": digest_file(file), "features": settings, "encoder": model}
