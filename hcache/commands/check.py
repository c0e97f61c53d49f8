"""`hcache check`, `hcache verify` and `hcache digest`: whether a database can be trusted."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, TaskID

from hcache.commands.console import print_rows, progress, say
from hcache.commands.options import (
    AllowCode,
    Database,
    ExperimentFile,
    Format,
    OutputFormat,
    Overrides,
    Plugins,
    permit_code,
)
from hcache.commands.targets import Target, database_of, is_experiment, load_experiment
from hcache.errors import EngineError, StoreError
from hcache.store import Store

FAULT = ("table", "fault", "count", "example", "hint")


def check(
    target: Target = None,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    all_prompts: Annotated[
        bool, typer.Option("--all", help="Render every prompt again, not 200 of each arm.")
    ] = False,
    allow_code: AllowCode = False,
    format: OutputFormat = Format.table,
) -> None:
    """Check a database row by row: keys, trees, scores, counts of tokens. Runs no model.

    Of an experiment, the files of its questions are compared too, and prompts are rendered again
    where the files of its models are at hand. Every fault is named with a count and an example;
    with any, the exit code is 1.

    Example: `hcache check data/demo/experiment.yaml`
    """
    from hcache.checking import check_database

    permit_code(allow_code)
    experiment = None
    if target is None or not is_experiment(target):
        if set_ or plugin or all_prompts:
            raise typer.BadParameter("--set, --plugin and --all need an experiment file.")
    else:
        experiment = load_experiment(target, set_, db, plugin)
    path = database_of(target, db) if experiment is None else experiment.db
    with CheckProgress() as on_progress:
        found = check_database(path, experiment, all_prompts, on_progress)
    if format is not Format.table:
        faults = [asdict(fault) for fault in found.faults]
        print_rows(faults, format, whole=found.to_dict(), columns=FAULT)
    else:
        checked = ", ".join(f"{number:,} {what}" for what, number in found.checked.items())
        for line in (*map(str, found.faults), *found.notes, f"checked: {checked or 'the schema'}"):
            say(line)
    if found.faults:
        total = sum(fault.count for fault in found.faults)
        raise StoreError(
            f"{path}: {total:,} faults of {len(found.faults)} kinds.",
            "docs/checking.md says what they mean; to have a sound one, sample into another file: "
            "hcache sample EXPERIMENT.yaml --db FILE",
        )
    if format is Format.table:
        say(f"{path}: clean")


def verify(
    experiment: ExperimentFile,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    count: Annotated[int, typer.Option(min=1, help="Generations of each arm.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws which ones.")] = 0,
    format: OutputFormat = Format.table,
) -> None:
    """Make some stored generations again with the models, and compare them token by token.

    Where a reply comes out otherwise, what has changed since (version, device, arguments, prompt)
    is said, and the exit code is 1. Nothing is written.

    Example: `hcache verify data/demo/experiment.yaml --count 50`
    """
    from hcache.checking.regenerating import regenerate

    loaded = load_experiment(experiment, set_, db, plugin)
    with Store(loaded.db) as store, CheckProgress() as on_progress:
        found = list(regenerate(store, loaded, count, seed, on_progress=on_progress))
    if format is not Format.table:
        print_rows([asdict(each) for each in found], format)
    else:
        for each in found:
            say(f"{each}")
    different, made = sum(len(each.different) for each in found), sum(each.made for each in found)
    if different:
        raise EngineError(
            f"{different} of {made} generations came out otherwise.",
            "Rows made before and after do not mix well: sample anew into another --db, or go on "
            "with the versions and the device named above.",
        )


def digest(
    target: Target = None,
    db: Database = None,
    format: OutputFormat = Format.table,
) -> None:
    """Print the digest of what a database holds: the same for the same content, in any order.

    Times, versions, devices and paths are left out. Sampling again, or on after an interruption,
    gives the same digest as long as the models say the same.

    Example: `hcache digest data/demo/experiment.yaml`
    """
    from hcache.store.digest import content_digest

    with Store(database_of(target, db)) as store:
        found = content_digest(store)
    if format is not Format.table:
        rows = [{"table": name} | asdict(table) for name, table in found.tables.items()]
        every = {"table": "all", "digest": found.digest}
        print_rows([*rows, every], format, whole=asdict(found))
        return
    for name, table in found.tables.items():
        say(f"{table.digest[:32]}  {name} ({table.rows:,} rows)")
    say(f"{found.digest}  all")


class CheckProgress:
    """A bar over the part that is being checked; gives the callback that moves it."""

    def __init__(self) -> None:
        self.bars = progress("{task.description}", BarColumn())
        self.task: TaskID = self.bars.add_task("checking", total=None)

    def __enter__(self) -> CheckProgress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a part has come."""
        self.bars.update(self.task, completed=done, total=total, description=f"checking: {what}")
