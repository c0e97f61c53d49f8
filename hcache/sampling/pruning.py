"""Pruned enumeration: which arms continue a state, where whole trees do not fit.

Two rules, alone or together; after the first hop, of which every arm is taken:

- `sampling.width`: a state is continued by so many of its arms, drawn by its own key, which is made
  of the seed, the query and the decisions so far, the same in every replica. What it leaves out is
  missing at random, and a larger width includes the draw of a smaller one.
- `sampling.bound`: a state is continued only where 1 − α·C, with C its cost so far, exceeds the
  best reward R = Q − α·C among the finished trajectories of as many hops or fewer, in its own
  replica. No metric exceeds 1 and no call costs less than nothing, so no trajectory that is left
  out has a higher reward than the best that is there: the oracle's reward at this α is that of
  whole trees. What it leaves out is *not* missing at random.

Neither is part of any identity: a pruned tree holds some rows of the whole one.

A path of arms has a number, made from that of the path before and that of the arm; a state is
continued by the arms whose paths have the smallest. Axes in names: n states, a arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hcache.config.schema import DatasetConfig, ExperimentConfig, Price
from hcache.data.extractors import extractor
from hcache.data.metrics import references_of, score_many
from hcache.data.queries import Query
from hcache.keys import digest
from hcache.models.arms import Arm, Pool
from hcache.workflows import STOP, Decision

Numbers = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

BEST_QUALITY = 1.0  # of any metric
TIE = 1e-12  # rewards this close are equal

_GOLDEN, _ONE, _TWO = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@lru_cache(maxsize=1 << 16)
def number(*parts: str | int) -> int:
    """A number of 64 bits made of names."""
    return int(digest(parts)[:16], 16)


def numbers(names: Iterable[str], *before: int) -> Numbers:
    """The numbers of some names, each behind the same first parts, uint64 [n]."""
    return np.array([number(*before, name) for name in names], dtype=np.uint64)


def longer(path_n: Numbers, arm_a: Numbers) -> Numbers:
    """Numbers of the paths that are one arm longer, uint64 [n, a].

    The two are mixed as in SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014).
    """
    z = (path_n[:, None] ^ arm_a) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _ONE
    z = (z ^ (z >> np.uint64(27))) * _TWO
    mixed: Numbers = z ^ (z >> np.uint64(31))
    return mixed


def drawn(longer_na: Numbers, width: int, offered_na: Bools | None = None) -> Bools:
    """Mask of the arms that continue each state: of those offered the `width` smallest numbers."""
    if offered_na is not None:  # the others come last; no number is the largest but by a miracle
        longer_na = np.where(offered_na, longer_na, np.uint64(0xFFFFFFFFFFFFFFFF))
    rank_na = longer_na.argsort(axis=1, kind="stable").argsort(axis=1)
    chosen: Bools = rank_na < width
    return chosen if offered_na is None else chosen & offered_na


@dataclass(frozen=True)
class Bound:
    """The test of whether a state can still lead to a better trajectory than those found."""

    alpha: float
    prices: Mapping[str, Price]  # of the pool, by id of the arm
    data: Mapping[str, DatasetConfig]
    quality: Mapping[str, str]  # the metric of each data set

    def reward(self, query: Query, output: str, asks: Iterable[Mapping[str, Any]]) -> float:
        """R of a finished trajectory, from its output and the rows of its calls."""
        answer = extractor(self.data[query.dataset].extract)(output)
        metric = self.quality[query.dataset]
        [found] = score_many(metric, [answer], [references_of(metric, query)])
        return found - self.alpha * self.cost(asks)

    def highest(self, asks: Iterable[Mapping[str, Any]]) -> float:
        """The most that a trajectory can reach behind a state, from the rows of its calls so far.

        Nothing is known of the tokens of the next call before it is made, so it counts as free.
        """
        return BEST_QUALITY - self.alpha * self.cost(asks)

    def cost(self, asks: Iterable[Mapping[str, Any]]) -> float:
        """Cost of some calls; those of tools have no price."""
        known = ((self.prices.get(ask["arm"]), ask) for ask in asks)
        return sum(
            price.of(ask["prompt_tokens"], ask["output_tokens"]) for price, ask in known if price
        )


@dataclass(frozen=True)
class Pruning:
    """The pruning of trees; none by default."""

    width: int | None = None
    seed: int = 0
    bound: Bound | None = None

    @classmethod
    def of(cls, config: ExperimentConfig, pool: Pool) -> Pruning:
        """The pruning of an experiment."""
        sampling = config.sampling
        bound = None
        if sampling.bound:
            prices = {arm.id: arm.config.price for arm in pool}
            metrics = {name: config.quality_of(name) for name in config.data}
            bound = Bound(config.train.alpha, prices, config.data, metrics)
        return cls(sampling.width, sampling.seed, bound)

    def arms(
        self, query: Query, decisions: Sequence[Decision], offered: Sequence[Arm]
    ) -> Sequence[Arm]:
        """The arms that continue a state, in the order in which they are offered."""
        if self.width is None or not decisions or len(offered) <= self.width:
            return offered
        path_n = numbers([query.id], self.seed)
        for decision in decisions:
            if decision is not STOP:
                path_n = longer(path_n, numbers([decision.id]))[0]
        chosen_na = drawn(longer(path_n, numbers(arm.id for arm in offered)), self.width)
        return [arm for arm, chosen in zip(offered, chosen_na[0].tolist(), strict=True) if chosen]

    def drawn_paths(self, paths: pl.DataFrame, arms: Sequence[str]) -> Bools:
        """Mask of the paths (`query_id`, and `path`: places in the pool, from 1) that are drawn.

        Of workflows that offer the whole pool in every state.
        """
        arm_a = numbers(arms)
        queries = paths["query_id"].unique()
        of_query = dict(zip(queries, numbers(queries, self.seed), strict=True))
        path_n = np.array([of_query[name] for name in paths["query_id"]], dtype=np.uint64)
        drawn_n = np.ones(len(paths), dtype=np.bool_)
        path, hops = paths["path"], paths["path"].list.len().to_numpy()
        for hop in range(int(hops.max(initial=0))):
            arm_n = path.list.get(hop, null_on_oob=True).fill_null(0).to_numpy() - 1
            at_m = np.flatnonzero(arm_n >= 0)
            longer_ma = longer(path_n[at_m], arm_a)
            if hop and self.width is not None:
                drawn_n[at_m] &= drawn(longer_ma, self.width)[np.arange(len(at_m)), arm_n[at_m]]
            path_n[at_m] = longer_ma[np.arange(len(at_m)), arm_n[at_m]]
        return drawn_n
