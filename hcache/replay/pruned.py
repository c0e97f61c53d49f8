"""The part of stored trees that pruned sampling asks for; see `hcache.sampling.pruning`.

A tree may hold more than that: of another draw, of another α, of a run that was stopped. Such a
remainder came about by what happened to finish first, so a partial tree is cut down to what was
asked for. Axes in names as in `hcache.replay.tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hcache.config.schema import ExperimentConfig
from hcache.sampling.pruning import BEST_QUALITY, Bools, Numbers, drawn, longer, numbers

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CLOSE = 1e-9  # rewards that DuckDB and Python sum differ by less


@dataclass(frozen=True)
class Rule:
    """A rule by which trees are pruned."""

    width: int | None
    seed: int
    alpha: float | None  # of the bound; None where there is none
    arms: tuple[str, ...]  # ids of the pool

    @classmethod
    def of(cls, config: ExperimentConfig, arms: Sequence[str]) -> Rule | None:
        """The rule of an experiment, or None where trees are whole."""
        sampling = config.sampling
        if sampling.width is None and not sampling.bound:
            return None
        alpha = config.train.alpha if sampling.bound else None
        return cls(sampling.width, sampling.seed, alpha, tuple(arms))


@dataclass(frozen=True)
class Links:
    """A forest as arrays: where actions lead, and what a bound is decided by."""

    child_NA: Ints  # next state or -1; STOP is the last action
    leaf_NA: Ints
    offered_NA: Bools  # actions that the workflow offers, whether or not their outcome is there
    hop_N: Ints  # in order
    tree_N: Ints
    cost_N: Floats
    quality_M: Floats
    cost_M: Floats


def asked_for(links: Links, rule: Rule, queries: Sequence[str]) -> tuple[Bools, Bools]:
    """Masks of the actions that are asked for, [N, A], and of the states on the way, [N].

    `queries` are the ids of the query of each tree. A state is there only as far as what leads to
    it is; one that a bound closes and that has no STOP is no state.
    """
    asked_NA = np.zeros(links.child_NA.shape, dtype=np.bool_)
    reached_N = links.hop_N == 0
    best_T = np.full(len(queries), -np.inf)
    root_T, arm_A = numbers(queries, rule.seed), numbers(rule.arms)
    path_N = root_T[links.tree_N]
    for hop in range(int(links.hop_N.max(initial=-1)) + 1):
        at_n = np.flatnonzero(reached_N & (links.hop_N == hop))
        asked_NA[at_n, -1] = links.offered_NA[at_n, -1]
        _raise_best(links, rule, asked_NA[:, -1:], links.leaf_NA[:, -1:], at_n, best_T)
        longer_na = longer(path_N[at_n], arm_A)
        asked_NA[at_n, :-1] = _continued(links, rule, at_n, longer_na, best_T)
        _raise_best(links, rule, asked_NA[:, :-1], links.leaf_NA[:, :-1], at_n, best_T)
        child_na = links.child_NA[at_n, :-1]
        on_na = asked_NA[at_n, :-1] & (child_na >= 0)
        reached_N[child_na[on_na]] = True
        path_N[child_na[on_na]] = longer_na[on_na]
    for hop in reversed(range(int(links.hop_N.max(initial=-1)) + 1)):
        at_n = np.flatnonzero(reached_N & (links.hop_N == hop))
        child_na = links.child_NA[at_n]
        asked_NA[at_n] &= (child_na < 0) | reached_N[child_na]
        reached_N[at_n] = asked_NA[at_n].any(axis=1)
    return asked_NA, reached_N


def _continued(links: Links, rule: Rule, at_n: Ints, longer_na: Numbers, best_T: Floats) -> Bools:
    """Mask of the arms that continue some states of one hop."""
    offered_na = links.offered_NA[at_n, :-1]
    if not len(at_n) or links.hop_N[at_n[0]] == 0:
        return offered_na
    if rule.width is not None:
        offered_na = drawn(longer_na, rule.width, offered_na)
    if rule.alpha is None:
        return offered_na
    highest_n = BEST_QUALITY - rule.alpha * links.cost_N[at_n]
    open_n = highest_n > best_T[links.tree_N[at_n]] + CLOSE
    return offered_na & open_n[:, None]


def _raise_best(
    links: Links, rule: Rule, asked_Na: Bools, leaf_Na: Ints, at_n: Ints, best_T: Floats
) -> None:
    """Take the rewards of leaves that are asked for into the best of their trees."""
    if rule.alpha is None:
        return
    leaf_na = leaf_Na[at_n]
    row_m, action_m = np.nonzero(asked_Na[at_n] & (leaf_na >= 0))
    leaf_m = leaf_na[row_m, action_m]
    reward_m = links.quality_M[leaf_m] - rule.alpha * links.cost_M[leaf_m]
    np.maximum.at(best_T, links.tree_N[at_n[row_m]], reward_m)
