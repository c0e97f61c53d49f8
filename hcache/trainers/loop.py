"""The loop that all trainers share.

`fit` steps a trainer, has it evaluate its policy exactly on the validation trees, keeps the best
weights by validation only, and writes checkpoints, so that a run that was killed goes on and ends
with the same bits.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hcache.artefacts import check_tensors, write_tensors
from hcache.errors import ConfigError, RunError
from hcache.replay.tree import Tree
from hcache.trainers.base import TrainablePolicy, Trainer
from hcache.trainers.network import part

OnMetrics = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """The outcome of `fit`: the policy with the best weights, and how it came about."""

    policy: TrainablePolicy
    iterations: int  # that were run, over all starts
    best_iteration: int  # 0 is the policy before training
    best_reward: float  # mean R = Q − α·C on validation
    stopped_early: bool
    halted: bool  # by the trainer itself


@dataclass
class _Progress:
    iteration: int = 0
    best_iteration: int = 0
    best_reward: float = -math.inf
    stale: int = 0  # evaluations since the best
    metrics: list[dict[str, float]] = field(default_factory=list)  # of each iteration so far


def fit(
    trainer: Trainer,
    valid: Tree,
    *,
    iterations: int,
    evaluate_every: int,
    patience: int,
    on_metrics: OnMetrics,
    on_resume: OnMetrics = lambda metrics: None,
    checkpoint: Path | None = None,
    resume: bool = False,
    run: str = "",
) -> Fitted:
    """Train until `iterations`, or until `patience` evaluations in a row brought nothing better.

    The greedy policy is evaluated before the first iteration, after every `evaluate_every`, and
    after the last. `patience` 0 never stops early. `on_metrics` gets one dict per iteration. With
    `checkpoint`, each evaluation writes one, atomically. With `resume`, training goes on from it if
    it exists: `on_resume` gets the dicts up to it, `on_metrics` those since then, with equal
    values; a checkpoint of another `run`, as on other data, is refused. The trainer's policy is
    left with the best weights. A trainer in closed form is evaluated, no more.

    Raises:
        ConfigError: if a count is out of range.
        RunError: if training diverged, or the checkpoint is damaged or of other settings.
    """
    _check_counts(iterations=iterations, evaluate_every=evaluate_every, patience=patience)
    iterations = 0 if trainer.closed_form else iterations
    identity = {"run": run} | _identity(
        trainer, valid, iterations=iterations, evaluate_every=evaluate_every, patience=patience
    )
    if resume and checkpoint is not None and os.path.lexists(checkpoint):
        progress, best = _load_checkpoint(checkpoint, trainer, identity)
        for metrics in progress.metrics:
            on_resume(metrics)
    else:
        progress = _Progress()
        best, metrics = _evaluate(trainer, valid, progress, {})
        _tell({"iteration": 0.0, **metrics}, progress, on_metrics)
    while progress.iteration < iterations and not _ended(trainer, progress, patience):
        trainer.done = progress.iteration / iterations
        metrics = trainer.step()
        progress.iteration += 1
        _check_finite(metrics, progress.iteration)
        last = progress.iteration == iterations or trainer.halted
        due = last or progress.iteration % evaluate_every == 0
        if due:
            best, evaluated = _evaluate(trainer, valid, progress, best)
            metrics = {**metrics, **evaluated}
        _tell({"iteration": float(progress.iteration), **metrics}, progress, on_metrics)
        if due and checkpoint is not None:
            _save_checkpoint(checkpoint, trainer, progress, best, identity)
    trainer.policy.load_state_dict(best)
    return Fitted(
        policy=trainer.policy,
        iterations=progress.iteration,
        best_iteration=progress.best_iteration,
        best_reward=progress.best_reward,
        stopped_early=progress.iteration < iterations,
        halted=trainer.halted,
    )


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


def _tell(metrics: dict[str, float], progress: _Progress, on_metrics: OnMetrics) -> None:
    progress.metrics.append(metrics)
    on_metrics(metrics)


def _ended(trainer: Trainer, progress: _Progress, patience: int) -> bool:
    return trainer.halted or 0 < patience <= progress.stale


def _evaluate(
    trainer: Trainer, valid: Tree, progress: _Progress, best: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Evaluate the policy on validation; the best weights so far, and the metrics."""
    metrics = trainer.validate(valid)
    if metrics["reward"] > progress.best_reward:
        progress.best_reward, progress.best_iteration = metrics["reward"], progress.iteration
        progress.stale = 0
        weights = trainer.policy.state_dict()
        best = {name: value.detach().cpu().clone() for name, value in weights.items()}
    else:
        progress.stale += 1
    return best, {f"valid_{name}": value for name, value in metrics.items()}


def _identity(trainer: Trainer, valid: Tree, **counts: int) -> dict[str, Any]:
    """Identity that has to be equal for a checkpoint to be continued."""
    return {
        "trainer": type(trainer).__name__,
        "settings": trainer.settings.model_dump(),
        "seed": trainer.seed,
        "alpha": trainer.alpha,
        **counts,
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
    write_tensors(path, safetensors.torch.save(tensors, metadata))


def _load_checkpoint(
    path: Path, trainer: Trainer, identity: Mapping[str, Any]
) -> tuple[_Progress, dict[str, Tensor]]:
    anew = f"Delete it to start anew: rm -r {shlex.quote(str(path))}"
    metadata = check_tensors(path, anew)
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    saved, progress = json.loads(metadata["identity"]), json.loads(metadata["progress"])
    _check_identity(path, saved, dict(identity))
    try:
        trainer.load_state(part(tensors, "trainer/"))
    except (ValueError, KeyError, RuntimeError) as exc:
        raise RunError(f"the checkpoint {path} does not fit the trainer: {exc}", anew) from exc
    return _Progress(**progress), part(tensors, "best/")


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
