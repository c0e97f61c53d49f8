"""Posterior means of qualities: what outcomes are worth in expectation, not what was drawn once.

The quality of a stored outcome is one draw: other questions like it tell as much about what to
expect. So the qualities after each sequence of arms are regressed on the text features of the
states that they follow from, by kernel ridge regression, which is the posterior mean of a Gaussian
process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equation 2.25). The
kernel is Gaussian, on landmarks (Williams and Seeger, Using the Nyström Method to Speed Up Kernel
Machines, NIPS 2000); its width and the ridge are chosen for each sequence by generalised
cross-validation (Golub, Heath and Wahba, Technometrics 21, 1979), so that qualities which the
features determine stay as they are, nearly.

Axes in names: N states, A actions, M leaves; of one sequence n states, a actions, d features,
k features of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hcache.replay.tree import NONE, Tree

LANDMARKS = 400
FEWEST = 20  # states of a sequence; with fewer its qualities stay as they are
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernel, in medians of the squared distance
RIDGES = torch.logspace(-3, 2, 16, dtype=torch.float64)


class Fit(NamedTuple):
    """A regression at the states that it was fitted to."""

    error: float  # by generalised cross-validation
    mean_na: Tensor


def posterior(tree: Tree) -> Tree:
    """The same trees with posterior means as qualities, within the range of what was drawn."""
    quality_M = tree.quality_M.clone()
    for state_n, leaf_na in _sequences(tree):
        features_nd = tree.features_ND[state_n].double()
        quality_M[leaf_na] = smoothed(features_nd, tree.quality_M[leaf_na])
    low, high = tree.quality_M.aminmax()
    return replace(tree, quality_M=quality_M.clamp(low, high))


def smoothed(features_nd: Tensor, quality_na: Tensor) -> Tensor:
    """Posterior means of the qualities after each action, float64 [n, a]."""
    generator = torch.Generator().manual_seed(0)
    mark_k = torch.randperm(len(features_nd), generator=generator)[:LANDMARKS]
    distance_nk = torch.cdist(features_nd, features_nd[mark_k.to(features_nd.device)]).square()
    if not bool((distance_nk > 0).any()):  # nothing tells one state from another
        return quality_na.mean(dim=0).expand_as(quality_na)
    median = distance_nk[distance_nk > 0].median()
    kernels = [(-distance_nk / (2 * width * median)).exp() for width in WIDTHS]
    fits = [ridge(nystroem(kernel_nk, mark_k), quality_na) for kernel_nk in kernels]
    return min(fits, key=lambda fit: fit.error).mean_na


def nystroem(kernel_nk: Tensor, mark_k: Tensor) -> Tensor:
    """Features [n, k] whose products are the kernel's, as far as the landmarks tell."""
    value_k, vector_kk = torch.linalg.eigh(kernel_nk[mark_k])
    kept = value_k > 1e-6 * value_k[-1]
    features_nk: Tensor = kernel_nk @ (vector_kk[:, kept] / value_k[kept].sqrt())
    return features_nk


def ridge(features_nk: Tensor, quality_na: Tensor) -> Fit:
    """Ridge regression with the ridge of the least error by generalised cross-validation.

    The error is n·|Y − Ŷ|² / (n − df)² for a mean over the actions, df being the trace of the
    matrix that takes Y to Ŷ, the mean included.
    """
    count = len(quality_na)
    mean_a = quality_na.mean(dim=0)
    centred_nk, rest_na = features_nk - features_nk.mean(dim=0), quality_na - mean_a
    square_k, basis_kk = torch.linalg.eigh(centred_nk.T @ centred_nk)
    kept = square_k > 1e-12 * square_k[-1]
    square_k, score_nk = square_k[kept], centred_nk @ (basis_kk[:, kept] / square_k[kept].sqrt())
    along_ka = score_nk.T @ rest_na
    share_rk = square_k / (square_k + RIDGES.to(square_k.device)[:, None])
    explained_r = (share_rk * (2 - share_rk)) @ along_ka.square().mean(dim=1)
    residual_r = rest_na.square().sum(dim=0).mean() - explained_r
    error_r = count * residual_r / (count - share_rk.sum(dim=1) - 1).square()
    best = int(error_r.argmin())
    return Fit(float(error_r[best]), mean_a + score_nk @ (share_rk[best][:, None] * along_ka))


def _sequences(tree: Tree) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each sequence of arms its states [n] and the leaves [n, a] that follow from them."""
    path_N = _paths(tree)
    for path in path_N.unique():
        state_n = (path_N == path).nonzero()[:, 0]
        leaf_nA = tree.leaf_NA[state_n]
        leaf_na = leaf_nA[:, (leaf_nA != NONE).any(dim=0)]
        whole_n = (leaf_na != NONE).all(dim=1)
        if leaf_na.shape[1] and int(whole_n.sum()) >= FEWEST:
            yield state_n[whole_n], leaf_na[whole_n]


def _paths(tree: Tree) -> Tensor:
    """The arms that lead to each state, as one number, int64 [N]."""
    path_N = torch.zeros_like(tree.hop_N)
    digit_A = torch.arange(1, tree.actions + 1, device=path_N.device)
    for level in tree.levels[:-1]:
        child_NA = tree.child_NA[level]
        path_NA = path_N[level, None] * (tree.actions + 1) + digit_A
        path_N[child_NA[child_NA != NONE]] = path_NA[child_NA != NONE]
    return path_N
