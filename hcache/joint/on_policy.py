"""Joint training of both routers on-policy, as in HAPS (arXiv 2601.05903): a baseline.

In every step some questions are played with ΔW as it is: the high-level router draws the arms, the
arms draw their replies. The loss is REINFORCE's, over all that was drawn:
    −(R − b) · (Σ log π(arm) + Σ_u log π_θ(u)),  u every reply of an arm
b is the mean over the other samples of the question, or where there is one of each, over the other
questions of the step. The published code differs: it takes the arms greedily, so that the router's
own choice is not in the loss, one question a step, and no baseline (`batch_queries: 1`).

It halts when it has drawn `tokens`, as many as the stored replies to the training questions have
where nothing is said, so that a run by replay and one on-policy are compared at equal numbers of
generated tokens. On validation questions it is played greedily, each time with the same seeds;
these tokens are not counted, as those of the stored validation replies are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hcache.data.queries import Query
from hcache.engines import Engine, Engines, Request, make_engine
from hcache.experiment import Experiment
from hcache.joint.calls import CallTree, calls_of
from hcache.joint.engine import LowRankEngine
from hcache.joint.from_cache import Joint
from hcache.joint.generator import LowRank
from hcache.joint.pair import PairSettings, PairTrainer
from hcache.joint.scoring import Tokens, full_logprobs
from hcache.live import Episode, Live
from hcache.models.arms import Arm
from hcache.replay.features import QuestionFeatures, make_encoder
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS, Origin

VALIDATION = 1 << 15  # sample numbers from here on are those of validation


class JointLiveSettings(PairSettings):
    """Settings of joint training on-policy."""

    batch_queries: int = Field(8, ge=1, description="questions of a step; published: 1")
    samples: int = Field(1, ge=1, le=4096, description="times that each is played in a step")
    valid_samples: int = Field(1, ge=1, le=4096, description="the same on validation")
    tokens: int = Field(0, ge=0, description="to be drawn; 0: as many as the stored replies have")


@dataclass(frozen=True)
class LiveTree(CallTree):
    """A tree with the experiment that it was sampled from, to go on sampling."""

    experiment: Experiment


@dataclass(frozen=True)
class DrawnCall:
    """A reply that was drawn, with what it was drawn for."""

    arm: int
    question: str
    tokens: Tokens
    advantage: float


@TRAINERS.register("joint-live")
class JointLive(PairTrainer):
    """High-level and low-level router together, on replies drawn in every step."""

    Settings = JointLiveSettings
    settings: JointLiveSettings
    live: ClassVar[bool] = True

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        assert isinstance(train, LiveTree)
        self.experiment = experiment = train.experiment
        self.index = {arm.id: index for index, arm in enumerate(experiment.pool)}
        encoder = make_encoder(experiment.config.features)
        self.features = QuestionFeatures(encoder)
        self.player = Live(
            experiment.config,
            experiment.workflow,
            experiment.pool,
            encoder,
            Engines(self._engine),
        )
        self.questions = {query.id: query for query in experiment.queries()}
        stored = {call.generation: len(call.output_ids) for call in calls_of(train).records}
        self.budget = self.settings.tokens or sum(stored.values())
        self.drawn = 0  # tokens so far
        self.queue = self.permutation(0)  # training queries that come next
        self.draws = torch.Generator().manual_seed(self.seed)

    @classmethod
    def enrich(cls, tree: Tree, origin: Origin) -> LiveTree:
        """The tree with its stored calls and the experiment."""
        assert isinstance(origin, Experiment)
        with_calls = Joint.enrich(tree, origin)
        parts = {name: getattr(with_calls, name) for name in with_calls.__dataclass_fields__}
        return LiveTree(**parts, experiment=origin)

    @classmethod
    def unfit(cls, train: Tree) -> str:
        """See `Trainer`."""
        return "" if isinstance(train, LiveTree) else "it has no models to run."

    def step(self) -> dict[str, float]:
        """Play the next questions, and one step of the optimizer; none once all is drawn."""
        if self.halted:
            return {"tokens": float(self.drawn), "halted": 1.0}
        self.set_rates()
        first = self.steps % (VALIDATION // self.settings.samples) * self.settings.samples
        episodes = self.player.play(
            self.policy,
            self._next(),
            samples=range(first, first + self.settings.samples),
            generator=self.draws,
        )
        reward_B = self.rewards(episodes)
        self.optimizer.zero_grad()
        self.drawn += self.climb(episodes, reward_B)
        self.optimizer.step()
        self.steps += 1
        self.halted = self.drawn >= self.budget
        return {
            "train_reward": float(reward_B.mean()),
            "tokens": float(self.drawn),
            "halted": float(self.halted),
        }

    def rewards(self, episodes: Sequence[Episode]) -> Tensor:
        """R = Q − α·C of episodes, a failure counted as settings say, float64 [B]."""
        quality_B, cost_B = self._outcomes(episodes)
        return self.value_of(quality_B) - self.alpha * cost_B

    def climb(self, episodes: Sequence[Episode], reward_B: Tensor) -> int:
        """Add the gradients of REINFORCE's loss, the mean over episodes; the tokens drawn."""
        advantage_B = reward_B - others_mean(episodes, reward_B)
        drawn = self._drawn_calls(episodes, advantage_B)
        self._climb_high(episodes, advantage_B)
        self._climb_low(drawn, len(episodes))
        return sum(len(one.tokens.output) for one in drawn)

    def validate(self, valid: Tree) -> dict[str, float]:
        """Means over greedy episodes of the validation questions."""
        queries = [self.questions[query] for query in valid.queries]
        numbers = range(VALIDATION, VALIDATION + self.settings.valid_samples)
        episodes = self.player.play(self.policy, queries, samples=numbers)
        quality_B, cost_B = self._outcomes(episodes)
        hops = [len(episode.sequence.split(">")) for episode in episodes]
        return {
            "reward": float((quality_B - self.alpha * cost_B).mean()),
            "quality": float(quality_B.mean()),
            "cost": float(cost_B.mean()),
            "hops": sum(hops) / len(hops),
        }

    def state(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        return super().state() | {
            "drawn": torch.tensor(self.drawn),
            "queue": self.queue.cpu().clone(),
            "draws": self.draws.get_state(),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        super().load_state(state)
        self.drawn = int(state["drawn"])
        self.queue = state["queue"].to(self.device, copy=True)
        self.draws.set_state(state["draws"])

    def _next(self) -> list[Query]:
        """The next training questions, none twice; every pass over them is in its own order."""
        count = min(self.settings.batch_queries, len(self.tree.queries))
        if len(self.queue) < count:
            coming = self.permutation(len(self.tree.queries))
            again = torch.isin(coming, self.queue)
            self.queue = torch.cat([self.queue, coming[~again], coming[again]])
        part, self.queue = self.queue[:count], self.queue[count:]
        return [self.questions[self.tree.queries[index]] for index in part.tolist()]

    def _outcomes(self, episodes: Sequence[Episode]) -> tuple[Tensor, Tensor]:
        """Quality and cost of episodes, float64 [B] each."""
        quality = [self.player.quality(episode) for episode in episodes]
        cost = [self.player.cost(episode, episode.asks) for episode in episodes]
        return torch.tensor(quality).double(), torch.tensor(cost).double()

    def _drawn_calls(self, episodes: Sequence[Episode], advantage_B: Tensor) -> list[DrawnCall]:
        """The replies of arms that have weights, each once, with its episode's advantage."""
        return [
            DrawnCall(
                index,
                episode.query.question,
                Tokens(
                    tuple(self.checkpoints.by_arm[index].render(ask.messages)),
                    episode.replies[key].token_ids,
                ),
                advantage,
            )
            for episode, advantage in zip(episodes, advantage_B.tolist(), strict=True)
            for key, ask in {episode.request(ask).key: ask for ask in episode.asks}.items()
            if (index := self.index.get(ask.arm.id)) in self.checkpoints.by_arm
            and index is not None
            and episode.replies[key].token_ids
        ]

    def _climb_high(self, episodes: Sequence[Episode], advantage_B: Tensor) -> None:
        """The decisions' part of the loss."""
        met = [one for episode in episodes for one in episode.met]
        hops = [hop for episode in episodes for hop in range(len(episode.met))]
        options = [option.id for option in self.player.options]
        action_n = torch.tensor(
            [options.index(taken.id) for episode in episodes for taken in episode.decisions]
        ).to(self.device)
        counts = torch.tensor([len(episode.met) for episode in episodes])
        advantage_n = advantage_B.repeat_interleave(counts).to(self.device)
        logits_nA = self.policy.logits(self.player.states(met, hops))
        logprob_nA = logits_nA.double().log_softmax(dim=1)
        picked_n = logprob_nA.gather(1, action_n[:, None])[:, 0]
        (-(advantage_n * picked_n).sum() / len(episodes)).backward()

    def _climb_low(self, drawn: Sequence[DrawnCall], episodes: int) -> None:
        """The replies' part of the loss, some of one arm at a time."""
        for index, checkpoint in self.checkpoints.by_arm.items():
            mine = [one for one in drawn if one.arm == index]
            mine.sort(key=lambda one: len(one.tokens))
            for start in range(0, len(mine), self.settings.batch_turns):
                part = mine[start : start + self.settings.batch_turns]
                low = self._delta(index, [one.question for one in part])
                batch = [one.tokens for one in part]
                layers = self.policy.low.settings.adapted_layers
                logprob_B = full_logprobs(checkpoint, batch, low, layers).sum(dim=1)
                advantage_B = torch.tensor([one.advantage for one in part]).to(logprob_B)
                (-(advantage_B * logprob_B).sum() / episodes).backward()

    def _delta(self, index: int, questions: Sequence[str]) -> LowRank:
        """ΔW of an arm, as it is now, for some questions."""
        return self.policy.delta(index, self.features(questions))

    def _engine(self, arm: Arm, logprobs: bool) -> Engine:
        """An arm with weights under ΔW; others as ever."""
        index = self.index.get(arm.id)
        if index is None or index not in self.checkpoints.by_arm:
            return make_engine(arm, logprobs)

        def adapt(requests: Sequence[Request]) -> LowRank:
            own = self.index[requests[0].arm.id]
            return self._delta(own, [request.question for request in requests])

        layers = self.policy.low.settings.adapted_layers
        return LowRankEngine(self.checkpoints.by_arm[index], layers, adapt)


def others_mean(episodes: Sequence[Episode], reward_B: Tensor) -> Tensor:
    """Baseline of each episode: other samples of its question, else all others, or 0."""
    ids = [episode.query.id for episode in episodes]
    same_BB = torch.tensor([[one == other for other in ids] for one in ids])
    self_BB = torch.eye(len(ids), dtype=torch.bool)
    several_B = same_BB.sum(dim=1) > 1
    others_BB = torch.where(several_B[:, None], same_BB, True) & ~self_BB
    return others_BB.double() @ reward_B / others_BB.sum(dim=1).clamp(min=1)
