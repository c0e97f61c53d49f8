"""The tally of a sampling run, which progress and the summary show."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hcache.models.replies import ReplyCount
from hcache.sampling.scoring import Scored


@dataclass
class Tally:
    """What a run has done so far."""

    queries: int = 0
    complete: int = 0
    expected: Counter[str] = field(default_factory=Counter)  # generations by arm, at most
    cached: Counter[str] = field(default_factory=Counter)
    generated: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    loads: int = 0
    moved: int = 0  # queries in another split than when they were recorded before
    missing: int = 0  # outcomes lost to a failed engine, or an arm that it cannot serve
    absent: int = 0  # of a server's models, not in the file of results that was given
    unpaid: int = 0  # requests not sent, since sampling.max_cost was reached
    spent: float = 0.0  # by this run, at the prices of its arms
    left: int = 0  # queries not begun, for want of budget
    waiting: bool = False  # whether finished generations wait in the spool
    seconds: float = 0.0
    scored: Scored = field(default_factory=Scored)  # at the end, of what was there before
    replies: tuple[ReplyCount, ...] = ()  # of the splits sampled, at the end
