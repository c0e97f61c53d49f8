"""Predict the outcome of every continuation, then take the best: routers of scikit-learn.

For each hop, regressors learn from the features of a state the quality and the cost to go (cost
of the leaf less cost so far) of every continuation; the policy plans with the largest
Q̂ − α·Ĉ. α enters at the decision, so one fit serves every α. `knn` is the router of RouterBench
(Hu et al., arXiv 2403.12031), which has an MLP and an SVM beside it.

A policy is saved as the training data, and fits again when it is first asked, to the same bits:
scikit-learn has no format of its own that can be read without running what is in the file.

Axes in names: N states (of one hop), S continuations (of that hop), D text features.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hcache import policies
from hcache.config import Settings
from hcache.policies import write_policy
from hcache.policies.planning import Paths, PlanningPolicy, continuations, paths_from_json
from hcache.trainers.base import TRAINERS, ClosedForm, register
from hcache.tree import NONE, Tree

Array = NDArray[np.float64]
KINDS = ("features", "quality", "cost", "present")  # of tensors, by hop: [N, D], thrice [N, S]


class Regressor(Protocol):
    """What is used of a scikit-learn estimator; y may have several columns."""

    def fit(self, x_ND: Array, y_NS: Array) -> object:
        """Learn y from x."""

    def predict(self, x_ND: Array) -> Array:
        """y of other rows."""


Fit = tuple[NDArray[np.intp], Regressor, Regressor]  # which columns; of quality, of cost


class Predictor(ClosedForm):
    """A trainer whose policy predicts quality and cost of every continuation."""

    name: ClassVar[str]

    def fitted(self, train: Tree) -> PredictorPolicy:
        """See `ClosedForm`; the regressors are fitted when they are first asked."""
        levels, found = train.levels, continuations(train)
        tensors: dict[str, Tensor] = {}
        for hop, (level, plans) in enumerate(zip(levels, found, strict=True)):
            cost_NS = plans.values(train.cost_M) - train.cost_N[level, None]
            values = (
                train.features_ND[level],
                plans.values(train.quality_M).nan_to_num(0.0),
                cost_NS.nan_to_num(0.0),
                plans.leaf_NS != NONE,
            )
            tensors |= {f"{kind}_{hop}": v for kind, v in zip(KINDS, values, strict=True)}
        paths = tuple(plans.paths for plans in found)
        return PredictorPolicy(
            type(self), self.settings, train.arms, paths, tensors, alpha=self.alpha, seed=self.seed
        )

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


@policies.register("predictor")
class PredictorPolicy(PlanningPolicy):
    """Plans with the largest Q̂ − α·Ĉ; `at` serves any other α with the same regressors."""

    def __init__(
        self,
        trainer: type[Predictor],
        settings: Settings,
        arms: tuple[str, ...],
        paths: Paths,
        tensors: Mapping[str, Tensor],
        *,
        alpha: float,
        seed: int,
    ) -> None:
        self.trainer, self.settings, self.arms, self.paths = trainer, settings, arms, paths
        self.alpha, self.seed = alpha, seed
        self.tensors = dict(tensors)
        self.features = self.tensors["features_0"].shape[1]
        self._models: dict[int, list[Fit]] = {}  # of each hop that was asked about

    def at(self, alpha: float) -> Self:
        """The same policy for another α; both share the regressors."""
        view = copy.copy(self)
        view.alpha = alpha
        return view

    def scores(self, hop: int, features_ND: Tensor) -> Tensor:
        """Q̂ − α·Ĉ of each continuation, float64 [n, S]."""
        if hop not in self._models:
            self._models[hop] = self._fit(hop)
        x_ND = features_ND.cpu().double().numpy()
        score_NS = np.empty((len(x_ND), len(self.paths[hop])))
        for columns, quality, cost in self._models[hop]:
            quality_NS, cost_NS = (
                model.predict(x_ND).reshape(len(x_ND), -1) for model in (quality, cost)
            )
            score_NS[:, columns] = quality_NS - self.alpha * cost_NS
        return torch.from_numpy(score_NS)

    def state_dict(self) -> dict[str, Tensor]:
        """The training data: all that there is to know."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take other training data; equal data leave what was fitted."""
        if state_dict.keys() == self.tensors.keys() and all(
            torch.equal(value, self.tensors[name]) for name, value in state_dict.items()
        ):
            return
        self.tensors, self._models = dict(state_dict), {}

    def save(self, folder: Path) -> None:
        """Write the training data and the settings."""
        settings = {
            "trainer": self.trainer.name,
            "settings": self.settings.model_dump(),
            "arms": self.arms,
            "paths": self.paths,
            "alpha": self.alpha,
            "seed": self.seed,
        }
        write_policy(folder, "predictor", settings, self.tensors)

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        trainer = TRAINERS[settings["trainer"]]
        if not issubclass(trainer, Predictor):
            raise ValueError(f"{settings['trainer']} predicts nothing")
        return cls(
            trainer,
            trainer.Settings(**settings["settings"]),
            tuple(settings["arms"]),
            paths_from_json(settings["paths"]),
            tensors,
            alpha=settings["alpha"],
            seed=settings["seed"],
        )

    def _fit(self, hop: int) -> list[Fit]:
        """Regressors of a hop: continuations that the same states have are fitted together."""
        x_ND, quality_NS, cost_NS, present_NS = (
            self.tensors[f"{kind}_{hop}"].double().numpy() for kind in KINDS
        )
        patterns, group_S = np.unique(present_NS > 0, axis=1, return_inverse=True)
        fits = []
        for group, has_N in enumerate(patterns.T):
            columns = np.flatnonzero(group_S.ravel() == group)
            quality, cost = self._fresh(x_ND[has_N])
            for model, y_NS in ((quality, quality_NS), (cost, cost_NS)):
                model.fit(x_ND[has_N], y_NS[has_N][:, columns])
            fits.append((columns, quality, cost))
        return fits

    def _fresh(self, x_ND: Array) -> tuple[Regressor, Regressor]:
        """Regressors of quality and of cost; of means, where no two rows differ."""
        if (x_ND == x_ND[0]).all():
            from sklearn.dummy import DummyRegressor

            return DummyRegressor(), DummyRegressor()
        quality, cost = self.trainer.quality_model, self.trainer.cost_model
        return (
            quality(self.settings, self.seed, x_ND.shape),
            cost(self.settings, self.seed, x_ND.shape),
        )


class KNNSettings(Settings):
    """Settings of k nearest neighbours."""

    k: int = Field(10, ge=1, description="neighbours; all training states where there are fewer")
    metric: Literal["cosine", "euclidean"] = Field("cosine", description="what is near")
    weights: Literal["uniform", "distance"] = Field(
        "distance", description="how neighbours count: all the same, or by 1 / distance"
    )


@register("knn")
class KNN(Predictor):
    """Means over the k nearest training states."""

    Settings = KNNSettings
    name = "knn"

    @staticmethod
    def quality_model(settings: KNNSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Predictor`."""
        from sklearn.neighbors import KNeighborsRegressor

        model: Regressor = KNeighborsRegressor(
            min(settings.k, shape[0]), metric=settings.metric, weights=settings.weights
        )
        return model

    cost_model = quality_model


class LogisticSettings(Settings):
    """Settings of logistic regression."""

    strength: float = Field(3.0, gt=0, description="C, the inverse of the L2 penalty")


@register("logistic")
class Logistic(Predictor):
    """Logistic regression of quality in [0, 1], ridge regression of cost."""

    Settings = LogisticSettings
    name = "logistic"

    @staticmethod
    def quality_model(settings: LogisticSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Predictor`."""
        return SoftLogistic(settings.strength)


class BoostingSettings(Settings):
    """Settings of gradient boosting."""

    components: int = Field(16, ge=1, description="principal components that trees may split on")
    trees: int = Field(50, ge=1, description="boosting iterations")
    leaves: int = Field(8, ge=2, description="most leaves of a tree")
    lr: float = Field(0.1, gt=0, description="shrinkage of each tree")


@register("boosting")
class Boosting(Predictor):
    """Gradient-boosted trees of quality on principal components, ridge regression of cost."""

    Settings = BoostingSettings
    name = "boosting"

    @staticmethod
    def quality_model(settings: BoostingSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Predictor`."""
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


@register("svm")
class SVM(Predictor):
    """Support vector regression of quality on principal components, ridge regression of cost."""

    Settings = SVMSettings
    name = "svm"

    @staticmethod
    def quality_model(settings: SVMSettings, seed: int, shape: tuple[int, int]) -> Regressor:
        """See `Predictor`."""
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
        mean_D = x_ND.mean(axis=0)
        scale = float(np.sqrt(((x_ND - mean_D) ** 2).sum(axis=1).mean())) or 1.0
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
