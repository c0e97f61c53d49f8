"""Trees rebuilt from stored generations by their workflow, and compared with the stored rows.

The enumerator is the one that sampling uses; here it is answered from the database alone. What is
compared is every state and trajectory of each experiment, column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from hcache.checking.findings import Findings
from hcache.checking.records import Recorded, queries_of, read_queries
from hcache.data.queries import Query
from hcache.keys import digest, generation_key
from hcache.sampling.enumerator import Enumerator, Reply
from hcache.sampling.pruning import Pruning
from hcache.store import Store
from hcache.store.checks import BY_QUESTION, REPLIES_TO, ROWS_OF_QUERIES
from hcache.workflows import Workflow

Row = dict[str, Any]
BATCH = 128  # queries whose trees are rebuilt together
AGAIN = "`hcache sample` adds it"


def rebuild(
    store: Store,
    recorded: Recorded,
    limits: pl.DataFrame,
    known: Mapping[str, Query],
    findings: Findings,
    on_batch: Callable[[int, int], None],
) -> None:
    """Rebuild the trees of an experiment, batch by batch, and compare them with the stored ones."""
    ids = queries_of(store, recorded.name)
    left = 0
    for place, slice_ in enumerate(ids.iter_slices(BATCH)):
        queries = [
            query
            for query in read_queries(store, limits, slice_, known)
            if _prompts_known(recorded.workflow, query)
        ]
        left += len(slice_) - len(queries)
        chosen = pl.DataFrame({"query_id": [query.id for query in queries]}, slice_.schema)
        rebuilt = _enumerate(store, recorded, queries, Pruning())
        pruning = Pruning.of(recorded.config, recorded.pool)
        asked = rebuilt if pruning == Pruning() else _enumerate(store, recorded, queries, pruning)
        for table in ("states", "trajectories"):
            sql = ROWS_OF_QUERIES[table]
            stored = store.sql(sql, [recorded.workflow.fingerprint], chosen=chosen)
            rows = [row for row in stored.to_dicts() if _in_scope(recorded, row)]
            _compare(table, rows, rebuilt.get(table, []), asked.get(table, []), findings)
            findings.count(f"{table} rebuilt", len(rows))
        on_batch(min(len(ids), (place + 1) * BATCH), len(ids))
    if left:
        findings.notes.append(
            f"{recorded.name}: the trees of {left:,} queries were not rebuilt, since no table has "
            "the passages of their prompts; give the experiment's file."
        )


def _prompts_known(workflow: Workflow, query: Query) -> bool:
    """False where prompts have passages and those of the query are not at hand."""
    return not workflow.shows_passages or query.id == replace(query).id


def _enumerate(
    store: Store, recorded: Recorded, queries: Iterable[Query], pruning: Pruning
) -> dict[str, list[Row]]:
    """The rows that the workflow makes of what is stored, as far as that goes."""
    enumerator = Enumerator(recorded.workflow, recorded.pool, pruning)
    requests = [
        request for query in queries for request in enumerator.start(query, recorded.replicas)
    ]
    while requests:
        keys = pl.DataFrame({"generation_id": [request.key for request in requests]})
        found = store.sql(REPLIES_TO, chosen=keys.unique()).select(
            "generation_id", *Reply.__dataclass_fields__
        )
        requests = [
            request
            for key, *reply in found.iter_rows()
            for request in enumerator.supply(key, Reply(*reply))
        ]
    return enumerator.take_rows()


def _in_scope(recorded: Recorded, row: Row) -> bool:
    """True if an experiment has this state or trajectory: a file keeps those of larger ones too."""
    last = recorded.hops - ("actions" in row)  # no state follows the last hop
    return (
        recorded.arms.issuperset(row["decisions"])
        and len(row["decisions"]) <= last
        and row["replica"] < recorded.replicas
        and not recorded.arms.isdisjoint(row.get("actions", recorded.arms))
    )


def _compare(
    table: str, stored: list[Row], rebuilt: list[Row], asked: list[Row], findings: Findings
) -> None:
    """Find what is not as rebuilt; of what is not stored, what pruned sampling asks for."""
    wanted = {_key(row): row for row in rebuilt}
    for row in stored:
        made = wanted.pop(_key(row), None)
        if made is None:
            fault = "is not what its workflow makes of the stored generations"
            findings.add(table, fault, _name(row))
            continue
        for column in made:
            if not _equal(column, row[column], made[column]):
                fault = f"{column} is not what its workflow gives"
                findings.add(table, fault, _name(row))
    missing = [row for row in asked if _key(row) in wanted]
    findings.add_all(
        table, "is missing, although its generations are there", map(_name, missing), AGAIN
    )


def _equal(column: str, stored: Any, made: Any) -> bool:
    """Equality; a state keeps the actions of all pools that it was sampled with."""
    if column == "actions":
        return set(made) <= set(stored) and len(set(stored)) == len(stored)
    return bool(stored == made)


def _key(row: Row) -> tuple[Any, ...]:
    return row["query_id"], row["replica"], *row["decisions"]


def _name(row: Row) -> str:
    path = ">".join(row["decisions"])
    return str(row.get("trajectory_id") or f"{row['query_id']} {row['replica']} {path}".strip())


def check_keys_by_question(store: Store, limits: pl.DataFrame, findings: Findings) -> None:
    """Hold keys against content where the weights, and so the key, depend on the question."""
    found = store.sql(BY_QUESTION, fingerprints=limits)
    for key, fingerprint, messages, sample, question in found.iter_rows():
        if generation_key(digest([fingerprint, question]), messages, sample) != key:
            findings.add("generations", "generation_id is not the key of its content", key)
