"""The word of a log on a router: estimates with intervals, and whether it can say anything.

Intervals are for new queries: episodes of one query count as one observation (a linearised cluster
mean), with the t-interval of `hcache.evaluation.statistics`. Estimates are means over episodes, so
that a query counts as often as it was asked.

Axes in names: E episodes, L steps, N states, A actions, Q queries, V quantities (quality, cost).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hcache.errors import DataError
from hcache.evaluation.statistics import FEW, Interval, interval_of_mean
from hcache.logged.estimators import (
    doubly_robust,
    effective_size,
    ips,
    per_decision,
    self_normalised,
    weights,
)
from hcache.logged.log import Log
from hcache.logged.model import cross_fitted
from hcache.replay.tree import Tree

FEWEST_EFFECTIVE = 20  # queries; with fewer, intervals miss too often (docs/logged.md)
MOST_UNTRIED = 0.01  # of the router's probability; it may move a quality in [0, 1] by as much
FOLDS = 5
QUANTITIES = ("quality", "cost", "reward")

Row = dict[str, Interval]


@dataclass(frozen=True)
class Support:
    """Share of what a router does that the log has seen."""

    episodes: int
    queries: int
    effective: float  # queries that are worth as much as all with their weights (Kish)
    largest: float  # share of the largest weight of an episode in all
    untried: float  # share of the router's probability on actions that were never taken at a step
    mean_weight: Interval  # 1 in expectation where the log covers the router

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the log cannot answer, in words; none where it can."""
        return tuple(self._reasons())

    def _reasons(self) -> Iterator[str]:
        if self.queries < FEW:
            yield f"it has {self.queries} queries, and nothing is said of fewer than {FEW}"
        if self.untried > MOST_UNTRIED:
            yield (
                f"{self.untried:.1%} of the router's probability is on actions that were never "
                f"taken at their step (at most {MOST_UNTRIED:.0%} may be)"
            )
        if self.effective < FEWEST_EFFECTIVE:
            yield (
                f"its weights are worth {self.effective:.1f} queries, "
                f"and intervals need {FEWEST_EFFECTIVE}"
            )
        if self.mean_weight.high < 1:
            yield (
                f"the mean weight is {self.mean_weight.estimate:.3f} where it should be 1: the "
                "router does what the log's policy hardly ever does"
            )
        if self.mean_weight.low > 1:
            yield (
                f"the mean weight is {self.mean_weight.estimate:.3f} where it should be 1: "
                "propensities are smaller than the shares in which actions were taken"
            )


@dataclass(frozen=True)
class Estimates:
    """The value of a router by each estimator, as far as the log can tell it."""

    support: Support
    computed: Mapping[str, Row]  # by estimator and quantity, whether or not they can be relied on

    @property
    def answers(self) -> bool:
        """True if the estimates can be relied on."""
        return not self.support.reasons

    @property
    def rows(self) -> dict[str, Row]:
        """Intervals by estimator and quantity; none has a number where the log cannot answer."""
        if self.answers:
            return {name: dict(row) for name, row in self.computed.items()}
        nothing = Interval(math.nan, note="; ".join(self.support.reasons))
        return {name: dict.fromkeys(QUANTITIES, nothing) for name in self.computed}

    def to_dict(self) -> dict[str, Any]:
        """All of it for programs; null where there is no number."""
        rows = {
            name: {quantity: _numbers(interval) for quantity, interval in row.items()}
            for name, row in self.rows.items()
        }
        support = asdict(self.support) | {"mean_weight": _numbers(self.support.mean_weight)}
        reasons = list(self.support.reasons)
        return {"answers": self.answers, "reasons": reasons, "support": support, "rows": rows}


def estimate(tree: Tree, log: Log, probs_NA: Tensor, alpha: float) -> Estimates:
    """The value of a policy, given by its probabilities in the states of the log's tree.

    Raises:
        DataError: the log is empty.
    """
    if not len(log):
        raise DataError("the log holds no episode.", "Give a log with rows.")
    taken_EL = log.taken_EL
    probs_ELA = probs_NA[log.state_EL.clamp(min=0)].double() * taken_EL[..., None]
    target_EL = probs_ELA.gather(2, log.action_EL.clamp(min=0)[..., None])[..., 0]
    ratio_EL = torch.where(taken_EL, target_EL / log.propensity_EL, 1.0)
    reward_ELV = log.reward_ELV
    values_EV = {
        "IPS": ips(ratio_EL, reward_ELV),
        "per-decision IPS": per_decision(ratio_EL, reward_ELV),
        "SNIPS": self_normalised(ratio_EL, reward_ELV),
        "DR": doubly_robust(ratio_EL, reward_ELV, *_model(tree, log, probs_ELA)),
    }
    found = {name: _row(value_EV, log.query_E, alpha) for name, value_EV in values_EV.items()}
    return Estimates(_support(log, ratio_EL, probs_ELA), found)


def by_query(value_E: Tensor, query_E: Tensor) -> Tensor:
    """Values of the queries with the mean of the episodes, float64 [Q].

    Their spread is that of the sums over the episodes of a query, less the mean of each: the
    linearised mean of clusters (Cochran, Sampling Techniques, 1977, chapter 9A).
    """
    _, place_E = query_E.unique(return_inverse=True)
    mean, queries = value_E.mean(), int(place_E.max()) + 1
    sum_Q = torch.zeros(queries, dtype=torch.float64).index_add(0, place_E, value_E - mean)
    return mean + sum_Q * (queries / len(value_E))


def _row(value_EV: Tensor, query_E: Tensor, alpha: float) -> Row:
    quality_E, cost_E = value_EV.unbind(dim=1)
    values = quality_E, cost_E, quality_E - alpha * cost_E
    return {
        name: _interval(value_E, query_E) for name, value_E in zip(QUANTITIES, values, strict=True)
    }


def _interval(value_E: Tensor, query_E: Tensor) -> Interval:
    if not bool(value_E.isfinite().all()):
        return Interval(math.nan, note="all weights are 0")
    return interval_of_mean(by_query(value_E, query_E).numpy())


def _support(log: Log, ratio_EL: Tensor, probs_ELA: Tensor) -> Support:
    weight_E = weights(ratio_EL)
    _, place_E = log.query_E.unique(return_inverse=True)
    queries = int(place_E.max()) + 1
    weight_Q = torch.zeros(queries, dtype=torch.float64).index_add(0, place_E, weight_E)
    whole = float(weight_E.sum())
    return Support(
        episodes=len(log),
        queries=queries,
        effective=effective_size(weight_Q),
        largest=float(weight_E.max()) / whole if whole else math.nan,
        untried=_untried(log, ratio_EL, probs_ELA),
        mean_weight=_interval(weight_E, log.query_E),
    )


def _untried(log: Log, ratio_EL: Tensor, probs_ELA: Tensor) -> float:
    """Probability that the policy takes, at some step, an action that was never taken there."""
    actions = torch.arange(probs_ELA.shape[2])
    tried_LA = (log.action_EL[..., None] == actions).any(dim=0)
    share_EL = (probs_ELA * ~tried_LA).sum(dim=2)
    before_EL = ratio_EL.cumprod(dim=1).roll(1, dims=1)
    before_EL[:, 0] = 1.0
    return float((before_EL * share_EL).sum(dim=1).mean())


def _model(tree: Tree, log: Log, probs_ELA: Tensor) -> tuple[Tensor, Tensor]:
    """The model's Q of the actions taken, and its value of the states, both [E, L, V]."""
    q_ELAV = torch.from_numpy(
        cross_fitted(
            tree.features_ND[log.state_EL.clamp(min=0)].double().numpy(),
            log.action_EL.numpy(),
            log.reward_ELV.numpy(),
            probs_ELA.numpy(),
            _folds(log.query_E).numpy(),
        )
    )
    taken_EL11 = log.action_EL.clamp(min=0)[..., None, None]
    taken_ELV = q_ELAV.gather(2, taken_EL11.expand(-1, -1, 1, q_ELAV.shape[3]))[:, :, 0]
    return taken_ELV, (probs_ELA[..., None] * q_ELAV).sum(dim=2)


def _folds(query_E: Tensor) -> Tensor:
    """The fold of each episode, that of its query, drawn at random but always the same."""
    _, place_E = query_E.unique(return_inverse=True)
    order_Q = torch.randperm(int(place_E.max()) + 1, generator=torch.Generator().manual_seed(0))
    return order_Q[place_E] % FOLDS


def _numbers(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON can say it."""
    values = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
