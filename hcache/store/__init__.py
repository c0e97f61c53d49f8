"""The store: facts in one DuckDB file, and the spool that keeps writers from waiting for it."""

from hcache.store.connection import Reach, check_kind, exists
from hcache.store.people import answer, open_for_people
from hcache.store.spool import Spool, spool_path
from hcache.store.store import Rows, Store, wait_and_write, write

__all__ = [
    "Reach",
    "Rows",
    "Spool",
    "Store",
    "answer",
    "check_kind",
    "exists",
    "open_for_people",
    "spool_path",
    "wait_and_write",
    "write",
]
