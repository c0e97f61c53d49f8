"""HierRouter's workflow (arXiv 2511.09873): models take turns on one growing context.

At each hop the router chooses an arm; the arm reads the question and all earlier replies; its
reply is appended. The answer is the last reply. From the second hop on the router may STOP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from hcache.data.queries import Query
from hcache.models.arms import Arm
from hcache.workflows.base import WORKFLOWS, Workflow, parts_for, prompt_for
from hcache.workflows.effects import Flow, Message, Stop, ask, choose


@WORKFLOWS.register("relay")
class Relay(Workflow):
    """Settings of the relay; prompts say neither L nor which hop is last."""

    later: ClassVar[frozenset[str]] = frozenset({"passages"})

    name: Literal["relay"] = "relay"
    separator: str = Field("\n\n", description="between question, replies and instruction")
    reply: str = Field("{reply}", description="how an earlier reply stands in the prompt")

    passages: bool = Field(
        False,
        description="whether prompts have the passages of a query, which no router reads, before "
        "the question",
    )

    @field_validator("reply")
    @classmethod
    def _has_place(cls, value: str) -> str:
        if "{reply}" not in value:
            raise ValueError("needs the placeholder {reply}, as in 'Earlier reply: {reply}'")
        return value

    @property
    def shows_passages(self) -> bool:
        """See `Workflow.shows_passages`."""
        return self.passages

    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """See `Workflow.run`."""
        context: tuple[str, ...] = (query.question,)
        answer = ""
        for hop in range(self.hops):
            arm = yield from choose(context, arms, stop=hop > 0)
            if isinstance(arm, Stop):
                break
            answer = yield from ask(arm, self.messages(query, context[1:], arm))
            context = (*context, answer.strip())
        return answer

    def messages(self, query: Query, replies: Sequence[str], arm: Arm) -> tuple[Message, ...]:
        """The prompt: question, earlier replies, and last what is particular to the arm."""
        earlier = [self.reply.replace("{reply}", reply) for reply in replies if reply]
        return prompt_for(arm, parts_for(query, earlier, self.passages), self.separator)
