"""A cascade as in FrugalGPT (Chen et al., arXiv 2305.05176), on any tree with STOP.

The arms are asked in a fixed order p_1, p_2, …; after each call a scorer g_ℓ(features of the state)
estimates the quality of stopping now, and the cascade stops where g_ℓ ≥ τ_ℓ. There the scorer
reads one question and one answer; here it reads the state, which holds all answers so far. It is a
logistic regression per hop, fitted on every state of the hop that offers STOP, whatever was asked.

Order and thresholds are those of the largest mean R = Q − α·C on the training trees. Thresholds
are chosen on scores from scorers that did not see the query (cross-fitting); the scorers that are
kept are fitted on all queries. For each order one threshold at a time is set to the best of all
values that make a difference, from the last hop to the first, until nothing improves.

Where a state does not offer the arm of the order, the first arm that it offers is asked instead,
and where it offers no arm the cascade stops.

Axes in names: T trees, N states, A actions, D text features, L hops, M leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from hcache.config.schema import Settings
from hcache.policies.cascade import CascadePolicy, next_arm
from hcache.policies.planning import continuations
from hcache.policies.regression import SoftLogistic
from hcache.replay.exact import TIE
from hcache.replay.tree import NONE, Tree, tree_of_state
from hcache.trainers.base import TRAINERS, ClosedForm

ORDERS = 256  # most orders whose thresholds are searched


class CascadeSettings(Settings):
    """Settings of the cascade."""

    strength: float = Field(3.0, gt=0, description="C of the scorers, the inverse of the penalty")
    folds: int = Field(5, ge=2, description="parts of the queries, each scored by the others")


@TRAINERS.register("cascade")
class Cascade(ClosedForm):
    """Arms in a fixed order, and after each call a learned decision whether to stop."""

    Settings = CascadeSettings
    settings: CascadeSettings
    policy: CascadePolicy

    @classmethod
    def unfit(cls, train: Tree) -> str:
        """See `Trainer`."""
        if bool(train.valid_NA[:, train.stop].any()):
            return ""
        return "no state offers STOP, and all that a cascade decides is when to stop"

    def fitted(self, train: Tree) -> CascadePolicy:
        """See `ClosedForm`."""
        policy = CascadePolicy(train.arms, train.features_ND.shape[1], train.hops)
        score_N = self._cross_fit(train)
        self._fit_scorers(policy, train, torch.ones_like(score_N, dtype=torch.bool))
        order, threshold_L = best_cascade(train, score_N, train.reward_M(self.alpha))
        policy.order_L[: len(order)] = torch.tensor(order)
        policy.threshold_L.copy_(threshold_L)
        return policy

    def _cross_fit(self, train: Tree) -> Tensor:
        """g of every state by scorers that did not see its query, float64 [N].

        With a single query there is nothing else to learn from: its own states are used.
        """
        queries = len(train.queries)
        generator = torch.Generator().manual_seed(self.seed)
        fold_Q = torch.randperm(queries, generator=generator) % self.settings.folds
        fold_N = fold_Q[train.query_T][tree_of_state(train)]
        score_N = torch.zeros(len(fold_N), dtype=torch.float64)
        for fold in fold_Q.unique().tolist():
            held_N = fold_N == fold
            scorer = CascadePolicy(train.arms, train.features_ND.shape[1], train.hops)
            self._fit_scorers(scorer, train, ~held_N if queries > 1 else held_N)
            score_N[held_N] = scorer.scores(train.features_ND[held_N], train.hop_N[held_N])
        return score_N

    def _fit_scorers(self, policy: CascadePolicy, train: Tree, use_N: Tensor) -> None:
        """Fit g of every hop on the states in use that offer STOP; without any it stays as is."""
        leaf_N = train.leaf_NA[:, train.stop]
        for hop in range(train.hops):
            row_K = (use_N & (train.hop_N == hop) & (leaf_N != NONE)).nonzero()[:, 0]
            if not len(row_K):
                continue
            x_KD = train.features_ND[row_K].double().numpy()
            y_K = train.quality_M[leaf_N[row_K]].numpy()
            line = SoftLogistic(self.settings.strength).fit(x_KD, y_K[:, None])
            policy.coef_LD[hop] = torch.from_numpy(line.coef_DS[:, 0])
            policy.intercept_L[hop] = float(line.intercept_S[0])


@dataclass(frozen=True)
class Spine:
    """Rewards of stopping on the way that an order takes through each tree."""

    score_LT: Tensor  # g, or NaN where STOP is not offered or the way has ended
    stop_LT: Tensor  # R of stopping there; NaN likewise
    end_T: Tensor  # R of never stopping

    def outcome(self, threshold_L: Tensor, first: int = 0) -> Tensor:
        """R of each tree where the hops from `first` on may stop, float64 [T]."""
        outcome_T = self.end_T
        for hop in reversed(range(first, len(threshold_L))):
            stops_T = self.score_LT[hop] >= threshold_L[hop]
            outcome_T = torch.where(stops_T, self.stop_LT[hop], outcome_T)
        return outcome_T

    def bound(self) -> Tensor:
        """R of each tree if it were known when to stop, float64 [T]."""
        best_T = self.stop_LT.nan_to_num(-torch.inf).max(dim=0).values
        return torch.maximum(best_T, self.end_T)


def best_cascade(tree: Tree, score_N: Tensor, reward_M: Tensor) -> tuple[list[int], Tensor]:
    """The order of arms and the thresholds, float64 [L], of the largest mean reward.

    Of very many orders only those are searched that would bring most if it were known when to
    stop. Of equally good ones the first is taken, which is the shortest unless there were many.
    """
    count_Q = torch.bincount(tree.query_T, minlength=len(tree.queries))
    weight_T = 1 / (count_Q[tree.query_T].double() * len(tree.queries))
    ways = [(order, spine(tree, order, score_N, reward_M)) for order in orders(tree)]
    if len(ways) > ORDERS:
        ways = sorted(ways, key=lambda found: -float(weight_T @ found[1].bound()))[:ORDERS]
    best_value, best_order, best_threshold_L = -math.inf, ways[0][0], torch.empty(0)
    for order, way in ways:
        threshold_L = best_thresholds(way, weight_T)
        value = float(weight_T @ way.outcome(threshold_L))
        if value > best_value + TIE:
            best_value, best_order, best_threshold_L = value, order, threshold_L
    return list(best_order), best_threshold_L


def orders(tree: Tree) -> list[tuple[int, ...]]:
    """The longest sequences of arms that the trees hold; a threshold can cut them short."""
    found = {
        tuple(action for action in path if action != tree.stop)
        for path in continuations(tree)[0].paths
    }
    shorter = {order[:end] for order in found for end in range(len(order))}
    return sorted(found - shorter, key=lambda order: (len(order), order))


def spine(tree: Tree, order: Sequence[int], score_N: Tensor, reward_M: Tensor) -> Spine:
    """Follow an order through every tree to its end."""
    shape = (tree.hops, len(tree))
    score_LT, stop_LT = torch.full((2, *shape), torch.nan, dtype=torch.float64)
    leaf_T, state_T = torch.full_like(tree.root_T, NONE), tree.root_T
    for hop in range(tree.hops):
        stop_leaf_T = tree.leaf_NA[state_T, tree.stop]
        offered_T = (stop_leaf_T != NONE) & (leaf_T == NONE)
        score_LT[hop, offered_T] = score_N[state_T[offered_T]]
        stop_LT[hop, offered_T] = reward_M[stop_leaf_T[offered_T]]
        arm = order[hop] if hop < len(order) else NONE
        action_T = next_arm(torch.full_like(state_T, arm), tree.valid_NA[state_T])
        leaf_T = torch.where(leaf_T == NONE, tree.leaf_NA[state_T, action_T], leaf_T)
        child_T = tree.child_NA[state_T, action_T]
        state_T = torch.where((leaf_T == NONE) & (child_T != NONE), child_T, state_T)
    return Spine(score_LT, stop_LT, reward_M[leaf_T])


def best_thresholds(way: Spine, weight_T: Tensor) -> Tensor:
    """Thresholds that no change of a single one improves, float64 [L]; ∞ never stops."""
    threshold_L = torch.full((len(way.score_LT),), torch.inf, dtype=torch.float64)
    value, before = float(weight_T @ way.end_T), -math.inf
    while value > before + TIE:
        for hop in reversed(range(len(threshold_L))):
            earlier_LT = way.score_LT[:hop] >= threshold_L[:hop, None]
            open_T = ~earlier_LT.any(dim=0) & ~way.score_LT[hop].isnan()
            gain_T = weight_T * (way.stop_LT[hop] - way.outcome(threshold_L, hop + 1))
            threshold_L[hop] = best_cut(way.score_LT[hop][open_T], gain_T[open_T])
        before, value = value, float(weight_T @ way.outcome(threshold_L))
    return threshold_L


def best_cut(score_K: Tensor, gain_K: Tensor) -> float:
    """The τ with the largest sum of gains over scores ≥ τ: ∞ for none of them, −∞ for all."""
    if not len(score_K):
        return math.inf
    score_K, order_K = score_K.sort(descending=True, stable=True)
    sum_K = gain_K[order_K].cumsum(0)
    last_K = torch.ones_like(score_K, dtype=torch.bool)  # of its equals
    last_K[:-1] = score_K[1:] < score_K[:-1]
    sum_K = sum_K.masked_fill(~last_K, -torch.inf)
    best = int(sum_K.argmax())
    if sum_K[best] <= TIE:
        return math.inf
    return -math.inf if best == len(score_K) - 1 else float(score_K[best])
