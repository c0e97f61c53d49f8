"""Counts of how the calls of an arm ended: whole, cut at max_tokens, or with too long a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ReplyCount:
    """Distinct generations of an arm by how they ended."""

    arm: str
    replies: int  # all of them, prompts that were too long included
    truncated: int  # cut at max_tokens or at the end of the window
    too_long: int  # prompts that left no room for a reply, which is then empty


def in_words(counts: Iterable[ReplyCount]) -> Iterator[str]:
    """A sentence for each arm of which a reply was cut or a prompt too long."""
    for count in counts:
        parts = [
            f"{number:,} of {count.replies:,} {what} ({number / count.replies:.1%})"
            for number, what in (
                (count.truncated, "replies cut at max_tokens"),
                (count.too_long, "prompts too long for its window"),
            )
            if number
        ]
        if parts:
            yield f"{count.arm}: {', '.join(parts)}."
