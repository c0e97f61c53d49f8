"""Playing live: policies decide, engines answer, for many questions at once.

The workflow of each question runs until it waits; then the policy decides for all that wait at a
`Choose`, and the engines answer all that wait at an `Ask`. Nothing is read from the cache.

Axes in names: n decisions, A actions (arms, then STOP), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hcache.config.schema import ExperimentConfig
from hcache.data.extractors import extractor
from hcache.data.metrics import references_of, score_many
from hcache.data.queries import Query
from hcache.engines import Engines, Generation, Request, request_for
from hcache.keys import digest
from hcache.models.arms import Arm, Pool
from hcache.policies import Policy
from hcache.replay.features import Encoder
from hcache.replay.tree import ReadableStates, Texts, greedy, to_read
from hcache.workflows import (
    STOP,
    Ask,
    Choose,
    Decision,
    Finished,
    Pending,
    Reply,
    Undecided,
    Workflow,
    advance,
)


class Met(NamedTuple):
    """A decision that an episode came to."""

    choose: Choose
    cost: float  # so far
    features_D: Tensor  # of its text


@dataclass
class Episode:
    """A question as it is played, and at last its answer."""

    query: Query
    sample: int
    decisions: list[Decision] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)  # of every action at each decision, [A]
    replies: dict[str, Generation] = field(default_factory=dict)
    asks: tuple[Ask, ...] = ()
    answer: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sequence(self) -> str:
        """The arms that were chosen."""
        return ">".join(arm.name for arm in self.decisions if isinstance(arm, Arm))

    def request(self, ask: Ask) -> Request:
        """The request of an Ask; no two episodes, and no two arms, have one in common."""
        request = request_for(ask, self.sample, self.query.question)
        key = digest([request.key, ask.arm.id, self.query.id, self.sample])
        return replace(request, key=key)

    def reply(self, ask: Ask) -> Generation | None:
        """Replies to an Ask, if any yet."""
        return self.replies.get(self.request(ask).key)


class Live:
    """The parts of an experiment that playing takes."""

    def __init__(
        self,
        config: ExperimentConfig,
        workflow: Workflow,
        pool: Pool,
        encoder: Encoder,
        engines: Engines,
    ) -> None:
        self.config, self.workflow, self.pool = config, workflow, pool
        self.encoder, self.engines = encoder, engines
        self.options: list[Decision] = [*pool, STOP]

    def play(
        self,
        policy: Policy,
        queries: Sequence[Query],
        *,
        samples: Sequence[int] = (0,),
        generator: torch.Generator | None = None,
    ) -> list[Episode]:
        """Play every query once for each sample number, which replies are drawn by.

        Decisions are drawn with `generator`; without one they are greedy.

        Raises:
            EngineError: a model failed.
        """
        episodes = [Episode(query, sample) for sample in samples for query in queries]
        waiting = episodes
        while waiting:
            waiting = self._advance(waiting, policy, generator)
        return episodes

    def cost(self, episode: Episode, asks: Sequence[Ask]) -> float:
        """Cost of the calls of an episode; one asked again costs again, as in the cache."""
        return sum((self.call_cost(episode, ask) for ask in asks), 0.0)

    def call_cost(self, episode: Episode, ask: Ask) -> float:
        """Cost of a call of an episode."""
        replies = episode.replies[episode.request(ask).key]
        price = self.config.arms.get(ask.arm.name, ask.arm.config).price  # a tool has its own
        return price.of(replies.prompt_tokens, replies.output_tokens)

    def quality(self, episode: Episode) -> float:
        """The quality of an episode's answer, by its data set's metric."""
        dataset = episode.query.dataset
        answer = extractor(self.config.data[dataset].extract)(episode.answer)
        metric = self.config.quality_of(dataset)
        return score_many(metric, [answer], [references_of(metric, episode.query)])[0]

    def states(self, met: Sequence[Met], hops: Sequence[int]) -> ReadableStates:
        """States that a policy sees at some decisions, with the given numbers of earlier ones."""
        return ReadableStates(
            torch.stack([one.features_D for one in met]),
            torch.tensor(hops),
            torch.tensor([one.cost for one in met], dtype=torch.float64),
            torch.tensor([self._valid(one.choose) for one in met]),
            torch.arange(len(met)),
            Texts(lambda: [to_read(one.choose.context, one.choose.role) for one in met]),
        )

    def _advance(
        self, waiting: Sequence[Episode], policy: Policy, generator: torch.Generator | None
    ) -> list[Episode]:
        """Take each episode one decision or one reply further; those that are not at their end."""
        deciding: list[tuple[Episode, Undecided]] = []
        asking, going_on = {}, []
        for episode in waiting:
            outcome = self._outcome(episode)
            if isinstance(outcome, Finished):
                episode.asks, episode.answer = outcome.asks, outcome.output
                episode.notes = outcome.notes
                continue
            going_on.append(episode)
            if isinstance(outcome, Undecided):
                deciding.append((episode, outcome))
            else:
                request = episode.request(outcome.ask)
                asking[request.key] = episode
                self.engines.get(request.arm).submit(request)
        self._decide(deciding, policy, generator)
        self._answer(asking)
        return going_on

    def _outcome(self, episode: Episode) -> Pending | Undecided | Finished:
        def reply_to(ask: Ask) -> Reply | None:
            said = episode.reply(ask)
            return None if said is None else Reply(said.text, said.thinking)

        return advance(self.workflow.run(episode.query, self.pool), episode.decisions, reply_to)

    @torch.no_grad()
    def _decide(
        self,
        deciding: Sequence[tuple[Episode, Undecided]],
        policy: Policy,
        generator: torch.Generator | None,
    ) -> None:
        if not deciding:
            return
        contexts = [outcome.choose.context for _, outcome in deciding]
        features_nD = torch.from_numpy(self.encoder.encode(contexts)).float()
        for (episode, outcome), features_D in zip(deciding, features_nD, strict=True):
            cost = self.cost(episode, outcome.asks)
            episode.met.append(Met(outcome.choose, cost, features_D))
        episodes = [episode for episode, _ in deciding]
        states = self.states(
            [episode.met[-1] for episode in episodes],
            [len(episode.decisions) for episode in episodes],
        )
        probs_nA = policy.probs(states).cpu()
        action_n = greedy(probs_nA, states.valid_NA)
        if generator is not None:
            action_n = torch.multinomial(probs_nA, 1, generator=generator)[:, 0]
        for episode, action, probs_A in zip(episodes, action_n.tolist(), probs_nA, strict=True):
            episode.decisions.append(self.options[action])
            episode.probs.append(probs_A)

    def _answer(self, asking: dict[str, Episode]) -> None:
        """Have the engines answer all that was submitted."""
        engines = list(self.engines.loaded.values())
        try:
            while asking:
                for engine in engines:
                    for generation in engine.step():
                        asking.pop(generation.key).replies[generation.key] = generation
        except BaseException:  # as Ctrl-C: nothing may be left for whoever plays next
            for engine in engines:
                engine.abort()
            raise

    def _valid(self, choose: Choose) -> list[bool]:
        offered = {arm.id for arm in choose.arms}
        stop = choose.stop and self.config.train.stop
        return [*(arm.id in offered for arm in self.pool), stop]
