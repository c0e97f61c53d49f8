"""Training a router: from a database and a configuration to a run folder. Loads no model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hcache.config.file import parse_settings
from hcache.config.schema import ExperimentConfig
from hcache.errors import ConfigError
from hcache.experiment import Experiment
from hcache.keys import digest, digest_file
from hcache.plugins import lookup
from hcache.policies import load_policy
from hcache.replay.tree import Tree
from hcache.runs.folder import MetricsLog, Run, find_run, first_difference, now, provenance
from hcache.store import Store
from hcache.trainers import TRAINERS, fit

OnMetrics = Callable[[dict[str, float]], None]


def train(
    config: ExperimentConfig,
    db: Path,
    *,
    source: Path = Path("experiment.yaml"),
    init: str | Path | None = None,
    folder: Path | None = None,
    on_metrics: OnMetrics = lambda metrics: None,
) -> Run:
    """Train the algorithm that `config.train` names; the run it went into.

    An algorithm such as `sft+ppo` is a chain: SFT first, with its defaults, in a run of its own,
    then PPO from where that ended. A run of the same identity that was stopped goes on; one that
    is finished is returned as it is. `source` is the experiment's file, for live routing later;
    `folder` puts the run elsewhere than where the configuration says.

    Raises:
        ConfigError: an unknown algorithm or setting, or one that does not fit the workflow.
        StoreError: the experiment was not sampled like this.
        RunError: `init` is no run that fits.
    """
    settings = config.train
    *before, last = settings.algo.split("+")
    trainer_class = lookup(TRAINERS, last, "trainer", "train.algo")
    algorithm = parse_settings(trainer_class.Settings, settings.settings, "train.settings")
    start = None if init is None else find_run(init, Path(config.runs))
    if before:
        first = settings.of("+".join(before))
        start = train(
            config.model_copy(update={"train": first}),
            db,
            source=source,
            init=init,
            folder=folder,
            on_metrics=on_metrics,
        )
    trees = {}
    experiment = Experiment(config, source, db)
    with Store(db) as store:
        for split in ("train", "valid"):
            trees[split] = trainer_class.load(store, experiment, split)
        arms = dict(store.sql(ARMS, [config.name]).iter_rows())
    identity = {
        "config": _relevant(config),
        "data": {split: loaded.fingerprint for split, loaded in trees.items()},
        "init": None if start is None else _weights(start),
    }
    name = f"{settings.algo}-s{settings.seed}-{digest(identity)[:8]}"
    run = Run((folder or Path(config.runs)) / name)
    if run.finished:
        return run
    manifest = {
        "name": name,
        "experiment": config.name,
        "algo": settings.algo,
        "seed": settings.seed,
        "init": None if init is None else str(find_run(init, Path(config.runs)).folder),
        "source": str(source.resolve()),
        "db": str(db),
        "created": now(),
        "config": config.model_dump(mode="json"),
        "settings": algorithm.model_dump(),
        "identity": identity,
        "arms": arms,
        "incomplete": {split: loaded.incomplete for split, loaded in trees.items()},
        **provenance(),
    }
    run.write_manifest(manifest)
    torch.set_num_threads(1)  # networks this small gain nothing from more
    outcome = _fit(
        run, config, algorithm, trees["train"].tree, trees["valid"].tree, start, on_metrics
    )
    run.write_manifest(manifest | {"finished": now(), "outcome": outcome})
    run.checkpoint.unlink(missing_ok=True)
    return run


def _fit(
    run: Run,
    config: ExperimentConfig,
    algorithm: Any,
    train_tree: Tree,
    valid_tree: Tree,
    start: Run | None,
    on_metrics: OnMetrics,
) -> dict[str, Any]:
    settings = config.train
    if not settings.stop:
        train_tree, valid_tree = train_tree.without_stop(), valid_tree.without_stop()
    trainer_class = TRAINERS[settings.algo.split("+")[-1]]
    if reason := trainer_class.unfit(train_tree):
        raise ConfigError(f"train.algo: {settings.algo} cannot be trained here: {reason}")
    trainer = trainer_class(
        train_tree,
        algorithm,
        alpha=settings.alpha,
        seed=settings.seed,
        init=None if start is None else load_policy(start.policy_folder),
    )
    log = MetricsLog(run.folder / "metrics.jsonl")

    def record(metrics: dict[str, float]) -> None:
        log.write(metrics)
        on_metrics(metrics)

    began = time.monotonic()
    try:
        fitted = fit(
            trainer,
            valid_tree,
            iterations=settings.iterations,
            evaluate_every=settings.evaluate_every,
            patience=settings.patience,
            on_metrics=record,
            checkpoint=run.checkpoint,
            resume=True,
        )
    finally:
        log.close()
    fitted.policy.save(run.policy_folder)
    return {
        "iterations": fitted.iterations,
        "best_iteration": fitted.best_iteration,
        "best_valid_reward": fitted.best_reward,
        "halted": fitted.halted,
        "changes_replies": getattr(fitted.policy, "changes_replies", False),
        "weights": _weights(run),
        "seconds": round(time.monotonic() - began, 3),
    }


def _weights(run: Run) -> str:
    return digest_file(run.policy_folder / "policy.safetensors")


def _relevant(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that a training depends on; the others may change without a new run."""
    features = config.features.model_dump(mode="json")
    return {"features": features, "train": config.train.model_dump(mode="json", exclude={"also"})}


ARMS = """
select a.name, a.fingerprint from pools p join arms a using (arm_id)
where p.experiment = $1 order by p.position
"""


def repeat(run: Run, db: Path | None, on_metrics: OnMetrics = lambda metrics: None) -> str | None:
    """Train a run again from its manifest; None if all is identical, else the first difference."""
    manifest = run.manifest
    with tempfile.TemporaryDirectory() as folder:
        again = train(
            run.config,
            db or Path(manifest["db"]),
            source=Path(manifest["source"]),
            init=manifest["init"],
            folder=Path(folder),
            on_metrics=on_metrics,
        )
        return _difference(run, again)


def _difference(run: Run, again: Run) -> str | None:
    for part in ("config", "data", "init"):
        if run.manifest["identity"][part] != again.manifest["identity"][part]:
            return f"the {part} is not what it was"
    place = first_difference(run.metrics(), again.metrics())
    if place is not None:
        before, after = (r.metrics()[place : place + 1] or "nothing" for r in (run, again))
        return f"metrics differ first in line {place + 1}: {before} was, {after} is"
    if run.manifest["outcome"]["weights"] != again.manifest["outcome"]["weights"]:
        return "the metrics are equal, the weights are not"
    return None
