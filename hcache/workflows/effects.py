"""The two effects of a workflow, and one step of running it.

A workflow is a plain generator: it yields `Choose`, a decision of the router, and is sent the
arm chosen (or STOP); it yields `Ask`, a call of a model, and is sent the reply without the thought
of the model, white space as it was said; it returns its answer. It is deterministic and free of
side effects, so it may be restarted at any time with a list of decisions. Enumeration, replay and
live routing all go through `advance`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeVar, overload

from hcache.errors import ConfigError
from hcache.models.arms import Arm


class Message(NamedTuple):
    """One message of a chat."""

    role: str
    content: str


class Stop:
    """The action that ends a trajectory."""

    id = name = "STOP"

    def __repr__(self) -> str:
        return "STOP"


STOP: Final = Stop()
Decision: TypeAlias = Arm | Stop


@dataclass(frozen=True)
class Choose:
    """A decision of the router over `arms`, and STOP where `stop`.

    `context` is the text that the router may see (c_t), in parts: the question first, then what
    was said since. `role` names what is being assigned, where a workflow has roles.
    """

    context: tuple[str, ...]
    arms: tuple[Arm, ...]
    stop: bool = False
    role: str = ""


@dataclass(frozen=True)
class Ask:
    """A call of `arm` with `messages`; `sample` tells apart repeated calls in one trajectory.

    `role` names what the arm is asked as, for sums over tokens; it is not part of what is asked.
    A reply that is `verbatim`, as a tool's, holds no thought, whatever stands in it.
    """

    arm: Arm
    messages: tuple[Message, ...]
    sample: int = 0
    role: str = ""
    verbatim: bool = False


class Reply(NamedTuple):
    """A reply as it was said; `thinking` where its prompt had opened a thought."""

    text: str
    thinking: bool = False


@dataclass(frozen=True)
class Answer:
    """Return value of a workflow that has more to say than a text."""

    text: str
    notes: tuple[str, ...] = ()  # what went amiss on the way, for people to read


R = TypeVar("R")
Part: TypeAlias = Generator[Choose | Ask, Decision | str, R]
"""A piece of a workflow, to be used with `yield from`."""
Flow: TypeAlias = Part[Answer | str]


@overload
def choose(context: tuple[str, ...], arms: tuple[Arm, ...], *, role: str = "") -> Part[Arm]: ...
@overload
def choose(
    context: tuple[str, ...], arms: tuple[Arm, ...], *, stop: bool, role: str = ""
) -> Part[Decision]: ...
def choose(
    context: tuple[str, ...], arms: tuple[Arm, ...], *, stop: bool = False, role: str = ""
) -> Part[Decision]:
    """A decision of the router, see `Choose`: `arm = yield from choose(context, arms)`."""
    decision = yield Choose(context, arms, stop, role)
    if isinstance(decision, str):
        raise TypeError("a Choose was answered with a reply")
    return decision


def ask(arm: Arm, messages: tuple[Message, ...], *, sample: int = 0, role: str = "") -> Part[str]:
    """A call of a model, see `Ask`: `reply = yield from ask(arm, messages)`."""
    return (yield from reply_of(Ask(arm, messages, sample, role)))


def reply_of(call: Ask) -> Part[str]:
    """The reply to a call, without the thought of the model."""
    reply = yield call
    if not isinstance(reply, str):
        raise TypeError("an Ask was answered with a decision")
    return reply


@dataclass(frozen=True)
class Pending:
    """The workflow waits for a reply that is not known yet."""

    ask: Ask


@dataclass(frozen=True)
class Undecided:
    """The workflow has used up the decisions given and waits at `choose`."""

    choose: Choose
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Finished:
    """The workflow has returned its answer."""

    output: str
    asks: tuple[Ask, ...]
    notes: tuple[str, ...] = ()


class Walk:
    """A workflow under way. It can be taken further, never back."""

    def __init__(self, flow: Flow) -> None:
        """`flow` is fresh."""
        self.flow = flow
        self.asks: list[Ask] = []
        self.taken = 0  # decisions
        self.effect: Choose | Ask | None = None  # that it waits at; None where it has not begun

    def on(
        self, decisions: Sequence[Decision], reply_to: Callable[[Ask], Reply | str | None]
    ) -> Pending | Undecided | Finished:
        """Take it along `decisions`, those included that it has taken, until more is needed.

        `reply_to` is as in `advance`, and so is what is raised.
        """
        try:
            if self.effect is None:
                self.effect = next(self.flow)
            while True:
                sent: Decision | str
                if isinstance(self.effect, Ask):
                    reply = reply_to(self.effect)
                    if reply is None:
                        return Pending(self.effect)
                    self.asks.append(self.effect)
                    sent = _without_thought(self.effect, reply)
                else:
                    if self.taken == len(decisions):
                        return Undecided(self.effect, tuple(self.asks))
                    sent = decisions[self.taken]
                    _check_offered(self.effect, sent)
                    self.taken += 1
                self.effect = self.flow.send(sent)
        except StopIteration as end:
            answer = end.value if isinstance(end.value, Answer) else Answer(end.value)
            return Finished(answer.text, tuple(self.asks), answer.notes)


def advance(
    flow: Flow, decisions: Sequence[Decision], reply_to: Callable[[Ask], Reply | str | None]
) -> Pending | Undecided | Finished:
    """Run a fresh `flow` along `decisions` until it needs what is not given.

    `reply_to` gives a reply, or its text alone where the prompt opened no thought, or None where
    it is not known yet; the flow is sent the reply without its thought. `asks` of the result are
    the calls made, in order.

    Raises:
        ConfigError: a decision that the workflow does not offer at that place.
    """
    try:
        return Walk(flow).on(decisions, reply_to)
    finally:
        flow.close()


def _without_thought(call: Ask, reply: Reply | str) -> str:
    text, thinking = (reply, False) if isinstance(reply, str) else reply
    return text if call.verbatim else call.arm.answer(text, thinking)


def _check_offered(choose: Choose, decision: Decision) -> None:
    if decision is STOP and choose.stop:
        return
    if isinstance(decision, Arm) and any(arm.id == decision.id for arm in choose.arms):
        return
    offered = [arm.name for arm in choose.arms] + (["STOP"] if choose.stop else [])
    raise ConfigError(
        f"the workflow does not offer {decision.name!r} here.", f"It offers: {', '.join(offered)}."
    )
