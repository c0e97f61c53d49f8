"""Targets of commands: an experiment file, its database, its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hcache.commands.console import notes, say
from hcache.errors import RunError
from hcache.experiment import Experiment

if TYPE_CHECKING:
    from hcache.runs.folder import Run

Target = Annotated[
    Path | None,
    typer.Argument(
        metavar="[EXPERIMENT.yaml|DB]",
        help="An experiment or its database; or give --db.",
        show_default=False,
    ),
]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
RunName = Annotated[
    str, typer.Argument(help="A run: its folder, or how its name begins.", show_default=False)
]


def is_experiment(target: str | Path) -> bool:
    """True if a target is an experiment file by its name."""
    return str(target).endswith((".yaml", ".yml"))


def load_experiment(
    file: str | Path,
    overrides: Sequence[str] | None = None,
    db: Path | None = None,
    plugins: Sequence[Path] | None = None,
    algo: str | None = None,
) -> Experiment:
    """Load an experiment as the options of a command say; warn if it has a second database."""
    loaded = Experiment.load(file, overrides or (), db, algo, plugins or ())
    beside = loaded.folder / loaded.config.db
    if db is None and beside.exists() and beside.resolve() != loaded.db.resolve():
        say(
            f"WARNING: another database of {loaded.name} lies beside its file: {beside}; used is "
            f"{loaded.db.resolve()}, since `db` is looked up in the working directory. "
            "To use the other, give it with --db.",
            "bold red",
            notes,
        )
    return loaded


def database_of(target: Path | None, db: Path | None) -> Path:
    """The database that a target names, or `--db`.

    Raises:
        typer.BadParameter: there is neither.
    """
    if db is not None:
        if target is not None and not is_experiment(target):
            raise typer.BadParameter(f"two databases, {target} and --db {db}: name one.")
        return db
    if target is None:
        raise typer.BadParameter("which database? Give an experiment file, or --db FILE.")
    return load_experiment(target).db if is_experiment(target) else target


def target_of(
    target: str, overrides: Sequence[str] | None, db: Path | None, plugins: Sequence[Path] | None
) -> tuple[Experiment, list[Run]]:
    """An experiment file with its finished runs, or a run with its experiment."""
    from hcache.runs.comparability import damage
    from hcache.runs.folder import all_runs, find_run

    if is_experiment(target):
        loaded = load_experiment(target, overrides, db, plugins)
        runs = [run for run in all_runs(Path(loaded.config.runs)) if _may_be_of(run, loaded.name)]
        return loaded, runs
    if overrides or plugins:
        raise typer.BadParameter(
            f"--set and --plugin are for experiment files; {target} is a run, which has its own."
        )
    run = find_run(target)
    if not run.finished:
        raise RunError(f"{run.folder} is not finished.", "Run the same train command to go on.")
    if reason := damage(run):
        raise RunError(f"{run.name}: {reason.rstrip('.')}.", "Train it again.")
    return run.experiment(db), [run]


def _may_be_of(run: Run, experiment: str) -> bool:
    """True if a run is a finished one of an experiment, or too damaged to tell."""
    try:
        return run.finished and run.manifest.get("experiment", experiment) == experiment
    except RunError:
        return True
