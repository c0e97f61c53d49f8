"""Live routing: the same workflow, with the policy deciding and engines answering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hcache.arms import Arm, Pool
from hcache.config import ExperimentConfig
from hcache.engines import Engines, Generation, Request, request_for
from hcache.features import Encoder
from hcache.policies import Policy
from hcache.queries import Query
from hcache.tree import States
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


@dataclass
class Route:
    """A query routed live: what was decided, what was said, what it cost."""

    answer: str = ""
    sequence: str = ""
    cost: float = 0.0
    steps: list[Step] = field(default_factory=list)
    choices: list[dict[str, float]] = field(default_factory=list)  # probability of each action


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

    def route(self, question: str) -> Route:
        """Route one question, greedily.

        Raises:
            EngineError: a model failed.
        """
        query = Query(question, ())
        route = Route()
        decisions: list[Decision] = []
        replies: dict[Ask, str] = {}
        while True:
            flow = self.workflow.run(query, self.pool)
            outcome = advance(flow, decisions, replies.get)
            if isinstance(outcome, Finished):
                route.answer = outcome.output
                route.sequence = ">".join(arm.name for arm in decisions if isinstance(arm, Arm))
                return route
            if isinstance(outcome, Pending):
                replies[outcome.ask] = self._ask(outcome.ask, route)
                continue
            decisions.append(self._decide(outcome.choose, len(decisions), route))

    def _ask(self, ask: Ask, route: Route) -> str:
        generation = self.answer(request_for(ask, replica=0))
        price = self.config.arms[ask.arm.name].price
        cost = price.input * generation.prompt_tokens + price.output * generation.output_tokens
        step = Step(
            ask.arm.name,
            [message._asdict() for message in ask.messages],
            generation.text,
            generation.prompt_tokens,
            generation.output_tokens,
            cost / 1000,
        )
        route.steps.append(step)
        route.cost += step.cost
        return generation.text

    def _decide(self, choose: Choose, hop: int, route: Route) -> Decision:
        offered = {arm.id for arm in choose.arms}
        valid = [arm.id in offered for arm in self.pool]
        valid.append(choose.stop and self.config.train.stop)
        states = States(
            torch.from_numpy(self.encoder.encode([choose.context])).float(),
            torch.tensor([hop]),
            torch.tensor([route.cost], dtype=torch.float64),
            torch.tensor([valid]),
        )
        probs = self.policy.probs(states)[0]
        options: list[Decision] = [*self.pool, STOP]
        names = [option.name for option in options]
        route.choices.append(dict(zip(names, probs.tolist(), strict=True)))
        return options[int(probs.argmax())]


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
