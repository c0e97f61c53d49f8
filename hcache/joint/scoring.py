"""Log-probabilities of stored calls under W + ΔW, a ΔW for each sample, batched.

Teacher-forced: prompt and output tokens go through the model at once, padded at the right, where
causal attention never looks. With one adapted layer, the last, nothing before its o_proj depends
on ΔW: what o_proj saw and what it is added to are kept at the generated positions, and scoring is
o_proj, norm, MLP, final norm and output layer alone. That takes O + I numbers per output token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hcache.joint.adapter import Adapter
from hcache.joint.calls import Calls
from hcache.joint.checkpoint import Checkpoint, Checkpoints
from hcache.joint.generator import LowRank
from hcache.joint.prefix import begins_otherwise, prefix_cache, shared_prefix

TOLERANCE = {torch.float32: 1e-4}  # of a token, between the kept part and the full forward
ROUGH = 0.1  # the same in half precision


@dataclass(frozen=True)
class Tokens:
    """A prompt and what was said to it."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


@dataclass(frozen=True)
class Kept:
    """Input of the last o_proj, and what its output is added to, where an output is predicted."""

    into_GI: Tensor  # what o_proj sees
    base_GO: Tensor  # what ΔW·x is added to: the residual stream with W·x


def full_logprobs(
    checkpoint: Checkpoint, batch: Sequence[Tokens], low: LowRank | None, layers: int
) -> Tensor:
    """log π of every output token by the whole model, float32 [B, G]; 0 behind an output's end."""
    prompts = [tokens.prompt for tokens in batch]
    shared = shared_prefix(prompts, 1 if low is None else layers)
    past = prefix_cache(checkpoint, prompts, shared)
    rows = [[*tokens.prompt, *tokens.output][shared:] for tokens in batch]
    with checkpoint.adapted(low, layers):
        output = checkpoint.model.base_model(
            input_ids=_padded(rows).to(checkpoint.device),
            past_key_values=past,
            use_cache=past is not None,
        )
    hidden_BTO = output.last_hidden_state
    at_BG1 = (_positions(batch) - shared).to(checkpoint.device)[:, :, None]
    hidden_BGO = hidden_BTO.gather(1, at_BG1.expand(-1, -1, hidden_BTO.shape[2]))
    return _picked(checkpoint.model.get_output_embeddings()(hidden_BGO), batch)


def kept_logprobs(
    checkpoint: Checkpoint, batch: Sequence[Tokens], kept: Sequence[Kept], low: LowRank | None
) -> Tensor:
    """The same from what was kept before the last o_proj; layout of a Llama layer."""
    layer, base = checkpoint.layers[-1], checkpoint.model.base_model
    hidden_BGO = pad_sequence([one.base_GO for one in kept], batch_first=True)
    hidden_BGO = hidden_BGO.to(checkpoint.device)
    if low is not None:
        into_BGI = pad_sequence([one.into_GI for one in kept], batch_first=True)
        hidden_BGO = hidden_BGO + low(into_BGI.to(checkpoint.device))
    hidden_BGO = hidden_BGO + layer.mlp(layer.post_attention_layernorm(hidden_BGO))
    logits_BGV = checkpoint.model.get_output_embeddings()(base.norm(hidden_BGO))
    return _picked(logits_BGV, batch)


@contextmanager
def _watched(checkpoint: Checkpoint) -> Iterator[dict[str, Tensor]]:
    """Record of what goes into the last layer, and into and out of its o_proj, in a forward."""
    seen: dict[str, Tensor] = {}
    layer = checkpoint.layers[-1]

    def enters(module: Any, inputs: Any) -> None:
        seen["residual"] = inputs[0]

    def passes(module: Any, inputs: Any, output: Any) -> None:
        seen["into"], seen["out"] = inputs[0], output

    hooks = [
        layer.input_layernorm.register_forward_pre_hook(enters),
        layer.self_attn.o_proj.register_forward_hook(passes),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keep(seen: dict[str, Tensor], batch: Sequence[Tokens]) -> list[Kept]:
    """Watched values at the positions that predict outputs."""
    base_BTO = seen["residual"] + seen["out"]
    # The watched forward began behind what the prompts share.
    first = shared_prefix([t.prompt for t in batch], 1)
    spans = [slice(len(t.prompt) - 1 - first, len(t) - 1 - first) for t in batch]
    return [
        Kept(seen["into"][row, span].cpu().clone(), base_BTO[row, span].cpu().clone())
        for row, span in enumerate(spans)
    ]


def _positions(batch: Sequence[Tokens]) -> Tensor:
    """Positions whose logits predict the output tokens, [B, G]; the first one behind the end."""
    starts = [len(tokens.prompt) - 1 for tokens in batch]
    rows = [
        list(range(start, start + len(t.output))) for start, t in zip(starts, batch, strict=True)
    ]
    return torch.maximum(_padded(rows), torch.tensor(starts)[:, None])


def _picked(logits_BGV: Tensor, batch: Sequence[Tokens]) -> Tensor:
    """log softmax of the output tokens in float32, [B, G]; 0 behind the end."""
    target_BG = _padded([tokens.output for tokens in batch]).to(logits_BGV.device)
    length_B = torch.tensor([len(tokens.output) for tokens in batch], device=logits_BGV.device)
    said_BG = torch.arange(target_BG.shape[1], device=logits_BGV.device) < length_B[:, None]
    logprob_BGV = logits_BGV.float().log_softmax(dim=2)
    picked_BG = logprob_BGV.gather(2, target_BG[:, :, None])[:, :, 0]
    return torch.where(said_BG, picked_BG, 0.0)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


class CallScorer:
    """The calls of a tree, ready to be scored under any ΔW.

    The behaviour log-probabilities are computed here once, so that ratios are between numbers of
    one stack: those under W, or under W and the ΔW that an arm was sampled with.
    `engine_difference` is how far the engine's own are from them.
    """

    def __init__(
        self,
        calls: Calls,
        checkpoints: Checkpoints,
        layers: int,
        batch: int,
        sampled_with: Mapping[int, Adapter] | None = None,
    ) -> None:
        """`sampled_with` is by arm, of those that were sampled with a ΔW."""
        self.calls, self.checkpoints, self.layers, self.batch = calls, checkpoints, layers, batch
        self.sampled_with = sampled_with or {}
        arms = calls.arm_U.tolist()
        self.tokens = [
            Tokens(tuple(checkpoints.by_arm[arm].render(call.messages)), call.output_ids)
            for arm, call in zip(arms, calls.records, strict=True)
        ]
        self.behaviour_U = torch.zeros(len(calls))
        self.engine_difference = 0.0  # largest, of a token; 0 where the engine's were not stored
        self.kept: dict[int, Kept] = {}
        for arm, index in self.chunks(torch.arange(len(calls))):
            self._measure(arm, index)

    def chunks(self, index_B: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The calls of an index by arm, `batch` at a time: of like length, or with like prompts."""
        arm_B = self.calls.arm_U[index_B]
        for arm in arm_B.unique().tolist():
            mine = index_B[arm_B == arm].tolist()
            # Kept positions need no prompt, so padding is all that a batch can save; a forward
            # saves most where prompts begin alike.
            if mine[0] in self.kept:
                mine.sort(key=lambda call: len(self.tokens[call].output))
                parts = torch.tensor(mine).split(self.batch)
            else:
                mine.sort(key=lambda call: self.tokens[call].prompt)
                parts = tuple(map(torch.tensor, self._alike(mine)))
            for part in parts:
                yield arm, part

    def _alike(self, calls: Sequence[int]) -> Iterator[list[int]]:
        """Calls in the order of their prompts, cut where prompts come to begin otherwise."""
        part: list[int] = []
        for call in calls:
            # In sorted order the first and the last prompt have the shortest common prefix.
            ends = [self.tokens[one].prompt for one in (*part[:1], *part[1:][-1:])]
            if len(part) == self.batch or begins_otherwise(self.tokens[call].prompt, ends):
                yield part
                part = []
            part.append(call)
        if part:
            yield part

    def logprobs(self, arm: int, index_B: Tensor, low: LowRank | None) -> Tensor:
        """Σ log π over the tokens of each call, float32 [B]; all calls are of one arm."""
        checkpoint, calls = self.checkpoints.by_arm[arm], index_B.tolist()
        batch = [self.tokens[call] for call in calls]
        if calls[0] in self.kept:
            kept = [self.kept[call] for call in calls]
            return kept_logprobs(checkpoint, batch, kept, low).sum(dim=1)
        return full_logprobs(checkpoint, batch, low, self.layers).sum(dim=1)

    @torch.no_grad()
    def _measure(self, arm: int, index_B: Tensor) -> None:
        """Behaviour log-probabilities of calls, and what can be kept of them."""
        checkpoint, calls = self.checkpoints.by_arm[arm], index_B.tolist()
        batch = [self.tokens[call] for call in calls]
        with _watched(checkpoint) as seen:
            plain_BG = full_logprobs(checkpoint, batch, None, self.layers)
        logprob_BG = self._behaviour(arm, calls) if arm in self.sampled_with else plain_BG
        self.behaviour_U[index_B] = logprob_BG.sum(dim=1).cpu()
        for call, logprob_G in zip(calls, logprob_BG.cpu(), strict=True):
            engine = self.calls.records[call].logprobs
            if engine is not None:
                difference = logprob_G[: len(engine)] - torch.tensor(engine)
                self.engine_difference = max(self.engine_difference, float(difference.abs().max()))
        if self.layers == 1:
            kept = _keep(seen, batch)
            if _agree(kept_logprobs(checkpoint, batch, kept, None), plain_BG, checkpoint):
                self.kept |= dict(zip(calls, kept, strict=True))

    def _behaviour(self, arm: int, calls: Sequence[int]) -> Tensor:
        """log π of every output token under the ΔW that calls were sampled with, [B, G]."""
        adapter = self.sampled_with[arm]
        low = adapter.of(arm, [self.calls.records[call].question for call in calls])
        batch = [self.tokens[call] for call in calls]
        return full_logprobs(self.checkpoints.by_arm[arm], batch, low, adapter.layers)


def _agree(one: Tensor, two: Tensor, checkpoint: Checkpoint) -> bool:
    """True for a layer of the layout that `kept_logprobs` takes; else the full forward is used."""
    near = TOLERANCE.get(checkpoint.model.dtype, ROUGH)
    return float((one - two).abs().max()) <= near
