"""The engine of an arm whose weights are changed for each question by a policy's ΔW."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hcache.engines import Engine, Request
from hcache.joint.adapter import load_adapter
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.engine import LowRankEngine
from hcache.joint.generator import LowRank
from hcache.models.arms import Arm


def serve(arm: Arm, logprobs: bool) -> Engine:
    """The engine of an arm's checkpoint under ΔW; transformers keeps log-probabilities anyway."""
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
