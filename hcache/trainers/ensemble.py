"""Several runs of soft policy iteration that vote, and know when not to be followed.

Each member learns by itself, from its own weights and in its own order, and from what outcomes are
worth in expectation (`replay/posterior.py`) in place of what was drawn once; the mean of their
probabilities routes. On validation the vote is held against the best static sequence, query by
query: where a one-sided paired t-test does not find it better with `confidence`, the policy is that
sequence. So on data that teach nothing the router is the best fixed choice, and not a random one.
The sequence is chosen on the training and the validation trees, as evaluations choose it.

Axes in names: Q queries.
"""

from __future__ import annotations

from pydantic import Field
from scipy.special import stdtr
from torch import Tensor

from hcache.errors import RunError
from hcache.policies import Policy
from hcache.policies.ensemble import EnsemblePolicy
from hcache.policies.mlp import MLPPolicy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query, static_leaves
from hcache.replay.posterior import posterior
from hcache.replay.static import Path, best_static, common_paths
from hcache.replay.tree import Tree
from hcache.trainers.base import TRAINERS, Trainer, greedy_metrics
from hcache.trainers.network import part
from hcache.trainers.soft import Soft, SoftSettings


class EnsembleSettings(SoftSettings):
    """Settings of the ensemble: those of each member, how many, and when they are followed."""

    members: int = Field(5, ge=1, description="networks that vote")
    posterior: bool = Field(
        True, description="learn from posterior means of the qualities, not from single outcomes"
    )
    confidence: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="that the vote is better than the best static sequence; 0: any",
    )


@TRAINERS.register("ensemble")
class Ensemble(Trainer):
    """Soft policy iteration of several networks, with the best static sequence to fall back on."""

    Settings = EnsembleSettings
    settings: EnsembleSettings
    policy: EnsemblePolicy

    def make_policy(self, train: Tree, init: Policy | None) -> EnsemblePolicy:
        """See `Trainer`; each member starts from the one in its place."""
        count = self.settings.members
        starts = [None] * count if init is None else members(init, count)
        values = self.settings.model_dump(include=set(SoftSettings.model_fields))
        learned = posterior(train) if self.settings.posterior else train
        self.runs = [
            Soft(learned, SoftSettings(**values), alpha=self.alpha, seed=seed, init=start)
            for seed, start in enumerate(starts, self.seed * count)
        ]
        policy = EnsemblePolicy([run.policy for run in self.runs])
        if isinstance(init, EnsemblePolicy):
            policy.trusted.copy_(init.trusted)
            policy.path_L.copy_(init.path_L)
        return policy

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        self.train = train

    def step(self) -> dict[str, float]:
        """An iteration of each member; means of what they say."""
        metrics = [run.step() for run in self.runs]
        return {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}

    def validate(self, valid: Tree) -> dict[str, float]:
        """The metrics of the vote where it is found better, else of the static sequence.

        Where no sequence is possible in every tree, there is nothing to fall back on.
        """
        self.policy.trusted.fill_(True)
        selection = [self.train, valid]
        if self.settings.confidence and common_paths(selection):
            path = best_static(selection, self.alpha, within=[valid])
            if self.doubt(valid, path) > 1 - self.settings.confidence:
                self.policy.fall_back(path)
        return greedy_metrics(self.policy, valid, self.alpha)

    def doubt(self, valid: Tree, path: Path) -> float:
        """One-sided p-value of the vote's being no better than a static sequence."""
        reward_M = valid.reward_M(self.alpha)
        static_T = reward_M[static_leaves(valid, [path])[:, 0]]
        gain_Q = mean_by_query(valid, reward_M[greedy_leaves(self.policy, valid)] - static_T)
        if len(gain_Q) < 2 or float(gain_Q.std()) == 0:
            return 0.0 if float(gain_Q.mean()) > 0 else 1.0
        distance = float(gain_Q.mean() / gain_Q.std()) * len(gain_Q) ** 0.5
        return float(stdtr(len(gain_Q) - 1, -distance))

    def state(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        own = {"trusted": self.policy.trusted, "path_L": self.policy.path_L}
        states = {
            f"{place}.{k}": v for place, run in enumerate(self.runs) for k, v in run.state().items()
        }
        return states | {name: value.cpu().clone() for name, value in own.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        for place, run in enumerate(self.runs):
            run.load_state(part(state, f"{place}."))
        self.policy.trusted.copy_(state["trusted"])
        self.policy.path_L.copy_(state["path_L"])


def members(init: Policy, count: int) -> list[MLPPolicy]:
    """The networks that an ensemble of so many members starts from.

    Raises:
        RunError: if it is no ensemble of as many.
    """
    if not isinstance(init, EnsemblePolicy) or len(init.networks) != count:
        raise RunError(
            f"an ensemble of {count} cannot start from a {type(init).__name__} like this.",
            f"Start from a run of ensemble with `members: {count}`, or leave --init out.",
        )
    return list(init.networks)
