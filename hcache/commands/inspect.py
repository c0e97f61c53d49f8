"""`hcache sql`, `show`, `runs` and `doctor`: looking at what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from hcache.commands.console import console, field, print_rows, say
from hcache.commands.options import Format, OutputFormat
from hcache.errors import RunError, StoreError
from hcache.processes.signals import ended_at_once
from hcache.recorded.rows import UNRECORDED
from hcache.runs.folder import Run, all_runs, find_run
from hcache.store import answer, open_for_people
from hcache.store.queries import CALLS, FIND

DatabaseFile = Annotated[Path, typer.Option("--db", help="The database.", show_default=False)]
MISSING = "not recorded"  # by those who made the calls
RUN = ("run", "experiment", "algo", "seed", "alpha", "valid reward", "seconds", "state")
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]


def sql(
    query: Annotated[str, typer.Argument(help="Any SQL query.", show_default=False)],
    db: DatabaseFile,
    format: OutputFormat = Format.table,
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

    Example: `hcache sql "select * from sequences order by f1 desc limit 5" --db FILE`
    """
    with ended_at_once(), open_for_people(db, allow_external_access) as store:
        columns, rows = answer(store, query)
    if rows or format is not Format.table:
        print_rows(rows, format, columns=columns)
    else:
        say("no rows")


def show(
    trajectory: Annotated[
        str, typer.Argument(help="Id of a trajectory, or its first characters.", show_default=False)
    ],
    db: DatabaseFile,
    format: OutputFormat = Format.table,
) -> None:
    """Show a trajectory: the question, each hop's arm, prompt, reply, tokens and cost, the score.

    Ids stand in the view `outcomes`.

    Example: `hcache show 3f2a91 --db runs/demo/hcache.duckdb`
    """
    with ended_at_once(), open_for_people(db) as store:
        found = answer(store, FIND, [trajectory]).rows
        if not found:
            raise StoreError(
                f"{db} holds no trajectory {trajectory!r} of an experiment.",
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
            f"{db}: trajectory {outcome['trajectory_id']} is damaged ({type(e).__name__}: {e}).",
            f"See what else is: hcache check {quote(str(db))}",
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
    yield "", f"{outcome['sequence']}  ({outcome['dataset']}, {outcome['split']})"
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


runs = typer.Typer(
    help="List runs, oldest first, or show one.\n\nExample: `hcache runs --runs runs/demo`",
    invoke_without_command=True,
)


@runs.callback()
def list_runs(
    context: typer.Context, folder: RunsFolder = Path("runs"), format: OutputFormat = Format.table
) -> None:
    """List runs with algorithm, seed, α and validation reward."""
    if context.invoked_subcommand is not None:
        return
    rows = [_run_row(run) for run in all_runs(folder)]
    if rows or format is not Format.table:
        print_rows(rows, format, columns=RUN)
    else:
        say(f"no runs below {folder}; train one with: hcache train EXPERIMENT.yaml")


@runs.command("show")
def show_run(
    run: Annotated[str, typer.Argument(help="Folder or name of a run.", show_default=False)],
    folder: RunsFolder = Path("runs"),
    format: OutputFormat = Format.table,
) -> None:
    """Show the manifest of a run and its last metrics.

    Example: `hcache runs show runs/demo/ppo-s0-1a2b3c4d`
    """
    found = find_run(run, folder)
    metrics = found.metrics()
    shown = found.manifest | {"last_metrics": metrics[-1] if metrics else None}
    rows = [{"name": name, "value": value} for name, value in _flat(shown)]
    print_rows(rows, format, whole=shown)


@runs.command("compare")
def compare_runs(
    one: Annotated[str, typer.Argument(help="Folder or name of a run.", show_default=False)],
    two: Annotated[str, typer.Argument(help="The one to compare with.", show_default=False)],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    db: Annotated[Path | None, typer.Option(help="Database, in place of the first run's.")] = None,
    folder: RunsFolder = Path("runs"),
) -> None:
    """Say whether one run is better than another, by their paired difference in reward.

    Example: `hcache runs compare runs/demo/ppo-s0-1a2b3c4d runs/demo/sft-s0-5e6f7a8b`
    """
    from hcache.runs.evaluating import compare

    first, second = find_run(one, folder), find_run(two, folder)
    say(compare(first, second, split, db))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """The single values of a nested one, each with its place."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        for number, part in enumerate(value):
            yield from _flat(part, f"{name}.{number}")
    else:
        yield name, " ".join(map(str, value)) if isinstance(value, list) else value


def _run_row(run: Run) -> dict[str, Any]:
    try:
        manifest = run.manifest
    except RunError:
        return {**dict.fromkeys(RUN), "run": str(run.folder), "state": "damaged"}
    outcome = manifest.get("outcome") or {}
    state = "finished" if outcome else "stopped: the same train command goes on"
    if (name := str(manifest.get("name", run.name))) != run.name:
        state += f"; its manifest is that of {name}"
    return {
        "run": str(run.folder),
        "experiment": manifest["experiment"],
        "algo": manifest["algo"],
        "seed": manifest["seed"],
        "alpha": manifest["config"]["train"]["alpha"],
        "valid reward": outcome.get("best_valid_reward"),
        "seconds": outcome.get("seconds"),
        "state": state,
    }
