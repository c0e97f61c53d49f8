"""Routing a question live, for people to read: what was decided, said and paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hcache.live import Episode, Live
from hcache.policies import Policy
from hcache.queries import Query
from hcache.workflows import Ask


@dataclass
class Step:
    """One model call of a routed query."""

    arm: str
    messages: list[dict[str, str]]
    reply: str
    prompt_tokens: int
    output_tokens: int
    cost: float
    role: str  # "" where the workflow has no roles


@dataclass
class Route:
    """A query routed live: what was decided, what was said, what it cost."""

    answer: str
    sequence: str
    cost: float
    steps: list[Step]
    choices: list[dict[str, float]]  # probability of each action
    notes: list[str]  # what went amiss on the way


class Router:
    """A trained policy with all that playing takes, ready to be asked."""

    def __init__(self, live: Live, policy: Policy) -> None:
        self.live, self.policy = live, policy

    def route(self, question: str, passages: Sequence[str] = ()) -> Route:
        """Route one question, greedily; `passages` are what a tool may search.

        Raises:
            EngineError: a model failed.
        """
        query = Query(question, (), passages=tuple(passages))
        (episode,) = self.live.play(self.policy, [query])
        names = [option.name for option in self.live.options]
        return Route(
            episode.answer,
            episode.sequence,
            self.live.cost(episode, episode.asks),
            [self._step(episode, ask) for ask in episode.asks],
            [dict(zip(names, probs_A.tolist(), strict=True)) for probs_A in episode.probs],
            list(episode.notes),
        )

    def _step(self, episode: Episode, ask: Ask) -> Step:
        generation = episode.said[episode.request(ask).key]
        return Step(
            ask.arm.name,
            [message._asdict() for message in ask.messages],
            generation.text,
            generation.prompt_tokens,
            generation.output_tokens,
            self.live.call_cost(episode, ask),
            ask.role,
        )
