"""Joint training of both routers of HAPS (arXiv 2601.05903) from the cache alone.

The high-level router chooses arms; the low-level router, a parameter generation network, gives the
chosen arms a ΔW made for the query (`hcache.joint`). Both climb the expected reward R = Q − α·C
of what the cache holds: trajectories of every assignment, said by the behaviour b, the models as
they are.

Low level, per call u (a call of an arm), with the ratio ρ_u = π_θ(u) / b(u) of whole outputs:
    Σ_u min(ρ_u·A_u, clip(ρ_u, 1/c, c)·A_u)      (arXiv 1707.06347)
    A_u = Σ_{leaves M with u} p_M · (R_M − b_u)
where p_M is the probability that the high-level router ends in leaf M, and b_u the mean reward of
leaves of the same query that lack u, of all assignments alike. The first of these that there are:
    those in which another reply to the prompt of u was drawn (other replicas)
    all of them
Had another reply been drawn in place of u, its prompt would have been the same, and so would every
leaf without u. So b_u does not depend on the draw given its prompt, and biases nothing (Williams
1992); `tests/joint/test_bias.py` says so by enumeration. Two choices that look nearer would:
leaves that share no call with M, since what M says after u depends on u; and a b of its own for
each M, since the decisions after u, with them p_M, depend on u, and only their sum does not.
Redraws go first: after a bad first call all second calls would be worse than the rest, and a fixed
cache, which never shows what comes instead, would have them all unlearned. For the same reason the
mean is not weighted by p, which would bias as little: the higher a baseline, the more of what the
cache has is unlearned in favour of what it lacks (propensity overfitting, Swaminathan and Joachims
2015), and that of the best assignment alone is the highest.

High level: every assignment of a query is in the cache, so the expectation over assignments is
exact, Σ_a π(a)·Q(a) at each state, and nothing need be sampled for it. A baseline common to the
actions drops out of its gradient. The value of a leaf under ΔW is
    w_M·(Q_M − α·C_M) + (1 − w_M)·(failure − α·C̄)
with its weight w_M = min(Π ρ_u, TRUST) over its calls (truncated importance sampling, Ionides
2008) and C̄, the mean cost of its assignment. Weights are not normalised: where the models come to
say what the cache lacks, those of what it has sum up to less than their number. What is lacking
counts as a failure, as nothing is known that it answers, at the usual cost, as it is paid for;
normalised, or free, it would make the assignment that the cache knows least look best.

A cache never moves along with the policy, so c is wider than PPO's 1.2, and the effective sample
size of the weights w, each as often as the router takes its leaf, decides when the cache is used
up: below `min_ess` of their number no further step is taken, and `halted` is 1. Then sample anew.

Where a tree carries no calls (scripted arms), this is the exact policy gradient of the high level.
On validation, R is the same estimate for the greedy choice, with 0 for a failure; `covered`, the
mean weight, is how much of what would be said is in the cache. The true figure comes from sampling
with ΔW, as `hcache sample --policy` does. What is said then is a cache like any other: training may
go on from the policy on it, with ratios to the ΔW that it was sampled with.

Axes in names as in `hcache.joint`, and N states, A actions, T trees, Q queries.
"""

from __future__ import annotations

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

TRUST = 10.0  # largest weight of a leaf


class JointSettings(PairSettings):
    """Settings of joint training."""

    clip_ratio: float = Field(3.0, gt=1, description="c: a call's ratio counts within [1/c, c]")
    min_ess: float = Field(
        0.1, ge=0, le=1, description="effective share of the leaves below which it halts"
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
        self.lacking_M = self.settings.failure - self.alpha * usual_cost(self.tree)
        self.baseline_U = baselines(self.tree, self.cache.calls, self.reward_M)
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
        for query_B in self.permutation(len(self.tree.queries)).split(self.settings.batch_queries):
            self.optimizer.zero_grad()
            self.climb(query_B)
            self.optimizer.step()
        self.steps += 1
        probs_NA = self.policy.probs(self.tree.states)
        weight_M = self._weights(self.cache, self.log_ratio_U)
        ess = effective_share(weight_M, leaf_probs(self.tree, probs_NA))
        self.halted = ess < self.settings.min_ess
        return {
            "train_reward": float(returns(self.tree, self._value(weight_M), probs_NA).mean()),
            "ess": ess,
            "ratio_max": float(self.log_ratio_U.exp().max()) if len(self.cache.calls) else 1.0,
            "engine_difference": self.cache.scorer.engine_difference,
            "halted": float(self.halted),
        }

    def climb(self, query_B: Tensor) -> None:
        """Add the gradients of minus the mean objective over the trees of some queries."""
        taken_T = torch.isin(self.tree.query_T, query_B)
        probs_NA = self.policy.probs(self.tree.states)
        self._climb_low(query_B, probs_NA)
        self._climb_high(taken_T, probs_NA)

    def validate(self, valid: Tree) -> dict[str, float]:
        """Importance-weighted means at the greedy leaves; estimates, see the head of this file."""
        tree = valid.to(self.device)
        leaf_T = greedy_leaves(self.policy, tree)
        weight_M = self._weights_at(self._said(valid), leaf_T)
        quality = float((weight_M * tree.quality_M)[leaf_T].mean())
        cost = float(torch.lerp(usual_cost(tree), tree.cost_M, weight_M)[leaf_T].mean())
        return {
            "reward": quality - self.alpha * cost,
            "quality": quality,
            "cost": cost,
            "hops": float(hops_of(tree)[leaf_T].double().mean()),
            "covered": float(weight_M[leaf_T].mean()),
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

    def _climb_low(self, query_B: Tensor, probs_NA: Tensor) -> None:
        """The clipped surrogate of the calls of some queries, a part of them at a time."""
        calls, clip = self.cache.calls, self.settings.clip_ratio
        chance_M = leaf_probs(self.tree, probs_NA)
        advantage_U = call_sums(calls, chance_M * self.reward_M)
        advantage_U -= call_sums(calls, chance_M) * self.baseline_U
        trees = int(torch.isin(self.tree.query_T, query_B).sum())
        index = torch.isin(calls.query_U, query_B.cpu()).nonzero()[:, 0]
        for arm, part in self.cache.scorer.chunks(index):
            log_ratio_B = self._log_ratio(self.cache, arm, part)
            ratio_B, advantage_B = log_ratio_B.exp(), advantage_U[part]
            gained = advantage_B.clamp(min=0) @ ratio_B.clamp(max=clip)
            lost = advantage_B.clamp(max=0) @ ratio_B.clamp(min=1 / clip)
            (-(gained + lost) / trees).backward()
            self.log_ratio_U[part] = log_ratio_B.detach()

    def _climb_high(self, taken_T: Tensor, probs_NA: Tensor) -> None:
        """The exact expected reward of the high-level router, by the policy gradient theorem.

        Σ_N d(N) Σ_a π(a | N)·Q(N, a) with d, the chance to pass a state, and Q held fast.
        """
        tree = self.tree
        at_N = taken_T[tree_of_state(tree)].nonzero()[:, 0]
        value_M = self._value(self._weights(self.cache, self.log_ratio_U))
        q_NA = backward(tree, value_M, probs_NA).masked_fill(~tree.valid_NA, 0.0)
        gain_NA = reach(tree, probs_NA)[:, None] * q_NA
        pi_NA = self.policy.logits(tree.states[at_N]).double().softmax(dim=1)
        (-(pi_NA * gain_NA[at_N]).sum() / taken_T.sum()).backward()

    def _log_ratio(self, stored: StoredCalls, arm: int, part: Tensor) -> Tensor:
        """log π_θ(u) / b(u) of calls of one arm, float64 [B]."""
        low = self.policy.delta(arm, stored.features_QD[stored.calls.query_U[part]])
        logprob_B = stored.scorer.logprobs(arm, part, low)
        return logprob_B.double() - stored.scorer.behaviour_U[part].to(self.device)

    def _value(self, weight_M: Tensor) -> Tensor:
        """Value of each leaf under ΔW, as it was when its calls were last scored, [M]."""
        return torch.lerp(self.lacking_M, self.reward_M, weight_M)

    @torch.no_grad()
    def _weights_at(self, stored: StoredCalls, leaf_T: Tensor) -> Tensor:
        """The weights of the given leaves under ΔW as it is, scored for them, [M]; others 1."""
        calls = stored.calls
        at = torch.isin(calls.leaf_E, leaf_T.cpu())
        log_ratio_U = torch.zeros(len(calls), dtype=torch.float64, device=self.device)
        for arm, part in stored.scorer.chunks(calls.call_E[at].unique()):
            log_ratio_U[part] = self._log_ratio(stored, arm, part)
        return self._weights(stored, log_ratio_U)

    def _weights(self, stored: StoredCalls, log_ratio_U: Tensor) -> Tensor:
        """π_θ / b of whole trajectories, cut off at TRUST, float64 [M]."""
        return leaf_sums(stored.calls, log_ratio_U, stored.tree).exp().clamp(max=TRUST)


class StoredCalls:
    """The calls of a tree with what training needs besides."""

    def __init__(self, tree: Tree, scorer: CallScorer) -> None:
        self.tree, self.scorer, self.calls = tree, scorer, scorer.calls
        first_Q = torch.zeros(len(tree.queries), dtype=torch.int64)
        first_Q[tree.query_T.cpu()] = tree.root_T.cpu()
        self.features_QD = tree.features_ND.cpu()[first_Q]


def effective_share(weight_M: Tensor, chance_M: Tensor) -> float:
    """Effective sample size of weighted leaves over their number, (Σw)² / (n·Σw²) (Kong 1992).

    Each leaf is there as often as it is chosen.
    """
    total = chance_M @ weight_M
    return float(total.square() / (chance_M.sum() * (chance_M @ weight_M.square())))


def leaf_probs(tree: Tree, probs_NA: Tensor) -> Tensor:
    """Probability that a policy ends in each leaf of its tree, float64 [M]."""
    flow_NA = reach(tree, probs_NA)[:, None] * probs_NA
    leaf_M = torch.zeros_like(tree.quality_M)
    has_NA = tree.leaf_NA != NONE
    return leaf_M.index_add_(0, tree.leaf_NA[has_NA], flow_NA[has_NA])


def sums(value_i: Tensor, number_i: Tensor) -> Tensor:
    """Sums over the rows of each number from 0 on; rows of NONE are left out."""
    taken = number_i != NONE
    size = int(number_i.max()) + 1 if len(number_i) else 0
    return value_i.new_zeros(size, *value_i.shape[1:]).index_add_(
        0, number_i[taken], value_i[taken]
    )


def call_sums(calls: Calls, value_M: Tensor) -> Tensor:
    """Sums over the leaves of each call, [U] and further axes."""
    call_E, leaf_E = calls.call_E.to(value_M.device), calls.leaf_E.to(value_M.device)
    return sums(value_M[leaf_E], call_E)


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


def baselines(tree: Tree, calls: Calls, reward_M: Tensor) -> Tensor:
    """The baseline of each call, see the head of this file, [U]; 0 where every leaf has the call.

    Axes besides: D draws, F pairs of a leaf and a draw on the way to it.
    """
    device = reward_M.device
    prompt_U, draw_U = calls.prompt_U.to(device), calls.draw_U.to(device)
    # Arms of one checkpoint say the same at a replica: one draw, which a leaf may have twice.
    pair_E2 = torch.stack([calls.leaf_E, calls.draw_U[calls.call_E]], dim=1)
    leaf_F, draw_F = pair_E2.unique(dim=0).to(device).unbind(dim=1)
    leaf_M2 = torch.stack([torch.ones_like(reward_M), reward_M], dim=1)  # count and total
    call_U2 = call_sums(calls, leaf_M2)
    redrawn_U2 = sums(call_U2, prompt_U)[prompt_U] - call_U2
    of_query_U2 = sums(leaf_M2, query_of_leaf(tree))[calls.query_U.to(device)]
    lacking_U2 = of_query_U2 - sums(leaf_M2[leaf_F], draw_F)[draw_U]
    chosen_U2 = torch.where(redrawn_U2[:, :1] > 0, redrawn_U2, lacking_U2)
    count_U, total_U = chosen_U2.unbind(dim=1)
    return torch.where(count_U > 0, total_U / count_U, 0.0)


def usual_cost(tree: Tree) -> Tensor:
    """Mean cost of the assignment of each leaf, over all queries and replicas, [M]."""
    assignment_M = tree.path_ML.unique(dim=0, return_inverse=True)[1]
    cost_A2 = sums(torch.stack([torch.ones_like(tree.cost_M), tree.cost_M], dim=1), assignment_M)
    return (cost_A2[:, 1] / cost_A2[:, 0])[assignment_M]
