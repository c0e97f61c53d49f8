"""Sampling with a ΔW of its own for each request: transformers in process, batched.

It serves the arms of one checkpoint at temperature 1 and top_p 1. Each request draws from its own
seed, so what it says does not depend on what else is in the batch, up to rounding.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hcache.engines.base import TOO_LONG, Generation, Request
from hcache.lowrank.checkpoint import Checkpoint
from hcache.lowrank.generator import LowRank

Adapt = Callable[[Sequence[Request]], LowRank | None]
"""Requests of one arm to the ΔW of each; None leaves the weights as they are."""


def unadapted(requests: Sequence[Request]) -> None:
    """No ΔW."""


class LowRankEngine:
    """An `Engine` that samples under W + ΔW."""

    def __init__(
        self, checkpoint: Checkpoint, layers: int = 1, adapt: Adapt = unadapted, batch: int = 256
    ) -> None:
        self.checkpoint, self.layers, self.adapt, self.batch = checkpoint, layers, adapt, batch
        self.queue: deque[Request] = deque()
        self.provenance = {"engine": "lowrank", "torch": torch.__version__}

    def submit(self, request: Request) -> None:
        """See `Engine`."""
        self.queue.append(request)

    def step(self) -> list[Generation]:
        """See `Engine`: up to `batch` requests of one arm."""
        if not self.queue:
            return []
        arm = self.queue[0].arm
        taken = [request for request in self.queue if request.arm == arm][: self.batch]
        keys = {request.key for request in taken}
        self.queue = deque(request for request in self.queue if request.key not in keys)
        return self._answer(taken)

    def abort(self) -> None:
        """See `Engine`."""
        self.queue.clear()

    def close(self) -> None:
        """See `Engine`."""
        self.queue.clear()

    def _answer(self, requests: Sequence[Request]) -> list[Generation]:
        prompts = {request.key: self.checkpoint.render(request.messages) for request in requests}
        fits = [r for r in requests if 0 < len(prompts[r.key]) < self.checkpoint.window]
        said = [
            Generation(r.key, "", (), len(prompts[r.key]), TOO_LONG)
            for r in requests
            if r not in fits
        ]
        return said + self._sample(fits, [prompts[r.key] for r in fits]) if fits else said

    @torch.no_grad()
    def _sample(self, requests: Sequence[Request], prompts: list[list[int]]) -> list[Generation]:
        since = time.perf_counter()
        limit_B = [
            min(request.arm.config.max_tokens, self.checkpoint.window - len(prompt))
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        with self.checkpoint.adapted(self.adapt(requests), self.layers):
            ids, logprobs = sample(self.checkpoint, prompts, limit_B, [r.seed for r in requests])
        seconds = time.perf_counter() - since
        return [
            Generation(
                request.key,
                self.checkpoint.tokenizer.decode(row, skip_special_tokens=True).strip(),
                tuple(row),
                len(prompt),
                "stop" if row[-1] in self.checkpoint.end_ids else "length",
                0,
                tuple(logprob),
                seconds,
            )
            for request, prompt, row, logprob in zip(requests, prompts, ids, logprobs, strict=True)
        ]


def sample(
    checkpoint: Checkpoint, prompts: list[list[int]], limit_B: list[int], seeds: list[int]
) -> tuple[list[list[int]], list[list[float]]]:
    """Outputs of prompts, and their tokens' log-probabilities; padded at the left meanwhile."""
    device, longest = checkpoint.device, max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor([[0] * n + p for n, p in zip(pads, prompts, strict=True)], device=device)
    mask_BT = torch.tensor([[0] * n + [1] * len(p) for n, p in zip(pads, prompts, strict=True)])
    mask_BT = mask_BT.to(device)
    uniform_BG = _uniform(seeds, max(limit_B)).to(device)
    ends = torch.tensor(sorted(checkpoint.end_ids), device=device)
    limit = torch.tensor(limit_B, device=device)
    open_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    past: Any = None
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    lengths = torch.zeros_like(limit)
    position_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    while bool(open_B.any()):
        output = checkpoint.model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=position_BT,
            past_key_values=past, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        past = output.past_key_values
        logprob_BV = output.logits[:, -1].float().log_softmax(dim=1)
        token_B = _draw(logprob_BV, uniform_BG[:, len(tokens)])
        tokens.append(token_B)
        logprobs.append(logprob_BV.gather(1, token_B[:, None])[:, 0])
        lengths += open_B
        open_B = open_B & ~torch.isin(token_B, ends) & (lengths < limit)
        ids_BT, position_BT = token_B[:, None], position_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
    token_BG, logprob_BG = (
        torch.stack(tokens, dim=1).tolist(),
        torch.stack(logprobs, dim=1).tolist(),
    )
    counts = lengths.tolist()
    return (
        [row[:count] for row, count in zip(token_BG, counts, strict=True)],
        [row[:count] for row, count in zip(logprob_BG, counts, strict=True)],
    )


def _uniform(seeds: Sequence[int], count: int) -> Tensor:
    """Numbers in [0, 1) for each request from its own seed, [B, G]."""
    return torch.stack(
        [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def _draw(logprob_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token of each row by inverting its distribution function."""
    below_BV = logprob_BV.double().exp().cumsum(dim=1)
    wanted_B1 = uniform_B[:, None].double() * below_BV[:, -1:]
    return torch.searchsorted(below_BV, wanted_B1, right=True)[:, 0].clamp(
        max=logprob_BV.shape[1] - 1
    )
