"""The tally of a sampling run, which progress and the summary show."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hcache.engines import Generation
from hcache.models.arms import Arm
from hcache.models.replies import ReplyCount
from hcache.sampling.scoring import Scored


@dataclass
class Tally:
    """Counts of a run so far."""

    queries: int = 0
    complete: int = 0
    expected: Counter[str] = field(default_factory=Counter)  # generations by arm, at most
    cached: Counter[str] = field(default_factory=Counter)
    generated: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    prompt_tokens: Counter[str] = field(default_factory=Counter)  # of what was generated, by arm
    output_tokens_of: Counter[str] = field(default_factory=Counter)
    spent_of: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    endpoints: Counter[str] = field(default_factory=Counter)  # generations of servers, by address
    loads: int = 0
    moved: int = 0  # queries in another split than when they were recorded before
    missing: int = 0  # outcomes lost to a failed engine, or an arm that it cannot serve
    absent: int = 0  # of a server's models, not in the file of results that was given
    unpaid: int = 0  # requests not sent, since they could pass sampling.max_cost
    left: int = 0  # queries not begun, for want of budget
    least: int = 0  # budget that would have begun a query, where the one given began none
    waiting: bool = False  # whether finished generations wait in the spool
    seconds: float = 0.0
    scored: Scored = field(default_factory=Scored)  # at the end, of what was there before
    replies: tuple[ReplyCount, ...] = ()  # of the splits sampled, at the end

    def count(self, arm: Arm, generation: Generation) -> None:
        """Count a generation that has just been made."""
        tokens = generation.prompt_tokens, generation.output_tokens
        self.generated[arm.name] += 1
        self.output_tokens += tokens[1]
        self.prompt_tokens[arm.name] += tokens[0]
        self.output_tokens_of[arm.name] += tokens[1]
        self.spent_of[arm.name] += arm.config.price.of(*tokens)
        for name, value in generation.facts:
            if name == "endpoint":
                self.endpoints[value] += 1

    @property
    def spent(self) -> float:
        """Cost of this run, at the prices of its arms."""
        return sum(self.spent_of.values())

    def done(self, arm: str) -> int:
        """Generations of an arm that are there."""
        return self.cached[arm] + self.generated[arm]

    def total(self, arm: str) -> int:
        """Generations of an arm, at most: those done and the whole trees of all queries not
        complete. Branches with equal replies share generations. With a width
        queries draw different arms, and an arm may have more than the first query would have it."""
        open_share = 1 - self.complete / self.queries
        done, expected = self.done(arm), self.expected[arm]
        return max(done, min(expected, done + round(expected * open_share)))
