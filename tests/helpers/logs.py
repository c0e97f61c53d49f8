"""Policies of chance in the states of a tree, and every log that a tree can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hcache.logged.log import Log
from hcache.replay.tree import NONE, Tree

Step = tuple[int, int]  # state, action


def some_policy(tree: Tree, seed: int, *, zeros: bool = False) -> Tensor:
    """Probabilities [N, A] of chance; with `zeros`, about half of the actions have none."""
    generator = torch.Generator().manual_seed(seed)
    raw_NA = torch.rand(tree.valid_NA.shape, generator=generator, dtype=torch.float64) + 0.05
    if zeros:
        raw_NA = raw_NA * (torch.rand(raw_NA.shape, generator=generator) < 0.5)
    raw_NA = raw_NA.masked_fill(~tree.valid_NA, 0.0)
    empty_N1 = raw_NA.sum(dim=1, keepdim=True) == 0
    raw_NA = torch.where(empty_N1, tree.valid_NA.double(), raw_NA)
    return raw_NA / raw_NA.sum(dim=1, keepdim=True)


def trajectories(tree: Tree, root: int) -> Iterator[tuple[list[Step], int]]:
    """Every way through one tree, step by step, and the leaf at its end."""

    def walk(state: int, steps: list[Step]) -> Iterator[tuple[list[Step], int]]:
        for action in range(tree.actions):
            longer = [*steps, (state, action)]
            if (leaf := int(tree.leaf_NA[state, action])) != NONE:
                yield longer, leaf
            if (child := int(tree.child_NA[state, action])) != NONE:
                yield from walk(child, longer)

    yield from walk(root, [])


def every_episode(tree: Tree, probs_NA: Tensor) -> tuple[Log, Tensor]:
    """All episodes there can be of all trees as one log, and how probable each is in its tree."""
    queries, qualities, chances = [], [], []
    rows: dict[str, list[Sequence[float]]] = {name: [] for name in ("s", "a", "p", "c")}
    for number, root in enumerate(tree.root_T.tolist()):
        for steps, leaf in trajectories(tree, root):
            at = [float(tree.cost_N[state]) for state, _ in steps]
            at.append(float(tree.cost_M[leaf]))
            rest = tree.hops - len(steps)
            chosen = [float(probs_NA[step]) for step in steps]
            rows["s"].append([state for state, _ in steps] + [NONE] * rest)
            rows["a"].append([action for _, action in steps] + [NONE] * rest)
            rows["p"].append(chosen + [0.0] * rest)
            rows["c"].append([b - a for a, b in pairwise(at)] + [0.0] * rest)
            queries.append(int(tree.query_T[number]))
            qualities.append(float(tree.quality_M[leaf]))
            chances.append(float(torch.tensor(chosen, dtype=torch.float64).prod()))
    log = Log(
        torch.tensor(queries),
        torch.tensor(rows["s"]),
        torch.tensor(rows["a"]),
        torch.tensor(rows["p"], dtype=torch.float64),
        torch.tensor(rows["c"], dtype=torch.float64),
        torch.tensor(qualities, dtype=torch.float64),
    )
    return log, torch.tensor(chances, dtype=torch.float64)


def ratios(log: Log, probs_NA: Tensor) -> Tensor:
    """π / μ of each step by a plain loop, float64 [E, L]; 1 behind the end."""
    ratio_EL = torch.ones_like(log.cost_EL)
    for e, l in log.taken_EL.nonzero().tolist():  # noqa: E741
        chance = probs_NA[log.state_EL[e, l], log.action_EL[e, l]]
        ratio_EL[e, l] = chance / log.propensity_EL[e, l]
    return ratio_EL
