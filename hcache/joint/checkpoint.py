"""A checkpoint in transformers: prompts rendered as the engine does, and ΔW laid over o_proj.

It stays loaded; a ΔW is added to what o_proj gives while a batch runs, a different one for each
sample, and weights are never merged. transformers is imported when the first one is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from hcache.engines.base import Prompt, as_said, render
from hcache.engines.vllm_arguments import reply_arguments
from hcache.errors import EngineError
from hcache.joint.generator import LowRank, Shape
from hcache.models.arms import Arm
from hcache.models.causal_lm import SAFE, import_transformers, loading
from hcache.workflows import Message

SCALINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def must_be_plain(arm: Arm) -> None:
    """Refuse a checkpoint that takes no ΔW.

    Raises:
        EngineError: it is quantised, has an adapter, or is changed by arguments of its engine.
    """
    if arm.model_config.quantization is not None or arm.model_config.adapter is not None:
        raise EngineError(
            f"models.{arm.model}: a quantised or adapted checkpoint takes no ΔW.",
            "Give the plain checkpoint.",
        )
    if changing := reply_arguments(arm.model_config.engine_args):
        raise EngineError(
            f"models.{arm.model}.engine_args: a checkpoint under {', '.join(changing)} takes no "
            "ΔW, which is scored without these arguments.",
            "Remove them.",
        )


class Checkpoint:
    """A causal language model whose weights stay as they are."""

    def __init__(self, arm: Arm, device: torch.device) -> None:
        """Load the checkpoint of an arm.

        Raises:
            EngineError: transformers is missing, or the checkpoint is of a kind that takes no ΔW.
        """
        must_be_plain(arm)
        config = arm.model_config
        transformers = import_transformers()
        self.window = config.max_model_len
        self.device = device
        self.model_config = config
        dtype = getattr(torch, config.dtype)
        with loading(arm.path, f"models.{arm.model}.path"):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                arm.path, dtype=dtype, use_safetensors=True, **SAFE
            )
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(arm.path, **SAFE)
        self.model: Any = model.to(device)
        self.model.requires_grad_(False).eval()
        self.layers: Any = getattr(self.model.base_model, "layers", None)
        if self.layers is None or not hasattr(self.layers[-1].self_attn, "o_proj"):
            raise EngineError(
                f"models.{arm.model}: {arm.path} has no self_attn.o_proj to add a ΔW to.",
                "Take a model that has one: Llama, Mistral, Qwen and their like.",
            )
        scaled = [name for name in SCALINGS if getattr(self.model.config, name, None)]
        if scaled:  # outputs are scored from hidden states, by the output layer alone
            raise EngineError(
                f"models.{arm.model}: {arm.path} changes its logits by {scaled[0]}.",
                "Take a model of another kind: Llama, Mistral, Qwen and their like do not.",
            )

    @property
    def shape(self) -> Shape:
        """(O, I) of o_proj."""
        out, into = self.layers[-1].self_attn.o_proj.weight.shape
        return int(out), int(into)

    @cached_property
    def end_ids(self) -> set[int]:
        """Tokens that end a call."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return {end for end in (*ends, self.tokenizer.eos_token_id) if end is not None}

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt that messages make."""
        [prompt] = render(self.tokenizer, [messages], self.model_config)
        return prompt

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt."""
        return self.prompt(messages).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an output, as it was said."""
        return as_said(self.tokenizer, ids, self.end_ids)

    def has_ended(self, ids: Sequence[int], stops: Sequence[str]) -> bool:
        """True if an output has come to its end: a call's, or a text of `stops`."""
        if ids[-1] in self.end_ids:
            return True
        return bool(stops) and any(stop in self.decode(ids) for stop in stops)

    @contextmanager
    def adapted(self, low: LowRank | None, layers: int) -> Iterator[None]:
        """While it lasts, o_proj of the last layers gives W·x + ΔW·x, sample by sample."""
        if low is None:
            yield
            return

        def add(module: Any, inputs: Any, output: Any) -> Any:
            return output + low(inputs[0])

        hooks = [
            layer.self_attn.o_proj.register_forward_hook(add) for layer in self.layers[-layers:]
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Checkpoints:
    """Checkpoints of some arms, each loaded once and kept."""

    def __init__(self, arms: Sequence[Arm | None], device: torch.device) -> None:
        loaded: dict[str, Checkpoint] = {}
        self.by_arm: dict[int, Checkpoint] = {}
        for index, arm in enumerate(arms):
            if arm is None:
                continue
            if arm.engine_key not in loaded:
                loaded[arm.engine_key] = Checkpoint(arm, device)
            self.by_arm[index] = loaded[arm.engine_key]

    @property
    def shapes(self) -> dict[int, Shape]:
        """(O, I) of each arm's o_proj."""
        return {index: checkpoint.shape for index, checkpoint in self.by_arm.items()}
