"""Training a router: from a database and a configuration to a run folder. Loads no model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hcache.artefacts import damaged
from hcache.config.file import parse_settings
from hcache.config.schema import ExperimentConfig, Settings, TrainConfig
from hcache.errors import ConfigError, RunError
from hcache.experiment import Experiment
from hcache.keys import digest, digest_file
from hcache.policies import ChangesReplies
from hcache.replay.loading import Replay, load_replay
from hcache.replay.tree import Tree
from hcache.runs.folder import MetricsLog, Run, find_run, first_difference, now, provenance
from hcache.runs.leakage import Seen, seen_in, seen_of, write_seen
from hcache.runs.manifest import MANIFEST, again
from hcache.runs.methods import stages
from hcache.runs.tracking import DEFAULT, Tracker, make_tracker, tracked
from hcache.store import Store
from hcache.trainers import TRAINERS, OnMetrics, Trainer, fit


def train(
    experiment: Experiment,
    *,
    init: str | Path | None = None,
    folder: Path | None = None,
    on_metrics: OnMetrics = lambda metrics: None,
    wait: bool = False,
    tracker: str = DEFAULT,
) -> Run:
    """Train the algorithm that the experiment's `train` names; the run it went into.

    An algorithm such as `sft+ppo` is a chain: SFT first, with its defaults, in a run of its own,
    then PPO from where that ended. A run of the same identity that was stopped goes on; one that
    is finished is returned as it is; with `wait`, one that another process trains is so too, once
    it is finished. `folder` puts the run elsewhere than where the configuration says. `tracker` is
    the name of one of `tracking.TRACKERS`.

    Raises:
        ConfigError: an unknown algorithm, setting or tracker, or one that does not fit here.
        StoreError: the experiment was not sampled like this.
        RunError: `init` is no run that fits, another process trains this run, or its tracker
            failed.
    """
    config, kind = experiment.config, _trainer_class(experiment)
    tracks = make_tracker(tracker)
    settings = parse_settings(kind.Settings, config.train.settings, "train.settings")
    given = None if init is None else find_run(init, Path(config.runs))
    start = _start(experiment, given, folder, on_metrics, tracker)
    data = {split: _load(experiment, kind, split) for split in ("train", "valid")}
    identity = _identity(config, data, start)
    name = f"{config.train.algo}-s{config.train.seed}-{digest(identity)[:8]}"
    run = Run((folder or Path(config.runs)) / name)
    if run.finished:
        return _own(run, identity)
    with run.lock(wait) as still_held:
        if run.finished:  # by the process that was waited for
            return _own(run, identity)
        manifest = _manifest(experiment, run, given, settings, identity, data)
        manifest["chain"] = [] if start is None else stages(start)
        manifest["queries"] = write_seen(run, _seen(experiment, data, start))
        run.write_manifest(manifest)
        torch.set_num_threads(1)  # networks this small gain nothing from more
        trees = {split: _allowed(config, loaded) for split, loaded in data.items()}
        trainer = _trainer(config, settings, trees["train"], start)
        outcome = _fit(run, trainer, trees["valid"], on_metrics, still_held, tracks)
        run.write_manifest(manifest | {"finished": now(), "outcome": outcome})
        run.checkpoint.unlink(missing_ok=True)
    return run


def with_train(experiment: Experiment, train: TrainConfig) -> Experiment:
    """The same experiment with other settings of training."""
    config = experiment.config.model_copy(update={"train": train})
    return Experiment(config, experiment.source, experiment.db)


def _trainer_class(experiment: Experiment) -> type[Trainer]:
    """The last of the chain of trainers."""
    return TRAINERS.find(experiment.config.train.trainer, "train.algo")


def _start(
    experiment: Experiment,
    given: Run | None,
    folder: Path | None,
    on_metrics: OnMetrics,
    tracker: str,
) -> Run | None:
    """The run to start from: the one given, or behind it all of the chain but the last."""
    settings = experiment.config.train
    *before, _ = settings.algo.split("+")
    if given is not None and not given.finished:
        raise RunError(f"--init: {given.folder} is not finished.", "Train it to its end first.")
    if not before:
        return given
    first = with_train(experiment, settings.of("+".join(before)))
    init = None if given is None else given.folder
    return train(first, init=init, folder=folder, on_metrics=on_metrics, wait=True, tracker=tracker)


def _load(experiment: Experiment, kind: type[Trainer], split: str) -> Replay:
    """A split as a trainer needs it."""
    with Store(experiment.db) as store:
        loaded = load_replay(store, experiment.config, split)
    return replace(loaded, tree=kind.enrich(loaded.tree, experiment))


def _seen(experiment: Experiment, data: Mapping[str, Replay], start: Run | None) -> Seen:
    """Questions that a run on these data has seen at its end, from the start of its chain."""
    own = seen_in(experiment.db, {split: loaded.tree.queries for split, loaded in data.items()})
    return own if start is None else own.with_start(seen_of(start))


def _identity(
    config: ExperimentConfig, data: Mapping[str, Replay], start: Run | None
) -> dict[str, Any]:
    """All that the outcome depends on; the code of a trainer from a plug-in too."""
    source = TRAINERS.source(config.train.trainer)
    return {
        "config": _relevant(config),
        "data": {split: loaded.fingerprint for split, loaded in data.items()},
        "init": None if start is None else _weights(start),
        **({} if source is None else {"plugin": source.digest}),
    }


def _own(run: Run, identity: dict[str, Any]) -> Run:
    """A finished run, which is the one of this identity.

    Raises:
        RunError: files of another run are in its place.
    """
    if digest(run.manifest["identity"]) != digest(identity):
        raise damaged(run.folder / MANIFEST, "it is that of another run", again(run.folder))
    return run


def _manifest(
    experiment: Experiment,
    run: Run,
    given: Run | None,
    settings: Settings,
    identity: dict[str, Any],
    data: Mapping[str, Replay],
) -> dict[str, Any]:
    """Lines said of a run before it begins."""
    config = experiment.config
    with Store(experiment.db) as store:
        arms = dict(store.pool(config.name).select("name", "fingerprint").iter_rows())
    return {
        "name": run.name,
        "experiment": config.name,
        "algo": config.train.algo,
        "seed": config.train.seed,
        "init": None if given is None else str(given.folder),
        "source": str(experiment.source.resolve()),
        "db": str(experiment.db),
        "created": now(),
        "config": config.model_dump(mode="json"),
        "settings": settings.model_dump(),
        "identity": identity,
        "arms": arms,
        "incomplete": {split: loaded.incomplete for split, loaded in data.items()},
        "partial": {split: asdict(p) for split, one in data.items() if (p := one.tree.partial)},
        **provenance(),
    }


def _allowed(config: ExperimentConfig, loaded: Replay) -> Tree:
    """The tree as routers may act in it."""
    return loaded.tree if config.train.stop else loaded.tree.without_stop()


def _trainer(
    config: ExperimentConfig, settings: Settings, tree: Tree, start: Run | None
) -> Trainer:
    """The trainer, about to begin.

    Raises:
        ConfigError: it cannot be trained on such a tree.
    """
    train = config.train
    kind = TRAINERS[train.trainer]
    if reason := kind.unfit(tree):
        raise ConfigError(
            f"train.algo: {train.algo} cannot be trained here: {reason.rstrip('.')}.",
            "Choose another: hcache train EXPERIMENT.yaml --algo NAME",
        )
    init = None if start is None else start.policy
    return kind(tree, settings, alpha=train.alpha, seed=train.seed, init=init)


def _fit(
    run: Run,
    trainer: Trainer,
    valid: Tree,
    on_metrics: OnMetrics,
    still_held: Callable[[], None],
    tracker: Tracker,
) -> dict[str, Any]:
    """Train to the end, with all that is kept on the way; how it ended."""
    settings = run.config.train
    began = time.monotonic()
    with closing(MetricsLog(run)) as log, tracked(tracker, run, _to_track(run)) as track:

        def keep(metrics: dict[str, float]) -> None:
            log.write(metrics)
            track(metrics)

        def record(metrics: dict[str, float]) -> None:
            still_held()
            keep(metrics)
            on_metrics(metrics)

        fitted = fit(
            trainer,
            valid,
            iterations=settings.iterations,
            evaluate_every=settings.evaluate_every,
            patience=settings.patience,
            on_metrics=record,
            on_resume=keep,
            checkpoint=run.checkpoint,
            resume=True,
            run=digest(run.manifest["identity"]),
        )
    still_held()
    fitted.policy.save(run.policy_folder)
    return {
        "iterations": fitted.iterations,
        "best_iteration": fitted.best_iteration,
        "best_valid_reward": fitted.best_reward,
        "halted": fitted.halted,
        "changes_replies": isinstance(fitted.policy, ChangesReplies),
        "weights": _weights(run),
        "files": run.files(),
        "seconds": round(time.monotonic() - began, 3),
    }


def _to_track(run: Run) -> dict[str, Any]:
    """The settings of a training by name, for its tracker."""
    own = run.config.train.model_dump(mode="json", exclude={"also", "settings"})
    return {"experiment": run.config.name, **run.manifest["settings"], **own}


def _weights(run: Run) -> str:
    return digest_file(run.policy_folder / "policy.safetensors")


def _relevant(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that a training depends on; the others may change without a new run."""
    features = config.features.model_dump(mode="json")
    return {"features": features, "train": config.train.model_dump(mode="json", exclude={"also"})}


def repeat(
    run: Run, db: Path | None = None, on_metrics: OnMetrics = lambda metrics: None
) -> str | None:
    """Train a run again from its manifest; None if all is identical, else the first difference.

    Raises:
        RunError: it is not finished, perhaps since another process trains it.
    """
    if not run.finished:
        with run.lock():
            raise RunError(f"{run.folder} is not finished.", "Run the same train command to go on.")
    with tempfile.TemporaryDirectory() as folder:
        again = train(
            run.experiment(db),
            init=run.manifest["init"],
            folder=Path(folder),
            on_metrics=on_metrics,
            tracker="none",
        )
        return _difference(run, again)


def _difference(run: Run, again: Run) -> str | None:
    before, after = (each.manifest["identity"] for each in (run, again))
    for part in sorted(before | after):
        if before.get(part) != after.get(part):
            return f"the {part} is not what it was"
    place = first_difference(run.metrics(), again.metrics())
    if place is not None:
        before, after = (r.metrics()[place : place + 1] or "nothing" for r in (run, again))
        return f"metrics differ first in line {place + 1}: {before} was, {after} is"
    if run.manifest["outcome"]["weights"] != again.manifest["outcome"]["weights"]:
        return "the metrics are equal, the weights are not"
    return None
