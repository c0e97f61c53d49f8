"""The store: one DuckDB file of raw facts. The only module that opens it.

DuckDB lets one process write, and nobody read meanwhile, so every write is one short
transaction on a connection of its own, and readers open the file read-only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import polars as pl

from hcache.errors import StoreBusyError, StoreError
from hcache.store.connection import (
    Reach,
    asking,
    connect,
    exists,
    translating,
)
from hcache.store.frames import frame_of
from hcache.store.queries import CALLS, EXPERIMENTS, METRICS, POOL, VIEW_COLUMNS
from hcache.store.schema import (
    MERGE,
    MIGRATIONS,
    OLDEST,
    RESERVED,
    TABLES,
    UNIQUE,
    VERSION,
    views,
)

T = TypeVar("T")
# Keys that a write reads of a large file need not stay in memory.
MODERATE = "set memory_limit = '512MB'"

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows to write, by table."""


class Store:
    """A database opened for reading; use it as a context manager."""

    def __init__(
        self, path: str | Path, patience: float = 10.0, reach: Reach = Reach.SPILL
    ) -> None:
        """Open an existing database read-only; a sampler holds it for moments only.

        A file from an older version is brought up to date first. `reach` is what its SQL, views
        included, can read and write beside it.

        Raises:
            StoreBusyError: another process has been writing to it for `patience` seconds.
            StoreError: there is none, it is no database, or it is from a newer version or one
                before the first release.
        """
        self.path = Path(path)
        self.reach = reach
        if not exists(self.path):
            raise StoreError(
                f"there is no database {self.path}.", "Fill one with: hcache sample EXPERIMENT.yaml"
            )
        self.connection = patiently(self._open, patience)
        try:
            older = check_version(self.connection, self.path) < VERSION
        except BaseException:
            self.connection.close()
            raise
        if older:
            self.connection.close()
            wait_and_write(self.path, {}, patience)
            self.connection = patiently(self._open, patience)

    def _open(self) -> duckdb.DuckDBPyConnection:
        return connect(self.path, read_only=True, reach=self.reach)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, so that it can be written."""
        self.connection.close()

    def sql(
        self, query: str, parameters: Sequence[object] = (), **frames: pl.DataFrame
    ) -> pl.DataFrame:
        """The result of any SQL query as a polars frame; it may read from `frames` by their names.

        Raises:
            StoreError: in one line, with DuckDB's own words about what is wrong in the query.
        """
        with asking():
            for name, frame in frames.items():
                self.connection.register(name, frame)
            try:
                relation = self.connection.sql(query, params=list(parameters))
                found: pl.DataFrame = pl.DataFrame() if relation is None else relation.pl()
                return found
            finally:
                for name in frames:
                    self.connection.unregister(name)

    def sequences(self, split: str | None = None) -> pl.DataFrame:
        """Mean quality and cost of each model sequence, best first."""
        return self._view("sequences", split, "quality desc, cost")

    def trajectories(self, split: str | None = None) -> pl.DataFrame:
        """Every trajectory with answer, scores, tokens and cost."""
        return self._view("outcomes", split, "query_id, depth, sequence, replica")

    def metrics(self) -> list[str]:
        """Metrics with a column in the views, in the order of the columns."""
        columns = self.sql(VIEW_COLUMNS)["column_name"]
        return [column for column in columns if column not in RESERVED]

    def experiments(self) -> list[str]:
        """Names of the experiments, in alphabetical order."""
        return self.sql(EXPERIMENTS)["experiment"].to_list()

    def pool(self, experiment: str) -> pl.DataFrame:
        """The arms of an experiment in their order: name, arm_id, fingerprint, settings."""
        return self.sql(POOL, [experiment])

    def rows_of(self, table: str, experiment: str) -> pl.DataFrame:
        """The rows of a table that belong to an experiment."""
        return self.match(table, pl.DataFrame({"experiment": [experiment]}))

    def calls(self, trajectory: str, experiment: str) -> pl.DataFrame:
        """The calls of a trajectory, in order, at an experiment's prices; a tool is free."""
        return self.sql(CALLS, [trajectory, experiment])

    def _view(self, view: str, split: str | None, order: str) -> pl.DataFrame:
        return self.sql(
            f"select * from {view} where $1 is null or split = $1 order by {order}", [split]
        )

    def match(self, table: str, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of a table whose columns equal a row of `keys`."""
        columns = ", ".join(f'"{column}"' for column in keys.columns)
        return self.sql(
            f"select t.* from {table} t semi join wanted using ({columns})", wanted=keys
        )


def write(
    path: Path,
    rows: Rows,
    replace: Sequence[str] = (),
    experiment: str = "",
    new: Collection[str] = (),
) -> None:
    """Add rows in one transaction; those that are there already stay as they are.

    `replace` names tables in which all rows of `experiment` give way to the new ones; `new` those
    of which no row is there, as the caller knows: their keys need not be read.

    Raises:
        StoreBusyError: another process has the file open; nothing was written.
        StoreError: the disk is full, or the file is not ours to write.
    """
    metrics = _metrics_of(rows)
    with writing(path, metrics) as connection:
        connection.execute(MODERATE)
        for table in replace:
            connection.execute(f"delete from {table} where experiment = ?", [experiment])
        for table, items in rows.items():
            _insert(connection, table, items, table in new)
        follow_metrics(connection, metrics)


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    items: Sequence[Mapping[str, Any]],
    new: bool,
) -> None:
    if not items:
        return
    keys = [key.strip() for key in UNIQUE[table].split(",")]
    frame = frame_of(table, items).unique(keys, keep="first", maintain_order=True)
    connection.register("batch", frame)
    if new:
        connection.execute(f"insert into {table} by name select * from batch")
    else:
        insert_batch(connection, table)
    connection.unregister("batch")


def insert_batch(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """Add what `batch` has and a table lacks; returns the number of rows that are new."""
    if table in MERGE:
        connection.execute(MERGE[table])
    added = connection.execute(
        f"insert into {table} by name select * from batch anti join {table} using ({UNIQUE[table]})"
    )
    [(count,)] = added.fetchall()
    return int(count)


def _metrics_of(rows: Rows) -> set[str]:
    """The metrics that rows hold, and those that they will be asked for."""
    held = {row["metric"] for row in rows.get("scores", ())}
    return held | {row["quality"] for row in rows.get("splits", ())}


def follow_metrics(connection: duckdb.DuckDBPyConnection, metrics: set[str]) -> None:
    """Give the views a column for each of these metrics, if they lack one."""
    if not metrics:
        return
    known = {name.lower() for (name,) in connection.execute(VIEW_COLUMNS).fetchall()}
    if any(metric.lower() not in known for metric in metrics):
        _create_views(connection)


def _create_views(connection: duckdb.DuckDBPyConnection, metrics: Iterable[str] = ()) -> None:
    """Make the views for the metrics of the file, and further ones that it is about to get."""
    held = [name for (name,) in connection.execute(METRICS).fetchall()]
    connection.execute(views({*held, *metrics}))


def wait_and_write(
    path: Path,
    rows: Rows,
    seconds: float,
    replace: Sequence[str] = (),
    experiment: str = "",
    new: Collection[str] = (),
) -> None:
    """`write`, trying again for some seconds while another process has the file open."""
    patiently(lambda: write(path, rows, replace, experiment, new), seconds)


def patiently(action: Callable[[], T], seconds: float) -> T:
    """Do it as soon as nobody else has the file, within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except StoreBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


@contextmanager
def writing(
    path: Path, metrics: Iterable[str] = (), source: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A transaction on a database, made if there is none; `source` is read in it as `source`."""
    if not exists(path):
        _create(path, metrics)
    with translating(path), connect(path, read_only=False, source=source) as connection:
        connection.begin()
        _migrate(connection, path)
        yield connection
        connection.commit()


def _create(path: Path, metrics: Iterable[str]) -> None:
    """A new database with columns for some metrics, made beside its place:
    a crash or a full disk leaves none, never half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    _remove(draft)
    try:
        with translating(path), connect(draft, read_only=False) as connection:
            connection.execute("create table meta (version integer not null)")
            connection.execute("insert into meta values (?)", [VERSION])
            connection.execute(TABLES)
            _create_views(connection, metrics)
            connection.execute("checkpoint")  # that of closing fails without a word
    except BaseException:
        _remove(draft)
        raise
    draft.replace(path)


def _remove(path: Path) -> None:
    for file in (path, path.with_name(path.name + ".wal")):
        file.unlink(missing_ok=True)


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    version = check_version(connection, path)
    if version == VERSION:
        return
    for step in range(version, VERSION):
        connection.execute(MIGRATIONS[step])
    _create_views(connection)
    connection.execute("update meta set version = ?", [VERSION])


def check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """The version of a database's schema.

    Raises:
        StoreError: it is no database of hcache, or one that this version cannot read.
    """
    with translating(path):
        try:
            [(found,)] = connection.execute("select max(version::integer) from meta").fetchall()
        except (duckdb.ProgrammingError, duckdb.DataError, duckdb.PermissionException) as error:
            raise StoreError(
                f"{path} is a DuckDB file, but not one of hcache.", "Name another file with --db."
            ) from error
    version = int(found or 0)
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer hcache (schema {version}, this one knows {VERSION}).",
            "Upgrade hcache to read it.",
        )
    if version < OLDEST:
        raise StoreError(
            f"{path} is from a version of hcache before the first release (schema {version}).",
            "Sample again, into another file.",
        )
    return version
