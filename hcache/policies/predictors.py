"""The policy of regressors: it predicts quality and cost of every continuation, and plans.

It is saved as the training data, and fits again when it is first asked, to the same bits:
scikit-learn has no format of its own that can be read without running what is in the file.

Axes in names: N states (of one hop), S continuations (of that hop), D text features.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hcache.config.schema import Settings
from hcache.policies.base import POLICIES, write_policy
from hcache.policies.planning import Paths, PlanningPolicy, paths_from_json
from hcache.policies.regression import REGRESSIONS, Array, Regressor

KINDS = ("features", "quality", "cost", "present")  # of tensors, by hop: [N, D], thrice [N, S]
Fit = tuple[NDArray[np.intp], Regressor, Regressor]  # which columns; of quality, of cost


@POLICIES.register("predictor")
class PredictorPolicy(PlanningPolicy):
    """Plans with the largest Q̂ − α·Ĉ; `at` serves any other α with the same regressors."""

    def __init__(
        self,
        regression: str,
        settings: Settings,
        arms: tuple[str, ...],
        paths: Paths,
        tensors: Mapping[str, Tensor],
        *,
        alpha: float,
        seed: int,
    ) -> None:
        self.regression, self.settings, self.arms, self.paths = regression, settings, arms, paths
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
            "trainer": self.regression,
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
        name = settings["trainer"]
        return cls(
            name,
            REGRESSIONS[name].Settings(**settings["settings"]),
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
        kind, how = REGRESSIONS[self.regression], (self.settings, self.seed, x_ND.shape)
        return kind.quality_model(*how), kind.cost_model(*how)
