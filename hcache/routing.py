"""Live routing: the same workflow, with the policy deciding and engines answering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hcache.arms import Arm, Pool
from hcache.config import ExperimentConfig
from hcache.engines import Engines, Generation, Request, request_for
from hcache.features import Encoder
from hcache.policies import Policy
from hcache.queries import Query
from hcache.tree import ReadableStates, Texts, to_read
from hcache.workflows import STOP, Ask, Choose, Decision, Finished, Pending, Workflow, advance

Answerer = Callable[[Request], Generation]


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
    """A trained policy with its workflow, pool and encoder, ready to take questions."""

    def __init__(
        self,
        config: ExperimentConfig,
        workflow: Workflow,
        pool: Pool,
        policy: Policy,
        encoder: Encoder,
        answer: Answerer,
    ) -> None:
        self.config = config
        self.workflow = workflow
        self.pool = pool
        self.policy = policy
        self.encoder = encoder
        self.answer = answer
        options: list[Decision] = [*pool, STOP]
        self.options = {option.name: option for option in options}

    def route(self, question: str, passages: Sequence[str] = ()) -> Route:
        """Route one question, greedily; `passages` are what a tool may search.

        Raises:
            EngineError: a model failed.
        """
        query = Query(question, (), passages=tuple(passages))
        decisions: list[Decision] = []
        choices: list[dict[str, float]] = []
        said: dict[str, Generation] = {}

        def reply_to(ask: Ask) -> str | None:
            generation = said.get(request_for(ask, replica=0).key)
            return None if generation is None else generation.text

        while True:
            outcome = advance(self.workflow.run(query, self.pool), decisions, reply_to)
            if isinstance(outcome, Pending):
                request = request_for(outcome.ask, replica=0)
                said[request.key] = self.answer(request)
                continue
            steps = [self._step(ask, said) for ask in outcome.asks]
            cost = sum((step.cost for step in steps), 0.0)
            if isinstance(outcome, Finished):
                sequence = ">".join(arm.name for arm in decisions if isinstance(arm, Arm))
                return Route(outcome.output, sequence, cost, steps, choices, list(outcome.notes))
            probs = self._probs(outcome.choose, len(decisions), cost)
            choices.append(probs)
            decisions.append(self.options[max(probs, key=lambda name: probs[name])])

    def _step(self, ask: Ask, said: dict[str, Generation]) -> Step:
        """A call as its trajectory counts it: one asked again costs again, as in the cache."""
        generation = said[request_for(ask, replica=0).key]
        price = self.config.arms.get(ask.arm.name, ask.arm.config).price  # a tool has its own
        cost = price.input * generation.prompt_tokens + price.output * generation.output_tokens
        return Step(
            ask.arm.name,
            [message._asdict() for message in ask.messages],
            generation.text,
            generation.prompt_tokens,
            generation.output_tokens,
            cost / 1000,
            ask.role,
        )

    def _probs(self, choose: Choose, hop: int, cost: float) -> dict[str, float]:
        """The probability of each action, by name."""
        offered = {arm.id for arm in choose.arms}
        valid = [arm.id in offered for arm in self.pool]
        valid.append(choose.stop and self.config.train.stop)
        states = ReadableStates(
            torch.from_numpy(self.encoder.encode([choose.context])).float(),
            torch.tensor([hop]),
            torch.tensor([cost], dtype=torch.float64),
            torch.tensor([valid]),
            torch.tensor([0]),
            Texts(lambda: [to_read(choose.context, choose.role)]),
        )
        return dict(zip(self.options, self.policy.probs(states)[0].tolist(), strict=True))


def ask_engines(engines: Engines) -> Answerer:
    """Answer requests one at a time with the engines of their arms."""

    def answer(request: Request) -> Generation:
        engine = engines.get(request.arm)
        engine.submit(request)
        while True:
            for generation in engine.step():
                if generation.key == request.key:
                    return generation

    return answer
