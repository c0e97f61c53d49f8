"""Joint training of both routers of HAPS (arXiv 2601.05903) from the cache alone.

The high-level router chooses arms; the low-level router, a parameter generation network, gives the
chosen arms a ΔW made for the query (`hcache.joint`). Both climb the expected reward R = Q − α·C
of what the cache holds: trajectories of every assignment, said by the behaviour b, the models as
they are.

Low level, per call u (a call of an arm), with the ratio ρ_u = π_θ(u) / b(u) of whole outputs:
    Σ_M p_M · Σ_{u in M} min(ρ_u·A_Mu, clip(ρ_u, 1/c, c)·A_Mu)      (arXiv 1707.06347)
where p_M is the probability that the high-level router ends in leaf M. A cache never moves along
with the policy, so c is wider than PPO's 1.2, and the effective sample size decides when the cache
is used up: below `min_ess` of the calls of a query, on average, no further step is taken, and
`halted` is 1. Then sample anew. A_Mu = R_M − b_Mu, a mean reward over other leaves of the query,
none of which has the call u, so that it biases nothing. They are, the first of these that there
are:
    those of the same assignment in which the arm drew another reply to the same prompt
    those of any assignment in which it did
    those that share no call with M: other assignments and samples
The last alone would not do: after a bad first call all second calls would be worse than it, and a
fixed cache, which never shows what comes instead, would have them all unlearned.

High level: every assignment of a query is in the cache, so the expectation over assignments is
exact, Σ_a π(a)·Q(a) at each state, and nothing need be sampled or weighted for it. A baseline
common to the actions drops out of its gradient. The value of a trajectory under ΔW is its quality
times its ratio. Ratios of trajectories are cut off at TRUST and not normalised: where the models
come to say what the cache lacks, ratios of what it has sum up to less than their number, and what
is lacking counts as a failure. Normalised, it would count as what is there, which is too good.

Where a tree carries no calls (scripted arms), this is the exact policy gradient of the high level.
On validation, R is the same estimate for the greedy choice; `covered`, the mean ratio, is how much
of what would be said is in the cache. The true figure comes from sampling with ΔW, as
`hcache sample --policy` does. What is said then is a cache like any other: training may go on from
the policy on it, with ratios to the ΔW that it was sampled with.

Axes in names as in `hcache.joint`, and N states, A actions, T trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from hcache.joint.adapter import Adapter, load_adapter
from hcache.joint.calls import Calls, CallTree, calls_of, speakers_of, with_calls
from hcache.joint.pair import PairSettings, PairTrainer
from hcache.joint.scoring import CallScorer
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import backward, hops_of, reach, returns
from hcache.replay.tree import NONE, Tree, tree_of_leaf, tree_of_state
from hcache.store import Store
from hcache.trainers.base import TRAINERS, Origin

TRUST = 10.0  # largest ratio of a trajectory (truncated importance sampling, Ionides 2008)


class JointSettings(PairSettings):
    """Settings of joint training."""

    clip_ratio: float = Field(3.0, gt=1, description="c: a call's ratio counts within [1/c, c]")
    min_ess: float = Field(
        0.5, ge=0, le=1, description="effective share of the calls below which it halts"
    )
    batch_queries: int = Field(32, ge=1, description="queries of an update")


@TRAINERS.register("joint")
class Joint(PairTrainer):
    """High-level and low-level router together, from stored calls."""

    Settings = JointSettings
    settings: JointSettings

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        quality_M = self.value_of(self.tree.quality_M)
        self.reward_M = replace(self.tree, quality_M=quality_M).reward_M(self.alpha)
        self.stored: dict[int, StoredCalls] = {}
        self.cache = self._said(train)
        baseline_E = baselines(self.tree, self.cache.calls, self.reward_M)
        self.advantage_E = self.reward_M[self.cache.calls.leaf_E] - baseline_E
        self.log_ratio_U = torch.zeros(
            len(self.cache.calls), dtype=torch.float64, device=self.device
        )  # as last scored; those of an update are fresh

    @classmethod
    def enrich(cls, tree: Tree, origin: Origin) -> CallTree:
        """The tree with its stored calls."""
        with Store(origin.db) as store:
            return with_calls(store, origin.config, tree)

    def step(self) -> dict[str, float]:
        """One pass over the training queries; none once the cache is used up."""
        if self.halted:
            return {"halted": 1.0}
        self.set_rates()
        ratios = Ratios(len(self.tree.queries))
        for query_B in self.permutation(len(self.tree.queries)).split(self.settings.batch_queries):
            self.optimizer.zero_grad()
            self.climb(query_B, ratios)
            self.optimizer.step()
        self.steps += 1
        ess = ratios.effective_share()
        self.halted = ess < self.settings.min_ess
        return {
            "train_reward": self.expected_reward(),
            "ess": ess,
            "ratio_max": ratios.largest,
            "engine_difference": self.cache.scorer.engine_difference,
            "halted": float(self.halted),
        }

    def climb(self, query_B: Tensor, ratios: Ratios) -> None:
        """Add the gradients of minus the mean objective over the trees of some queries."""
        taken_T = torch.isin(self.tree.query_T, query_B)
        probs_NA = self.policy.probs(self.tree.states)
        self._climb_low(query_B, probs_NA, ratios)
        self._climb_high(taken_T, probs_NA)

    def validate(self, valid: Tree) -> dict[str, float]:
        """Importance-weighted means at the greedy leaves; estimates, see the head of this file."""
        tree = valid.to(self.device)
        leaf_T = greedy_leaves(self.policy, tree)
        ratio_T = self._log_ratios(self._said(valid), leaf_T)[leaf_T].exp()
        quality = float((ratio_T.clamp(max=TRUST) * tree.quality_M[leaf_T]).mean())
        cost = float(tree.cost_M[leaf_T].mean())
        return {
            "reward": quality - self.alpha * cost,
            "quality": quality,
            "cost": cost,
            "hops": float(hops_of(tree)[leaf_T].double().mean()),
            "covered": float(ratio_T.clamp(max=TRUST).mean()),
        }

    def state(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        return super().state() | {"log_ratio_U": self.log_ratio_U.cpu()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        super().load_state(state)
        self.log_ratio_U = state["log_ratio_U"].to(self.device, copy=True)

    def _said(self, tree: Tree) -> StoredCalls:
        """The calls of a tree with their scorer, made when it is first seen."""
        if id(tree) not in self.stored:
            layers = self.policy.low.settings.adapted_layers
            scorer = CallScorer(
                calls_of(tree),
                self.checkpoints,
                layers,
                self.settings.batch_turns,
                self._sampled_with(tree),
            )
            self.stored[id(tree)] = StoredCalls(tree, scorer)
        return self.stored[id(tree)]

    def _sampled_with(self, tree: Tree) -> dict[int, Adapter]:
        """The ΔW of each arm that was sampled with one."""
        return {
            index: load_adapter(arm, self.device)
            for index, arm in enumerate(speakers_of(tree))
            if arm is not None and arm.by_question
        }

    def _climb_low(self, query_B: Tensor, probs_NA: Tensor, ratios: Ratios) -> None:
        """The clipped surrogate of the calls of some queries, a part of them at a time."""
        calls, clip = self.cache.calls, self.settings.clip_ratio
        leaf_M = leaf_probs(self.tree, probs_NA)
        chance_E = leaf_M[calls.leaf_E]
        gain_U = call_sums(calls, chance_E * self.advantage_E.clamp(min=0))
        loss_U = call_sums(calls, chance_E * self.advantage_E.clamp(max=0))
        chance_U = call_sums(calls, chance_E)
        trees = int(torch.isin(self.tree.query_T, query_B).sum())
        index = torch.isin(calls.query_U, query_B.cpu()).nonzero()[:, 0]
        for arm, part in self.cache.scorer.chunks(index):
            log_ratio_B = self._log_ratio(self.cache, arm, part)
            ratio_B = log_ratio_B.exp()
            gained = gain_U[part] @ ratio_B.clamp(max=clip)
            lost = loss_U[part] @ ratio_B.clamp(min=1 / clip)
            (-(gained + lost) / trees).backward()
            self.log_ratio_U[part] = log_ratio_B.detach()
            ratios.add(calls.query_U[part], ratio_B.detach(), chance_U[part])

    def _climb_high(self, taken_T: Tensor, probs_NA: Tensor) -> None:
        """The exact expected reward of the high-level router, by the policy gradient theorem.

        Σ_N d(N) Σ_a π(a | N)·Q(N, a) with d, the chance to pass a state, and Q held fast.
        """
        tree = self.tree
        at_N = taken_T[tree_of_state(tree)].nonzero()[:, 0]
        q_NA = backward(tree, self._worth(), probs_NA).masked_fill(~tree.valid_NA, 0.0)
        gain_NA = reach(tree, probs_NA)[:, None] * q_NA
        pi_NA = self.policy.logits(tree.states[at_N]).double().softmax(dim=1)
        (-(pi_NA * gain_NA[at_N]).sum() / taken_T.sum()).backward()

    def expected_reward(self) -> float:
        """Mean reward of the router under ΔW as it was when each call was last scored."""
        probs_NA = self.policy.probs(self.tree.states)
        return float(returns(self.tree, self._worth(), probs_NA).mean())

    def _log_ratio(self, stored: StoredCalls, arm: int, part: Tensor) -> Tensor:
        """log π_θ(u) / b(u) of calls of one arm, float64 [B]."""
        low = self.policy.delta(arm, stored.features_QD[stored.calls.query_U[part]])
        logprob_B = stored.scorer.logprobs(arm, part, low)
        return logprob_B.double() - stored.scorer.behaviour_U[part].to(self.device)

    def _worth(self) -> Tensor:
        """Value of each leaf under ΔW; what the cache lacks counts as a failure, [M]."""
        ratio_M = leaf_sums(self.cache.calls, self.log_ratio_U, self.tree).exp().clamp(max=TRUST)
        failure, quality_M = self.settings.failure, self.value_of(self.tree.quality_M)
        return failure + ratio_M * (quality_M - failure) - self.alpha * self.tree.cost_M

    @torch.no_grad()
    def _log_ratios(self, stored: StoredCalls, leaf_T: Tensor) -> Tensor:
        """log π_θ / b of whole trajectories, float64 [M]; right at the given leaves only."""
        calls = stored.calls
        at = torch.isin(calls.leaf_E, leaf_T.cpu())
        log_ratio_U = torch.zeros(len(calls), dtype=torch.float64, device=self.device)
        for arm, part in stored.scorer.chunks(calls.call_E[at].unique()):
            log_ratio_U[part] = self._log_ratio(stored, arm, part)
        return leaf_sums(calls, log_ratio_U, stored.tree)


class StoredCalls:
    """The calls of a tree with what training needs besides."""

    def __init__(self, tree: Tree, scorer: CallScorer) -> None:
        self.tree, self.scorer, self.calls = tree, scorer, scorer.calls
        first_Q = torch.zeros(len(tree.queries), dtype=torch.int64)
        first_Q[tree.query_T.cpu()] = tree.root_T.cpu()
        self.features_QD = tree.features_ND.cpu()[first_Q]


class Ratios:
    """The ratios of a pass, for their effective sample size."""

    def __init__(self, queries: int) -> None:
        self.sums_3Q = torch.zeros(3, queries, dtype=torch.float64)  # of 1, ρ and ρ²
        self.largest = 0.0

    def add(self, query_B: Tensor, ratio_B: Tensor, chance_B: Tensor) -> None:
        """Take calls in, each as often as the high-level router comes by it."""
        powers_3B = chance_B * torch.stack([torch.ones_like(ratio_B), ratio_B, ratio_B.square()])
        self.sums_3Q.index_add_(1, query_B, powers_3B.cpu())
        self.largest = max(self.largest, float(ratio_B.max()))

    def effective_share(self) -> float:
        """Effective sample size over the number of calls, (Σρ)² / (n·Σρ²); 1 where none are.

        The mean over queries, as what is estimated is estimated query by query: a single wild ratio
        then tells of its own query only.
        """
        weight_Q, first_Q, second_Q = self.sums_3Q[:, self.sums_3Q[2] > 0]
        if not len(weight_Q):
            return 1.0
        return float((first_Q.square() / (weight_Q * second_Q)).mean())


def leaf_probs(tree: Tree, probs_NA: Tensor) -> Tensor:
    """Probability that a policy ends in each leaf of its tree, float64 [M]."""
    flow_NA = reach(tree, probs_NA)[:, None] * probs_NA
    leaf_M = torch.zeros_like(tree.quality_M)
    has_NA = tree.leaf_NA != NONE
    return leaf_M.index_add_(0, tree.leaf_NA[has_NA], flow_NA[has_NA])


def call_sums(calls: Calls, value_E: Tensor) -> Tensor:
    """Sums over the leaves of each call, [U]."""
    sum_U = torch.zeros(len(calls), dtype=value_E.dtype, device=value_E.device)
    return sum_U.index_add_(0, calls.call_E.to(value_E.device), value_E)


def leaf_sums(calls: Calls, value_U: Tensor, tree: Tree) -> Tensor:
    """Sums over the calls of each leaf, [M]."""
    sum_M = torch.zeros(len(tree.quality_M), dtype=value_U.dtype, device=value_U.device)
    return sum_M.index_add_(0, calls.leaf_E.to(value_U.device), value_U[calls.call_E])


def query_of_leaf(tree: Tree) -> Tensor:
    """The query that each leaf is of, int64 [M]; NONE where no action leads to the leaf."""
    query_M = torch.full_like(tree.leaf_NA[0, 0], NONE).repeat(len(tree.quality_M))
    reached = tree.leaf_NA[tree.leaf_NA != NONE]
    query_M[reached] = tree.query_T[tree_of_leaf(tree)[reached]]
    return query_M


def assignments(tree: Tree) -> Tensor:
    """A number for each leaf that its replicas share: one per query and path, int64 [M]."""
    keys = torch.cat([query_of_leaf(tree)[:, None], tree.path_ML], dim=1).cpu()
    number_M: Tensor = keys.unique(dim=0, return_inverse=True)[1]
    return number_M


def baselines(tree: Tree, calls: Calls, reward_M: Tensor) -> Tensor:
    """The baseline of each call on each of its leaves, [E]; 0 where there is no other leaf.

    Axes besides: m leaves and e pairs of one query.
    """
    query_M, path_M = query_of_leaf(tree).cpu(), assignments(tree)
    query_E = calls.query_U[calls.call_E]
    baseline_E = torch.zeros(len(calls.leaf_E), dtype=reward_M.dtype)
    for query in range(len(tree.queries)):
        pair_e = (query_E == query).nonzero()[:, 0]
        leaf_m = (query_M == query).nonzero()[:, 0]
        if len(pair_e):
            # A mean over all other leaves would be biased: they share calls with this one. So it
            # is over the narrowest set of leaves that lack this call.
            widening = _others(calls, pair_e, leaf_m, path_M)
            baseline_E[pair_e] = _first_mean(widening, reward_M.cpu()[leaf_m])
    return baseline_E.to(reward_M.device)


def _others(calls: Calls, pair_e: Tensor, leaf_m: Tensor, path_M: Tensor) -> list[Tensor]:
    """Which leaves each pair is compared with, the narrowest choice first, each bool [e, m]."""
    leaf_e, call_e = calls.leaf_E[pair_e], calls.call_E[pair_e]
    index_e = torch.searchsorted(leaf_m, leaf_e)
    has_eu, has_mu = _incidence(call_e, index_e, len(leaf_m))
    asks_ep, asks_mp = _incidence(calls.prompt_U[call_e], index_e, len(leaf_m))
    # Products of 0/1 incidence matrices count what two leaves share.
    lacks_em = has_eu @ has_mu.T == 0
    # The same prompt was asked there, and another reply drawn.
    redrawn_em = lacks_em & (asks_ep @ asks_mp.T > 0)
    same_em = path_M[leaf_e][:, None] == path_M[leaf_m]
    # No call in common at all.
    apart_em = (has_mu @ has_mu.T == 0)[index_e] & (leaf_e[:, None] != leaf_m)
    return [redrawn_em & same_em, redrawn_em, apart_em]


def _incidence(number_e: Tensor, index_e: Tensor, leaves: int) -> tuple[Tensor, Tensor]:
    """One-hot rows of numbers, [e, k], and which of them each leaf has, [m, k]."""
    number_e = number_e.unique(return_inverse=True)[1]
    one_ek = torch.nn.functional.one_hot(number_e).float()
    has_mk = torch.zeros(leaves, one_ek.shape[1]).index_add_(0, index_e, one_ek)
    return one_ek, has_mk.clamp(max=1.0)


def _first_mean(widening: Sequence[Tensor], reward_m: Tensor) -> Tensor:
    """Mean reward over the leaves of the first choice that has any, [e]; 0 where none has."""
    mean_e = torch.zeros(len(widening[0]), dtype=reward_m.dtype)
    for chosen_em in reversed(widening):
        count_e = chosen_em.sum(dim=1)
        found_e = chosen_em.to(reward_m) @ reward_m / count_e.clamp(min=1)
        mean_e = torch.where(count_e > 0, found_e, mean_e)
    return mean_e
