"""`hcache check`: whether a database is what sampling would have written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TaskID

from hcache.commands.console import print_json, progress, say
from hcache.commands.options import AsJson, Database, Overrides, Plugins
from hcache.errors import StoreError
from hcache.experiment import Experiment


def check(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT.yaml|DB",
            help="A database, or an experiment whose database it is.",
            show_default=False,
        ),
    ],
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    all_prompts: Annotated[
        bool, typer.Option("--all", help="Render every prompt again, not 200 of each arm.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a database row by row: keys, trees, scores, counts of tokens. Runs no model.

    Of an experiment, the files of its questions are compared too, and prompts are rendered again
    where the files of its models are at hand. Every fault is named with a count and an example;
    with any, the exit code is 1.

    Example: `hcache check data/demo/experiment.yaml`
    """
    from hcache.checking import check_database

    experiment = None
    if target.suffix in (".yaml", ".yml"):
        experiment = Experiment.load(target, set_ or (), db, plugins=plugin or ())
    path = db or (target if experiment is None else experiment.db)
    with CheckProgress() as on_progress:
        found = check_database(path, experiment, all_prompts, on_progress)
    if as_json:
        print_json(found.to_dict())
    else:
        checked = ", ".join(f"{number:,} {what}" for what, number in found.checked.items())
        for line in (*map(str, found.faults), *found.notes, f"checked: {checked or 'the schema'}"):
            say(line)
    if found.faults:
        total = sum(fault.count for fault in found.faults)
        raise StoreError(f"{path}: {total:,} faults of {len(found.faults)} kinds.")
    if not as_json:
        say(f"{path}: clean")


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
