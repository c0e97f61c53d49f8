"""Every question that the package asks of a database."""

from __future__ import annotations

TRAJECTORIES = r"""
with chosen as (select * from outcomes where experiment = $1),
asks as (
    select trajectory_id, unnest(asks) as ask, generate_subscripts(asks, 1) as place
    from trajectories semi join chosen using (trajectory_id)
),
asked as (  -- what stands after the passages, where the reader has put some before the question
    select *, string_split(question, E'\n\nQuestion: ')[-1] as asked from queries
),
steps as (
    select k.trajectory_id,
           list({arm: a.name, "role": k.ask."role", reply: g.text,
                 prompt_tokens: k.ask.prompt_tokens, output_tokens: k.ask.output_tokens,
                 finish_reason: g.finish_reason}
                order by k.place) as steps
    from asks k
    join generations g on g.generation_id = k.ask.generation
    join arms a on a.arm_id = k.ask.arm
    group by k.trajectory_id
)
select c.experiment, c.split, c.dataset, c.kind, c.query_id, q.question, q."references",
       c.trajectory_id, c.replica, c.sequence, c.depth, s.steps, c.answer, c.notes,
       c.f1, c.em, c.numeric, c.choice, c.quality, c.cost,
       c.prompt_tokens::bigint as prompt_tokens, c.output_tokens::bigint as output_tokens,
       len([step for step in s.steps if contains(step.reply, q.asked)]) > 0 as repeats
from chosen c
join asked q using (query_id)
left join steps s using (trajectory_id)
order by c.split, c.query_id, c.depth, c.sequence, c.replica
"""

FIND = """
select o.*, q.question from outcomes o join queries q using (query_id)
where starts_with(o.trajectory_id, $1) order by o.trajectory_id, o.experiment limit 100
"""

CALLS = """
with asks as (
    select unnest(asks) as ask, generate_subscripts(asks, 1) as place
    from trajectories where trajectory_id = $1
)
select a.name as arm, ask."role" as "role", m.messages, g.text as reply, g.finish_reason,
       ask.prompt_tokens, ask.output_tokens, coalesce(  -- a tool stands in no pool
           p.input_price * ask.prompt_tokens + p.output_price * ask.output_tokens, 0) / 1000 as cost
from asks
join generations g on g.generation_id = ask.generation
join messages m using (messages_id)
join arms a on a.arm_id = ask.arm
left join pools p on p.arm_id = ask.arm and p.experiment = $2
order by place
"""

UNSCORED = """
select t.trajectory_id, t.query_id, t.output
from trajectories t join queries q using (query_id)
where q.dataset = $1 and not exists (
    select 1 from scores s
    where s.trajectory_id = t.trajectory_id and s.extractor = $2 and s.metric = $3)
"""
