"""Importing: rows that others' outcomes have become, brought into a database in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl

from hcache.errors import StoreError
from hcache.store.schema import UNIQUE
from hcache.store.store import follow_metrics, insert_batch, patiently, writing

OF_EXPERIMENT = ("experiments", "pools", "splits")
"""Tables of which the experiment's own rows give way to the new ones."""
FACTS = {
    "generations": ("text", "prompt_tokens", "output_tokens", "finish_reason"),
    "trajectories": ("output", "asks", "costs", "unit"),
    "scores": ("value",),
}
"""Columns in which a row that is there may not say otherwise."""
DIFFERENT = """
select count(*), min(concat_ws(' ', {keys})) from (
    select {keys}, {ours} from {table} semi join batch using ({keys})
    except all select {keys}, {ours} from batch)
"""

SAMPLED = """
select count(*) from experiments join batch using (experiment)
where (experiments.config ->> '$.workflow.name') != (batch.config ->> '$.workflow.name')
"""
UNUSED = """
delete from provenance
where list_contains(?, provenance_id)
  and provenance_id not in (select provenance_id from generations)
"""
"""Outcomes that are brought in again stay of the files that they came from first."""


def bring(path: Path, tables: dict[str, pl.DataFrame], experiment: str, patience: float) -> None:
    """Add the rows of an experiment, all or none; those that are there already stay.

    Each frame is taken out of `tables` as it is written, so that its memory is free for the next.

    Raises:
        StoreBusyError: another process has had the file open for `patience` seconds.
        StoreError: a row that is there says otherwise, or an experiment that was sampled there has
            the name; nothing was written.
    """
    patiently(lambda: _bring(path, tables, experiment), patience)


def _bring(path: Path, tables: dict[str, pl.DataFrame], experiment: str) -> None:
    metrics = {*tables["scores"]["metric"].unique(), *tables["splits"]["quality"].unique()}
    provenance = tables["provenance"]["provenance_id"].to_list()
    with writing(path, metrics) as connection:
        _refuse_sampled(connection, path, tables["experiments"], experiment)
        for table in OF_EXPERIMENT:
            connection.execute(f"delete from {table} where experiment = ?", [experiment])
        for table in list(tables):
            connection.register("batch", tables.pop(table))
            _refuse_other_facts(connection, path, table, FACTS.get(table, ()))
            insert_batch(connection, table)
            connection.unregister("batch")
        connection.execute(UNUSED, [provenance])
        follow_metrics(connection, metrics)


def _refuse_sampled(
    connection: duckdb.DuckDBPyConnection, path: Path, frame: pl.DataFrame, experiment: str
) -> None:
    connection.register("batch", frame)
    [(count,)] = connection.execute(SAMPLED).fetchall()
    connection.unregister("batch")
    if count:
        raise StoreError(
            f"{path} has an experiment {experiment} of its own, which was sampled.",
            "Give the import another --name, or another database with --db.",
        )


def _refuse_other_facts(
    connection: duckdb.DuckDBPyConnection, path: Path, table: str, columns: Iterable[str]
) -> None:
    ours = ", ".join(columns)
    if not ours:
        return
    sql = DIFFERENT.format(table=table, keys=UNIQUE[table], ours=ours)
    [(count, example)] = connection.execute(sql).fetchall()
    if count:
        raise StoreError(
            f"{path} has {count:,} {table} that say otherwise (such as {example}).",
            "Import into another database with --db, or name another source.",
        )
