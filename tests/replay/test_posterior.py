"""Posterior means of qualities against plain algebra, and what they are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.forest import random_forest, synthetic_forest
from torch import Tensor

from hcache.replay import posterior as module
from hcache.replay.posterior import RIDGES, nystroem, posterior, ridge, smoothed
from hcache.replay.tree import NONE


def plain_ridge(features_nk: Tensor, quality_na: Tensor) -> tuple[float, Tensor]:
    """The same by the hat matrix of each ridge."""
    count = len(quality_na)
    centred = features_nk - features_nk.mean(dim=0)
    average = torch.full((count, count), 1 / count, dtype=torch.float64)
    found = []
    for strength in RIDGES:
        inner = centred.T @ centred + strength * torch.eye(centred.shape[1], dtype=torch.float64)
        hat = average + centred @ torch.linalg.solve(inner, centred.T)
        fitted = hat @ quality_na
        left = (quality_na - fitted).square().sum() / quality_na.shape[1]
        found.append((float(count * left / (count - hat.trace()) ** 2), fitted))
    return min(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("seed", range(5))
def test_ridge_and_its_choice_equal_plain_algebra(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features_nk = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    noise_na = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    quality_na = features_nk[:, :3] + seed * noise_na
    error, fitted_na = plain_ridge(features_nk, quality_na)
    fit = ridge(features_nk, quality_na)
    assert fit.error == pytest.approx(error, rel=1e-9)
    torch.testing.assert_close(fit.mean_na, fitted_na)


def test_features_of_all_landmarks_have_the_products_of_the_kernel() -> None:
    points_nd = torch.randn(25, 4, generator=torch.Generator().manual_seed(0)).double()
    kernel_nn = (-torch.cdist(points_nd, points_nd).square() / 2).exp()
    features_nk = nystroem(kernel_nn, torch.arange(25))
    torch.testing.assert_close(features_nk @ features_nk.T, kernel_nn, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_every_leaf_is_smoothed_with_those_of_its_sequence(seed: int) -> None:
    forest = random_forest(seed, queries=40, arms=2, hops=2, ragged=False)
    tree = forest.tree
    found = posterior(tree)
    low, high = float(tree.quality_M.min()), float(tree.quality_M.max())
    for first in range(2):  # the leaves behind the states after one arm: both arms, and STOP
        state_n = tree.child_NA[tree.root_T, first]
        leaf_na = tree.leaf_NA[state_n]
        leaf_na = leaf_na[:, (leaf_na != NONE).any(dim=0)]
        wanted_na = smoothed(tree.features_ND[state_n].double(), tree.quality_M[leaf_na])
        torch.testing.assert_close(found.quality_M[leaf_na], wanted_na.clamp(low, high))
    assert torch.equal(found.cost_M, tree.cost_M)


def test_sequences_of_few_states_and_states_without_features() -> None:
    tree = random_forest(0, queries=5, arms=2, hops=2).tree
    assert torch.equal(posterior(tree).quality_M, tree.quality_M)
    blind_nd = torch.zeros(30, 4, dtype=torch.float64)
    quality_na = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(smoothed(blind_nd, quality_na), quality_na.mean(dim=0).expand(30, 2))


def test_noise_is_taken_out_and_what_features_tell_is_kept() -> None:
    truth = synthetic_forest(300, seed=0, features=8, noise=0.0, prefix="a")
    generator = torch.Generator().manual_seed(1)
    noise_M = 0.3 * torch.randn(len(truth.quality_M), generator=generator).double()
    drawn = replace(truth, quality_M=truth.quality_M + noise_M)

    def error(quality_M: Tensor) -> float:
        return float((quality_M - truth.quality_M).square().mean().sqrt())

    assert error(posterior(drawn).quality_M) < 0.6 * error(drawn.quality_M)
    assert error(posterior(truth).quality_M) < 0.5 * float(truth.quality_M.std())


def test_landmarks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANDMARKS", 10)
    generator = torch.Generator().manual_seed(0)
    features_nd = torch.randn(60, 2, generator=generator).double()
    quality_na = features_nd.sin()
    near = smoothed(features_nd, quality_na)
    assert float((near - quality_na).square().mean()) < 0.1
