"""Opening DuckDB and translating its errors: the one place that knows its settings and its wording.

A database may come from a stranger, and its views with it. So its SQL reaches nothing but the
database, unless somebody says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import duckdb
import polars as pl

from hcache.errors import StoreBusyError, StoreError
from hcache.store.holders import UNKNOWN, process_named
from hcache.store.schema import literal
from hcache.store.spool import disk_full

# The second where it reads rows from Python.
CTRL_C = re.compile(r"Query interrupted|registered as '\w+'.* failed: KeyboardInterrupt")
_PID = re.compile(r"\(PID (\d+)\)")
LONGEST = 500  # characters of an error in DuckDB's words; it repeats names of any length


class Reach(Enum):
    """Access that the SQL of a connection has beside the database."""

    SPILL = "spill"  # the folder where DuckDB puts what does not fit in memory; for our questions
    NOTHING = "nothing"  # no file at all, no setting; for SQL that anybody wrote
    EVERYTHING = "everything"  # as DuckDB comes


# DuckDB itself takes variables of Python for tables.
_OPEN = {"python_enable_replacements": "false"}
_CLOSED = _OPEN | {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_NO_MORE = "set enable_external_access = false"
# It takes a process started by another for a session at a prompt, and draws bars there.
_NO_BARS = "set enable_progress_bar = false"
# Without external access, DuckDB still writes to the open database's own path, its log and its
# spill folder: `copy … to` would write over the database that is read.
_NO_FILES = "set disabled_filesystems = 'LocalFileSystem'; set lock_configuration = true"


def connect(
    path: Path, *, read_only: bool, reach: Reach = Reach.SPILL, source: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a database file; its SQL also reads the tables of another, `source`, by that name.

    Raises:
        StoreBusyError: another process or connection has it open.
        StoreError: it is no database.
    """
    check_kind(path)
    settings: dict[str, str | bool | int | float | list[str]] = {
        **(_OPEN if reach is Reach.EVERYTHING or source else _CLOSED)
    }
    with translating(path):  # an absolute path: `md:x` and `:memory:` would be no files
        connection = duckdb.connect(str(path.absolute()), read_only=read_only, config=settings)
        connection.execute(_NO_BARS)
        if reach is Reach.NOTHING:
            connection.execute(_NO_FILES)
    if source is not None:
        _attach(connection, source)
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, source: Path) -> None:
    """Open a second file for reading, the last that the connection opens."""
    try:
        with translating(source):
            connection.execute(f"attach {literal(str(source.absolute()))} as source (read_only)")
            connection.execute(_NO_MORE)
    except BaseException:
        connection.close()
        raise


def exists(path: Path) -> bool:
    """True if something is there; a name that no file can have is an error of the user's.

    Raises:
        StoreError: the name cannot be one of a file.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be a file ({error}).", "Name another with --db."
        ) from error


def check_kind(path: Path) -> None:
    """Refuse a file that says it is something else, and what is no file, such as a pipe."""
    if exists(path) and not path.is_file():
        raise _not_a_database(path)
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return  # there is none yet, or DuckDB will say what is the matter
    if head and head[8:] != b"DUCK":
        raise _not_a_database(path)


def _not_a_database(path: Path) -> StoreError:
    return StoreError(f"{path} is not a DuckDB database.", "Name another file with --db.")


@contextmanager
def asking() -> Iterator[None]:
    """Turn whatever is raised while SQL is run and its result fetched into an error of ours.

    The block calls DuckDB and polars alone, whose errors for foreign SQL are of many types.

    Raises:
        StoreError: in one line, with their own words about what is wrong.
    """
    try:
        yield
    except (Exception, pl.exceptions.PanicException) as error:
        raise_if_interrupted(error)
        text = _in_one_line(error)
        closed = isinstance(error, duckdb.PermissionException) or "has been locked" in text
        raise StoreError(
            text,
            "SQL reaches the database alone and changes no setting, unless it is asked with: "
            "hcache sql --allow-external-access"
            if closed
            else "Tables, views and columns are described in docs/database.md.",
        ) from error


def _in_one_line(error: BaseException) -> str:
    """The words of an error, without the excerpt of the SQL that DuckDB draws below them."""
    text = " ".join(str(error).split("\n\nLINE ")[0].split()) or type(error).__name__
    if len(text) > LONGEST:
        return f"{text[:LONGEST]} …"
    return text if text.endswith((".", "!", "?")) else f"{text}."


@contextmanager
def translating(path: Path) -> Iterator[None]:
    """Turn what DuckDB raises about a file, while SQL of ours is run, into an error of ours.

    Raises:
        StoreBusyError: another process or connection has it open.
        StoreError: any other of DuckDB's errors.
        KeyboardInterrupt: Ctrl-C ended the SQL.
    """
    try:
        yield
    except duckdb.Error as error:
        raise _translated(error, path) from error
    except RuntimeError as error:
        raise_if_interrupted(error)
        raise


def _translated(error: duckdb.Error, path: Path) -> StoreError:
    """DuckDB's error about a file as ours."""
    raise_if_interrupted(error)
    text = str(error)
    if "Could not set lock" in text or isinstance(error, duckdb.ConnectionException):
        return StoreBusyError(
            f"{path} is held open by {_holder(text)}.",
            "Try again in a moment, or close what has it open.",
        )
    if "not a valid DuckDB" in text or "Is a directory" in text:
        return _not_a_database(path)
    if "No space left" in text or "File too large" in text:
        return disk_full(path)
    return StoreError(
        f"{path}: {text.splitlines()[0]}",
        "Check the file and its permissions; in place of a damaged one, name another with --db.",
    )


def _holder(text: str) -> str:
    """Holder of a file, by DuckDB's error about its lock; that of a connection names nobody."""
    pid = _PID.search(text)
    return process_named(int(pid[1])) if pid else f"{UNKNOWN} or connection"


def raise_if_interrupted(error: BaseException) -> None:
    """Ctrl-C during a query, which DuckDB reports as a RuntimeError or as an error of its own."""
    if isinstance(error, duckdb.InterruptException) or CTRL_C.search(str(error)):
        raise KeyboardInterrupt from error
