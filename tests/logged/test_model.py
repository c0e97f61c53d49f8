"""The model of the doubly robust estimator: its regression, its recursion, its folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.forest import random_forest
from helpers.logs import some_policy
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV

from hcache.logged.log import draw
from hcache.logged.model import FEW_ROWS, PENALTIES, Array, cross_fitted, regression
from hcache.replay.exact import backward


@given(st.integers(0, 999), st.integers(FEW_ROWS, 60), st.integers(1, 40))
def test_regression_is_that_of_scikit_learn(seed: int, rows: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    x_nD: Array = rng.normal(size=(rows, features)) + 1
    noise_nV: Array = rng.normal(size=(rows, 2)) * rng.uniform(0.1, 9)
    y_nV = np.asarray(noise_nV + np.hstack([x_nD[:, :1], -0.2 * x_nD[:, :1]]), dtype=np.float64)
    twin = RidgeCV(PENALTIES, alpha_per_target=True).fit(x_nD, y_nV)
    other_mD = rng.normal(size=(7, features))
    assert regression(x_nD, y_nV)(other_mD) == pytest.approx(twin.predict(other_mD))


def test_few_rows_give_their_mean() -> None:
    y_nV = np.arange(8, dtype=np.float64).reshape(4, 2)
    found = regression(np.eye(4, dtype=np.float64), y_nV)(np.zeros((3, 4)))
    assert found.tolist() == [[3.0, 4.0]] * 3


def test_with_features_that_tell_states_apart_q_is_exact() -> None:
    tree = random_forest(3, queries=1, ragged=False).tree
    target_NA, logging_NA = some_policy(tree, 1), some_policy(tree, 2)
    log = draw(tree, logging_NA, torch.zeros(8000, dtype=torch.int64), seed=0)
    at_EL = log.state_EL.clamp(min=0)
    one_hot_ELD = torch.eye(len(tree.hop_N), dtype=torch.float64)[at_EL].numpy()
    probs_ELA = (target_NA[at_EL] * log.taken_EL[..., None]).numpy()
    fold_E = np.arange(len(log)) % 2
    q_ELAV = cross_fitted(
        one_hot_ELD, log.action_EL.numpy(), log.reward_ELV.numpy(), probs_ELA, fold_E
    )
    for number, value_M in enumerate((tree.quality_M, tree.cost_M)):
        q_NA = backward(tree, value_M, target_NA)
        paid_ELA = tree.cost_N[at_EL][..., None] * number  # before the step, which Q is without
        exact_ELA = q_NA[at_EL] - paid_ELA
        valid = tree.valid_NA[at_EL] & log.taken_EL[..., None]
        found = torch.from_numpy(q_ELAV[..., number])
        assert float((found - exact_ELA)[valid].abs().max()) < 0.05


def test_no_query_is_predicted_from_its_own_outcomes() -> None:
    tree = random_forest(5, queries=40, ragged=False).tree
    probs_NA = some_policy(tree, 1)
    log = draw(tree, probs_NA, torch.arange(40).repeat(10), seed=0)
    at_EL = log.state_EL.clamp(min=0)
    probs_ELA = (probs_NA[at_EL] * log.taken_EL[..., None]).numpy()
    features_ELD, fold_E = tree.features_ND[at_EL].double().numpy(), log.query_E.numpy() % 5

    def predicted(reward_ELV: Array) -> Array:
        return cross_fitted(features_ELD, log.action_EL.numpy(), reward_ELV, probs_ELA, fold_E)

    before = predicted(log.reward_ELV.numpy())
    changed = log.reward_ELV.numpy().copy()
    changed[fold_E == 2] += 7
    after = predicted(changed)
    assert (after[fold_E == 2] == before[fold_E == 2]).all()
    assert (after[fold_E != 2] != before[fold_E != 2]).any()
    behind = log.action_EL.numpy() < 0
    assert (before[behind] == 0).all()
