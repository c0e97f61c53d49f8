"""Every question that the package asks of a database.

Numbered parameters stand for values; tables that no schema knows are frames that the caller hands
to `Store.sql`.
"""

from __future__ import annotations

from hcache.store.schema import cost, price, recorded_cost, states_costs

# What there is

EXPERIMENTS = "select experiment from experiments order by experiment"

POOL = """
select a.name, a.arm_id, a.fingerprint, a.settings from pools p join arms a using (arm_id)
where p.experiment = $1 order by p.position
"""

METRICS = "select metric from scores union select quality from splits"

VIEW_COLUMNS = """
select column_name from duckdb_columns() where table_name = 'outcomes' order by column_index
"""

# Sampling

_STORED = """
with stored as (
    select t.query_id, t.decisions, t.asks from trajectories t semi join chosen using (query_id)
    where t.workflow = $1 and t.replica < $2 and t.depth <= $3 and list_has_all($4, t.decisions)
)
"""

COMPLETE = f"""{_STORED}
select query_id from stored group by query_id having count(*) = $5
"""

PATHS = f"""{_STORED}
select query_id, [list_position($4, d) for d in decisions] as path from stored
"""

GENERATIONS_BY_ARM = f"""{_STORED}
select a.name, count(distinct ask.generation) from (select unnest(asks) as ask from stored)
join arms a on a.arm_id = ask.arm group by a.name
"""

# Of complete queries: generations by arm and the first hop that asks for them. A query in which two
# arms ask for the same one is named instead: only the order of enumeration tells whose it is.
GENERATIONS_BY_HOP = """
with own as (
    select s.query_id, s.replica, s.decisions, s.depth, s.asks
    from states s semi join chosen using (query_id)
    where s.workflow = $1 and s.replica < $2 and s.depth < $3 and list_has_all($4, s.decisions)
),
nodes as (
    from own union all
    select t.query_id, t.replica, t.decisions, t.depth, t.asks
    from trajectories t semi join chosen using (query_id)
    where t.workflow = $1 and t.replica < $2 and t.depth <= $3 and list_has_all($4, t.decisions)
),
asked as (
    select n.query_id, greatest(n.depth, 1) as hop,
           unnest(n.asks[coalesce(len(p.asks), 0) + 1:]) as ask
    from nodes n left join own p
         on n.depth > 0 and p.query_id = n.query_id and p.replica = n.replica
            and p.decisions = array_pop_back(n.decisions)
),
found as materialized (
    select query_id, min(ask.arm) as arm, min(hop) as hop, min(ask.arm) != max(ask.arm) as torn
    from asked group by query_id, ask.generation
),
torn as (select distinct query_id from found where torn)
select null as query_id, arm, hop, count(*) as generations
from found anti join torn using (query_id) group by all
union all select query_id, null, null, 0 from torn
"""

REPLIES_BY_KEY = """
select g.generation_id, g.text, g.prompt_tokens, g.output_tokens, g.thinking
from generations g semi join chosen using (fingerprint)
"""

# Of keys, the first 64 bits; one that is no key is left out.
GENERATIONS = """
select try_cast('0x' || generation_id[:16] as ubigint) as half
from generations semi join chosen using (fingerprint) where half is not null
"""
TRAJECTORIES = """
select try_cast('0x' || trajectory_id[:16] as ubigint) as half
from trajectories where workflow = $1 and half is not null
"""

RATE = """
select epoch(max(created) - min(created)) / nullif(count(*) - 1, 0)
from (select created from generations where fingerprint = $1 order by created desc limit 1000)
"""

# Of an experiment's queries in a data set: what lacks a score of this version, and its old value.
UNSCORED = """
select t.trajectory_id, s.value as before
from trajectories t join queries q using (query_id)
semi join (select query_id from splits where experiment = $1) using (query_id)
left join scores s on s.trajectory_id = t.trajectory_id and s.extractor = $3 and s.metric = $4
where q.dataset = $2 and s.version is distinct from $5
order by t.query_id, t.trajectory_id
"""

TO_SCORE = """
select c.*, t.output, q."references", q.tests,
       coalesce(g.finish_reason = 'unrecorded', false) as unrecorded
from chosen c join trajectories t using (trajectory_id) join queries q using (query_id)
left join generations g on g.generation_id = t.asks[-1].generation
order by c.trajectory_id
"""

# Distinct generations of an experiment's arms, given by name, and how they ended.
REPLIES = """
with own as (
    select p.arm_id, a.name from pools p join arms a using (arm_id)
    where p.experiment = $1 and list_contains($2, a.name)
), asked as (
    select distinct ask.arm as arm_id, ask.generation as generation_id
    from (
        select unnest(t.asks) as ask
        from trajectories t
        semi join (
            select query_id from splits where experiment = $1 and list_contains($3, split)
        ) using (query_id)
        where t.workflow = $4 and t.depth <= $5 and t.replica < $6
          and list_has_all((select list(arm_id) from own), t.decisions)
    )
)
select o.name, count(*), count(*) filter (g.finish_reason = 'length'),
       count(*) filter (g.finish_reason = 'too_long')
from asked join own o using (arm_id) join generations g using (generation_id) group by o.name
"""

# Replay

_COSTS = {
    "tokens": f"""coalesce({cost("t.asks", "i", "o")}, 0)""",
    "recorded": recorded_cost("t.asks", "t.costs"),
}
"""By the setting `cost` of an experiment."""

_CHOSEN = """
with prices as (select map($6, $7) as i, map($6, $8) as o),
chosen as (select query_id, extractor from splits where experiment = $1 and split = $2)
"""
_SAMPLED = """
where t.workflow = $3 and t.replica < $5 and list_has_all($6, t.decisions)
"""
STATES = {
    source: f"""{_CHOSEN}
select t.query_id, t.replica, [list_position($6, d) for d in t.decisions] as path,
       t.context_id, t."role",
       len(list_intersect(t.actions, $6)) as arms, t.stop, {found} as cost
from states t join chosen using (query_id), prices {_SAMPLED} and t.depth < $4
"""
    for source, found in _COSTS.items()
}
# The same with the places of the arms that are offered, where no other rule tells them.
STATES_WITH_ARMS = {
    source: states.replace(
        "select t.query_id,",
        "select [list_position($6, a) for a in t.actions if list_contains($6, a)] as offered, "
        "t.query_id,",
    )
    for source, states in STATES.items()
}
# Path and cost first, so that the join with the scores carries no lists.
LEAVES = {
    source: f"""{_CHOSEN}, sampled as materialized (
    select t.query_id, t.replica, t.trajectory_id,
           [list_position($6, d) for d in t.decisions] as path, {found} as cost
    from trajectories t semi join chosen using (query_id), prices {_SAMPLED} and t.depth <= $4
)
select t.query_id, t.replica, t.path,
       map($9, $10)[q.dataset] as metric, s.version is not null as scored,
       case when s.version = map($9, $11)[q.dataset] then s.value end as quality, t.cost
from sampled t join chosen c using (query_id) join queries q using (query_id)
left join scores s on s.trajectory_id = t.trajectory_id and s.extractor = c.extractor
     and s.metric = map($9, $10)[q.dataset]
"""
    for source, found in _COSTS.items()
}
QUERIES = """
select q.query_id, q.dataset, q.kind from splits s join queries q using (query_id)
where s.experiment = $1 and s.split = $2 order by q.query_id
"""

CONTEXTS = """
with wanted as (
    select distinct s.context_id, s.context from states s semi join contexts using (context_id)
), parts as (
    select context_id, unnest(context) as text_id, generate_subscripts(context, 1) as place
    from wanted
)
select p.context_id, list(t.text order by p.place) from parts p join texts t using (text_id)
group by p.context_id order by p.context_id
"""

# A prompt that was too long has an output of no tokens: there is nothing to score.
CALLS_OF_POOL = """
with asked as (
    select t.query_id, t.replica, [list_position($3, d) - 1 for d in t.decisions] as path,
           t.trajectory_id, unnest(t.asks) as ask, generate_subscripts(t.asks, 1) as place
    from trajectories t join splits s using (query_id)
    where s.experiment = $1 and t.workflow = $2 and list_has_all($3, t.decisions)
)
select a.query_id, a.replica, a.path, a.ask.arm as arm, a.ask.generation as generation,
       a.ask."role" as "role", q.question, g.token_ids, g.logprobs, m.messages
from asked a join queries q using (query_id)
join generations g on g.generation_id = a.ask.generation
join messages m using (messages_id)
where list_contains($4, a.ask.arm) and len(g.token_ids) > 0
order by a.trajectory_id, a.place
"""

# For people

# By experiment and arm: generations of its fingerprint, whichever experiment asked for them. What
# others have recorded was not paid for here.
STORED = f"""
with own as (
    select p.experiment, p.position, a.name as arm, a.fingerprint, p.input_price, p.output_price,
           coalesce(e.config ->> '$.cost', '') = 'recorded' as recorded
    from pools p join arms a using (arm_id) join experiments e using (experiment)
)
select o.experiment, o.arm, count(g.generation_id) as generations,
       coalesce(sum(g.prompt_tokens), 0)::bigint as prompt_tokens,
       coalesce(sum(g.output_tokens), 0)::bigint as output_tokens,
       case when not o.recorded
       then coalesce(sum({price("g", "o.input_price", "o.output_price")}), 0) / 1000 end as spent
from own o left join generations g using (fingerprint)
group by o.experiment, o.position, o.arm, o.recorded order by o.experiment, o.position
"""

UNITS = """
select distinct t.unit from trajectories t join splits s using (query_id)
join experiments e on e.experiment = s.experiment and e.workflow = t.workflow
where e.experiment = $1 and t.unit is not null order by all
"""

FIND = """
select o.*, q.question from outcomes o join queries q using (query_id)
where starts_with(o.trajectory_id, $1) order by o.trajectory_id, o.experiment limit 100
"""

CALLS = f"""
with asks as (
    select unnest(asks) as ask, unnest(costs) as stated, generate_subscripts(asks, 1) as place
    from trajectories where trajectory_id = $1
),
setting as (
    select {states_costs("config")} as stated, config ->> '$.workflow.name' = 'recorded' as rebuilt
    from experiments where experiment = $2
)
select a.name as arm, ask."role" as "role", m.messages, g.text as reply, g.finish_reason,
       ask.prompt_tokens, ask.output_tokens, setting.rebuilt,
       case when setting.stated then asks.stated else coalesce(  -- a tool stands in no pool
           {price("ask", "p.input_price", "p.output_price")}, 0) / 1000 end as cost
from asks left join setting on true
join generations g on g.generation_id = ask.generation
join messages m using (messages_id)
join arms a on a.arm_id = ask.arm
left join pools p on p.arm_id = ask.arm and p.experiment = $2
order by place
"""

QUESTION = 'select question, "references" from queries where query_id = $1'

QUESTIONS_IN = """
select q.* from splits s join queries q using (query_id)
where s.experiment = $1 and q.dataset = $2 and s.split = $3 order by q.query_id
"""

ITEMS = "select query_id, item from queries where item is not null"

QUESTIONS = "select query_id, question from queries"

QUESTIONS_OF = "select query_id, question from queries semi join chosen using (query_id)"

OUTCOME = """
select o.trajectory_id, o.answer, o.notes
from outcomes o join trajectories t using (trajectory_id)
where o.experiment = $1 and o.query_id = $2 and o.replica = $3 and t.decisions = $4
"""

ROLES = """
select any_value("role") as "role" from states
where workflow = $1 and "role" != '' group by depth order by depth
"""


# What a file holds

# Digests are joined in two steps, so that no text grows with the table.
DIGEST = """
with hashed as (select sha256(to_json(t)::varchar) as row from (select {columns} from {table}) t),
parts as (
    select row[:4] as part, count(*) as rows, sha256(string_agg(row, '' order by row)) as digest
    from hashed group by part
)
select coalesce(sum(rows), 0)::bigint, sha256(coalesce(string_agg(digest, '' order by part), ''))
from parts
"""
