"""The common prefix of a batch of prompts, computed once for all of them.

A ΔW on the last layer's o_proj comes behind that layer's keys and values, so a common prefix has
the same ones whatever the ΔW of a row. With more layers it has not, and nothing is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hcache.joint.checkpoint import Checkpoint

WORTH_SHARING = 16  # tokens of a common prefix

Ids = Sequence[int]


def shared_prefix(prompts: Sequence[Ids], layers: int) -> int:
    """Number of first tokens of prompts to compute once; the last token of each is never shared."""
    if layers > 1 or len(prompts) < 2:
        return 0
    # Each row keeps a token of its own: its output predicts the first token of the reply.
    common = _common([prompt[:-1] for prompt in prompts])
    return common if common >= WORTH_SHARING else 0


def begins_otherwise(prompt: Ids, group: Sequence[Ids]) -> bool:
    """True for a prompt that shares less than half of what a group shares, if that is much.

    A group in the order of its prompts shares what its first and its last do.
    """
    if len(group) < 2:
        return False
    # A batch shares what all its rows do, so one odd prompt would cost the others their prefix.
    own = _common([group[0], group[-1]])
    return own >= WORTH_SHARING and _common([group[0], prompt]) < own // 2


@torch.no_grad()
def prefix_cache(checkpoint: Checkpoint, prompts: Sequence[Ids], length: int) -> Any:
    """Keys and values of the first tokens, for every row; None where there are none."""
    if not length:
        return None
    prefix_1T = torch.tensor([list(prompts[0][:length])], device=checkpoint.device)
    past = checkpoint.model.base_model(input_ids=prefix_1T, use_cache=True).past_key_values
    past.batch_repeat_interleave(len(prompts))
    return past


def _common(rows: Sequence[Ids]) -> int:
    """Length of the common beginning of rows: that of the least and the greatest."""
    ordered = sorted(map(tuple, rows))
    for index, (one, two) in enumerate(zip(ordered[0], ordered[-1], strict=False)):
        if one != two:
            return index
    return min(map(len, ordered))
