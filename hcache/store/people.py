"""SQL of people: anybody's text, answered from the database alone, in values that every format has.

Numbers, truth values and text stay what they are, lists, structs and maps keep their shape; of all
other types DuckDB's own text is taken, inside lists as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duckdb.sqltypes import DuckDBPyType

from hcache.store.connection import Reach, asking
from hcache.store.schema import quoted
from hcache.store.store import Store

PLAIN = frozenset(
    {
        "boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint",
        "uinteger", "ubigint", "float", "double", "varchar",
    }
)  # fmt: skip
DEEPEST = 50  # levels of a nested type; what is below them is text


class Answer(NamedTuple):
    """Result of a query; no two columns have one name."""

    columns: list[str]
    rows: list[dict[str, Any]]


def open_for_people(path: Path, external_access: bool = False) -> Store:
    """A database for SQL that anybody wrote: it sees nothing else, unless `external_access`.

    Raises:
        StoreError: see `Store`.
    """
    return Store(path, reach=Reach.EVERYTHING if external_access else Reach.NOTHING)


def answer(store: Store, query: str, parameters: Sequence[object] = ()) -> Answer:
    """The result of any SQL, of several statements that of the last; no columns where it has none.

    Raises:
        StoreError: in one line, with DuckDB's own words about what is wrong.
    """
    with asking():
        relation = store.connection.sql(query, params=list(parameters))
        if relation is None:
            return Answer([], [])
        kinds = [_plain(kind) for kind in relation.types]
        cast = [
            f"#{place}" if kind is None else f"#{place}::{kind}"
            for place, kind in enumerate(kinds, 1)
        ]
        found = relation.project(", ".join(cast)).fetchall() if cast else []
        names = _distinct(relation.columns)
    return Answer(names, [dict(zip(names, row, strict=True)) for row in found])


def _plain(kind: DuckDBPyType) -> str | None:
    """The type to cast to, if it is another one."""
    return None if kind.id in PLAIN else _cast(kind, DEEPEST)


def _cast(kind: DuckDBPyType, levels: int) -> str:
    if kind.id in PLAIN:
        return str(kind)
    nested = levels and kind.id in ("list", "array", "struct", "map")
    inner: dict[str, Any] = dict(kind.children) if nested else {}
    if "" in inner or not inner:
        return "varchar"
    if kind.id == "struct":
        fields = (f"{quoted(name)} {_cast(each, levels - 1)}" for name, each in inner.items())
        return f"struct({', '.join(fields)})"
    if kind.id == "map":
        return f"map(varchar, {_cast(inner['value'], levels - 1)})"
    return f"{_cast(inner['child'], levels - 1)}[]"


def _distinct(names: Iterable[str]) -> list[str]:
    """The names, with a number behind those that were there before."""
    found: dict[str, None] = {}
    seen: Counter[str] = Counter()
    for name in names:
        new = name
        while new in found:
            seen[name] += 1
            new = f"{name}_{seen[name]}"
        found[new] = None
    return list(found)
