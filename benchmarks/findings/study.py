"""One setting of the study: an experiment at some horizon, its routers trained and evaluated.

Routers learn from the training questions and are chosen on validation; every array here is of the
test questions, [seeds, Q], in one order for all settings, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hcache.errors import RunError
from hcache.evaluation.baselines import Candidate, Evaluator
from hcache.evaluation.statistics import Interval, interval_of_mean
from hcache.experiment import Experiment
from hcache.replay.loading import load_replay
from hcache.replay.static import best_static
from hcache.replay.tree import Tree, path_name
from hcache.runs.benching import Job, jobs, run_all
from hcache.runs.folder import Run
from hcache.store import Store

Array = NDArray[np.float64]
SEEDS = 5


@dataclass(frozen=True)
class Place:
    """Where the study finds its cache and keeps its runs."""

    experiment: Path
    cascade: Path  # the same arms, asked without each other's replies
    db: Path
    runs: Path


class Study:
    """An experiment with some of its settings changed."""

    def __init__(self, place: Place, *changes: str, cascade: bool = False) -> None:
        file = place.cascade if cascade else place.experiment
        self.experiment = Experiment.load(file, [f"runs={place.runs}", *changes], place.db)
        self._routers: dict[str, Candidate] = {}

    @property
    def alpha(self) -> float:
        """Weight of cost in R = Q − α·C."""
        return self.experiment.config.train.alpha

    @cached_property
    def trees(self) -> dict[str, Tree]:
        """The trees of each split, as routers may act in them."""
        with Store(self.experiment.db) as store:
            loaded = {
                split: load_replay(store, self.experiment.config, split).tree
                for split in ("train", "valid", "test")
            }
        if self.experiment.config.train.stop:
            return loaded
        return {split: tree.without_stop() for split, tree in loaded.items()}

    @cached_property
    def evaluator(self) -> Evaluator:
        """The test trees, their queries in the order of their ids."""
        test = self.trees["test"]
        return Evaluator(test, self.alpha, sorted(test.queries))

    @cached_property
    def datasets(self) -> NDArray[np.str_]:
        """The data set of each test query, in that order."""
        test = self.trees["test"]
        own = dict(zip(test.queries, test.datasets, strict=True))
        return np.array([own[query] for query in sorted(test.queries)])

    @cached_property
    def static(self) -> Candidate:
        """The static sequence that is best on training and validation."""
        chosen = best_static([self.trees["train"], self.trees["valid"]], self.alpha)
        return self.evaluator.static(path_name(chosen, self.evaluator.tree.arms), "static", chosen)

    @cached_property
    def oracle(self) -> Candidate:
        """The best trajectory of each question, which nobody can know."""
        return self.evaluator.oracle()

    def router(self, algo: str) -> Candidate:
        """A router in several seeds, trained unless its runs are there."""
        if algo not in self._routers:
            runs = train(jobs(self.experiment, [algo], SEEDS))
            self._routers[algo] = self.evaluator.router(algo, [run.policy for run in runs])
        return self._routers[algo]


@cache
def study_of(place: Place, *changes: str, cascade: bool = False) -> Study:
    """The study of a setting, loaded once for all answers that ask for it."""
    return Study(place, *changes, cascade=cascade)


def train(wanted: Sequence[Job]) -> list[Run]:
    """The runs of some jobs, in their order.

    Raises:
        RunError: the first that a job ended with.
    """
    done: dict[str, Run] = {}

    def failed(job: Job, error: RunError) -> None:
        raise error

    run_all(list(wanted), lambda job, run: done.__setitem__(job.key, run), failed)
    return [done[job.key] for job in wanted]


def difference(one: Array, two: Array) -> Interval:
    """Paired mean difference of [S, Q] values, where either may be of one seed alone."""
    return interval_of_mean(one - two)
