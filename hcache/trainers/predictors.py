"""Predict the outcome of every continuation, then take the best: routers of scikit-learn.

For each hop, regressors learn from the features of a state the quality and the cost to go (cost
of the leaf less cost so far) of every continuation; the policy plans with the largest
Q̂ − α·Ĉ. α enters at the decision, so one fit serves every α. `knn` is the router of RouterBench
(Hu et al., arXiv 2403.12031), which also has an MLP and an SVM.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hcache.policies.planning import continuations
from hcache.policies.predictors import KINDS, PredictorPolicy
from hcache.policies.regression import (
    BoostingSettings,
    KNNSettings,
    LogisticSettings,
    RidgeSettings,
    SVMSettings,
)
from hcache.replay.tree import NONE, Tree
from hcache.trainers.base import TRAINERS, ClosedForm


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
            self.name, self.settings, train.arms, paths, tensors, alpha=self.alpha, seed=self.seed
        )


@TRAINERS.register("knn")
class KNN(Predictor):
    """Means over the k nearest training states."""

    Settings = KNNSettings
    name = "knn"


@TRAINERS.register("logistic")
class Logistic(Predictor):
    """Logistic regression of quality in [0, 1], ridge regression of cost."""

    Settings = LogisticSettings
    name = "logistic"


@TRAINERS.register("ridge")
class Ridge(Predictor):
    """Ridge regression of what continuations have in common, and of how each differs."""

    Settings = RidgeSettings
    name = "ridge"


@TRAINERS.register("boosting")
class Boosting(Predictor):
    """Gradient-boosted trees of quality on principal components, ridge regression of cost."""

    Settings = BoostingSettings
    name = "boosting"


@TRAINERS.register("svm")
class SVM(Predictor):
    """Support vector regression of quality on principal components, ridge regression of cost."""

    Settings = SVMSettings
    name = "svm"
