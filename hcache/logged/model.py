"""A model of quality and cost for the doubly robust estimator: fitted Q-evaluation, cross-fitted.

From the last step to the first, for each action, a ridge regression from the features of the
states in which it was taken to what it brought and the model's value of the next state (Le,
Voloshin and Yue, Batch Policy Learning under Constraints, 2019). What is predicted of a query was
learnt from other queries.

Axes in names: E episodes, L steps, A actions, D features, V quantities (quality, cost), n and m
rows, P penalties.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
FEW_ROWS = 20  # of an action; with fewer its mean is all that is predicted


def cross_fitted(
    features_ELD: Array,
    action_EL: NDArray[np.int64],
    reward_ELV: Array,
    probs_ELA: Array,
    fold_E: NDArray[np.int64],
) -> Array:
    """Q of every action in every state of the log under a policy, float64 [E, L, A, V].

    Episodes of one fold are predicted by what was fitted on those of the others. `action_EL` is
    negative behind the end of an episode; there Q is 0.
    """
    q_ELAV = np.zeros((*probs_ELA.shape, reward_ELV.shape[2]))
    for fold in np.unique(fold_E):
        held_E = fold_E == fold
        model = _fitted_q(features_ELD, action_EL, reward_ELV, probs_ELA, ~held_E)
        q_ELAV[held_E] = model[held_E]
    return q_ELAV


def _fitted_q(
    features_ELD: Array,
    action_EL: NDArray[np.int64],
    reward_ELV: Array,
    probs_ELA: Array,
    seen_E: Bools,
) -> Array:
    """Q of all episodes, fitted on those that are seen."""
    q_ELAV = np.zeros((*probs_ELA.shape, reward_ELV.shape[2]))
    later_EV = np.zeros_like(reward_ELV[:, 0])
    for step in reversed(range(action_EL.shape[1])):
        on_E = action_EL[:, step] >= 0
        target_EV = reward_ELV[:, step] + later_EV
        for action in range(probs_ELA.shape[2]):
            rows_E = seen_E & (action_EL[:, step] == action)
            if rows_E.any():
                predict = regression(features_ELD[rows_E, step], target_EV[rows_E])
                q_ELAV[on_E, step, action] = predict(features_ELD[on_E, step])
        later_EV = (probs_ELA[:, step, :, None] * q_ELAV[:, step]).sum(axis=1)
    return q_ELAV


def regression(features_nD: Array, target_nV: Array) -> Callable[[Array], Array]:
    """Ridge regression of each quantity, with the penalty of the least leave-one-out error.

    One eigendecomposition serves all penalties (Golub, Heath and Wahba, Generalized
    Cross-Validation, 1979). With few rows, their mean.
    """
    mean_D, mean_V = features_nD.mean(axis=0), target_nV.mean(axis=0)
    if len(features_nD) < FEW_ROWS:
        return lambda features_mD: np.tile(mean_V, (len(features_mD), 1))
    centred_nD, rest_nV = features_nD - mean_D, target_nV - mean_V
    value_D, vector_DD = np.linalg.eigh(centred_nD.T @ centred_nD)
    turned_nD = centred_nD @ vector_DD
    square_nD, product_DV = turned_nD**2, turned_nD.T @ rest_nV
    shrunk_PD = 1 / (value_D.clip(min=0) + np.array(PENALTIES)[:, None])
    weight_PDV = shrunk_PD[..., None] * product_DV
    leverage_Pn = shrunk_PD @ square_nD.T + 1 / len(features_nD)
    error_PnV = (rest_nV - turned_nD @ weight_PDV) / (1 - leverage_Pn)[..., None]
    best_V = (error_PnV**2).mean(axis=1).argmin(axis=0)
    weight_DV = vector_DD @ weight_PDV[best_V, :, np.arange(len(best_V))].T
    return lambda features_mD: mean_V + (features_mD - mean_D) @ weight_DV
