"""`hcache report`: evaluated runs as a page to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hcache.commands.console import say
from hcache.commands.options import Database, Overrides, Plugins, With
from hcache.commands.routers import EvaluationProgress, print_remarks
from hcache.commands.targets import is_experiment, target_of
from hcache.errors import RunError


def report(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT.yaml|RUN…",
            help="An experiment (all its finished runs) or runs of one; with --verify, the folder "
            "of a report.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; `report` beside the runs otherwise.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make a report again, and compare all its figures.")
    ] = False,
    with_: With = None,
    db: Database = None,
    set_: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Write a report of runs as a folder: one page, Markdown, JSON, and figures.

    The page needs neither network nor script, so it can be sent as it is. With --verify nothing is
    written: what differs from the report is told, and makes the exit code 1.

    Example: `hcache report data/demo/experiment.yaml`
    """
    from hcache.reporting import write_report

    if verify:
        if out or with_ or set_ or plugin:
            raise typer.BadParameter("--verify writes nothing anew: it goes with --db alone.")
        _verify(targets, db)
        return
    (experiment, runs), *more = [target_of(target, set_, db, plugin) for target in targets]
    runs = list(dict.fromkeys([*runs, *(run for _, own in more for run in own)]))
    folder = out or (runs[0].folder.parent if runs else Path(experiment.config.runs)) / "report"
    others = [target_of(str(file), set_, db, plugin) for file in with_ or ()]
    with EvaluationProgress() as on_router:
        command = ["hcache", *sys.argv[1:]]
        written = write_report(experiment, runs, folder, split, command, others, on_router)
    for sentence in written.verdicts.values():
        say(sentence)
    print_remarks(written)
    say(str(folder / "index.html"))


def _verify(targets: list[str], db: Path | None) -> None:
    from hcache.reporting import verify_report

    if len(targets) != 1 or is_experiment(targets[0]):
        raise RunError("--verify takes the folder of one report.", "It is the one with index.html.")
    with EvaluationProgress() as on_router:
        found = verify_report(Path(targets[0]), db, on_router)
    for line in found.lines():
        say(line)
    if not found.holds:
        raise RunError(
            f"{targets[0]} is not what its recipe makes.",
            "Write it again: hcache report EXPERIMENT.yaml",
        )
