"""The gate in front of the engines: a cap on what a run may cost, and replies from a file alone."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable

from hcache.engines import Request
from hcache.sampling.tally import Tally

TEMPLATE_TOKENS = 256  # that a chat template adds to a prompt, at most


class Gate:
    """Says which requests may be given to an engine now."""

    def __init__(
        self, max_cost: float | None, tally: Tally, only: Container[str] | None = None
    ) -> None:
        """`max_cost` is at the prices of the arms, by which the tally knows what was spent; of a
        server's models, `only` some keys pass."""
        self.max_cost, self.tally, self.only = max_cost, tally, only
        self.room = math.inf  # what may be spent, beside all that is being answered
        self.shut = False  # whether the next request could have gone over the cap, alone

    def bars(self, request: Request) -> bool:
        """True if there can be no reply to a request in this run."""
        if self.only is None or not request.arm.model_config.remote:
            return False
        return request.key not in self.only

    def reckon(self, running: Iterable[Request]) -> None:
        """Find what may be spent beside what these requests may cost."""
        if self.max_cost is not None:
            self.room = self.max_cost - self.tally.spent - sum(map(most, running))

    def passes(self, request: Request) -> bool:
        """True if a request can be paid for whatever its reply; if so, that much is set aside."""
        if self.max_cost is None:
            return True
        cost = most(request)
        if cost > self.max_cost - self.tally.spent:
            self.shut = True
        if self.shut or cost > self.room:
            return False
        self.room -= cost
        return True


def most(request: Request) -> float:
    """The most that a request can cost: no token of a prompt is shorter than a byte."""
    config = request.arm.config
    read = TEMPLATE_TOKENS + sum(len(message.content.encode()) for message in request.messages)
    return config.price.of(read, config.max_tokens)
