"""The store: facts in one DuckDB file, and the spool that keeps writers from waiting for it."""

from hcache.store.spool import Spool, spool_path
from hcache.store.store import Rows, Store, wait_and_write, write

__all__ = ["Rows", "Spool", "Store", "spool_path", "wait_and_write", "write"]
