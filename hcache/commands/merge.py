"""`hcache merge`: databases that were sampled apart become one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hcache.commands.console import print_rows, say
from hcache.commands.options import Format, OutputFormat
from hcache.files import features_folder
from hcache.store.merging import Merged
from hcache.store.merging import merge as merge_files


def merge(
    into: Annotated[
        Path, typer.Argument(help="The database to fill; made if there is none.", metavar="INTO")
    ],
    sources: Annotated[
        list[Path], typer.Argument(help="Databases to bring in; only read.", metavar="FROM…")
    ],
    format: OutputFormat = Format.table,
) -> None:
    """Bring databases that were sampled apart into one, as if one run had made them.

    Where two hold another reply, score or query under the same key, INTO's stays, the other is kept
    in the table `conflicts`, and both are counted here; what was made with the other reply stays
    out, and `hcache sample` makes what is missing then. A transaction for each FROM: the same
    command goes on after an interruption, and changes nothing where all is done.

    Example: `hcache merge all.duckdb machine1.duckdb machine2.duckdb`
    """

    def tell(merged: Merged) -> None:
        if format is not Format.table:
            return
        for line in _told(merged, into):
            say(line)

    done = merge_files(into, sources, tell)
    if format is not Format.table:
        print_rows([asdict(each) for each in done], format)
        return
    if encoded := [str(source) for source in sources if features_folder(source).exists()]:
        say(f"features are not merged, they are encoded again when needed: {', '.join(encoded)}")


def _told(merged: Merged, into: Path) -> Iterator[str]:
    new = ", ".join(
        f"{merged.new[table]:,} {table}" for table in ("queries", "generations", "trajectories")
    )
    yield f"{merged.source}: {new} are new in {into}"
    if merged.conflicts:
        yield (
            f"{merged.source} has other content for the same keys; that of {into} stays, the other "
            "is kept in the table conflicts:"
        )
        yield from (f"  {conflict}" for conflict in merged.conflicts)
    if merged.left_out:
        yield (
            f"{merged.left_out:,} trajectories of {merged.source} were made with another reply and "
            f"stay out; {merged.missing:,} of them are missing in {into}, to be made with: "
            "hcache sample EXPERIMENT.yaml"
        )
    if merged.other_arms:
        yield (
            f"{', '.join(merged.other_arms)}: in no pool of {into} yet; with an experiment of all "
            "arms they are, and what is missing is made: hcache sample EXPERIMENT.yaml"
        )
    if merged.in_two_splits:
        yield (
            f"{merged.in_two_splits:,} questions stand in two splits of an experiment now: what is "
            "trained on one must not be evaluated on the other"
        )
    if merged.other_versions:
        yield (
            f"{merged.other_versions:,} scores are by another version of a metric and stay out; "
            "to have all of one version: hcache rescore EXPERIMENT.yaml"
        )
