"""Live sampling under ΔW: the true figure of a joint policy, and of any policy without adapters.

All queries are played at once: the workflow of each runs until it waits, then the policy decides
for all that wait at a `Choose`, and the engines answer all that wait at an `Ask`. Nothing is read
from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hcache.answers import extractor
from hcache.arms import Arm
from hcache.engines import Engine, Engines, Generation, Request, make_engine, request_for
from hcache.experiment import Experiment
from hcache.features import Encoder
from hcache.keys import digest_text
from hcache.lowrank.checkpoint import Checkpoints
from hcache.lowrank.engine import LowRankEngine
from hcache.lowrank.generator import LowRank
from hcache.metrics import score_many
from hcache.policies import Policy
from hcache.queries import Query
from hcache.tree import ReadableStates, Texts, greedy, to_read
from hcache.workflows import STOP, Ask, Choose, Decision, Finished, Pending, Undecided, advance

Delta = Callable[[int, Tensor], LowRank]
"""(index of an arm, features of queries [B, D]) to the ΔW of each."""


@dataclass
class Episode:
    """A query as it is played."""

    query: Query
    sample: int
    decisions: list[Decision] = field(default_factory=list)
    said: dict[str, Generation] = field(default_factory=dict)
    features_D: Tensor | None = None  # of the first state
    cost: float = 0.0  # of the calls up to the last decision
    answer: str = ""

    def request(self, ask: Ask) -> Request:
        """The generation that an Ask stands for: of this query, since ΔW is."""
        request = request_for(ask, self.sample)
        return replace(request, key=digest_text(f"{request.key}\n{self.query.id}\n{self.sample}"))


@dataclass(frozen=True)
class Outcome:
    """Quality and cost of every sample of every query, [samples, Q]."""

    quality_SQ: NDArray[np.float64]
    cost_SQ: NDArray[np.float64]
    episodes: tuple[Episode, ...]

    def reward_SQ(self, alpha: float) -> NDArray[np.float64]:
        """R = Q − α·C."""
        reward_SQ: NDArray[np.float64] = self.quality_SQ - alpha * self.cost_SQ
        return reward_SQ


class Live:
    """The models of an experiment, loaded once, for policies to be played with."""

    def __init__(self, experiment: Experiment, encoder: Encoder, device: torch.device) -> None:
        self.experiment, self.encoder = experiment, encoder
        self.pool = experiment.pool
        self.index = {arm.id: place for place, arm in enumerate(self.pool)}
        speakers = [arm if arm.model_config.engine == "vllm" else None for arm in self.pool]
        self.checkpoints = Checkpoints(speakers, device)

    def play(
        self,
        policy: Policy,
        queries: Sequence[Query],
        *,
        samples: int = 1,
        delta: Delta | None = None,
        layers: int = 1,
    ) -> Outcome:
        """Play every query `samples` times, deciding greedily, with ΔW on the last `layers`.

        Raises:
            EngineError: a model failed.
        """
        episodes = [Episode(query, sample) for sample in range(samples) for query in queries]
        asked: dict[str, Episode] = {}
        engines = Engines(lambda arm, logprobs: self._engine(arm, logprobs, asked, delta, layers))
        try:
            waiting = episodes
            while waiting:
                waiting = self._advance(waiting, policy, engines, asked)
        finally:
            engines.close()
        return self._outcome(episodes, samples)

    def _engine(
        self,
        arm: Arm,
        logprobs: bool,
        asked: dict[str, Episode],
        delta: Delta | None,
        layers: int,
    ) -> Engine:
        if arm.id not in self.index or self.index[arm.id] not in self.checkpoints.by_arm:
            return make_engine(arm, logprobs)

        def adapt(requests: Sequence[Request]) -> LowRank | None:
            features = [asked[request.key].features_D for request in requests]
            if delta is None or any(feature is None for feature in features):
                return None
            stacked_BD = torch.stack([feature for feature in features if feature is not None])
            return delta(self.index[requests[0].arm.id], stacked_BD)

        return LowRankEngine(self.checkpoints.by_arm[self.index[arm.id]], layers, adapt)

    def _advance(
        self,
        waiting: Sequence[Episode],
        policy: Policy,
        engines: Engines,
        asked: dict[str, Episode],
    ) -> list[Episode]:
        """Take each episode one decision or one reply further; those that are not at their end."""
        deciding: list[tuple[Episode, Choose]] = []
        going_on = []
        for episode in waiting:
            outcome = self._outcome_of(episode)
            if isinstance(outcome, Finished):
                episode.answer, episode.cost = outcome.output, self._cost(episode, outcome.asks)
                continue
            going_on.append(episode)
            if isinstance(outcome, Pending):
                request = episode.request(outcome.ask)
                asked[request.key] = episode
                engines.get(request.arm).submit(request)
            else:
                episode.cost = self._cost(episode, outcome.asks)
                deciding.append((episode, outcome.choose))
        self._decide(deciding, policy)
        for engine in list(engines.loaded.values()):
            while generations := engine.step():
                for generation in generations:
                    asked[generation.key].said[generation.key] = generation
        return going_on

    def _outcome_of(self, episode: Episode) -> Pending | Undecided | Finished:
        def reply_to(ask: Ask) -> str | None:
            generation = episode.said.get(episode.request(ask).key)
            return None if generation is None else generation.text

        flow = self.experiment.workflow.run(episode.query, self.pool)
        return advance(flow, episode.decisions, reply_to)

    @torch.no_grad()
    def _decide(self, deciding: Sequence[tuple[Episode, Choose]], policy: Policy) -> None:
        if not deciding:
            return
        contexts = [choose.context for _, choose in deciding]
        features_ND = torch.from_numpy(self.encoder.encode(contexts)).float()
        states = ReadableStates(
            features_ND,
            torch.tensor([len(episode.decisions) for episode, _ in deciding]),
            torch.tensor([episode.cost for episode, _ in deciding], dtype=torch.float64),
            torch.tensor([self._valid(choose) for _, choose in deciding]),
            torch.arange(len(deciding)),
            Texts(lambda: [to_read(choose.context, choose.role) for _, choose in deciding]),
        )
        action_N = greedy(policy.probs(states), states.valid_NA)
        options: list[Decision] = [*self.pool, STOP]
        for (episode, _), feature_D, action in zip(
            deciding, features_ND, action_N.tolist(), strict=True
        ):
            if episode.features_D is None:
                episode.features_D = feature_D
            episode.decisions.append(options[action])

    def _valid(self, choose: Choose) -> list[bool]:
        offered = {arm.id for arm in choose.arms}
        stop = choose.stop and self.experiment.config.train.stop
        return [*(arm.id in offered for arm in self.pool), stop]

    def _cost(self, episode: Episode, asks: Sequence[Ask]) -> float:
        cost = 0.0
        for ask in asks:
            price, said = ask.arm.config.price, episode.said[episode.request(ask).key]
            cost += (price.input * said.prompt_tokens + price.output * said.output_tokens) / 1000
        return cost

    def _outcome(self, episodes: Sequence[Episode], samples: int) -> Outcome:
        config = self.experiment.config
        quality = [
            score_many(
                config.quality_of(episode.query.dataset),
                [extractor(config.data[episode.query.dataset].extract)(episode.answer)],
                [episode.query.references],
            )[0]
            for episode in episodes
        ]
        cost = [episode.cost for episode in episodes]
        return Outcome(
            np.array(quality).reshape(samples, -1),
            np.array(cost).reshape(samples, -1),
            tuple(episodes),
        )
