"""A cascade, as in FrugalGPT (arXiv 2305.05176): arms are asked one after another, each anew.

No arm reads another's reply: each gets the question alone, as the relay's first arm does, so the
two workflows share these generations. The router sees the replies so far; it chooses one of the
arms not yet asked or, from the second hop on, STOP. The answer is the last reply, and all that
were asked are paid for.
"""

from __future__ import annotations

from math import perm, prod
from typing import ClassVar, Literal

from pydantic import Field

from hcache.data.queries import Query
from hcache.models.arms import Arm
from hcache.workflows.base import WORKFLOWS, Workflow, parts_for, prompt_for
from hcache.workflows.effects import Flow, Stop, ask, choose


@WORKFLOWS.register("cascade")
class Cascade(Workflow):
    """Settings of the cascade; with fewer arms than hops it ends when all were asked."""

    later: ClassVar[frozenset[str]] = frozenset({"passages"})
    regular: ClassVar[bool] = False  # only the arms that are left are offered

    name: Literal["cascade"] = "cascade"
    separator: str = Field("\n\n", description="between question and instruction")
    passages: bool = Field(
        False,
        description="whether prompts have the passages of a query, which no router reads, before "
        "the question",
    )

    def trajectories(self, arms: int) -> int:
        """See `Workflow.trajectories`: no arm is asked twice."""
        return sum(perm(arms, hop) for hop in range(1, min(self.hops, arms) + 1))

    def trajectories_within(self, arms: int, width: int) -> int:
        """See `Workflow.trajectories_within`."""
        offered = range(arms - 1, arms - min(self.hops, arms), -1)
        return arms * sum(
            prod(min(width, left) for left in offered[:hop]) for hop in range(len(offered) + 1)
        )

    @property
    def shows_passages(self) -> bool:
        """See `Workflow.shows_passages`."""
        return self.passages

    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """See `Workflow.run`."""
        context: tuple[str, ...] = (query.question,)
        left = arms
        answer = ""
        for hop in range(min(self.hops, len(arms))):
            arm = yield from choose(context, left, stop=hop > 0)
            if isinstance(arm, Stop):
                break
            prompt = prompt_for(arm, parts_for(query, passages=self.passages), self.separator)
            answer = yield from ask(arm, prompt)
            context = (*context, answer.strip())
            left = tuple(other for other in left if other != arm)
        return answer
