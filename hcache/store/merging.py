"""Merging: databases that were sampled apart become one.

Rows are addressed by their content, so what two files have in common is one row. Where a row of the
file that is read has the key of a row that is there and other content, the one that is there stays,
and the other is kept in `conflicts` with the file that it is from. What was made with a reply that
stays out (states, trajectories, scores) stays out too: it would be half of one tree, half of
another. What is missing then, `hcache sample` makes from the replies that stay.

One transaction for each file: a kill leaves the database as before that file, and merging a file
again changes nothing. DuckDB does all of it, on disk where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb

from hcache.errors import StoreError
from hcache.store.connection import check_kind, connect, exists, translating
from hcache.store.digest import CIRCUMSTANCES
from hcache.store.frames import SCHEMAS
from hcache.store.schema import CONFLICT, UNIQUE, VERSION, literal, quoted
from hcache.store.spool import Spool, sampled_meanwhile, sampling, spool_path
from hcache.store.store import check_version, follow_metrics, insert_batch, writing

EXAMPLES = 3

# Rows with the same key and other content

KEYS = {**UNIQUE, "pools": "experiment, arm_id"}
COMPARED = (
    "generations",
    *(t for t in UNIQUE if t not in ("generations", "provenance", "conflicts")),
)
"""Generations come first: what is made with another reply is not compared."""
IN_NO_CONFLICT = {"position", "actions", "version", *CIRCUMSTANCES}
FOUND = """
create temp table found (table_name varchar, key varchar, content varchar, facts varchar)
"""
SHARED = """
create or replace temp table shared as select {keys} from scope semi join {table} using ({keys})
"""
DIFFERENT = """
insert into found select '{table}', concat_ws(' ', {keys}), to_json(f)::varchar, {facts}
from (from scope semi join shared using ({keys})) f
join (from {table} semi join shared using ({keys})) i using ({keys})
where {where} and ({ours}) is distinct from ({theirs})
"""
FACTS = """(
    select any_value(p.facts) from source.provenance p where p.provenance_id = f.provenance_id
)"""
REPLY = ("text", "token_ids", "prompt_tokens", "output_tokens", "finish_reason", "thinking")
LOST = f"""
create temp table lost_replies as
    with keys as (select key as generation_id from found)
    select f.generation_id
    from (from source.generations semi join keys using (generation_id)) f
    join (from generations semi join keys using (generation_id)) i using (generation_id)
    where ({", ".join(f"f.{name}" for name in REPLY)})
        is distinct from ({", ".join(f"i.{name}" for name in REPLY)});
create temp table lost_states as
    select distinct id from (select rowid as id, unnest(asks) as ask from source.states)
    where ask.generation in (from lost_replies);
create temp table lost as
    select distinct trajectory_id
    from (select trajectory_id, unnest(asks) as ask from source.trajectories)
    where ask.generation in (from lost_replies);
create temp table known as select experiment from experiments;
create temp table others as
    select f.experiment from source.experiments f join experiments i using (experiment)
    where f.workflow != i.workflow;
"""
"""Rows made with a reply that stays out; experiments that only have the same name."""
THEN = {
    "generations": LOST,
    "trajectories": "insert into lost select key from found where table_name = 'trajectories'",
}
"""SQL that follows the conflicts of a table."""
BY_ARM = """
with arms_of as (
    select fingerprint, string_agg(name, ', ' order by name) as name from source.arms group by all
)
select table_name, coalesce(a.name, '') as arm, count(*), list(key order by key)[:{examples}]
from found f
left join source.generations g on f.table_name = 'generations' and g.generation_id = f.key
left join arms_of a using (fingerprint)
group by all order by all
"""

# What of the file that is read comes into question, table by table; all unless said here

STATES = "select f.* from source.states f anti join lost_states l on f.rowid = l.id"
SCOPE = {
    "generations": "from source.generations",  # before anything is lost
    "pools": "from source.pools anti join others using (experiment)",
    "splits": "from source.splits anti join others using (experiment)",
    "states": STATES,
    "texts": f"""
        from source.texts semi join (
            select distinct unnest(context) as text_id from ({STATES})) using (text_id)""",
    "trajectories": "from source.trajectories anti join lost using (trajectory_id)",
    "scores": "from source.scores anti join lost using (trajectory_id)",
}

# What of it is written. An experiment that both have keeps its pool: that is in its settings.

BATCH = {
    "pools": "from scope anti join known using (experiment)",
    "provenance": "from scope semi join generations using (provenance_id)",
    "scores": f"from scope anti join scores using ({UNIQUE['scores']})",
    "conflicts": """
        select left(sha256({conflict}), 32) as conflict_id, table_name, key, content, facts,
               {origin} as origin
        from found union by name from scope""",
}
OTHER_VERSIONS = f"""
select count(*) from scope f join scores i using ({UNIQUE["scores"]}) where f.version != i.version
"""
LEFT_OUT = """
select count(*), count(*) filter (trajectory_id not in (select trajectory_id from trajectories))
from lost
"""
IN_TWO_SPLITS = """
select count(*) from (
    select experiment, question from splits join queries using (query_id)
    group by all having count(distinct split) > 1)
"""
OTHER_ARMS = """
select distinct a.name from source.pools anti join pools using (experiment, arm_id)
join source.arms a using (arm_id) order by a.name
"""
METRICS_READ = "select metric from source.scores union select quality from source.splits"
TWICE = "select count(*) - count(distinct ({keys})) from {table}"


@dataclass(frozen=True)
class Conflict:
    """Rows of a table with the key of a row that is there, and other content."""

    table: str
    arm: str  # of generations: who gave the reply
    count: int
    examples: tuple[str, ...]  # keys

    def __str__(self) -> str:
        of_arm = f" of {self.arm}" if self.arm else ""
        return f"{self.table}{of_arm}: {self.count:,} (such as {', '.join(self.examples)})"


@dataclass(frozen=True)
class Merged:
    """The rows that a file has brought."""

    source: str
    new: dict[str, int]  # rows, by table
    conflicts: tuple[Conflict, ...]
    left_out: int  # trajectories that were made with a reply that stays out
    missing: int  # those of them that the database has not got from other replies
    other_versions: int  # scores by another version of a metric than those that are there
    other_arms: tuple[str, ...]  # of a pool of the same experiment that is smaller there
    in_two_splits: int  # questions, after it


def merge(
    into: Path, sources: Sequence[Path], on_merged: Callable[[Merged], None] = lambda merged: None
) -> list[Merged]:
    """Bring the rows of some databases into one, which is made if there is none.

    The others are only read. `on_merged` is told of each as soon as its rows are in.

    Raises:
        StoreBusyError: another process has one of them open, or is sampling into it.
        StoreError: one of them is no database of this schema, stands there twice, or is not
            finished; nothing was written, unless `on_merged` was told.
    """
    check_kind(into)
    _refuse_doubles(into, sources)
    for source in sources:
        _check_source(source)
    with closing(Spool(into)) as spool:  # so that nobody samples into it meanwhile
        if spool.recover():
            raise _unfinished(into)
        merged = []
        for source in sources:
            merged.append(_merge_one(into, source))
            on_merged(merged[-1])
        return merged


def _refuse_doubles(into: Path, sources: Sequence[Path]) -> None:
    places = [into.resolve()]
    for source in sources:
        if not exists(source):
            raise StoreError(f"there is no database {source}.", "Name the files that were sampled.")
        if source.resolve() in places or any(
            place.exists() and place.samefile(source) for place in places
        ):
            raise StoreError(f"{source} stands there twice.", "Name each database once.")
        places.append(source.resolve())


def _check_source(source: Path) -> None:
    """Refuse what cannot be merged as it stands."""
    with translating(source), connect(source, read_only=True) as connection:
        version = check_version(connection, source)
        if version < VERSION:
            raise StoreError(
                f"{source} is of an older hcache (schema {version}, this one writes {VERSION}), "
                "and merging only reads it.",
                f"Bring it up to date, which keeps its rows: hcache digest {source}",
            )
        for table, keys in UNIQUE.items():
            columns = ", ".join(map(quoted, SCHEMAS[table]))
            connection.execute(f"select {columns} from {table} limit 0")
            [(doubles,)] = connection.execute(TWICE.format(keys=keys, table=table)).fetchall()
            if doubles:
                raise StoreError(
                    f"{source} is damaged: {doubles:,} rows of {table} stand there twice.",
                    f"See what else is: hcache check {source}",
                )
    if sampler := sampling(source):
        raise sampled_meanwhile(sampler, source)
    if exists(spool_path(source)) and spool_path(source).stat().st_size:
        raise _unfinished(source)


def _unfinished(db: Path) -> StoreError:
    return StoreError(
        f"{spool_path(db)} holds finished replies that are not in {db} yet.",
        f"Bring them in first: hcache sample EXPERIMENT.yaml --db {db} --budget 0",
    )


def _merge_one(into: Path, source: Path) -> Merged:
    """Bring in the rows of one file, in one transaction."""
    with writing(into, source=source) as connection:
        connection.execute(FOUND)
        for table in COMPARED:
            _find_conflicts(connection, table)
            connection.execute(THEN.get(table, ""))
        found = connection.execute(BY_ARM.format(examples=EXAMPLES)).fetchall()
        new = {table: _bring(connection, table, str(source)) for table in UNIQUE}
        [(left_out, missing)] = connection.execute(LEFT_OUT).fetchall()
        _scope(connection, "scores")
        [(versions,)] = connection.execute(OTHER_VERSIONS).fetchall()
        arms = connection.execute(OTHER_ARMS).fetchall()
        [(doubles,)] = connection.execute(IN_TWO_SPLITS).fetchall()
        metrics = connection.execute(METRICS_READ).fetchall()
        follow_metrics(connection, {name for (name,) in metrics})
    return Merged(
        source=str(source),
        new=new,
        conflicts=tuple(
            Conflict(table, arm, count, tuple(keys)) for table, arm, count, keys in found
        ),
        left_out=left_out,
        missing=missing,
        other_versions=versions,
        other_arms=tuple(name for (name,) in arms),
        in_two_splits=doubles,
    )


def _scope(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    scope = SCOPE.get(table, f"from source.{table}")
    connection.execute(f"create or replace temp view scope as {scope}")


def _find_conflicts(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Keep in `found` what stays out of a table because of a row with the same key."""
    keys = KEYS[table]
    content = [
        quoted(name)
        for name in SCHEMAS[table]
        if name not in IN_NO_CONFLICT and name not in keys.split(", ")
    ]
    _scope(connection, table)
    connection.execute(SHARED.format(table=table, keys=keys))
    different = DIFFERENT.format(
        table=table,
        keys=keys,
        ours=", ".join(f"i.{name}" for name in content),
        theirs=", ".join(f"f.{name}" for name in content),
        facts=FACTS if table == "generations" else "''",
        where="f.version = i.version" if table == "scores" else "true",
    )
    connection.execute(different)


def _bring(connection: duckdb.DuckDBPyConnection, table: str, origin: str) -> int:
    """Add what a table lacks; returns the number of rows."""
    _scope(connection, table)
    batch = BATCH.get(table, "from scope").format(origin=literal(origin), conflict=CONFLICT)
    connection.execute(f"create or replace temp view batch as {batch}")
    return insert_batch(connection, table)
