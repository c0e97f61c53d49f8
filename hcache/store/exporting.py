"""Exporting: outcomes and calls of an experiment as rows that leave the database.

The columns are listed one by one, so that what is new in the database stays inside until somebody
decides otherwise. Their types are of hcache, whatever a foreign view makes of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from hcache.store.schema import price, quoted, states_costs

STEP = """struct(arm varchar, "role" varchar, reply varchar, prompt_tokens integer,
    output_tokens integer, finish_reason varchar, hop integer, cost double)"""
"""A call of a trajectory; `hop` is the decision that it follows, from 1."""


def exported(metrics: Iterable[str]) -> str:
    """Every trajectory of an experiment with its calls and its values of the metrics."""
    values = "".join(f" c.{quoted(name)}::double as {quoted(name)}," for name in metrics)
    return rf"""
with chosen as (select * from outcomes where experiment = $1),
setting as (select {states_costs("config")} as stated from experiments where experiment = $1),
own as (select t.* from trajectories t semi join chosen using (trajectory_id)),
asks as (
    select trajectory_id, unnest(asks) as ask, unnest(costs) as stated,
           generate_subscripts(asks, 1) as place
    from own
),
before as (  -- calls that were made before each decision
    select o.trajectory_id, list(len(s.asks)) as made
    from (select *, unnest(range(len(decisions))) as hop from own) o
    join states s on s.query_id = o.query_id and s.workflow = o.workflow
         and s.replica = o.replica and s.decisions = o.decisions[:o.hop]
    group by o.trajectory_id
),
asked as (  -- what stands after the passages, where the reader has put some before the question
    select *, string_split(question, E'\n\nQuestion: ')[-1] as asked from queries
),
steps as (
    select k.trajectory_id,
           list({{arm: a.name, "role": k.ask."role", reply: g.text,
                 prompt_tokens: k.ask.prompt_tokens, output_tokens: k.ask.output_tokens,
                 finish_reason: g.finish_reason,
                 hop: greatest(1, len([made for made in b.made if made < k.place])),
                 cost: case when setting.stated then k.stated else coalesce(
                     {price("k.ask", "p.input_price", "p.output_price")}, 0) / 1000 end}}
                order by k.place) as steps
    from asks k left join setting on true
    left join before b using (trajectory_id)
    join generations g on g.generation_id = k.ask.generation
    join arms a on a.arm_id = k.ask.arm
    left join pools p on p.arm_id = k.ask.arm and p.experiment = $1  -- a tool stands in none
    group by k.trajectory_id
)
select c.experiment::varchar as experiment, c.split::varchar as split,
       c.dataset::varchar as dataset, c.kind::varchar as kind, c.query_id::varchar as query_id,
       q.item::varchar as item, q.question::varchar as question,
       q."references"::varchar[] as "references", c.trajectory_id::varchar as trajectory_id,
       c.replica::integer as replica, c.sequence::varchar as sequence, c.depth::integer as depth,
       s.steps::{STEP}[] as steps, c.answer::varchar as answer, c.notes::varchar[] as notes,
      {values} c.quality::double as quality, c.cost::double as cost,
       c.prompt_tokens::bigint as prompt_tokens, c.output_tokens::bigint as output_tokens,
       len([step for step in s.steps if contains(step.reply, q.asked)]) > 0 as repeats
from chosen c
join asked q using (query_id)
left join steps s using (trajectory_id)
order by c.split, c.query_id, c.depth, c.sequence, c.replica
"""


# Of the trajectories in the frame `chosen`: calls of the pool, all or the last of each alone.
CALLS_OF = """
with asked as (
    select t.trajectory_id, unnest(t.asks) as ask, generate_subscripts(t.asks, 1) as place,
           len(t.asks) as calls
    from trajectories t semi join chosen using (trajectory_id)
)
select a.trajectory_id, r.name as arm, m.messages_id, m.messages, g.generation_id, g.sample,
       g.text as reply, g.finish_reason
from asked a
join pools p on p.arm_id = a.ask.arm and p.experiment = $1
join arms r on r.arm_id = a.ask.arm
join generations g on g.generation_id = a.ask.generation
join messages m using (messages_id)
where not $2 or place = calls
order by a.trajectory_id, a.place
"""

# Where the generations of an experiment's arms are from, and the days of the first and the last.
MADE_BY = """
with own as (
    select distinct a.fingerprint from pools p join arms a using (arm_id) where p.experiment = $1
)
select p.facts, min(g.created)::date::varchar as first, max(g.created)::date::varchar as last
from generations g semi join own using (fingerprint) join provenance p using (provenance_id)
group by p.facts order by count(*) desc, p.facts
"""

# Where an experiment's arms, given by id, could be chosen: after whom, and which.
OFFERED = """
select distinct s.decisions, s.actions, s.stop
from experiments e join splits p using (experiment)
join states s on s.query_id = p.query_id and s.workflow = e.workflow
     and s.depth < e.hops and s.replica < e.replicas
where e.experiment = $1 and list_has_all($2, s.decisions)
"""

UNIT = """
select any_value(unit) from trajectories
semi join (select query_id from splits where experiment = $1) using (query_id)
"""
