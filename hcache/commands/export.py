"""`hcache export`: replies and outcomes as one flat file, for those who may not have the questions.

The columns are listed one by one, so that what is new in the database stays out of the file until
somebody decides otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from hcache.commands.inspect import DatabaseFile
from hcache.commands.options import console
from hcache.errors import ConfigError, StoreError, lookup
from hcache.files import replace_file
from hcache.store import Store

FORMATS: dict[str, Callable[[pl.DataFrame, BytesIO], None]] = {
    ".jsonl": pl.DataFrame.write_ndjson,
    ".parquet": pl.DataFrame.write_parquet,
}
QUESTIONS = ("question", "references")


def export(
    out: Annotated[
        Path, typer.Argument(help="The file to write: .jsonl or .parquet.", show_default=False)
    ],
    db: DatabaseFile,
    experiment: Annotated[
        str | None, typer.Option(help="Which one, where the database holds several.")
    ] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="With questions and references.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write every trajectory of an experiment with its replies, scores and cost, one a row.

    Questions, references and prompts stay out: their licence may forbid copies. Replies stand as
    they are, also where a model repeats what it was asked; the command says how many do.

    Example: `hcache export --db runs/demo/hcache.duckdb replies.parquet`
    """
    if out.suffix not in FORMATS:
        raise ConfigError(f"{out}: unknown format {out.suffix!r}.", f"Known: {', '.join(FORMATS)}.")
    check_free(out, force)
    with Store(db) as store:
        chosen = chosen_experiment(store, experiment)
        frame = store.sql(TRAJECTORIES, [chosen])
    if frame.is_empty():
        raise StoreError(
            f"{db} holds no trajectories of {chosen}.",
            "Fill it with: hcache sample EXPERIMENT.yaml",
        )
    repeating = frame["repeats"].sum()
    data = BytesIO()
    FORMATS[out.suffix](frame.drop("repeats", *(() if questions else QUESTIONS)), data)
    replace_file(out, data.getvalue())
    said = f"{len(frame)} trajectories of {chosen} in {out}"
    if repeating and not questions:
        said += f"; in {repeating} of them a reply repeats the question"
    console.print(said, soft_wrap=True, highlight=False)


def check_free(out: Path, force: bool) -> None:
    """Refuse to write over a file.

    Raises:
        ConfigError: it is there, and nobody said that it may go.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already.", "Replace it with --force.")


def chosen_experiment(store: Store, name: str | None) -> str:
    """The experiment of that name, or the only one.

    Raises:
        ConfigError: there is none of that name.
        StoreError: there are several to choose from, or none.
    """
    found = store.sql("select experiment from experiments order by all")
    known: list[str] = found["experiment"].to_list()
    if name is not None:
        return lookup({experiment: experiment for experiment in known}, name, "experiment")
    if len(known) != 1:
        raise StoreError(
            f"{store.path} holds {len(known)} experiments.",
            f"Choose with --experiment: {', '.join(known)}." if known else "",
        )
    return known[0]


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
