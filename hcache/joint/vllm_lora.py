"""vLLM under a ΔW of its own for each arm and question, as a LoRA adapter that a request names.

An adapter is written to a temporary folder when a request first needs it, and vLLM loads it when it
schedules that request. No request may go without one, even where ΔW = 0: among others that have
one, vLLM on a CPU answers it under theirs.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hcache.engines import Request
from hcache.engines.devices import has_gpu
from hcache.engines.vllm import VllmEngine
from hcache.engines.vllm_arguments import room_for
from hcache.errors import EngineError
from hcache.joint.adapter import Adapter
from hcache.joint.checkpoint import must_be_plain
from hcache.joint.generator import LowRank, Shape
from hcache.models.arms import Arm

TOGETHER = {"cpu": 16, "gpu": 32}  # adapters of a step; more than 16 gained nothing
KEPT = 256  # adapters in vLLM's memory, and on disk though no request under way names them
ADVICE = "Leave the engine of the ΔW at transformers."
MODULE = re.compile(r"model\.layers\.(\d+)\.self_attn\.o_proj")
Key = tuple[str, str]  # the name of an arm, and a question


class VllmLowRankEngine(VllmEngine):
    """A checkpoint in vLLM under the ΔW of a policy."""

    def __init__(self, arm: Arm, logprobs: bool, adapter: Adapter) -> None:
        """Load the checkpoint of `arm`.

        Raises:
            EngineError: vLLM cannot load it, or cannot lay a ΔW over it.
        """
        must_be_plain(arm)
        super().__init__(arm, logprobs, _arguments(arm, adapter.rank))
        from vllm.lora.request import LoRARequest

        self.named = LoRARequest
        self.adapter = adapter
        self.shape, self.depth = self._order(arm)
        self.folder = TemporaryDirectory(prefix="hcache-")
        self.numbers: dict[Key, int] = {}  # of every adapter there ever was: vLLM goes by them
        self.written: OrderedDict[Key, Path] = OrderedDict()  # those on disk, by when last named
        self.provenance["engine"] = "vllm-lowrank"

    def lora_request(self, request: Request) -> Any:
        """See `VllmEngine`: the adapter of the request's arm and question, which is on disk."""
        key = _key(request)
        if key not in self.written:
            self._write(key, self.adapter.fitting([request], self.shape))
        self.written.move_to_end(key)
        number = self.numbers[key]
        return self.named(f"delta-{number}", number, str(self.written[key]))

    def close(self) -> None:
        """See `Engine`."""
        super().close()
        self.folder.cleanup()

    def _write(self, key: Key, low: LowRank) -> None:
        if len(self.written) >= KEPT:
            self._make_room()
        number = self.numbers.setdefault(key, len(self.numbers) + 1)
        folder = Path(self.folder.name) / str(number)
        layers = range(max(0, self.depth - self.adapter.layers), self.depth)
        try:
            write_adapter(folder, low, layers)
        except (OSError, SafetensorError) as error:  # a full disk
            raise self._fail(error) from error
        self.written[key] = folder

    def _make_room(self) -> None:
        """Delete the adapters that no request under way names, but for the newest."""
        used = {_key(request) for request, _, _ in self.requests.values()}
        for key in list(self.written)[: -(KEPT // 2)]:
            if key not in used:
                rmtree(self.written.pop(key))

    def _order(self, arm: Arm) -> tuple[Shape, int]:
        """(O, I) of o_proj, and how many layers have one where an adapter of ours names it."""
        found: dict[str, Shape] = {}
        for part in self.llm.apply_model(_projections):  # of each process that holds some layers
            found |= part
        layers = [int(index[1]) for name in found if (index := MODULE.fullmatch(name))]
        if len(set(found.values())) != 1 or sorted(layers) != list(range(len(found))):
            super().close()
            raise EngineError(
                f"models.{arm.model}: vLLM finds no model.layers.N.self_attn.o_proj in {arm.path}.",
                ADVICE,
            )
        return next(iter(found.values())), len(found)


def write_adapter(folder: Path, low: LowRank, layers: range) -> None:
    """The one ΔW of a batch of one as a LoRA adapter, the same in each of some layers.

    Raises:
        EngineError: it is not finite.
    """
    a_RI, b_OR = low.b_BRI[0].contiguous(), low.scale * low.a_BOR[0]  # as LoRA calls them
    if not (a_RI.isfinite().all() and b_OR.isfinite().all()):
        raise EngineError("a ΔW of the policy is not finite.", "Train it at a smaller rate.")
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        # Files of tensors hold no two names of one piece of memory.
        tensors |= {f"{name}.lora_A.weight": a_RI.clone(), f"{name}.lora_B.weight": b_OR.clone()}
    rank = len(a_RI)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["o_proj"]}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _projections(model: Any) -> dict[str, Shape]:
    """(O, I) of every o_proj that vLLM adds adapters to, by name; runs where the model is."""
    return {
        name: (module.base_layer.output_size, module.base_layer.input_size)
        for name, module in model.named_modules()
        if name.endswith(".o_proj") and hasattr(module, "base_layer")
    }


def _key(request: Request) -> Key:
    return request.arm.name, request.question


def _arguments(arm: Arm, rank: int) -> dict[str, Any]:
    """Arguments with which vLLM serves adapters of a rank.

    Raises:
        EngineError: it cannot.
    """
    if has_gpu() and arm.model_config.dtype == "float32":
        raise EngineError(
            f"models.{arm.model}: vLLM takes no adapters in float32 on a GPU.", ADVICE
        )
    return {
        "enable_lora": True,
        "max_loras": TOGETHER["gpu" if has_gpu() else "cpu"],
        "max_cpu_loras": KEPT,
        "max_lora_rank": room_for(rank, f"the rank of a ΔW is {rank}", ADVICE),
        "lora_target_modules": ["o_proj"],
    }
