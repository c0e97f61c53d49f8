"""Rules that the rows of a sound database obey, as questions for the rows that break them.

Each question gives one column, an example of a row by its key; what it gives none for is sound.
`fingerprints` is a frame of the caller's: fingerprint, max_tokens, context, tool, by_question,
remote, recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import duckdb
import polars as pl

from hcache.store.schema import CONFLICT, TABLES, UNIQUE, VERSION, views

SMALL = 8  # prompts of an arm below which equal counts of tokens may be chance
SPREAD = 64  # bytes by which the longest of them is longer than the shortest


class Rule(NamedTuple):
    """A defect of the rows of a table that a question finds."""

    table: str
    fault: str
    sql: str


def counted(sql: str) -> str:
    """Number of rows that a question finds, and one of them."""
    return f"select count(*), min(found::varchar) from ({sql}) as faulty(found)"


# The schema

COLUMNS = """
select table_name, column_name, data_type, is_nullable
from duckdb_columns() where not internal and schema_name = 'main'
"""


def expected_columns(metrics: list[str]) -> pl.DataFrame:
    """The columns of tables and views that a database with scores of these metrics has."""
    with duckdb.connect() as connection:
        connection.execute("create table meta (version integer not null)")
        connection.execute(TABLES)
        connection.execute(views(metrics))
        found: pl.DataFrame = connection.sql(COLUMNS).pl()
        return found


# Each row once, and all that a row names is there

STATE = "concat_ws(' ', query_id, workflow[:8], 'replica', replica, decisions::varchar)"
KEY = {
    **{table: f"concat_ws(' ', {columns})" for table, columns in UNIQUE.items()},
    "states": STATE,
}
REFERENCES = (  # (table, column or list, table with it, its column)
    ("pools", "experiment", "experiments", "experiment"),
    ("pools", "arm_id", "arms", "arm_id"),
    ("splits", "experiment", "experiments", "experiment"),
    ("splits", "query_id", "queries", "query_id"),
    ("generations", "fingerprint", "arms", "fingerprint"),
    ("generations", "messages_id", "messages", "messages_id"),
    ("generations", "provenance_id", "provenance", "provenance_id"),
    ("states", "query_id", "queries", "query_id"),
    ("states", "unnest(context)", "texts", "text_id"),
    ("states", "unnest(list_concat(decisions, actions))", "arms", "arm_id"),
    ("states", "unnest([ask.arm for ask in asks])", "arms", "arm_id"),
    ("states", "unnest([ask.generation for ask in asks])", "generations", "generation_id"),
    ("trajectories", "query_id", "queries", "query_id"),
    ("trajectories", "unnest(decisions)", "arms", "arm_id"),
    ("trajectories", "unnest([ask.arm for ask in asks])", "arms", "arm_id"),
    ("trajectories", "unnest([ask.generation for ask in asks])", "generations", "generation_id"),
    ("scores", "trajectory_id", "trajectories", "trajectory_id"),
)
NEEDED = (  # (table, column, table that has to refer to it, how)
    ("messages", "messages_id", "generations", "messages_id"),
    ("provenance", "provenance_id", "generations", "provenance_id"),
    ("texts", "text_id", "states", "unnest(context)"),
)


def _structure() -> Iterator[Rule]:
    for table, columns in UNIQUE.items():
        sql = f"select any_value({KEY[table]}) from {table} group by {columns} having count(*) > 1"
        yield Rule(table, f"stands more than once: {columns}", sql)
    yield Rule(
        "meta",
        f"is not the one row of version {VERSION}",
        f"""
        select string_agg(version, ' ') from meta
        having count(*) != 1 or max(version) != {VERSION}""",
    )
    for table, column, other, key in REFERENCES:
        name = column.removeprefix("unnest(").removesuffix(")")
        yield Rule(
            table,
            f"names what is not in {other}: {name}",
            f"""
            select key from (select {KEY[table]} as key, {column} as named from {table})
            where named not in (select {key} from {other})""",
        )
    for table, column, other, named in NEEDED:
        yield Rule(
            table,
            f"belongs to no row of {other}",
            f"""
            select {column} from {table} where {column} not in (select {named} from {other})""",
        )


# Keys, as `keys.py` makes them: 32 hex digits of the SHA-256 of canonical JSON


def _list(ids: str) -> str:
    """The JSON of a list of ids, which need no escapes."""
    return f"""case when len({ids}) = 0 then '[]'
        else '["' || array_to_string({ids}, '","') || '"]' end"""


TRAJECTORY = f"""'["' || query_id || '","' || workflow || '",' || {_list("decisions")}
    || ',' || replica || ']'"""
GENERATION = "fingerprint || chr(10) || messages_id || chr(10) || sample"
HASHED = (  # (table, key, what it is made of, digits, for which rows)
    ("messages", "messages_id", "messages", 32, "true"),
    ("provenance", "provenance_id", "facts", 32, "true"),
    ("texts", "text_id", "text", 32, "true"),
    ("states", "context_id", _list("context"), 32, "true"),
    ("trajectories", "trajectory_id", TRAJECTORY, 16, "true"),
    ("conflicts", "conflict_id", CONFLICT, 32, "true"),
    ("generations", "generation_id", GENERATION, 32,
     "fingerprint not in (select fingerprint from fingerprints where by_question)"),
)  # fmt: skip


def _keys() -> Iterator[Rule]:
    for table, key, content, digits, where in HASHED:
        yield Rule(
            table,
            f"{key} is not the key of its content",
            f"""
            select {KEY[table]} from {table}
            where {where} and left(sha256({content}), {digits}) != {key}""",
        )


# Counts and numbers

_LIMITED = "generations g join (from fingerprints where not recorded) f using (fingerprint)"
"""Replies of which it is known how they came about: those of others are as they were recorded."""
_ROOM = "least(f.max_tokens, f.context - g.prompt_tokens)"


def _tokens() -> Iterator[Rule]:
    def generations(fault: str, where: str, source: str = _LIMITED) -> Rule:
        return Rule("generations", fault, f"select generation_id from {source} where {where}")

    yield generations(
        "output_tokens is not the number of token_ids",
        "g.output_tokens != len(g.token_ids) and not (f.remote and len(g.token_ids) = 0)",
    )
    yield generations(
        "has no prompt_tokens",
        "g.prompt_tokens < 0 or (g.prompt_tokens = 0 and not f.tool "
        "and g.finish_reason != 'too_long')",
    )
    yield generations(
        "counts tokens although it is of a tool",
        "f.tool and (g.prompt_tokens != 0 or g.output_tokens != 0)",
    )
    yield generations(
        "cached_tokens are not a part of prompt_tokens",
        "g.cached_tokens not between 0 and g.prompt_tokens",
    )
    yield generations(
        "reasoning_tokens are not a part of output_tokens",
        "g.reasoning_tokens not between 0 and g.output_tokens",
    )
    yield generations(
        "finish_reason is none of stop, length, too_long",
        "g.finish_reason not in ('stop', 'length', 'too_long')",
    )
    yield generations(
        "is longer than max_tokens or the window allow",
        f"not f.tool and g.finish_reason != 'too_long' and g.output_tokens > {_ROOM}",
    )
    yield generations(
        "was cut, yet is shorter than max_tokens and the window allow",
        f"g.finish_reason = 'length' and g.output_tokens < {_ROOM} and not f.remote",
    )
    yield generations(
        "has a reply although its prompt was too long",
        "g.finish_reason = 'too_long' and (g.output_tokens > 0 or g.text != '')",
    )
    yield generations(
        "has a prompt that is too long for its window, and a reply",
        "g.finish_reason != 'too_long' and g.prompt_tokens >= f.context",
    )
    yield generations(
        "is too long for no window",
        "g.finish_reason = 'too_long' and g.prompt_tokens > 0 and g.prompt_tokens < f.context",
    )
    yield generations(
        "logprobs are not one number, 0 or less, for each of token_ids",
        "g.logprobs is not null and (len(g.logprobs) != len(g.token_ids) "
        "or not list_bool_and([p <= 0 for p in g.logprobs]))",
    )
    yield generations("seconds is no duration", "not (g.seconds >= 0 and isfinite(g.seconds))")
    yield Rule(
        "generations",
        "begins in a thought, or not, unlike other samples of its prompt",
        """
        select min(generation_id) from generations
        group by fingerprint, messages_id having count(distinct thinking) > 1""",
    )
    yield Rule(
        "generations",
        "has not the prompt_key of other samples of its prompt",
        """
        select min(generation_id) from generations where prompt_key != ''
        group by fingerprint, messages_id having count(distinct prompt_key) > 1""",
    )
    yield Rule(
        "generations",
        "prompt_key is no key",
        """
        select generation_id from generations
        where not regexp_full_match(prompt_key, '([0-9a-f]{32})?')""",
    )
    yield Rule(
        "generations",
        "has not the prompt_tokens of other samples of its prompt",
        f"""
        select min(g.generation_id) from {_LIMITED} group by g.fingerprint, g.messages_id
        having count(distinct g.prompt_tokens) > 1""",
    )
    yield Rule(
        "generations",
        "prompt_tokens is one constant for all prompts of an arm",
        f"""
        select min(g.generation_id) from {_LIMITED} join messages m using (messages_id)
        where not f.tool group by g.fingerprint
        having count(distinct g.prompt_tokens) = 1 and count(distinct g.messages_id) >= {SMALL}
           and max(strlen(m.messages)) - min(strlen(m.messages)) >= {SPREAD}""",
    )
    for table in ("states", "trajectories"):
        yield Rule(
            table,
            "costs are not one number, 0 or more, for each of asks",
            f"""
            select {KEY[table]} from {table} where costs is not null and (len(costs) != len(asks)
                or len(list_filter(costs, lambda c: c < 0 or not isfinite(c))) > 0)""",
        )
        yield Rule(
            table,
            "has costs that others have recorded, of calls that were made here",
            f"""
            select key from (
                select {KEY[table]} as key, unnest(asks) as ask from {table}
                where costs is not null)
            join arms a on a.arm_id = ask.arm
            join fingerprints f on f.fingerprint = a.fingerprint where not f.recorded""",
        )
        yield Rule(
            table,
            "depth is not the number of decisions",
            f"""
            select {KEY[table]} from {table} where depth != len(decisions)""",
        )
        yield Rule(
            table,
            "counts other tokens, or another arm, than its generations",
            f"""
            with asked as (select {KEY[table]} as key, unnest(asks) as ask from {table})
            select key from asked
            join generations g on g.generation_id = ask.generation
            join arms a on a.arm_id = ask.arm
            where (ask.prompt_tokens, ask.output_tokens, a.fingerprint)
               != (g.prompt_tokens, g.output_tokens, g.fingerprint)""",
        )
    yield Rule(
        "trajectories",
        "has costs without their unit, or a unit without costs",
        """
        select trajectory_id from trajectories where (costs is null) != (unit is null)""",
    )
    yield Rule(
        "scores",
        "value is not between 0 and 1",
        """
        select trajectory_id from scores where not (value between 0 and 1)""",
    )


STRUCTURE = tuple(_structure())
RULES = (*_keys(), *_tokens())

# What is to be computed again

WAITING = """
select count(*) from generations where generation_id not in (
    select unnest([ask.generation for ask in asks]) from trajectories
    union select unnest([ask.generation for ask in asks]) from states)
"""

UNUSED_QUERIES = "select count(*) from queries where query_id not in (select query_id from splits)"

PASSAGES = """
select q.query_id, m.messages
from (select query_id, unnest(asks) as ask from trajectories semi join chosen using (query_id)) q
join generations g on g.generation_id = q.ask.generation
semi join (select fingerprint from fingerprints where tool) using (fingerprint)
join messages m using (messages_id)
"""

BY_QUESTION = """
select distinct g.generation_id, g.fingerprint, g.messages_id, g.sample, q.question
from (select query_id, unnest(asks) as ask from trajectories) t
join queries q using (query_id) join generations g on g.generation_id = t.ask.generation
semi join (select fingerprint from fingerprints where by_question) using (fingerprint)
"""

REPLIES_TO = """
select generation_id, text, prompt_tokens, output_tokens, thinking
from generations semi join chosen using (generation_id)
"""

# Prompts of an arm in an order that its replies have no part in: the first are a sample.
PROMPTS = """
select min(g.generation_id), any_value(m.messages), g.prompt_tokens, g.prompt_key
from generations g join messages m using (messages_id)
where g.fingerprint = $1
group by g.messages_id, g.prompt_tokens, g.prompt_key
order by g.messages_id, g.prompt_tokens, g.prompt_key
"""

# Drawn by a hash, so that the same seed draws the same ones again.
DRAWN = """
select g.generation_id, m.messages, g.sample, g.text, g.token_ids, g.finish_reason,
    g.prompt_key, p.facts
from generations g join messages m using (messages_id) join provenance p using (provenance_id)
where g.fingerprint = $1
order by md5(g.generation_id || $2), g.generation_id limit $3
"""

ROWS_OF_QUERIES = {
    table: f"select * from {table} semi join chosen using (query_id) where workflow = $1"
    for table in ("states", "trajectories")
}

SCORED = "select distinct extractor, metric, version from scores order by all"

SCORES = """
select distinct trajectory_id from scores
where extractor = $1 and metric = $2 and version = $3 order by trajectory_id
"""

TO_COMPARE = """
select s.trajectory_id, s.answer, s.value, t.output, q."references", q.tests
from scores s semi join chosen using (trajectory_id)
join trajectories t using (trajectory_id) join queries q using (query_id)
where s.extractor = $1 and s.metric = $2
"""

# Of no experiment that can be run again: of another workflow, pool, horizon, or other queries.
OF_NO_EXPERIMENT = """
select count(*) from trajectories where trajectory_id not in (
    select trajectory_id from outcomes semi join known using (experiment))
"""

ROWS = {table: f"select * from {table} order by all" for table in (*UNIQUE, "meta")}
QUERY_IDS = "select distinct query_id from queries order by query_id"
IDS_OF_EXPERIMENT = """
select distinct query_id from splits where experiment = $1 order by query_id
"""
