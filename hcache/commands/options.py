"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ExperimentFile = Annotated[
    Path, typer.Argument(help="The experiment's YAML file.", show_default=False)
]
Database = Annotated[
    Path | None, typer.Option("--db", help="Database, in place of the experiment's.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value, as in `--set train.alpha=0.1`. Repeatable."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with metrics, trainers, … of yours. Repeatable."),
]
With = Annotated[
    list[Path] | None,
    typer.Option(
        "--with", help="An experiment of another workflow on the same questions. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int | None, typer.Option(help="Seed, in place of train.seed.")]

WIDE = 160  # where output is not a terminal: files and pipes have no margin

console = Console(width=None if sys.stdout.isatty() else WIDE)
notes = Console(stderr=True)


def table_of(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    """Rows as a table for people: numbers to four digits, to the right."""
    table = Table(title=title, title_justify="left")
    names = list(rows[0]) if rows else []
    for name in names:
        numeric = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("[", "\\[")
