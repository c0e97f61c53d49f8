"""`hcache import`: outcomes that others have recorded become an experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hcache.commands.console import print_rows, say
from hcache.commands.options import Format, OutputFormat, Plugins, named_option
from hcache.data.queries import dropped_in_words
from hcache.data.visible import one_line
from hcache.plugins import load_file
from hcache.recorded import IMPORTERS
from hcache.recorded.importing import Imported, import_files

SHOWN = 8  # sequences with holes that are named


def import_(
    format_: Annotated[
        str, typer.Argument(help=f"One of: {', '.join(IMPORTERS)}.", metavar="FORMAT")
    ],
    paths: Annotated[
        list[Path], typer.Argument(help="Files, or folders that have them.", metavar="PATH…")
    ],
    db: Annotated[Path, typer.Option("--db", help="The database to fill; made if there is none.")],
    name: Annotated[
        str, typer.Option(help="Name of the experiment; the format's if not said.")
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="Splits to deal questions into by their hash, where the source names none; "
            "one that stands there twice is twice as large."
        ),
    ] = "train/valid/test",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="An option of the format, or split.train=FILE and such, NAME=VALUE. Repeatable.",
        ),
    ] = None,
    plugin: Plugins = None,
    format: OutputFormat = Format.table,
) -> None:
    """Bring outcomes that others have recorded into a database, as an experiment like any other.

    Questions, arms, replies, scores and costs are taken as they were recorded; nothing is run. An
    experiment file is written beside the database: `train`, `eval`, `bench` and `report` take it.
    What cannot be meant is refused with file and row, and then nothing is written.

    Example: `hcache import long outcomes.csv --db mine.duckdb -o query=prompt -o arm=model`
    """
    for file in plugin or ():
        load_file(file)
    options = dict(map(named_option, option or ()))
    imported = import_files(format_, paths, db, name=name, split=split, options=options)
    if format is not Format.table:
        dropped = [{**key._asdict(), "count": n} for key, n in imported.dropped.items()]
        found = asdict(imported) | {"file": str(imported.file), "dropped": dropped}
        print_rows([found], format, whole=found)
        return
    for line in _told(imported, db):
        say(one_line(line))


def _told(imported: Imported, db: Path) -> Iterator[str]:
    splits = ", ".join(f"{count:,} {split}" for split, count in imported.splits.items())
    yield (
        f"{db}: experiment {imported.experiment}: {imported.outcomes:,} outcomes of "
        f"{len(imported.arms)} arms on {sum(imported.splits.values()):,} questions ({splits})"
    )
    yield from imported.notes
    if imported.repeated:
        yield f"rows that repeat another, word for word, and do not count: {imported.repeated:,}"
    if imported.failures:
        yield f"failed calls, which are no outcomes: {_counts(imported.failures)}"
    if imported.holes:
        yield (
            f"holes, whose questions are left out where all arms are compared: "
            f"{_counts(imported.holes)}"
        )
    if imported.dropped:
        yield dropped_in_words(imported.dropped)
    for metric, (made, differ) in imported.recomputed.items():
        yield f"{metric}: {made:,} scores made anew from the replies, {differ:,} not as recorded"
    kept = "written" if imported.wrote_file else "was there and is left as it is"
    yield f"{imported.file}: {kept}; next: hcache bench {imported.file}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{count:,} of {name}" for name, count in list(counts.items())[:SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])
