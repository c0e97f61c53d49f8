"""`hcache export`: replies and outcomes as one flat file, for those who may not have the questions.

The columns are listed one by one, so that what is new in the database stays out of the file until
somebody decides otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from hcache.commands.console import say
from hcache.commands.inspect import DatabaseFile
from hcache.errors import ConfigError, StoreError
from hcache.files import replace_file
from hcache.plugins import lookup
from hcache.store import Store
from hcache.store.queries import exported

FORMATS: dict[str, Callable[[pl.DataFrame, BytesIO], None]] = {
    ".jsonl": pl.DataFrame.write_ndjson,
    ".parquet": pl.DataFrame.write_parquet,
}
QUESTIONS = ("question", "references")


def export(
    out: Annotated[
        Path, typer.Argument(help="The file to write: .jsonl or .parquet.", show_default=False)
    ],
    db: DatabaseFile,
    experiment: Annotated[
        str | None, typer.Option(help="Which one, where the database holds several.")
    ] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="With questions and references.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write every trajectory of an experiment with its replies, scores and cost, one a row.

    Questions, references and prompts stay out: their licence may forbid copies. Replies stand as
    they are, also where a model repeats what it was asked; the command says how many do.

    Example: `hcache export --db runs/demo/hcache.duckdb replies.parquet`
    """
    if out.suffix not in FORMATS:
        raise ConfigError(
            f"{out}: unknown format {out.suffix!r}.",
            f"Known: {', '.join(FORMATS)}.",
        )
    check_free(out, force)
    with Store(db) as store:
        chosen = chosen_experiment(store, experiment)
        frame = store.sql(exported(store.metrics()), [chosen])
    if frame.is_empty():
        raise StoreError(
            f"{db} holds no trajectories of {chosen}.",
            "Fill it with: hcache sample EXPERIMENT.yaml",
        )
    repeating = frame["repeats"].sum()
    data = BytesIO()
    FORMATS[out.suffix](frame.drop("repeats", *(() if questions else QUESTIONS)), data)
    write_out(out, data.getvalue())
    said = f"{len(frame)} trajectories of {chosen} in {out}"
    if repeating and not questions:
        said += f"; in {repeating} of them a reply repeats the question"
    say(said)


def check_free(out: Path, force: bool) -> None:
    """Refuse to write over a file.

    Raises:
        ConfigError: it is there, and nobody said that it may go, or it cannot be there.
    """
    with _naming(out):
        there = out.exists()
    if there and not force:
        raise ConfigError(f"{out} is there already.", "Replace it with --force.")


def write_out(out: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    with _naming(out):
        replace_file(out, data)


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        raise ConfigError(f"cannot write {out} ({error}).", "Choose another place.") from error


def chosen_experiment(store: Store, name: str | None) -> str:
    """The experiment of that name, or the only one.

    Raises:
        ConfigError: there is none of that name.
        StoreError: there are several to choose from, or none.
    """
    known = store.experiments()
    if not known:
        raise StoreError(
            f"{store.path} holds no experiment.", "Fill it with: hcache sample EXPERIMENT.yaml"
        )
    if name is not None:
        return lookup({experiment: experiment for experiment in known}, name, "experiment")
    if len(known) > 1:
        raise StoreError(
            f"{store.path} holds {len(known)} experiments.",
            f"Choose with --experiment: {', '.join(known)}.",
        )
    return known[0]
