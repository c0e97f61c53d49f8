"""Matrix factorisation on preferences, as RouteLLM does it (Ong et al., arXiv 2406.18665).

There a model M has a score on a query q, δ(M, q) = w₂ᵀ(v_M ⊙ (W₁ᵀv_q + b)), v_q an embedding of
the query, and P(M beats M' | q) = σ(δ(M, q) − δ(M', q)), learned by logistic loss. Here the
contestants are the continuations of a state and q is the text of the state. One continuation is
preferred to another by its reward R = Q − α·C from that state; equal ones (within 1e-12) count
half to each side. The policy plans with the largest δ. What a pair weighs:

    stake   the difference of the two rewards
    equal   1, as in RouteLLM, which has two models only: with many continuations most pairs are
            of two that fail and differ in cost, and the scores learn little else

Every continuation of every hop has a vector v of its own, none composed from its arms: every
training state shows all of them, so there are no rare ones to share with, and a sum over arms
could not say that two arms are good in turn and poor alone. W₁, b and w₂ are common to all hops.

Axes in names: T trees, N states (of one hop), S continuations (of that hop), D text features,
E size of the factors, B states of a minibatch, P pairs of continuations.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hcache.errors import RunError
from hcache.policies import Policy
from hcache.policies.factorisation import FactorisationPolicy
from hcache.policies.planning import continuations
from hcache.replay.exact import TIE
from hcache.replay.tree import Tree, tree_of_state
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import GradientTrainer, OptimiserSettings

Weights = Literal["stake", "equal"]


class FactorisationSettings(OptimiserSettings):
    """Settings of matrix factorisation; an iteration is one pass over the training trees."""

    factors: int = Field(128, ge=1, description="size of the vectors of texts and continuations")
    pairs: int = Field(1024, ge=1, description="pairs at a hop; drawn each time if there are more")
    weights: Weights = Field("stake", description="what a pair weighs: its difference, or 1")
    batch_size: int = Field(64, ge=1, description="trees of a minibatch, with all their states")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam")


@TRAINERS.register("factorisation")
class Factorisation(GradientTrainer):
    """Logistic loss on preferences between continuations; every hop weighs the same."""

    Settings = FactorisationSettings
    settings: FactorisationSettings
    policy: FactorisationPolicy

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        self.tree_N = tree_of_state(self.tree)
        self.reward_NS = [plans.values(self.reward_M) for plans in continuations(self.tree)]

    def make_policy(self, train: Tree, init: Policy | None) -> FactorisationPolicy:
        """See `Trainer`."""
        paths = tuple(plans.paths for plans in continuations(train))
        if init is None:
            factors = self.settings.factors
            return FactorisationPolicy.for_tree(train, paths, factors, seed=self.seed)
        if not isinstance(init, FactorisationPolicy):
            raise RunError(
                f"training cannot start from a {type(init).__name__}: it is no "
                "FactorisationPolicy.",
                "Start from a run of factorisation.",
            )
        known = (init.arms, init.features, init.paths)
        if known != (train.arms, train.features_ND.shape[1], paths):
            raise RunError(
                "the policy to start from has other arms, features or continuations than the "
                "training tree.",
                "Start from a run on the same pool.",
            )
        return copy.deepcopy(init)

    def step(self) -> dict[str, float]:
        """One pass over the trees in random order."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        trees = len(self.tree)
        for tree_B in self.permutation(trees).split(self.settings.batch_size):
            loss = torch.stack([self._loss(hop, tree_B) for hop in range(self.tree.hops)]).sum()
            self.descend(loss)
            total += loss.detach() * len(tree_B)
        return {"loss": float(total) / trees}

    def _loss(self, hop: int, tree_B: Tensor) -> Tensor:
        """Mean loss over pairs at the states of a hop in some trees."""
        level = self.tree.levels[hop]
        chosen_T = torch.zeros(len(self.tree), dtype=torch.bool, device=self.device)
        chosen_T[tree_B] = True
        row_B = chosen_T[self.tree_N[level]].nonzero()[:, 0]
        score_BS = self.policy.scores(hop, self.tree.features_ND[level][row_B])
        reward_BS = self.reward_NS[hop][row_B]
        return preference_loss(score_BS, reward_BS, self._pairs(hop), self.settings.weights)

    def _pairs(self, hop: int) -> Tensor:
        """Pairs of continuations to compare, int64 [P, 2]: all, or as many as `pairs` drawn."""
        every_S = torch.arange(len(self.policy.paths[hop]), device=self.device)
        pair_P2 = torch.combinations(every_S)
        if len(pair_P2) <= self.settings.pairs:
            return pair_P2
        return pair_P2[self.permutation(len(pair_P2))[: self.settings.pairs]]


def preference_loss(
    score_BS: Tensor, reward_BS: Tensor, pair_P2: Tensor, weights: Weights = "stake"
) -> Tensor:
    """Weighted mean of the logistic loss of σ(δ_s − δ_s') over pairs (s, s'); 0 without pairs.

    The target is 1 if s has the higher reward, 0 if s' has, 0.5 if they are equal; pairs with a
    reward that is NaN are left out.
    """
    left_PS, right_PS = nn.functional.one_hot(pair_P2.T, score_BS.shape[1])
    # A product, unlike an index, has a gradient that is deterministic on a GPU.
    margin_BP = score_BS @ (left_PS - right_PS).T.to(score_BS.dtype)
    gain_BP = reward_BS[:, pair_P2[:, 0]] - reward_BS[:, pair_P2[:, 1]]
    stake_BP = gain_BP.abs().nan_to_num()
    weight_BP = stake_BP if weights == "stake" else (~gain_BP.isnan()).double()
    target_BP = torch.where(stake_BP <= TIE, 0.5, (gain_BP > 0).to(score_BS.dtype))
    loss_BP = nn.functional.softplus(margin_BP) - target_BP * margin_BP
    loss: Tensor = (loss_BP * weight_BP).sum() / weight_BP.sum().clamp(min=TIE)
    return loss
