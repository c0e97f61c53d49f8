"""Regressors of scikit-learn: how quality and cost of a continuation are predicted from features.

Axes in names: N states (of one hop), S continuations (of that hop), D text features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hcache.config.schema import Settings

Array = NDArray[np.float64]
PENALTIES = tuple(10.0 ** (power / 3) for power in range(-3, 13))  # from 0.1 to 10,000


class Regressor(Protocol):
    """The part of a scikit-learn estimator that is used; y may have several columns."""

    def fit(self, x_ND: Array, y_NS: Array) -> object:
        """Learn y from x."""

    def predict(self, x_ND: Array) -> Array:
        """y of other rows."""


class Regression(ABC):
    """A way to predict quality and cost."""

    Settings: ClassVar[type[Settings]]
    seeded: ClassVar[bool] = True  # whether a fit depends on the seed

    @staticmethod
    @abstractmethod
    def quality_model(settings: Any, seed: int, shape: tuple[int, int]) -> Regressor:
        """A fresh regressor of quality, to be fitted on features of such a shape, (N, D)."""

    @staticmethod
    def cost_model(settings: Any, seed: int, shape: tuple[int, int]) -> Regressor:
        """The same of cost: linear, since what is read costs by its length."""
        from sklearn.linear_model import Ridge

        model: Regressor = Ridge()
        return model


class KNNSettings(Settings):
    """Settings of k nearest neighbours."""

    k: int = Field(10, ge=1, description="neighbours; all training states where there are fewer")
    metric: Literal["cosine", "euclidean"] = Field("cosine", description="what is near")
    weights: Literal["uniform", "distance"] = Field(
        "distance", description="how neighbours count: all the same, or by 1 / distance"
    )


class KNNRegression(Regression):
    """Means over the k nearest training states."""

    Settings = KNNSettings
    seeded = False

    @staticmethod
    def quality_model(settings: KNNSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Regression`."""
        from sklearn.neighbors import KNeighborsRegressor

        model: Regressor = KNeighborsRegressor(
            min(settings.k, shape[0]), metric=settings.metric, weights=settings.weights
        )
        return model

    cost_model = quality_model


class LogisticSettings(Settings):
    """Settings of logistic regression."""

    strength: float = Field(3.0, gt=0, description="C, the inverse of the L2 penalty")


class SoftLogisticRegression(Regression):
    """Logistic regression of quality in [0, 1], ridge regression of cost."""

    Settings = LogisticSettings
    seeded = False

    @staticmethod
    def quality_model(settings: LogisticSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Regression`."""
        return SoftLogistic(settings.strength)


class RidgeSettings(Settings):
    """Settings of ridge regression: none, since it chooses its penalties itself."""


class RidgeRegression(Regression):
    """Ridge regression whose penalties are chosen by leaving out one training state at a time."""

    Settings = RidgeSettings
    seeded = False

    @staticmethod
    def quality_model(settings: RidgeSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Regression`."""
        return SharedRidge()


class BoostingSettings(Settings):
    """Settings of gradient boosting."""

    components: int = Field(16, ge=1, description="principal components that trees may split on")
    trees: int = Field(50, ge=1, description="boosting iterations")
    leaves: int = Field(8, ge=2, description="most leaves of a tree")
    lr: float = Field(0.1, gt=0, description="shrinkage of each tree")


class BoostingRegression(Regression):
    """Gradient-boosted trees of quality on principal components, ridge regression of cost."""

    Settings = BoostingSettings

    @staticmethod
    def quality_model(settings: BoostingSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Regression`."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        trees = HistGradientBoostingRegressor(
            max_iter=settings.trees,
            max_leaf_nodes=settings.leaves,
            learning_rate=settings.lr,
            early_stopping=False,
            random_state=seed,
        )
        return _on_components(settings.components, seed, shape, trees)


class SVMSettings(Settings):
    """Settings of support vector regression with an RBF kernel."""

    components: int = Field(32, ge=1, description="principal components that are seen")
    strength: float = Field(1.0, gt=0, description="C, the inverse of the penalty")
    epsilon: float = Field(0.1, ge=0, description="error of quality that costs nothing")


class SVMRegression(Regression):
    """Support vector regression of quality on principal components, ridge regression of cost."""

    Settings = SVMSettings

    @staticmethod
    def quality_model(settings: SVMSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Regression`."""
        from sklearn.svm import SVR

        machine = SVR(C=settings.strength, epsilon=settings.epsilon)
        return _on_components(settings.components, seed, shape, machine)


def _on_components(components: int, seed: int, shape: tuple[int, int], single: Any) -> Regressor:
    """A regressor of one target, on principal components, for several targets."""
    from sklearn.decomposition import PCA
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.pipeline import make_pipeline

    model: Regressor = make_pipeline(
        PCA(min(components, *shape), random_state=seed), MultiOutputRegressor(single)
    )
    return model


def _centre(x_ND: Array) -> tuple[Array, float]:
    """Centre of some rows [D], and their root-mean-square distance from it; 1 where that is 0."""
    mean_D: Array = x_ND.mean(axis=0)
    return mean_D, float(np.sqrt(((x_ND - mean_D) ** 2).sum(axis=1).mean())) or 1.0


class SoftLogistic:
    """Logistic regression of values in [0, 1], column by column.

    A value y is a row of class 1 with weight y and one of class 0 with weight 1 − y: the same
    cross-entropy as with soft labels. Features are centred and divided by one number, their
    root-mean-square distance from the centre. `coef_DS` and `intercept_S` are for the raw ones.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.coef_DS: Array
        self.intercept_S: Array

    def fit(self, x_ND: Array, y_NS: Array) -> Self:
        """Learn each column of y from x."""
        mean_D, scale = _centre(x_ND)
        z_ND = (x_ND - mean_D) / scale
        lines = [self._line(z_ND, y_N) for y_N in y_NS.T]
        self.coef_DS = np.stack([coef_D for coef_D, _ in lines], axis=1) / scale
        self.intercept_S = np.array([b for _, b in lines]) - mean_D @ self.coef_DS
        return self

    def predict(self, x_ND: Array) -> Array:
        """Expected values, [n, S]."""
        from scipy.special import expit

        values: Array = expit(x_ND @ self.coef_DS + self.intercept_S)
        return values

    def _line(self, z_ND: Array, y_N: Array) -> tuple[Array, float]:
        """Coefficients [D] and intercept of one column; ±inf where all are 1, or all 0."""
        from sklearn.linear_model import LogisticRegression

        if y_N.min() == y_N.max() and y_N[0] in (0.0, 1.0):
            return np.zeros(z_ND.shape[1]), math.inf if y_N[0] else -math.inf
        right, wrong = np.flatnonzero(y_N > 0), np.flatnonzero(y_N < 1)
        row = np.concatenate([right, wrong])
        model = LogisticRegression(C=self.strength, max_iter=1000)
        model.fit(
            z_ND[row],
            np.repeat([1, 0], [len(right), len(wrong)]),
            np.concatenate([y_N[right], 1 - y_N[wrong]]),
        )
        return model.coef_[0], float(model.intercept_[0])


class SharedRidge:
    """Ridge regression of what the columns have in common, and of how each differs from that.

    Each of these has a penalty of its own. How hard a question is can be learned from few of them,
    who answers it better from many; one penalty for both would let the first drown the second.
    Features are centred and divided by their root-mean-square distance from the centre.
    """

    def __init__(self) -> None:
        self.mean_D: Array
        self.scale = 1.0
        self.model: Any = None

    def fit(self, x_ND: Array, y_NS: Array) -> Self:
        """Learn each column of y from x."""
        from sklearn.linear_model import RidgeCV

        self.mean_D, self.scale = _centre(x_ND)
        common_N1 = y_NS.mean(axis=1, keepdims=True)
        self.model = RidgeCV(alphas=PENALTIES, alpha_per_target=True)
        self.model.fit(self._scaled(x_ND), np.hstack([common_N1, y_NS - common_N1]))
        return self

    def predict(self, x_ND: Array) -> Array:
        """Expected values, [n, S]."""
        found = self.model.predict(self._scaled(x_ND)).reshape(len(x_ND), -1)
        values: Array = found[:, :1] + found[:, 1:]
        return values

    def _scaled(self, x_ND: Array) -> Array:
        scaled: Array = (x_ND - self.mean_D) / self.scale
        return scaled


REGRESSIONS: dict[str, type[Regression]] = {
    "knn": KNNRegression,
    "logistic": SoftLogisticRegression,
    "ridge": RidgeRegression,
    "boosting": BoostingRegression,
    "svm": SVMRegression,
}
"""By the name of the trainer, which stands in saved policies."""
