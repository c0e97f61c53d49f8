"""`hcache runs`: trained runs listed, shown, compared, repeated and deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hcache.commands.console import print_rows, say
from hcache.commands.options import Database, Format, OutputFormat
from hcache.commands.routers import TrainingProgress
from hcache.commands.targets import RunName, RunsFolder
from hcache.errors import RunError
from hcache.runs.folder import Run, all_runs, find_run

if TYPE_CHECKING:
    from collections.abc import Sequence

RUN = ("run", "experiment", "algo", "seed", "alpha", "valid reward", "seconds", "state", "folder")
STOPPED = "stopped; its train command goes on"

app = typer.Typer(
    help="List runs, show one, compare two, repeat or delete some.\n\n"
    "Example: `hcache runs list --runs runs/demo`",
    no_args_is_help=True,
)


@app.command("list")
def list_runs(folder: RunsFolder = Path("runs"), format: OutputFormat = Format.table) -> None:
    """List runs, the oldest first, with their validation reward and their state.

    Example: `hcache runs list --runs runs/demo`
    """
    rows = [_row(run) for run in all_runs(folder)]
    if format is not Format.table:
        print_rows(rows, format, columns=RUN)
    elif rows:
        print_rows(rows, columns=RUN[:-1], title=f"runs below {folder}")
    else:
        say(f"no runs below {folder}; train one with: hcache train EXPERIMENT.yaml")


@app.command()
def show(
    run: RunName, folder: RunsFolder = Path("runs"), format: OutputFormat = Format.table
) -> None:
    """Show the manifest of a run and its last metrics.

    Example: `hcache runs show ppo-s0-1a2b`
    """
    found = find_run(run, folder)
    metrics = found.metrics()
    shown = found.manifest | {"last_metrics": metrics[-1] if metrics else None}
    rows = [{"name": name, "value": value} for name, value in _flat(shown)]
    print_rows(rows, format, whole=shown)


@app.command()
def compare(
    one: RunName,
    two: RunName,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    db: Database = None,
    folder: RunsFolder = Path("runs"),
) -> None:
    """Say whether one run is better than another, by their paired difference in reward.

    Example: `hcache runs compare ppo-s0-1a2b sft-s0-5e6f`
    """
    from hcache.runs.evaluating import compare as compare_runs

    first, second = find_run(one, folder), find_run(two, folder)
    say(compare_runs(first, second, split, db))


@app.command()
def repeat(run: RunName, db: Database = None, folder: RunsFolder = Path("runs")) -> None:
    """Train a run again from its manifest, and say whether the result is identical.

    Where it is not, the first difference is said, and the exit code is 1.

    Example: `hcache runs repeat ppo-s0-1a2b`
    """
    from hcache.runs.training import repeat as train_again

    found = find_run(run, folder)
    with TrainingProgress(found.config) as on_metrics:
        difference = train_again(found, db, on_metrics)
    if difference is not None:
        raise RunError(
            f"{found.name} came out otherwise: {difference}.",
            f"See what it was made with, and where: hcache runs show {quote(str(found.folder))}",
        )
    say(f"{found.name}: identical")


@app.command()
def delete(
    runs: Annotated[
        list[str], typer.Argument(help="Runs, each by its folder or how its name begins.")
    ],
    folder: RunsFolder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before.")] = False,
) -> None:
    """Delete runs with all that is in their folders. A run that is being trained is refused.

    Example: `hcache runs delete ppo-s0-1a2b --yes`
    """
    found = list(dict.fromkeys(find_run(name, folder) for name in runs))
    if not yes:
        for run in found:
            say(f"{run.folder}")
        typer.confirm(f"Delete {_counted(found)}?", abort=True)
    for run in found:
        with run.lock():  # nobody trains it, nor begins to
            shutil.rmtree(run.folder)
        say(f"{run.folder}: deleted")


def _counted(runs: Sequence[Run]) -> str:
    return "this run" if len(runs) == 1 else f"these {len(runs)} runs"


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


def _row(run: Run) -> dict[str, Any]:
    name = {"run": run.name, "folder": str(run.folder)}
    try:
        manifest = run.manifest
    except RunError:
        return {**dict.fromkeys(RUN), **name, "state": "damaged"}
    outcome = manifest.get("outcome") or {}
    state = "finished" if outcome else "running" if run.is_locked() else STOPPED
    if (known := str(manifest.get("name", run.name))) != run.name:
        state += f"; its manifest is that of {known}"
    return name | {
        "experiment": manifest["experiment"],
        "algo": manifest["algo"],
        "seed": manifest["seed"],
        "alpha": manifest["config"]["train"]["alpha"],
        "valid reward": outcome.get("best_valid_reward"),
        "seconds": outcome.get("seconds"),
        "state": state,
    }
