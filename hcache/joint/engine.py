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

from hcache.engines.base import TOO_LONG, Generation, Prompt, Request
from hcache.engines.rendering import rendering
from hcache.joint.checkpoint import Checkpoint
from hcache.joint.generator import LowRank
from hcache.joint.prefix import begins_otherwise, prefix_cache, shared_prefix

TOKENS = 1 << 16  # of a batch, padding and replies included
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
        self.queue: deque[tuple[Request, Prompt]] = deque()
        self.refused: list[Generation] = []
        self.provenance = {"engine": "lowrank", "torch": torch.__version__}

    def submit(self, request: Request) -> None:
        """See `Engine`. A prompt that leaves no room for a reply is answered at once."""
        with rendering(request):
            prompt = self.checkpoint.prompt(request.messages)
        length = len(prompt.ids)
        if 0 < length < self.checkpoint.window:
            self.queue.append((request, prompt))
            return
        refused = Generation(request.key, "", (), length, TOO_LONG, prompt_key=prompt.key)
        self.refused.append(refused)

    def step(self) -> list[Generation]:
        """See `Engine`: a batch of requests of one arm, as large as memory should allow."""
        done, self.refused = self.refused, []
        taken = self._take()
        return done + self._answer(taken) if taken else done

    def abort(self) -> None:
        """See `Engine`."""
        self.queue.clear()
        self.refused.clear()

    def close(self) -> None:
        """See `Engine`."""
        self.abort()

    def _take(self) -> list[tuple[Request, Prompt]]:
        """The next requests: of the arm that is first in line, their prompts beginning alike."""
        if not self.queue:
            return []
        arm = self.queue[0][0].arm
        # In the order of their tokens, so that prompts with a common prefix are neighbours.
        mine = sorted((one for one in self.queue if one[0].arm == arm), key=lambda one: one[1])
        taken: list[tuple[Request, Prompt]] = []
        longest = 0
        for request, prompt in mine:
            longest = max(longest, len(prompt.ids) + self._limit(request, prompt.ids))
            full = len(taken) == self.batch or longest * (len(taken) + 1) > TOKENS
            ends = [one.ids for _, one in (*taken[:1], *taken[1:][-1:])]  # sorted: they differ most
            if taken and (full or begins_otherwise(prompt.ids, ends)):
                break
            taken.append((request, prompt))
        keys = {request.key for request, _ in taken}
        self.queue = deque(one for one in self.queue if one[0].key not in keys)
        return taken

    def _limit(self, request: Request, prompt: Sequence[int]) -> int:
        return min(request.arm.config.max_tokens, self.checkpoint.window - len(prompt))

    @torch.no_grad()
    def _answer(self, taken: list[tuple[Request, Prompt]]) -> list[Generation]:
        since = time.perf_counter()
        requests, prompts = [request for request, _ in taken], [prompt.ids for _, prompt in taken]
        limit_B = [self._limit(request, prompt.ids) for request, prompt in taken]
        stops = requests[0].arm.config.stop
        shared = shared_prefix(prompts, self.layers)
        past = prefix_cache(self.checkpoint, prompts, shared)
        rests = [prompt[shared:] for prompt in prompts]
        with self.checkpoint.adapted(self.adapt(requests), self.layers):
            ids, logprobs = sample(
                self.checkpoint, rests, limit_B, [r.seed for r in requests], stops, past, shared
            )
        seconds = time.perf_counter() - since
        return [
            Generation(
                request.key,
                before_stop(self.checkpoint.decode(row), stops),
                tuple(row),
                len(prompt.ids),
                "stop" if self.checkpoint.has_ended(row, stops) else "length",
                0,
                tuple(logprob),
                seconds,
                prompt.thinking,
                prompt.key,
            )
            for (request, prompt), row, logprob in zip(taken, ids, logprobs, strict=True)
        ]


def sample(
    checkpoint: Checkpoint,
    prompts: list[list[int]],
    limit_B: list[int],
    seeds: list[int],
    stops: Sequence[str] = (),
    past: Any = None,
    before: int = 0,
) -> tuple[list[list[int]], list[list[float]]]:
    """Outputs of prompts, and their tokens' log-probabilities; padded at the left meanwhile.

    An output ends with a token that ends a call, with a text of `stops`, or at its limit. `past`
    holds keys and values of the tokens that stand before every prompt, as many as `before` says.
    """
    # Padding at the left lets all rows grow at the same index; positions leave it out.
    device, longest = checkpoint.device, max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor([[0] * n + p for n, p in zip(pads, prompts, strict=True)], device=device)
    mask_BT = torch.tensor([[0] * n + [1] * len(p) for n, p in zip(pads, prompts, strict=True)])
    mask_BT = mask_BT.to(device)
    uniform_BG = _uniform(seeds, max(limit_B)).to(device)
    ends = torch.tensor(sorted(checkpoint.end_ids), device=device)
    limit = torch.tensor(limit_B, device=device)
    open_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    lengths = torch.zeros_like(limit)
    position_BT = before + (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
    mask_BT = torch.cat([mask_BT.new_ones(len(prompts), before), mask_BT], dim=1)
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
        if stops:
            rows = torch.stack(tokens, dim=1).tolist()
            ended = [checkpoint.has_ended(row, stops) for row in rows]
            open_B = open_B & ~torch.tensor(ended, device=device)
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


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the one that ends it: that is complete first, and of equals the first named."""
    found = [
        (text.find(stop) + len(stop), index) for index, stop in enumerate(stops) if stop in text
    ]
    if not found:
        return text
    end, index = min(found)
    return text[: end - len(stops[index])]
