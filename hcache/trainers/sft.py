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
    smart         a class of n is filled up to ⌈n · balance_factor⌉, at most to the size of the
                  largest; nothing is done where the largest is at most balance_skip × the smallest

Axes in names: T trees, N states, A actions, K states with weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from hcache.config.schema import Settings
from hcache.errors import ConfigError
from hcache.replay.exact import only_best, oracle, oracle_leaves, reach
from hcache.replay.tree import NONE, Tree, tree_of_leaf, tree_of_state
from hcache.trainers.base import TRAINERS
from hcache.trainers.network import DropoutSettings, DropoutTrainer

Ties = Literal["all", "random_one", "deterministic_one"]
Balance = Literal["none", "undersample", "oversample", "smart"]


class TargetSettings(Settings):
    """Targets of a trainer that learns the best actions."""

    ties: Ties = Field("all", description="what to learn where several sequences are best")
    min_best: float = Field(0.0, ge=0, description="skip queries whose best quality is below this")
    balance: Balance = Field("none", description="how to even out the best first actions")
    balance_factor: float = Field(2.0, ge=1, description="smart: how many times a class may grow")
    balance_skip: float = Field(
        1.0, ge=1, description="smart: largest over smallest class that is even enough"
    )


class SFTSettings(DropoutSettings, TargetSettings):
    """Settings of SFT; an iteration is one pass over the states with weight."""

    lr: float = Field(1e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(64, ge=1, description="states of a minibatch")


@TRAINERS.register("sft")
class SFT(DropoutTrainer):
    """Cross-entropy of the actor to the best actions of the training trees."""

    Settings = SFTSettings
    settings: SFTSettings

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        self.targets = targets_of(self.tree, self.reward_M, self.settings, self.generator)

    def step(self) -> dict[str, float]:
        """One pass over the states in random order."""
        targets = self.targets
        order = self.permutation(len(targets))
        total, right = torch.zeros(2, dtype=torch.float64, device=self.device)
        for part in order.split(self.settings.batch_size):
            logits = self.policy.logits(self.tree.states[targets.kept_K[part]], self.gain_D())
            loss, hits = targets.score(part, logits)
            loss = loss / len(part)
            self.descend(loss)
            total += loss.detach() * len(part)
            right += hits
        return {"loss": float(total) / len(order), "accuracy": float(right) / len(order)}


@dataclass(frozen=True)
class Targets:
    """The states to learn from, and what."""

    kept_K: Tensor  # their numbers in the tree
    target_KA: Tensor  # float32, rows sum to 1
    weight_K: Tensor  # float32, mean 1

    def __len__(self) -> int:
        return len(self.kept_K)

    def score(self, part_B: Tensor, logits_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums over some of the K states: of cross-entropy, and of being right."""
        logprob_BA, target_BA = logits_BA.log_softmax(dim=1), self.target_KA[part_B]
        right_B = target_BA.gather(1, logprob_BA.argmax(dim=1, keepdim=True))[:, 0] > 0
        weight_B = self.weight_K[part_B]
        loss = -(weight_B * (target_BA * logprob_BA).sum(dim=1)).sum()
        return loss, (weight_B * right_B).sum()


def targets_of(
    tree: Tree, reward_M: Tensor, settings: TargetSettings, generator: torch.Generator
) -> Targets:
    """Targets of some trees, as the settings of a trainer ask for.

    Raises:
        ConfigError: no query is good enough for `min_best`.
    """
    kept_T = _good_enough(tree, settings)
    target_NA = best_actions(tree, reward_M, settings.ties, generator)
    class_T = torch.multinomial(target_NA[tree.root_T], 1, generator=generator)[:, 0]
    copies_T = balanced(class_T, kept_T, settings, generator)
    weight_N = reach(tree, target_NA) * copies_T[tree_of_state(tree)]
    kept_K = weight_N.nonzero()[:, 0]
    weight_K = weight_N[kept_K]
    return Targets(kept_K, target_NA[kept_K].float(), (weight_K / weight_K.mean()).float())


def _good_enough(tree: Tree, settings: TargetSettings) -> Tensor:
    """Mask of the trees that reach `min_best`, bool [T]."""
    best_T = best_quality(tree)
    kept_T = best_T >= settings.min_best
    if not bool(kept_T.any()):
        raise ConfigError(
            f"no training query has a best quality of {settings.min_best:g} or more.",
            f"Lower min_best; the highest is {float(best_T.max()):g}.",
        )
    return kept_T


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


def best_leaves(
    tree: Tree, reward_M: Tensor, settings: TargetSettings, generator: torch.Generator
) -> Tensor:
    """The best leaves of all trees as rows to learn from, int64; those of a tree stand together.

    Unlike in `targets_of`, a row is a whole sequence: tied ones are rows of their own, and classes
    are sequences.
    """
    target_NA = best_actions(tree, reward_M, settings.ties, generator)
    taken_NA = (reach(tree, target_NA)[:, None] * target_NA > 0) & (tree.leaf_NA != NONE)
    leaf_R = tree.leaf_NA[taken_NA]
    tree_R = tree_of_leaf(tree)[leaf_R]
    order = tree_R.argsort(stable=True)
    leaf_R, tree_R = leaf_R[order], tree_R[order]
    copies_R = balanced(
        tree.path_ML[leaf_R].unique(dim=0, return_inverse=True)[1],
        _good_enough(tree, settings)[tree_R],
        settings,
        generator,
    )
    return leaf_R.repeat_interleave(copies_R.long())


def best_quality(tree: Tree) -> Tensor:
    """The highest quality that each tree reaches, float64 [T]."""
    return tree.quality_M[oracle_leaves(tree, tree.quality_M)]


def balanced(
    class_T: Tensor, kept_T: Tensor, settings: TargetSettings, generator: torch.Generator
) -> Tensor:
    """Number of uses of each tree that makes classes even, float64 [T]; 0 where not kept."""
    copies_T = kept_T.double()
    if settings.balance == "none":
        return copies_T
    classes = [(kept_T & (class_T == c)).nonzero()[:, 0] for c in class_T[kept_T].unique()]
    sizes = [len(members) for members in classes]
    if settings.balance == "smart" and max(sizes) <= settings.balance_skip * min(sizes):
        return copies_T
    for members in classes:
        size = _wanted(len(members), sizes, settings)
        order = torch.randperm(len(members), generator=generator, device=generator.device)
        copies_T[members] = float(size // len(members))
        copies_T[members[order][: size % len(members)]] += 1
    return copies_T


def _wanted(size: int, sizes: list[int], settings: TargetSettings) -> int:
    """Size that a class of `size` is to have."""
    if settings.balance == "smart":
        return min(math.ceil(size * settings.balance_factor), max(sizes))
    return min(sizes) if settings.balance == "undersample" else max(sizes)
