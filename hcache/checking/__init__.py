"""Checks of a database: whether it is what sampling and scoring would have written.

Nothing is written and no model is run. See docs/checking.md for what is found and what cannot be.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl

from hcache.checking.findings import Fault, Findings, OnProgress
from hcache.checking.prompts import check_prompts
from hcache.checking.rebuilding import check_keys_by_question, rebuild
from hcache.checking.records import (
    Recorded,
    check_queries,
    file_queries,
    fingerprints,
    read_arms,
    read_experiments,
)
from hcache.checking.scores import check_scored, check_scores
from hcache.experiment import Experiment
from hcache.store import Store
from hcache.store.checks import (
    COLUMNS,
    OF_NO_EXPERIMENT,
    RULES,
    STRUCTURE,
    UNUSED_QUERIES,
    WAITING,
    Rule,
    counted,
    expected_columns,
)

__all__ = ["Fault", "Findings", "check_database"]


def check_database(
    db: Path,
    experiment: Experiment | None = None,
    every_prompt: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Findings:
    """Check a database; with an experiment also what only its files tell.

    Where the files of its models are at hand, some prompts of each arm are rendered again, or
    `every_prompt`.

    Raises:
        StoreError: there is no database, or it cannot be read.
    """
    findings = Findings()
    with Store(db) as store:
        _check_schema(store, findings)
        if findings.faults:
            return findings  # the questions below need the columns
        arms = read_arms(store, findings)
        limits = fingerprints(arms)
        _apply(store, (*STRUCTURE, *RULES), limits, findings, on_progress)
        check_keys_by_question(store, limits, findings)
        recorded = read_experiments(store, arms, findings)
        known = file_queries(store, experiment, recorded, findings)
        check_queries(store, limits, known, findings, partial(on_progress, "queries"))
        for one in recorded:
            on_batch = partial(on_progress, f"trees of {one.name}")
            rebuild(store, one, limits, known, findings, on_batch)
        check_scores(store, findings, on_progress)
        check_scored(store, recorded, findings)
        if experiment is not None:
            check_prompts(store, experiment, arms, every_prompt, findings, on_progress)
        _note_what_is_left(store, recorded, findings)
    return findings


def _check_schema(store: Store, findings: Findings) -> None:
    """Tables and views with their columns, types and constraints; tables of others may be there."""
    wanted, found = expected_columns(store.metrics()), store.sql(COLUMNS)
    missing = wanted.join(found, wanted.columns, "anti")
    for table, column, kind, _ in missing.iter_rows():
        findings.add("schema", f"{table} has no column {column} {kind}, as it should", table)
    extra = found.filter(found["table_name"].is_in(wanted["table_name"].to_list()))
    names = ["table_name", "column_name"]
    for table, column in extra.join(wanted, names, "anti").select(names).iter_rows():
        findings.add("schema", f"{table} has a column {column} too many", table)


def _apply(
    store: Store,
    rules: tuple[Rule, ...],
    limits: pl.DataFrame,
    findings: Findings,
    on_progress: OnProgress,
) -> None:
    for place, rule in enumerate(rules, 1):
        count, example = store.sql(counted(rule.sql), fingerprints=limits).row(0)
        if count:
            findings.add(rule.table, rule.fault, example, count)
        on_progress("rules", place, len(rules))


def _note_what_is_left(store: Store, recorded: list[Recorded], findings: Findings) -> None:
    known = pl.DataFrame({"experiment": [one.name for one in recorded]}, {"experiment": pl.String})
    for number, what in (
        (store.sql(OF_NO_EXPERIMENT, known=known).item(),
         "trajectories were not rebuilt: no experiment has their workflow, arms and queries now"),
        (store.sql(WAITING).item(), "generations wait for the rest of their trees"),
        (store.sql(UNUSED_QUERIES).item(), "queries are in no split"),
    ):  # fmt: skip
        if number:
            findings.notes.append(f"{number:,} {what}.")
