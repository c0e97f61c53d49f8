"""Generations as a worker on another machine keeps them until the driver has made them safe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hcache.engines import Engine, Generation, Request
from hcache.sampling.records import record_of
from hcache.store.shards import Shard


class ShardKeeper:
    """Keeps them in shards beside the database, see `Keeper`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: dict[str, Shard] = {}  # by engine

    def keep(self, key: str, engine: Engine, made: Sequence[tuple[Request, Generation]]) -> None:
        """See `Keeper`."""
        shard = self.shards.setdefault(key, Shard(self.folder))
        shard.append(record_of(request, generation, engine) for request, generation in made)

    def forget(self, key: str, count: int) -> None:
        """See `Keeper`."""
        self.shards[key].forget(count)
