"""`hcache report`: evaluated runs as a page to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hcache.commands.options import Beside, Database, Overrides, console
from hcache.commands.routers import target_of


def report(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPERIMENT.yaml|RUN…",
            help="An experiment (all its finished runs) or runs of one.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; `report` beside the runs otherwise.")
    ] = None,
    beside: Beside = None,
    db: Database = None,
    set_: Overrides = None,
) -> None:
    """Write a report of runs as a folder: one page, Markdown, JSON, and figures.

    The page needs neither network nor script, so it can be sent as it is.

    Example: `hcache report data/demo/experiment.yaml`
    """
    from hcache.reporting import write_report

    found = [target_of(target, set_ or (), db) for target in targets]
    config, _, database = found[0]
    runs = list(dict.fromkeys(run for _, own, _ in found for run in own))
    folder = out or (runs[0].folder.parent if runs else Path(config.runs)) / "report"
    others = [target_of(str(file), set_ or (), db) for file in beside or ()]
    written = write_report(
        config,
        database,
        runs,
        folder,
        split,
        ["hcache", *sys.argv[1:]],
        [(other, other_db, other_runs) for other, other_runs, other_db in others],
    )
    for sentence in written.verdicts.values():
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{folder / 'index.html'}", soft_wrap=True, highlight=False, markup=False)
