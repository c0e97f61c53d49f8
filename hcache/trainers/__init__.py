"""Trainers, and the one loop that all of them share.

A trainer is one file in this folder with a class under `@register("name")`, its settings beside
it; every module here is imported with the package. `fit` steps a trainer, judges its greedy policy
exactly on the validation trees, keeps the best weights by validation only, and writes
checkpoints, so that a run that was killed goes on and ends with the same bits.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hcache.errors import ConfigError, RunError, register_in
from hcache.files import replace_file
from hcache.policies import Policy
from hcache.policies.rollout import greedy_leaves, hops_of, mean_by_query
from hcache.tree import Tree

OnMetrics = Callable[[dict[str, float]], None]


class TrainablePolicy(Policy, Protocol):
    """A policy with weights."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take weights that `state_dict` gave."""


class Trainer(Protocol):
    """One way to improve a policy on the training trees.

    It is made as `Trainer(train, settings, alpha=…, seed=…, init=…)`, where `init` is a policy to
    start from, as in SFT, then PPO, or None; `Settings` is the class of its settings.
    """

    @property
    def policy(self) -> TrainablePolicy:
        """The policy as it stands."""

    @property
    def settings(self) -> Any:
        """The settings it was made with."""

    @property
    def seed(self) -> int:
        """The seed it was made with."""

    def step(self) -> dict[str, float]:
        """One iteration; its metrics."""

    def state(self) -> dict[str, Tensor]:
        """All that a continuation needs to be bit-identical: weights, optimizer, RNG."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""


TRAINERS: dict[str, type[Any]] = {}
T = TypeVar("T")


def register(name: str) -> Callable[[type[T]], type[T]]:
    """Put a trainer class into TRAINERS under `name`."""
    return register_in(TRAINERS, name, "trainers")


@dataclass(frozen=True)
class Fitted:
    """The outcome of `fit`: the policy with the best weights, and how it came about."""

    policy: TrainablePolicy
    iterations: int  # that were run, over all starts
    best_iteration: int  # 0 is the policy before training
    best_reward: float  # mean R = Q − α·C on validation
    stopped_early: bool


@dataclass
class _Progress:
    iteration: int = 0
    best_iteration: int = 0
    best_reward: float = -math.inf
    stale: int = 0  # evaluations since the best


def fit(
    trainer: Trainer,
    valid: Tree,
    *,
    alpha: float,
    iterations: int,
    evaluate_every: int,
    patience: int,
    on_metrics: OnMetrics,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Fitted:
    """Train until `iterations`, or until `patience` evaluations in a row brought nothing better.

    The greedy policy is judged before the first iteration, after every `evaluate_every`, and
    after the last. `patience` 0 never stops early. `on_metrics` gets one dict per iteration; after
    a resume those since the checkpoint come again, with equal values. With `checkpoint`, each
    evaluation writes one, atomically. With `resume`, training goes on from it if it exists. The
    trainer's policy is left with the best weights.

    Raises:
        ConfigError: if a count is out of range.
        RunError: if training diverged, or the checkpoint is damaged or of other settings.
    """
    _check_counts(iterations=iterations, evaluate_every=evaluate_every, patience=patience)
    identity = _identity(trainer, valid, alpha, evaluate_every, patience)
    if resume and checkpoint is not None and checkpoint.exists():
        progress, best = _load_checkpoint(checkpoint, trainer, identity)
    else:
        progress = _Progress()
        best, metrics = _judge(trainer, valid, alpha, progress, {})
        on_metrics({"iteration": 0.0, **metrics})
    while progress.iteration < iterations and not _exhausted(progress, patience):
        metrics = trainer.step()
        progress.iteration += 1
        _check_finite(metrics, progress.iteration)
        due = progress.iteration % evaluate_every == 0 or progress.iteration == iterations
        if due:
            best, judged = _judge(trainer, valid, alpha, progress, best)
            metrics = {**metrics, **judged}
        on_metrics({"iteration": float(progress.iteration), **metrics})
        if due and checkpoint is not None:
            _save_checkpoint(checkpoint, trainer, progress, best, identity)
    trainer.policy.load_state_dict(best)
    return Fitted(
        policy=trainer.policy,
        iterations=progress.iteration,
        best_iteration=progress.best_iteration,
        best_reward=progress.best_reward,
        stopped_early=progress.iteration < iterations,
    )


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


def training_state(
    policy: torch.nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Tensor]:
    """What most trainers' `state` is: weights, moments of the optimizer, RNG, as flat tensors."""
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    state["generator"] = generator.get_state()
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def load_training_state(
    state: Mapping[str, Tensor],
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Take back what `training_state` gave."""
    policy.load_state_dict(_part(state, "policy."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(state, "optimizer.").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    generator.set_state(state["generator"])


def _check_counts(*, iterations: int, evaluate_every: int, patience: int) -> None:
    lows = {"iterations": (iterations, 0), "evaluate_every": (evaluate_every, 1)}
    for name, (value, low) in {**lows, "patience": (patience, 0)}.items():
        if value < low:
            raise ConfigError(f"{name} is {value}, but must be at least {low}.", f"Raise {name}.")


def _check_finite(metrics: Mapping[str, float], iteration: int) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise RunError(
            f"training diverged: {', '.join(bad)} is not finite at iteration {iteration}.",
            "Lower lr, or check the features of the tree for NaN.",
        )


def _exhausted(progress: _Progress, patience: int) -> bool:
    return patience > 0 and progress.stale >= patience


def _judge(
    trainer: Trainer, valid: Tree, alpha: float, progress: _Progress, best: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Judge the greedy policy on validation; the best weights so far, and the metrics."""
    metrics = greedy_metrics(trainer.policy, valid, alpha)
    if metrics["reward"] > progress.best_reward:
        progress.best_reward, progress.best_iteration = metrics["reward"], progress.iteration
        progress.stale = 0
        weights = trainer.policy.state_dict()
        best = {name: value.detach().cpu().clone() for name, value in weights.items()}
    else:
        progress.stale += 1
    return best, {f"valid_{name}": value for name, value in metrics.items()}


def _identity(
    trainer: Trainer, valid: Tree, alpha: float, evaluate_every: int, patience: int
) -> dict[str, Any]:
    """What has to be equal for a checkpoint to be continued."""
    return {
        "trainer": type(trainer).__name__,
        "settings": trainer.settings.model_dump(),
        "seed": trainer.seed,
        "alpha": alpha,
        "evaluate_every": evaluate_every,
        "patience": patience,
        "valid_queries": len(valid.queries),
        "arms": list(valid.arms),
    }


def _save_checkpoint(
    path: Path,
    trainer: Trainer,
    progress: _Progress,
    best: Mapping[str, Tensor],
    identity: Mapping[str, Any],
) -> None:
    tensors = {f"trainer/{name}": value for name, value in trainer.state().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"identity": json.dumps(identity), "progress": json.dumps(asdict(progress))}
    replace_file(path, safetensors.torch.save(tensors, metadata))


def _load_checkpoint(
    path: Path, trainer: Trainer, identity: Mapping[str, Any]
) -> tuple[_Progress, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved, progress = json.loads(metadata["identity"]), json.loads(metadata["progress"])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as exc:
        raise RunError(
            f"the checkpoint {path} cannot be read: {exc}.", "Delete it to start afresh."
        ) from exc
    _check_identity(path, saved, dict(identity))
    try:
        trainer.load_state(_part(tensors, "trainer/"))
    except (ValueError, KeyError, RuntimeError) as exc:
        raise RunError(
            f"the checkpoint {path} does not fit the trainer: {exc}", "Delete it to start afresh."
        ) from exc
    return _Progress(**progress), _part(tensors, "best/")


def _check_identity(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    if json.loads(json.dumps(wanted)) == saved:
        return
    flat_saved = {**saved, **saved.get("settings", {})}
    flat_wanted = {**wanted, **wanted["settings"]}
    differences = [
        f"{name} was {flat_saved.get(name)!r} and is {value!r}"
        for name, value in flat_wanted.items()
        if name != "settings" and flat_saved.get(name) != value
    ]
    raise RunError(
        f"the checkpoint {path} is of another run: {'; '.join(differences)}.",
        "Restore the settings, or delete the checkpoint to start afresh.",
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
