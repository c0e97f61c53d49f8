"""Base of trainers: settings, a seed, an α, and a policy that is improved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from hcache.config.schema import ExperimentConfig
from hcache.config.schema import Settings as AnySettings
from hcache.errors import RunError
from hcache.plugins import Registry
from hcache.policies import Policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import hops_of, mean_by_query
from hcache.replay.tree import Tree


class Origin(Protocol):
    """An experiment, as far as a trainer may know of it: where a tree was read from."""

    @property
    def config(self) -> ExperimentConfig:
        """Its configuration."""

    @property
    def db(self) -> Path:
        """Its database."""


class TrainablePolicy(Policy, Protocol):
    """A policy whose whole state is tensors."""

    def state_dict(self) -> dict[str, Any]:
        """Its tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take what `state_dict` gave."""


class Trainer(ABC):
    """One way to make a policy from the training trees, for R = Q − α·C.

    It is made as `Trainer(train, settings, alpha=…, seed=…, init=…)`, where `init` is a policy to
    start from, as in SFT, then PPO, or None. A trainer in closed form makes its policy when it is
    made, and takes no step.
    """

    Settings: ClassVar[type[AnySettings]]
    closed_form: ClassVar[bool] = False
    live: ClassVar[bool] = False  # whether training runs the models, and does not replay

    settings: AnySettings
    policy: TrainablePolicy  # as it stands
    halted: bool = False  # whether no further step would change anything
    done: float = 0.0  # share of the iterations that are over, for schedules; `fit` keeps it

    def __init__(
        self,
        train: Tree,
        settings: AnySettings | None = None,
        *,
        alpha: float,
        seed: int,
        init: Policy | None = None,
    ) -> None:
        self.settings = settings or self.Settings()
        self.alpha, self.seed = alpha, seed
        self.policy = self.make_policy(train, init)
        self.prepare(train)

    def prepare(self, train: Tree) -> None:  # noqa: B027
        """Make ready what the first step needs; the policy is there."""

    @abstractmethod
    def make_policy(self, train: Tree, init: Policy | None) -> TrainablePolicy:
        """The policy to begin with: fresh, or a copy of `init`.

        Raises:
            RunError: if training cannot start from `init`.
        """

    @classmethod
    def enrich(cls, tree: Tree, origin: Origin) -> Tree:
        """The tree with all that it takes to train and validate on; mostly the tree itself."""
        return tree

    @classmethod
    def unfit(cls, train: Tree) -> str:
        """Why it cannot be trained on such a tree; empty where it can."""
        return ""

    def validate(self, valid: Tree) -> dict[str, float]:
        """Metrics on validation trees; the best weights are those of highest `reward`."""
        return greedy_metrics(self.policy, valid, self.alpha)

    @abstractmethod
    def step(self) -> dict[str, float]:
        """One iteration; its metrics."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that a continuation needs to be bit-identical: weights, optimizer, RNG."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class ClosedForm(Trainer):
    """A trainer that makes its policy at once, from nothing."""

    closed_form = True

    def make_policy(self, train: Tree, init: Policy | None) -> TrainablePolicy:
        """See `Trainer`; `init` is refused."""
        if init is not None:
            raise RunError(
                f"{type(self).__name__} cannot start from a {type(init).__name__}: it is made at "
                "once, from the training queries.",
                "Leave --init out.",
            )
        return self.fitted(train)

    @abstractmethod
    def fitted(self, train: Tree) -> TrainablePolicy:
        """The policy that the training trees give."""

    def step(self) -> dict[str, float]:
        """There is nothing left to do."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Nothing: it is made again at once."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to take back."""


TRAINERS: Registry[type[Trainer]] = Registry("trainer", "hcache.trainers")


def greedy_metrics(policy: Policy, tree: Tree, alpha: float) -> dict[str, float]:
    """Mean reward, quality, cost and hops of the greedy policy over the queries, exactly."""
    leaf_T = greedy_leaves(policy, tree)
    values = {
        "reward": tree.reward_M(alpha),
        "quality": tree.quality_M,
        "cost": tree.cost_M,
        "hops": hops_of(tree),
    }
    return {name: float(mean_by_query(tree, v[leaf_T]).mean()) for name, v in values.items()}
