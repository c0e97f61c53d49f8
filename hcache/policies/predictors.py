"""The policy of regressors: it predicts quality and cost of every continuation, and plans.

It is saved as the training data, and fits again when it is first asked, to the same bits:
scikit-learn has no format of its own that can be read without running what is in the file. Within a
process nothing is computed twice: policies on the same data, as those of several seeds or α, share
their regressors and what these have predicted.

Axes in names: N states (of one hop), S continuations (of that hop), D text features.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from hcache.config.schema import Settings
from hcache.policies.base import POLICIES, write_policy
from hcache.policies.planning import Paths, PlanningPolicy, paths_from_json
from hcache.policies.regression import REGRESSIONS, Array, Regressor

KINDS = ("features", "quality", "cost", "present")  # of tensors, by hop: [N, D], thrice [N, S]
Fit = tuple[NDArray[np.intp], Regressor, Regressor]  # which columns; of quality, of cost
REMEMBERED = 1000  # predictions of a set of regressors, at most


class Regressors:
    """Regressors of one kind on some training data; each is fitted when it is first asked."""

    def __init__(
        self, regression: str, settings: Settings, seed: int, tensors: Mapping[str, Tensor]
    ) -> None:
        self.kind, self.settings, self.seed = REGRESSIONS[regression], settings, seed
        self.tensors = dict(tensors)
        self._models: dict[int, list[Fit]] = {}  # of each hop that was asked about
        self._predicted: dict[tuple[int, bytes], tuple[Array, Array]] = {}

    def predict(self, hop: int, x_ND: Array) -> tuple[Array, Array]:
        """Quality and cost of each continuation of states of a hop, [n, S] both."""
        key = hop, _digest(x_ND)
        if key not in self._predicted:
            while len(self._predicted) >= REMEMBERED:
                del self._predicted[next(iter(self._predicted))]
            self._predicted[key] = self._predict(hop, x_ND)
        return self._predicted[key]

    def _predict(self, hop: int, x_ND: Array) -> tuple[Array, Array]:
        if hop not in self._models:
            self._models[hop] = self._fit(hop)
        shape = len(x_ND), self.tensors[f"quality_{hop}"].shape[1]
        quality_NS, cost_NS = np.empty(shape), np.empty(shape)
        with threadpool_limits(1):
            for columns, *models in self._models[hop]:
                for model, value_NS in zip(models, (quality_NS, cost_NS), strict=True):
                    value_NS[:, columns] = model.predict(x_ND).reshape(len(x_ND), -1)
        return quality_NS, cost_NS

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
            with threadpool_limits(1):  # more gain nothing, and get in each other's way
                for model, y_NS in ((quality, quality_NS), (cost, cost_NS)):
                    model.fit(x_ND[has_N], y_NS[has_N][:, columns])
            fits.append((columns, quality, cost))
        return fits

    def _fresh(self, x_ND: Array) -> tuple[Regressor, Regressor]:
        """Regressors of quality and of cost; of means, where no two rows differ."""
        if (x_ND == x_ND[0]).all():
            from sklearn.dummy import DummyRegressor

            return DummyRegressor(), DummyRegressor()
        how = (self.settings, self.seed, x_ND.shape)
        return self.kind.quality_model(*how), self.kind.cost_model(*how)


_in_use: WeakValueDictionary[tuple[object, ...], Regressors] = WeakValueDictionary()


def _regressors(
    regression: str, settings: Settings, seed: int, tensors: Mapping[str, Tensor]
) -> Regressors:
    """The regressors of a kind on some data: those in use, or new ones."""
    seeds = (seed,) if REGRESSIONS[regression].seeded else ()
    data = tuple(
        (name, str(value.dtype), tuple(value.shape), _digest(value.cpu().numpy()))
        for name, value in sorted(tensors.items())
    )
    key = (regression, settings.model_dump_json(), seeds, data)
    found = _in_use.get(key) or Regressors(regression, settings, seed, tensors)
    return _in_use.setdefault(key, found)


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


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
        self.load_state_dict(tensors)

    def at(self, alpha: float) -> Self:
        """The same policy for another α; both share the regressors."""
        view = copy.copy(self)
        view.alpha = alpha
        return view

    def scores(self, hop: int, features_ND: Tensor) -> Tensor:
        """Q̂ − α·Ĉ of each continuation, float64 [n, S]."""
        quality_NS, cost_NS = self.regressors.predict(hop, features_ND.cpu().double().numpy())
        return torch.from_numpy(quality_NS - self.alpha * cost_NS)

    def state_dict(self) -> dict[str, Tensor]:
        """The training data: all that there is to know."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take other training data; what was fitted on equal data stays."""
        self.tensors = dict(state_dict)
        self.features = self.tensors["features_0"].shape[1]
        self.regressors = _regressors(self.regression, self.settings, self.seed, self.tensors)

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
        if name not in REGRESSIONS:
            raise ValueError(f"{name} predicts nothing")
        return cls(
            name,
            REGRESSIONS[name].Settings(**settings["settings"]),
            tuple(settings["arms"]),
            paths_from_json(settings["paths"]),
            tensors,
            alpha=settings["alpha"],
            seed=settings["seed"],
        )
