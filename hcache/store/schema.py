"""The schema of the database: tables of raw facts, views for people, and migrations.

All SQL that shapes the file stands here; queries on it stand in `queries.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

VERSION = 7
OLDEST = 2  # the first version that was released

ASK = """struct(arm varchar, generation varchar, prompt_tokens integer, output_tokens integer,
    "role" varchar)"""

CONFLICTS = """
create table conflicts (
    conflict_id varchar not null, table_name varchar not null, key varchar not null,
    content varchar not null, facts varchar not null, origin varchar not null
);
"""

TABLES = f"""
create table queries (
    query_id varchar not null, dataset varchar not null, kind varchar not null,
    question varchar not null, "references" varchar[] not null, item varchar,
    instruction varchar, examples varchar, tests varchar
);
create table arms (
    arm_id varchar not null, name varchar not null, fingerprint varchar not null,
    settings varchar not null
);
create table experiments (
    experiment varchar not null, workflow varchar not null, hops integer not null,
    replicas integer not null, config varchar not null
);
create table pools (
    experiment varchar not null, position integer not null, arm_id varchar not null,
    input_price double not null, output_price double not null
);
create table splits (
    experiment varchar not null, query_id varchar not null, split varchar not null,
    extractor varchar not null, quality varchar not null
);
create table messages (messages_id varchar not null, messages varchar not null);
create table generations (
    generation_id varchar not null, fingerprint varchar not null, messages_id varchar not null,
    sample integer not null, text varchar not null, token_ids integer[] not null,
    prompt_tokens integer not null, output_tokens integer not null, cached_tokens integer not null,
    finish_reason varchar not null, logprobs float[], seconds double not null,
    provenance_id varchar not null, created timestamp not null,
    thinking boolean not null default false, prompt_key varchar not null default '',
    reasoning_tokens integer not null default 0
);
create table provenance (provenance_id varchar not null, facts varchar not null);
create table texts (text_id varchar not null, text varchar not null);
create table states (
    query_id varchar not null, workflow varchar not null, replica integer not null,
    decisions varchar[] not null, depth integer not null, role varchar not null,
    context_id varchar not null, context varchar[] not null, actions varchar[] not null,
    stop boolean not null, asks {ASK}[] not null, costs double[]
);
create table trajectories (
    trajectory_id varchar not null, query_id varchar not null, workflow varchar not null,
    replica integer not null, decisions varchar[] not null, depth integer not null,
    sequence varchar not null, output varchar not null, notes varchar[] not null,
    asks {ASK}[] not null, costs double[], unit varchar
);
create table scores (
    trajectory_id varchar not null, extractor varchar not null, metric varchar not null,
    answer varchar not null, value double not null, version varchar not null default ''
);
{CONFLICTS}"""

UNIQUE = {
    "queries": "query_id",
    "arms": "arm_id",
    "experiments": "experiment",
    "pools": "experiment, position",
    "splits": "experiment, query_id",
    "messages": "messages_id",
    "generations": "generation_id",
    "provenance": "provenance_id",
    "texts": "text_id",
    "states": "query_id, workflow, replica, decisions",
    "trajectories": "trajectory_id",
    "scores": "trajectory_id, extractor, metric",
    "conflicts": "conflict_id",
}
"""Columns that identify a row. The writer keeps it so; primary keys make commits 3 times slower."""

CONFLICT = "table_name || chr(10) || key || chr(10) || content"
"""The content that the key of a conflict is made of."""

OPTIONAL = frozenset({"item", "instruction", "examples", "tests", "costs", "unit"})
"""Columns that not every file needs; a table that has nothing in one is as if without it."""

MERGE = {
    "states": """
update states s set actions = list_sort(list_distinct(list_concat(s.actions, b.actions)))
from batch b
where s.query_id = b.query_id and s.workflow = b.workflow and s.replica = b.replica
  and s.decisions = b.decisions and not list_has_all(s.actions, b.actions)
""",
    "scores": """
update scores s set answer = b.answer, value = b.value, version = b.version
from batch b
where s.trajectory_id = b.trajectory_id and s.extractor = b.extractor and s.metric = b.metric
  and s.version != b.version
""",
}
"""Changes of a batch to rows that are there: a larger pool offers more actions, and a score gives
way to one by another version of its extractor or metric."""

RESERVED = frozenset(
    {
        "experiment", "split", "dataset", "kind", "query_id", "question", "references",
        "trajectory_id", "replica", "sequence", "depth", "queries", "answer", "notes", "quality",
        "cost", "prompt_tokens", "output_tokens", "steps", "repeats", "share", "item",
    }
)  # fmt: skip
"""Names, in lower case, that no metric may have: columns beside metrics in views and exports."""

FIRST = ("f1", "em", "numeric", "choice")
"""Metrics whose columns come first; those of others follow in alphabetical order."""


def price(ask: str, input_price: str, output_price: str) -> str:
    """A thousand times the cost of a call: prices are for a thousand tokens."""
    return f"({input_price} * {ask}.prompt_tokens + {output_price} * {ask}.output_tokens)"


def cost(asks: str, input_prices: str, output_prices: str) -> str:
    """The cost of a list of calls, at prices that are maps by arm."""
    each = price("a", f"{input_prices}[a.arm]", f"{output_prices}[a.arm]")
    return f"list_sum([{each} / 1000 for a in {asks}])"


def states_costs(config: str) -> str:
    """SQL that is true if an experiment, by its settings, takes costs as they were recorded."""
    return f"coalesce(json_extract_string({config}, '$.cost') = 'recorded', false)"


def recorded_cost(asks: str, costs: str) -> str:
    """The cost of a list of calls as it was recorded; null where that of any call is not known."""
    return f"""case when coalesce(list_count({costs}), 0) = len({asks})
        then coalesce(list_sum({costs}), 0) end"""


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL text."""
    return "'" + text.replace("'", "''") + "'"


def columns(metrics: Iterable[str]) -> list[str]:
    """Metrics that get a column, in order; of names that differ in case alone, the first does."""
    names = set(metrics)
    found: dict[str, str] = {}
    for name in [*(name for name in FIRST if name in names), *sorted(names.difference(FIRST))]:
        if name.lower() not in RESERVED:
            found.setdefault(name.lower(), name)
    return list(found.values())


def views(metrics: Iterable[str]) -> str:
    """The views for people, where the scores are of these metrics."""
    names = columns(metrics)
    found = [(f"metric_{place}", literal(name), quoted(name)) for place, name in enumerate(names)]
    maxima = "".join(f", max(value) filter (metric = {text}) as {at}" for at, text, _ in found)
    values = "".join(f" v.{at} as {name}," for at, _, name in found)
    means = "".join(f" avg({name}) as {name}," for _, _, name in found)
    cases = "".join(f" when {text} then v.{at}" for at, text, _ in found)
    quality = f"case s.quality{cases} end" if cases else "null::double"
    return f"""
create or replace view outcomes as
with prices as (
    select p.experiment,
           map_from_entries(list((p.arm_id, p.input_price))) as input_price,
           map_from_entries(list((p.arm_id, p.output_price))) as output_price,
           list(p.arm_id) as arm_ids
    from pools p group by p.experiment
),
pivoted as (
    select trajectory_id, extractor, any_value(answer) as answer{maxima}
    from scores group by all
)
select e.experiment, s.split, q.dataset, q.kind, t.sequence, t.depth, t.replica,
       v.answer, q."references",{values} {quality} as quality,
       case when {states_costs("e.config")}
            then {recorded_cost("t.asks", "t.costs")}
            else {cost("t.asks", "p.input_price", "p.output_price")} end as cost,
       list_sum([a.prompt_tokens for a in t.asks]) as prompt_tokens,
       list_sum([a.output_tokens for a in t.asks]) as output_tokens,
       t.notes, t.query_id, t.trajectory_id
from experiments e
join prices p using (experiment)
join splits s using (experiment)
join trajectories t on t.query_id = s.query_id and t.workflow = e.workflow
     and t.depth <= e.hops and t.replica < e.replicas and list_has_all(p.arm_ids, t.decisions)
join queries q on q.query_id = t.query_id
left join pivoted v on v.trajectory_id = t.trajectory_id and v.extractor = s.extractor;

create or replace view sequences as
with started as (
    select e.experiment, s.split, count(distinct st.query_id) as started
    from experiments e join splits s using (experiment)
    join states st on st.query_id = s.query_id and st.workflow = e.workflow and st.depth = 0
    group by all
)
select experiment, split, sequence, depth, count(distinct query_id) as queries,
      {means} avg(quality) as quality, avg(cost) as cost, avg(prompt_tokens) as prompt_tokens,
       avg(output_tokens) as output_tokens, count(distinct query_id) / any_value(started) as share
from outcomes join started using (experiment, split) group by all;

create or replace view coverage as
with sampled as (
    select e.experiment, s.split, st.query_id, st.depth, st.stop,
           len(list_intersect(st.actions, p.arm_ids)) as arms
    from experiments e
    join (select experiment, list(arm_id) as arm_ids from pools group by experiment) p
         using (experiment)
    join splits s using (experiment)
    join states st on st.query_id = s.query_id and st.workflow = e.workflow
         and st.depth < e.hops and st.replica < e.replicas
         and list_has_all(p.arm_ids, st.decisions)
),
offered as (
    select experiment, split, depth + 1 as depth, count(distinct query_id) as queries,
           sum(arms) as paths
    from sampled group by all
),
passing as (  -- through a state without STOP: no trajectory ends there
    select experiment, split, depth, count(*) as paths
    from sampled where depth > 0 and not stop group by all
),
present as (
    select experiment, split, depth, count(*) as trajectories from outcomes group by all
),
levels as (
    select experiment, split, depth, o.queries, o.paths as offered,
           coalesce(n.paths, 0) as passing, coalesce(p.trajectories, 0) as trajectories,
           offered / nullif(passing + trajectories, 0) as missing_factor
    from offered o left join passing n using (experiment, split, depth)
    left join present p using (experiment, split, depth)
),
scaled as (  -- what is missing behind a path that is missing is like what the others have
    select *, coalesce(product(missing_factor) over (
        partition by experiment, split order by depth
        rows between unbounded preceding and 1 preceding
    ), 1) as before from levels
)
select experiment, split, depth, queries,
       round(before * (offered - passing * coalesce(missing_factor, 1)))::hugeint as expected,
       trajectories
from scaled where expected > 0;

create or replace view oracle as
with best as (
    select experiment, split, dataset, kind, query_id, replica,
           max(quality) as quality,
           arg_max(sequence, (quality, -cost)) filter (quality is not null) as sequence,
           arg_max(cost, (quality, -cost)) filter (quality is not null) as cost
    from outcomes group by all
)
select experiment, split, dataset, kind, count(distinct query_id) as queries,
       avg(quality) as quality, avg(cost) as cost, mode(sequence) as commonest_sequence,
       any_value(share) as share
from best left join (
    select experiment, split, sum(trajectories) / sum(expected) as share from coverage group by all
) using (experiment, split)
group by all;

create or replace view leaderboard as
select experiment, split,
       case when share = 1 then rank() over (
           partition by experiment, split, share = 1 order by quality desc, cost
       ) end as place,
       sequence, queries, quality, cost, share
from sequences
union all
select experiment, split, 0 as place, 'oracle' as sequence, sum(queries) as queries,
       sum(quality * queries) / sum(queries) as quality, sum(cost * queries) / sum(queries) as cost,
       any_value(share) as share
from oracle group by experiment, split;

create or replace view roles as
with asked as (
    select o.experiment, o.split, o.sequence, t.asks, t.costs,
           {states_costs("e.config")} as stated,
           count(*) over (partition by o.experiment, o.split, o.sequence) as outcomes
    from outcomes o join trajectories t using (trajectory_id) join experiments e using (experiment)
),
asks as (
    select experiment, split, sequence, outcomes, stated, unnest(asks) as ask,
           unnest(costs) as cost
    from asked
)
select a.experiment, split, sequence, ask."role" as "role",
       sum(ask.prompt_tokens) / any_value(outcomes) as prompt_tokens,
       sum(ask.output_tokens) / any_value(outcomes) as output_tokens,
       sum(case when stated then a.cost
           else coalesce({price("ask", "p.input_price", "p.output_price")}, 0) / 1000 end)
           / any_value(outcomes) as cost
from asks a left join pools p on p.experiment = a.experiment and p.arm_id = ask.arm
group by all;
"""


MIGRATIONS: dict[int, str] = {
    2: """
alter table scores add column version varchar default '';
alter table scores alter column version set not null;
""",
    3: """
alter table generations add column thinking boolean default false;
alter table generations alter column thinking set not null;
alter table generations add column prompt_key varchar default '';
alter table generations alter column prompt_key set not null;
""",
    4: f"""
alter table generations add column reasoning_tokens integer default 0;
alter table generations alter column reasoning_tokens set not null;
{CONFLICTS}""",
    5: """
alter table queries add column item varchar;
alter table states add column costs double[];
alter table trajectories add column costs double[];
alter table trajectories add column unit varchar;
""",
    6: """
alter table queries add column instruction varchar;
alter table queries add column examples varchar;
alter table queries add column tests varchar;
""",
}
"""SQL that lifts a file from the version that is its key to the next one."""
