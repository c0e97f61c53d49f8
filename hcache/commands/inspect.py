"""`hcache sql` and `hcache show`: looking into a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import Annotated, Any

import typer

from hcache.commands.console import console, field, print_rows, say
from hcache.commands.options import Database, Format, OutputFormat
from hcache.commands.targets import Target, database_of
from hcache.errors import StoreError
from hcache.processes.signals import ended_at_once
from hcache.recorded.rows import UNRECORDED
from hcache.store import answer, open_for_people
from hcache.store.queries import CALLS, FIND

ID = 12  # characters of a key that tell it from others
MISSING = "not recorded"  # by those who made the calls


def sql(
    query: Annotated[str, typer.Argument(help="Any SQL query.", show_default=False)],
    target: Target = None,
    db: Database = None,
    format: OutputFormat = Format.table,
    rows: Annotated[
        int, typer.Option("--rows", min=0, help="Most rows of a table; 0 for all of them.")
    ] = 40,
    allow_external_access: Annotated[
        bool,
        typer.Option(
            "--allow-external-access",
            help="Let the SQL, and the views of the database, read and write other files.",
        ),
    ] = False,
) -> None:
    """Ask the database. Read-only; works while sampling runs.

    The SQL reaches the database and nothing else: no file, no network, no setting. Tables and views
    are described in docs/database.md; those for people are `sequences`, `leaderboard`, `oracle`,
    `roles`, `coverage` and `outcomes`.

    Example: `hcache sql "from sequences order by f1 desc limit 5" EXPERIMENT.yaml`
    """
    path = database_of(target, db)
    with ended_at_once(), open_for_people(path, allow_external_access) as store:
        columns, found = answer(store, query)
    if format is not Format.table:
        print_rows(found, format, columns=columns)
    elif not found:
        say("no rows")
    else:
        shown = found[: rows or None]
        print_rows(shown, columns=columns, elide=True)
        if more := len(found) - len(shown):
            say(f"{more:,} more rows; --rows 0 shows all of them.")


def show(
    trajectory: Annotated[
        str, typer.Argument(help="Id of a trajectory, or its first characters.", show_default=False)
    ],
    target: Target = None,
    db: Database = None,
    format: OutputFormat = Format.table,
) -> None:
    """Show a trajectory: the question, each hop's arm, prompt, reply, tokens and cost, the score.

    Ids stand in the view `outcomes`. Runs are shown by `hcache runs show`.

    Example: `hcache show 3f2a91 EXPERIMENT.yaml`
    """
    path = database_of(target, db)
    with ended_at_once(), open_for_people(path) as store:
        found = answer(store, FIND, [trajectory]).rows
        if not found:
            raise StoreError(
                f"{path} holds no trajectory {trajectory!r} of an experiment.",
                "Ids: hcache sql 'select trajectory_id, sequence from outcomes limit 9' --db FILE",
            )
        if len({row["trajectory_id"] for row in found}) > 1:
            raise StoreError(
                f"more than one trajectory begins with {trajectory!r}.", "Give more of its id."
            )
        outcome = found[0]
        calls = answer(store, CALLS, [outcome["trajectory_id"], outcome["experiment"]]).rows
        scores = {metric: outcome[metric] for metric in store.metrics()}
    if format is not Format.table:
        print_rows(calls, format, whole={"outcome": outcome, "calls": calls})
        return
    try:
        told = [(f"{name}", f"{text}") for name, text in _told(outcome, calls, scores)]
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as e:
        raise StoreError(
            f"{path}: trajectory {outcome['trajectory_id']} is damaged ({type(e).__name__}: {e}).",
            f"See what else is: hcache check {quote(str(path))}",
        ) from e
    for name, text in told:
        if name:
            field(f"{name}:", text)
        else:
            console.rule(text)


def _told(
    outcome: dict[str, Any], hops: list[dict[str, Any]], scores: dict[str, float | None]
) -> Iterator[tuple[Any, Any]]:
    """Names with their texts; a text without a name is a heading."""
    found = f"{outcome['sequence']} ({outcome['dataset']}, {outcome['split']})"
    yield "", f"trajectory {outcome['trajectory_id'][:ID]}: {found}"
    yield "question", outcome["question"]
    for number, hop in enumerate(hops, 1):
        who = f"{hop['role']} {hop['arm']}".strip()
        silent = hop["finish_reason"] == UNRECORDED
        end = "" if silent else f", {hop['finish_reason']}"
        yield "", f"{number}. {who}: {_tokens(hop)}, {_cost(hop['cost'])}{end}"
        if hop["rebuilt"]:  # of the question and the replies before, to tell calls apart
            yield "prompt", MISSING
        else:
            for message in json.loads(hop["messages"]):
                yield message["role"], message["content"]
        yield "reply", MISSING if silent else hop["reply"]
    yield "", "outcome"
    yield "answer", outcome["answer"] or ""
    yield "references", " | ".join(outcome["references"])
    known = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None)
    yield "scores", f"{known}; {_cost(outcome['cost'])}"
    if outcome["notes"]:
        yield "notes", "; ".join(outcome["notes"])


def _tokens(hop: dict[str, Any]) -> str:
    read, written = hop["prompt_tokens"], hop["output_tokens"]
    known = read or written or not hop["rebuilt"]
    return f"{read} + {written} tokens" if known else f"tokens {MISSING}"


def _cost(cost: float | None) -> str:
    return f"cost {MISSING}" if cost is None else f"cost {cost:.4g}"
