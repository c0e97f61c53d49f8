"""`hcache reproduce`: a published table, made again from what its authors recorded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from hcache.commands.console import print_rows, say
from hcache.commands.options import Format, OutputFormat

EQUAL = {True: "equal", False: "differs", None: "not published"}


def reproduce(
    file: Annotated[Path, typer.Argument(help="The table: a YAML file of examples/reproduce.")],
    folder: Annotated[Path, typer.Argument(help="The copy of what its authors published.")],
    keep: Annotated[
        Path | None, typer.Option(help="Folder in which the databases are kept; else they go.")
    ] = None,
    format: OutputFormat = Format.table,
) -> None:
    """Make a published table again: import what was recorded, and compare figure by figure.

    Equal is what is equal to the digits that were published. Exit code 0 also where figures differ.

    Example: `hcache reproduce examples/reproduce/routellm-mmlu.yaml RouteLLM`
    """
    from hcache.runs.reproducing import read_reproduction
    from hcache.runs.reproducing import reproduce as made_again

    table = read_reproduction(file)
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        lines = made_again(file, folder, keep or Path(scratch))
    if format is not Format.table:
        print_rows([{**asdict(line), "difference": line.difference} for line in lines], format)
        return
    rows = [
        {"row": line.row, "figure": line.figure, "published": line.published, "ours": line.ours,
         "difference": line.difference, "": EQUAL[line.equal]}
        for line in lines
    ]  # fmt: skip
    print_rows(rows, title=table.source)
    published = [line.equal for line in lines if line.equal is not None]
    say(f"{sum(published)} of {len(published)} figures are equal")
