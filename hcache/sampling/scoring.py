"""Scoring: from stored outputs to answers and metrics. Runs no model, so a new metric is cheap.

Each score carries the version of the extractor and the metric that made it. What was scored by
another version is scored anew, by `hcache sample` or `hcache rescore`; until then evaluations
refuse it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from hcache.config.schema import DatasetConfig
from hcache.data.extractors import extractor, version_of
from hcache.data.metrics import CODE, RECORDED, may_score, references_of, score_many
from hcache.data.queries import Query
from hcache.errors import DataError
from hcache.experiment import Experiment
from hcache.processes.sandbox import SECONDS, Outcome, ends
from hcache.store import Store, wait_and_write
from hcache.store.queries import TO_SCORE, UNSCORED

Row = Mapping[str, Any]
PAGE = 20_000  # trajectories scored at once
PROGRAMS = 500  # the same where code is run: at most so many are run again after an interruption


class _Graded(NamedTuple):
    """The fields of a stored query that answers are held against."""

    references: Sequence[str]
    tests: str


@dataclass
class Scored:
    """Scores that were made of stored trajectories."""

    new: int = 0  # where there was none
    anew: int = 0  # in place of one by another version
    changed: int = 0  # of these, with another value than before
    left: int = 0  # that would run code, which nobody has allowed
    timed_out: int = 0  # programs that did not end in time, which makes their answers wrong

    def __str__(self) -> str:
        parts = [f"{self.new:,} new scores"] if self.new else []
        if self.anew or not parts:
            parts.append(f"{self.anew:,} scores made anew, {self.changed:,} values changed")
        if self.left:
            parts.append(
                f"{self.left:,} not made, since they run code that models wrote: "
                "`hcache rescore EXPERIMENT.yaml --allow-code-execution` makes them"
            )
        if self.timed_out:
            parts.append(
                f"{self.timed_out:,} programs did not end within {SECONDS} s and count as wrong"
            )
        return "; ".join(parts)


def score(
    trajectories: Iterable[Row], queries: Mapping[str, Query], data: Mapping[str, DatasetConfig]
) -> list[dict[str, Any]]:
    """Rows of `scores` for trajectories, each by the extractor and metrics of its data set.

    The metric that runs code is left to `rescore`, which runs many programs side by side.
    """
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for row in trajectories:
        query = queries[row["query_id"]]
        by_dataset[query.dataset].append(
            {
                "trajectory_id": row["trajectory_id"],
                "output": row["output"],
                "references": query.references,
                "tests": query.tests,
            }
        )
    return [
        row
        for dataset, rows in by_dataset.items()
        for metric in data[dataset].metrics
        if metric != CODE
        for row in score_rows(rows, data[dataset].extract, metric)
    ]


def score_rows(rows: Sequence[Row], extract: str, metric: str) -> list[dict[str, Any]]:
    """Rows of `scores` for rows with trajectory_id, output, references and tests.

    Raises:
        ConfigError: for an unknown extractor or metric.
        DataError: the metric cannot be met by the references of a row.
    """
    take = extractor(extract)
    taken = {text: take(text) for text in {row["output"] for row in rows}}
    answers = [taken[row["output"]] for row in rows]
    graded = (_Graded(row["references"], row["tests"] or "") for row in rows)
    values = score_many(metric, answers, [references_of(metric, query) for query in graded])
    version = version_of(extract, metric)
    return [
        {
            "trajectory_id": row["trajectory_id"],
            "extractor": extract,
            "metric": metric,
            "answer": answer,
            "value": value,
            "version": version,
        }
        for row, answer, value in zip(rows, answers, values, strict=True)
    ]


def rescore(
    experiment: Experiment, patience: float, on_page: Callable[[int], None] = lambda scores: None
) -> Scored:
    """Score an experiment's stored trajectories that lack a score of the version of today.

    Needs neither models nor files of questions. It goes page by page, each in a transaction of its
    own: stopped halfway, the same call does the rest. `on_page` takes how many scores are made.

    Raises:
        StoreError: there is no database, or it is held open by others for `patience` seconds.
        DataError: a metric cannot be met by the references of a query, or a reply was not recorded.
    """
    done, late = Scored(), ends[Outcome.TIMED_OUT]
    for name, dataset in experiment.config.data.items():
        for metric in dataset.metrics:
            if not may_score(metric):
                done.left += len(_unscored(experiment, name, dataset.extract, metric))
                continue
            for rows in _pages(experiment, name, dataset.extract, metric):
                scores = score_rows(rows, dataset.extract, metric)
                wait_and_write(experiment.db, {"scores": scores}, patience)
                pairs = [
                    (row["before"], new["value"]) for row, new in zip(rows, scores, strict=True)
                ]
                old = [pair for pair in pairs if pair[0] is not None]
                done.new += len(pairs) - len(old)
                done.anew += len(old)
                done.changed += sum(before != value for before, value in old)
                on_page(done.new + done.anew)
    done.timed_out = ends[Outcome.TIMED_OUT] - late
    return done


def _unscored(experiment: Experiment, dataset: str, extract: str, metric: str) -> pl.DataFrame:
    """Trajectories that lack a score of the version of today."""
    wanted = [experiment.name, dataset, extract, metric, version_of(extract, metric)]
    with Store(experiment.db) as store:
        return store.sql(UNSCORED, wanted)


def _pages(
    experiment: Experiment, dataset: str, extract: str, metric: str
) -> Iterator[Sequence[Row]]:
    """Pages of what is to be scored; between them the database may be written."""
    found = _unscored(experiment, dataset, extract, metric)
    for chosen in found.iter_slices(PROGRAMS if metric == CODE else PAGE):
        with Store(experiment.db) as store:
            rows = store.sql(TO_SCORE, chosen=chosen).to_dicts()
        if metric != RECORDED and any(row["unrecorded"] for row in rows):
            raise DataError(
                f"{experiment.db}: replies of {dataset} were not recorded, {metric!r} cannot score "
                "what is not there.",
                f"Keep the metric {RECORDED!r}, or import the replies into another database.",
            )
        yield rows
