"""A synthetic forest, where what an arm adds depends on the question and on who answered before.

Each question has a latent vector z. The first arm answers with skill σ(2·s_a·z), a later one with
σ(2·z·M[b, a]), b being the arm before it; each skill closes 60% of itself of what is left to a
quality of 1. Text features are a random projection of z, moved by what has been answered, with
noise. Costs grow with the hop. The quality of a leaf may have noise that nothing foretells.

Axes in names: T questions, Z latents, K arms, D features, A actions, H hops, M leaves, N states.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hcache.replay.tree import NONE, Tree

PRICES = (0.1, 0.2, 0.4)
ARMS = tuple("abc")
HOPS = 3
FEATURES = 384
DEVIATION = 0.74
LATENTS = 12


def forest(
    questions: int, *, seed: int, noise: float = 0.0, hops: int = HOPS, features: int = FEATURES
) -> Tree:
    """A complete forest; the arms are the same whatever the seed, the questions are not."""
    world, generator = World(hops, features), torch.Generator().manual_seed(1000 + seed)
    z_TZ = torch.randn(questions, LATENTS, generator=generator)
    arms, first_state, first_leaf = len(ARMS), 0, 0
    levels: dict[str, list[Tensor]] = {
        name: [] for name in ("child", "leaf", "hop", "cost", "text")
    }
    leaves: dict[str, list[Tensor]] = {name: [] for name in ("quality", "cost", "path")}

    def add_leaf(path: Sequence[int], quality_T: Tensor) -> Tensor:
        nonlocal first_leaf
        padded = torch.tensor([*path, *[NONE] * (hops - len(path))])
        leaves["quality"].append(quality_T.double())
        leaves["cost"].append(torch.full((questions,), cost_of(path), dtype=torch.float64))
        leaves["path"].append(padded.expand(questions, hops))
        first_leaf += questions
        return torch.arange(first_leaf - questions, first_leaf)

    for hop in range(hops):
        prefixes = list(itertools.product(range(arms), repeat=hop))
        next_level = first_state + questions * len(prefixes)
        for place, path in enumerate(prefixes):
            child_TA = torch.full((questions, arms + 1), NONE)
            leaf_TA = torch.full((questions, arms + 1), NONE)
            quality_T, text_TD = world.answered(z_TZ, path)
            if path:
                leaf_TA[:, arms] = add_leaf(path, quality_T)
            for arm in range(arms):
                if hop + 1 < hops:
                    start = next_level + questions * (place * arms + arm)
                    child_TA[:, arm] = torch.arange(start, start + questions)
                else:
                    leaf_TA[:, arm] = add_leaf((*path, arm), world.answered(z_TZ, (*path, arm))[0])
            levels["child"].append(child_TA)
            levels["leaf"].append(leaf_TA)
            levels["hop"].append(torch.full((questions,), hop))
            levels["cost"].append(torch.full((questions,), cost_of(path), dtype=torch.float64))
            levels["text"].append(text_TD)
        first_state = next_level
    text_ND = torch.cat(levels["text"])
    text_ND += 0.3 * text_ND.std() * torch.randn(text_ND.shape, generator=generator)
    quality_M = torch.cat(leaves["quality"])
    quality_M += noise * torch.randn(quality_M.shape, generator=generator, dtype=torch.float64)
    return Tree(
        arms=ARMS,
        queries=tuple(f"{seed}-{number}" for number in range(questions)),
        datasets=("synthetic",) * questions,
        kinds=("",) * questions,
        query_T=torch.arange(questions),
        replica_T=torch.zeros(questions, dtype=torch.int64),
        root_T=torch.arange(questions),
        child_NA=torch.cat(levels["child"]),
        leaf_NA=torch.cat(levels["leaf"]),
        hop_N=torch.cat(levels["hop"]),
        cost_N=torch.cat(levels["cost"]),
        features_ND=(text_ND - text_ND.mean()) / text_ND.std() * DEVIATION,
        quality_M=quality_M,
        cost_M=torch.cat(leaves["cost"]),
        path_ML=torch.cat(leaves["path"]),
    )


def cost_of(path: Sequence[int]) -> float:
    """Each hop costs 30% of the arm's price more than the one before: the context grows."""
    return sum(PRICES[arm] * (1 + 0.3 * hop) for hop, arm in enumerate(path))


class World:
    """What stays the same from forest to forest: skills, and how texts show them."""

    def __init__(self, hops: int, features: int = FEATURES) -> None:
        generator = torch.Generator().manual_seed(77)
        arms = len(ARMS)
        self.project_ZD = torch.randn(LATENTS, features, generator=generator) / LATENTS**0.5
        self.skill_KZ = torch.randn(arms, LATENTS, generator=generator)
        self.mark_KD = torch.randn(arms, features, generator=generator)
        self.later_HD = torch.randn(hops, features, generator=generator)
        self.skill_after_KKZ = torch.randn(arms, arms, LATENTS, generator=generator)

    def answered(self, z_TZ: Tensor, path: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Quality [T] and text features [T, D] after the arms of a path."""
        quality_T, text_TD = torch.zeros(len(z_TZ)), z_TZ @ self.project_ZD
        for hop, (arm, skill_T) in enumerate(self._skills(z_TZ, path)):
            quality_T = quality_T + (1 - quality_T) * 0.6 * skill_T
            text_TD = text_TD + 0.5 * self.mark_KD[arm] * (skill_T[:, None] - 0.5)
            text_TD = text_TD + 0.3 * self.later_HD[hop]
        return quality_T, text_TD

    def _skills(self, z_TZ: Tensor, path: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for hop, arm in enumerate(path):
            weight_Z = self.skill_after_KKZ[path[hop - 1], arm] if hop else self.skill_KZ[arm]
            yield arm, torch.sigmoid(2 * z_TZ @ weight_Z)
