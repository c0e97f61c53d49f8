"""Checks of a database: a clean one is clean, and whatever is edited by hand is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers.experiments import failing, load, sample, settings, table, write_script, write_scripts
from helpers.shell import Shell

from hcache.checking import check_database
from hcache.data.metrics import METRICS
from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.store.schema import UNIQUE
from hcache.store.store import SCHEMAS

UNSEEN = {
    ("generations", "created"): "when a reply was made is known to nobody else",
    ("generations", "seconds"): "a duration; only what is none is a fault",
    ("generations", "cached_tokens"): "depends on what an engine had in memory",
    ("generations", "token_ids +"): "ids are words of a tokenizer, which is not in the database",
    ("generations", "logprobs +"): "any numbers of 0 or less may be log-probabilities",
}
"""Columns of which a plausible other value cannot be told from the right one, and why."""
FILES_ONLY = {
    ("queries", "kind"): "not in the key of a query",
    ("splits", "split"): "the file deals the splits",
    ("splits", "delete"): "the file deals the splits",
}
"""What only the experiment's files tell."""


def edits() -> Iterator[tuple[str, str, str]]:
    """(table, what is edited, SQL) for every column; of one row, the first by its keys."""
    for name, columns in SCHEMAS.items():
        first = f"rowid = (select rowid from {name} order by all limit 1)"
        yield name, "delete", f"delete from {name} where {first}"
        yield name, "double", f"insert into {name} select * from {name} where {first}"
        for column in columns:
            for what, value in mutations(name, column):
                yield name, f"{column}{what}", (
                    f'update {name} set "{column}" = {value} where {first}'
                )


def mutations(name: str, column: str) -> Iterator[tuple[str, str]]:
    kind = str(SCHEMAS[name][column])
    quoted = f'"{column}"'
    if kind == "String":
        yield "", f"{quoted} || 'x'"
    elif kind == "Boolean":
        yield "", f"not {quoted}"
    elif kind.startswith("Datetime"):
        yield "", f"{quoted} + interval 1 second"
    elif not kind.startswith("List"):
        yield "", f"{quoted} + 1" if (name, column) != ("scores", "value") else f"0.75 - {quoted}"
    else:
        yield " shorter", f"{quoted}[:-2]"
        yield " longer", f"list_append({quoted}, {quoted}[-1])"
        if column in ("token_ids", "logprobs"):
            yield " +", f"[one - 1 for one in {quoted}]"
        elif column != "asks":
            yield " +", f"[one || 'x' for one in {quoted}]"
        else:
            for part in ("arm", "generation", "role"):
                yield f" {part}", f"[struct_update(a, {part} := a.{part} || 'x') for a in {quoted}]"
            for part in ("prompt_tokens", "output_tokens"):
                yield f" {part}", f"[struct_update(a, {part} := a.{part} + 1) for a in {quoted}]"


EDITS = list(edits())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two arms, two hops; one draws, keeps log-probabilities, and has its replies cut."""
    folder = tmp_path_factory.mktemp("small")
    write_scripts(folder, "ab")
    raw = settings("ab")
    raw["arms"]["b"] |= {"temperature": 1.0, "system": "Be brief."}
    raw["sampling"] = {"replicas": 2}
    sample(folder, raw)
    with duckdb.connect(str(folder / "small.duckdb")) as connection:
        connection.execute("update generations set logprobs = [-1.0 for t in token_ids]")
        connection.execute("checkpoint")
    return load(folder, raw)


def edited(source: Path, folder: Path, sql: str) -> Path:
    """A copy of a database with something done to it."""
    copy = Path(shutil.copy(source, folder / "edited.duckdb"))
    with duckdb.connect(str(copy)) as connection:
        connection.execute(sql)
    return copy


def kinds(db: Path, experiment: Experiment | None = None) -> set[tuple[str, str]]:
    return {(fault.table, fault.fault) for fault in check_database(db, experiment).faults}


def test_what_sampling_writes_is_clean(small: Experiment) -> None:
    for experiment in (small, None):
        found = check_database(small.db, experiment)
        assert found.faults == ()
        assert found.checked["trajectories rebuilt"] == len(table(small.db, "trajectories"))
        assert found.checked["states rebuilt"] == len(table(small.db, "states"))
        assert found.checked["scores made again"] == len(table(small.db, "scores"))
    assert check_database(small.db, small).notes == []


@pytest.mark.parametrize(("name", "what", "sql"), EDITS, ids=[f"{n} {w}" for n, w, _ in EDITS])
def test_every_edit_of_every_column_is_found(
    small: Experiment, tmp_path: Path, name: str, what: str, sql: str
) -> None:
    db = edited(small.db, tmp_path, sql)
    assert bool(kinds(db, small)) == ((name, what) not in UNSEEN)
    assert bool(kinds(db)) == ((name, what) not in UNSEEN | FILES_ONLY)
