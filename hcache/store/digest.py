"""The digest of a database: what it holds, in whatever order and on whatever day it was written.

Two files with equal digests have the same rows in every table. Left out are the circumstances of
their making: when, how fast, by what version and on what device, how much of a prompt was cached
and, where a server counts it, how much of a reply was thought, where the files of the models lay,
in which order the actions of a state came, and the conflicts that merging has kept aside. What
replies depend on is in their keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from hcache.keys import digest
from hcache.store.queries import DIGEST
from hcache.store.schema import OPTIONAL, UNIQUE
from hcache.store.store import Store

CIRCUMSTANCES = (
    "created", "seconds", "cached_tokens", "reasoning_tokens", "provenance_id", "settings",
    "config",
)  # fmt: skip
"""Columns that may differ between two makings of the same content."""

TABLES = tuple(sorted(UNIQUE.keys() - {"provenance", "conflicts"}))
SETS = ("actions",)
"""Columns of lists whose order is one of arrival."""


@dataclass(frozen=True)
class TableDigest:
    """The content of a table."""

    rows: int
    digest: str  # SHA-256 over the sorted digests of its rows


@dataclass(frozen=True)
class ContentDigest:
    """The content of a database: one digest for all of it, and one for each table."""

    digest: str
    tables: dict[str, TableDigest]


def content_digest(store: Store) -> ContentDigest:
    """The digest of what a database holds, whatever the order of its rows and columns.

    A row is hashed as JSON with its columns by name. DuckDB sorts the digests of rows, on disk
    where memory is short.
    """
    tables = {table: _table_digest(store, table) for table in TABLES}
    return ContentDigest(digest({name: each.digest for name, each in tables.items()}), tables)


def _table_digest(store: Store, table: str) -> TableDigest:
    columns = sorted(store.sql(f"from {table} limit 0").columns)
    unused = {name for name in OPTIONAL.intersection(columns) if not _is_used(store, table, name)}
    left_out = unused.union(CIRCUMSTANCES)
    chosen = ", ".join(_content(name) for name in columns if name not in left_out)
    return TableDigest(*store.sql(DIGEST.format(columns=chosen, table=table)).row(0))


def _is_used(store: Store, table: str, column: str) -> bool:
    return bool(store.sql(f"select count({column}) > 0 from {table}").item())


def _content(column: str) -> str:
    return f'list_sort("{column}") as "{column}"' if column in SETS else f'"{column}"'
