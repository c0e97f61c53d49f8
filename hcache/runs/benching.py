"""All routers of an experiment, in several seeds: trained side by side, one process per core.

Networks this small gain nothing from more threads, so runs are what is spread over the cores. A
run that is finished is not trained again, one that was stopped goes on: the same command resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcache.errors import ConfigError, RunError
from hcache.experiment import Experiment
from hcache.replay.loading import load_replay
from hcache.replay.tree import Tree
from hcache.runs.comparability import damage
from hcache.runs.folder import Run
from hcache.runs.manifest import again
from hcache.runs.tracking import DEFAULT
from hcache.runs.training import train, with_train
from hcache.runs.workers import as_finished, submit_all, worker_pool
from hcache.store import Store
from hcache.trainers import TRAINERS

CHAINS = ("sft+ppo",)
"""Chains of trainers that stand beside the trainers themselves."""


@dataclass(frozen=True)
class Job:
    """One run to train: an experiment with algorithm and seed, all else as said."""

    experiment: Experiment
    tracker: str = DEFAULT

    @property
    def name(self) -> str:
        """Name of the training, for people."""
        settings = self.experiment.config.train
        return f"{settings.algo} seed {settings.seed}"

    @property
    def key(self) -> str:
        """Key that tells jobs apart."""
        return f"{self.experiment.name}: {self.name}"


def jobs(
    experiment: Experiment, algos: Sequence[str], seeds: int, tracker: str = DEFAULT
) -> list[Job]:
    """A job for each algorithm and seed, each with the settings that the experiment has for it."""
    own = experiment.config.train
    return [
        Job(with_train(experiment, train.model_copy(update={"seed": own.seed + seed})), tracker)
        for train in map(own.of, dict.fromkeys(algos))
        for seed in range(seeds)
    ]


def algorithms(experiment: Experiment) -> dict[str, str]:
    """Every trainer, and the chains, with the reason why it is not for this experiment, or ""."""
    with Store(experiment.db) as store:
        tree = load_replay(store, experiment.config, "valid").tree
    found = {name: _reason(experiment, tree, name) for name in sorted(TRAINERS)}
    return found | dict.fromkeys(CHAINS, "")


def _reason(experiment: Experiment, tree: Tree, name: str) -> str:
    trainer = TRAINERS[name]
    if trainer.live:
        return "runs the models in every step; ask for it by name"
    given = experiment.config.train.of(name).settings
    fields = trainer.Settings.model_fields.items()
    missing = [key for key, field in fields if field.is_required() and key not in given]
    if missing:
        return f"needs train.settings.{missing[0]}"
    try:
        tree = trainer.enrich(tree, experiment)
    except ConfigError as error:
        return error.message
    return trainer.unfit(tree if experiment.config.train.stop else tree.without_stop())


def run_all(
    jobs: Sequence[Job],
    on_done: Callable[[Job, Run], None],
    on_failed: Callable[[Job, RunError], None],
) -> None:
    """Train all jobs, as many at a time as there are cores; chains after what they start from.

    A job whose run is damaged is given to `on_failed`, and the others go on.

    Raises:
        HcacheError: the first other one that a job ended with; the others are stopped.
        KeyboardInterrupt: likewise; a run that is stopped goes on from its checkpoint.
    """
    with worker_pool(len(jobs)) as pool:
        for chained in (False, True):
            stage = [job for job in jobs if ("+" in job.experiment.config.train.algo) == chained]
            futures = submit_all(pool, _train, stage)
            for future in as_finished(futures):
                try:
                    on_done(futures[future], Run(future.result()))
                except RunError as error:
                    on_failed(futures[future], error)


def _train(job: Job) -> Path:
    run = train(job.experiment, wait=True, tracker=job.tracker)  # another bench may be at it
    if reason := damage(run):
        raise RunError(f"{run.folder}: {reason}", again(run.folder))
    return run.folder
