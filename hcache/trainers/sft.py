"""Supervised fine-tuning on the best sequences of the tree: the warm-up of HAPS (arXiv 2601.05903).

The policy learns, by cross-entropy, the actions that lead to the best reward R = Q − α·C of each
training tree. A state counts as much as the target policy reaches it, so a tree weighs 1 at every
hop whether one sequence is best or many are, and states off every best path weigh nothing.

Ties (rewards within 1e-12) are settled per tree:
    all                 the target is uniform over the tied best actions of a state
    random_one          one of the tied sequences, drawn once, each with equal chance
    deterministic_one   the cheapest of the tied sequences, then the first in the order of the arms

Classes are the best first actions; a tree with tied first actions stands in one of them, drawn by
the target. Balance acts on whole trees, and a class that no tree falls into is no class:
    none          every tree once
    undersample   every class cut to the size of the smallest, at random
    oversample    every class filled up to the size of the largest by repeating trees at random

Axes in names: T trees, N states, A actions, K states with weight.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.errors import ConfigError
from hcache.policies import Policy
from hcache.policies.rollout import only_best, oracle_leaves
from hcache.trainers.base import register
from hcache.trainers.network import NetworkSettings, NetworkTrainer
from hcache.tree import Tree, oracle, reach, tree_of_state

Ties = Literal["all", "random_one", "deterministic_one"]
Balance = Literal["none", "undersample", "oversample"]


class SFTSettings(NetworkSettings):
    """Settings of SFT; an iteration is one pass over the states with weight."""

    ties: Ties = Field("all", description="what to learn where several sequences are best")
    min_best: float = Field(0.0, ge=0, description="skip queries whose best quality is below this")
    balance: Balance = Field("none", description="how to even out the best first actions")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(64, ge=1, description="states of a minibatch")


@register("sft")
class SFT(NetworkTrainer):
    """Cross-entropy of the actor to the best actions of the training trees."""

    Settings = SFTSettings
    settings: SFTSettings

    def __init__(
        self,
        train: Tree,
        settings: SFTSettings | None = None,
        *,
        alpha: float,
        seed: int,
        init: Policy | None = None,
    ) -> None:
        super().__init__(train, settings, alpha=alpha, seed=seed, init=init)
        tree = self.tree
        target_NA = best_actions(tree, self.reward_M, self.settings.ties, self.generator)
        copies_T = self._copies(target_NA)
        weight_N = reach(tree, target_NA) * copies_T[tree_of_state(tree)]
        self.kept_K = weight_N.nonzero()[:, 0]
        self.target_KA = target_NA[self.kept_K].float()
        weight_K = weight_N[self.kept_K]
        self.weight_K = (weight_K / weight_K.mean()).float()

    def step(self) -> dict[str, float]:
        """One pass over the states in random order."""
        order = self.permutation(len(self.kept_K))
        total, right = torch.zeros(2, dtype=torch.float64, device=self.device)
        for part in order.split(self.settings.batch_size):
            logprobs = self.policy.logits(self.tree.states[self.kept_K[part]]).log_softmax(dim=1)
            weight = self.weight_K[part]
            loss = -(weight * (self.target_KA[part] * logprobs).sum(dim=1)).mean()
            self.descend(loss)
            chosen = logprobs.argmax(dim=1, keepdim=True)
            hit = self.target_KA[part].gather(1, chosen)[:, 0] > 0
            total += loss.detach() * len(part)
            right += (weight * hit).sum()
        return {"loss": float(total) / len(order), "accuracy": float(right) / len(order)}

    def _copies(self, target_NA: Tensor) -> Tensor:
        """How often each tree is learned from, float64 [T]."""
        best_T = best_quality(self.tree)
        kept_T = best_T >= self.settings.min_best
        if not bool(kept_T.any()):
            raise ConfigError(
                f"no training query has a best quality of {self.settings.min_best:g} or more.",
                f"Lower min_best; the highest is {float(best_T.max()):g}.",
            )
        class_T = torch.multinomial(target_NA[self.tree.root_T], 1, generator=self.generator)[:, 0]
        return balanced(class_T, kept_T, self.settings.balance, self.generator)


def best_actions(tree: Tree, reward_M: Tensor, ties: str, generator: torch.Generator) -> Tensor:
    """The target of every state, float64 [N, A]: rows sum to 1, ties as the module says."""
    best = only_best(tree, reward_M)
    if ties == "all":
        valid_NA = best.valid_NA.double()
        return valid_NA / valid_NA.sum(dim=1, keepdim=True)
    chance_M = torch.rand(
        len(reward_M), generator=generator, dtype=torch.float64, device=generator.device
    )
    order_M = chance_M if ties == "random_one" else -tree.cost_M
    one_N = oracle(best, order_M)
    return torch.nn.functional.one_hot(one_N, tree.actions).double()


def best_quality(tree: Tree) -> Tensor:
    """The highest quality that each tree reaches, float64 [T]."""
    return tree.quality_M[oracle_leaves(tree, tree.quality_M)]


def balanced(class_T: Tensor, kept_T: Tensor, balance: str, generator: torch.Generator) -> Tensor:
    """How often each tree is used so that classes are even, float64 [T]; 0 where not kept."""
    copies_T = kept_T.double()
    if balance == "none":
        return copies_T
    classes = [(kept_T & (class_T == c)).nonzero()[:, 0] for c in class_T[kept_T].unique()]
    sizes = [len(members) for members in classes]
    for members in classes:
        shuffled = members[
            torch.randperm(len(members), generator=generator, device=generator.device)
        ]
        if balance == "undersample":
            copies_T[shuffled[min(sizes) :]] = 0
            continue
        size = max(sizes)
        copies_T[members] += (size - len(members)) // len(members)
        copies_T[shuffled[: size % len(members)]] += 1
    return copies_T
