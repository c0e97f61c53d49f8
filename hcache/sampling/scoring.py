"""Scoring: from stored outputs to answers and metrics. Runs no model, so a new metric is cheap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hcache.config.schema import DatasetConfig
from hcache.data.extractors import extractor, version_of
from hcache.data.metrics import score_many
from hcache.data.queries import Query
from hcache.store import Store, wait_and_write
from hcache.store.queries import UNSCORED

Row = Mapping[str, Any]


def score(
    trajectories: Iterable[Row], queries: Mapping[str, Query], data: Mapping[str, DatasetConfig]
) -> list[dict[str, Any]]:
    """Rows of `scores` for trajectories, each by the extractor and metrics of its data set."""
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for row in trajectories:
        by_dataset[queries[row["query_id"]].dataset].append(row)
    return [
        row
        for dataset, rows in by_dataset.items()
        for metric in data[dataset].metrics
        for row in _score(rows, queries, data[dataset].extract, metric)
    ]


def _score(
    rows: Sequence[Row], queries: Mapping[str, Query], extract: str, metric: str
) -> list[dict[str, Any]]:
    take = extractor(extract)
    answers = [take(row["output"]) for row in rows]
    references = [queries[row["query_id"]].references for row in rows]
    values = score_many(metric, answers, references)
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


def score_missing(
    db: Path, queries: Mapping[str, Query], data: Mapping[str, DatasetConfig], patience: float
) -> int:
    """Score stored trajectories that lack a metric their data set asks for; how many scores.

    A score by another version of its extractor or metric counts as lacking, and is replaced.
    """
    missing: list[dict[str, Any]] = []
    with Store(db) as store:
        for name, dataset in data.items():
            for metric in dataset.metrics:
                version = version_of(dataset.extract, metric)
                frame = store.sql(UNSCORED, [name, dataset.extract, metric, version])
                rows = [row for row in frame.iter_rows(named=True) if row["query_id"] in queries]
                missing += _score(rows, queries, dataset.extract, metric)
    if missing:
        wait_and_write(db, {"scores": missing}, patience)
    return len(missing)
