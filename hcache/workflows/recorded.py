"""Outcomes that others have recorded, as a decision process: which arm is called, then who next.

What was recorded says who was called after whom, not in which words. So a prompt here is the
question and the replies so far, each under the name of its arm: it tells apart calls that differ,
and is no prompt to send. The router sees the question and the replies; where a reply was not
recorded it sees an empty text in its place. The answer is the last reply.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hcache.data.queries import Query
from hcache.models.arms import Arm
from hcache.workflows.base import WORKFLOWS, Workflow
from hcache.workflows.effects import Flow, Message, Stop, ask, choose


@WORKFLOWS.register("recorded")
class Recorded(Workflow):
    """Settings: the sequences that were recorded, which are all that can be chosen."""

    regular: ClassVar[bool] = False  # only what continues a sequence is offered

    name: Literal["recorded"] = "recorded"
    hops: int = Field(default=1, ge=1, le=8, description="most calls of a trajectory, L")
    sequences: tuple[tuple[str, ...], ...] = Field(
        (), description="names of the arms of each sequence in order; where omitted, each arm once"
    )

    def trajectories(self, arms: int) -> int:
        """See `Workflow.trajectories`."""
        return sum(len(sequence) <= self.hops for sequence in self.sequences) or arms

    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """See `Workflow.run`."""
        context: tuple[str, ...] = (query.question,)
        messages: tuple[Message, ...] = (Message("user", query.question),)
        path: tuple[str, ...] = ()
        reply = ""
        while offered := self.offered(path, arms):
            arm = yield from choose(context, offered, stop=path in self.sequences)
            if isinstance(arm, Stop):
                break
            reply = yield from ask(arm, messages)
            context = (*context, reply.strip())
            messages = (*messages, Message(arm.name, reply))
            path = (*path, arm.name)
        return reply

    def offered(self, path: tuple[str, ...], arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        """The arms that continue a path; none where every sequence ends there at the latest."""
        if len(path) >= self.hops:
            return ()
        if not self.sequences:
            return () if path else arms
        longer = [s for s in self.sequences if len(s) > len(path) and s[: len(path)] == path]
        names = {sequence[len(path)] for sequence in longer}
        return tuple(arm for arm in arms if arm.name in names)
