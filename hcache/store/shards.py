"""Shards: what a worker on another machine has finished, on disk before the driver hears of it.

They lie in a folder beside the database, which that machine shares with the driver's, in the format
of the spool. A worker writes one file after another, and removes each once the driver has made safe
all that is in it. So what is left there is of a driver or a worker that was killed, and the next
sampler takes it in, see `Spool.recover`.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hcache.store.spool import SHARD, encode

FILE_RECORDS = 1000  # in a file at least, before the next is begun


class Shard:
    """The writer's end, of one engine of one worker."""

    def __init__(self, folder: Path) -> None:
        """On a machine that does not share the folder, where there is none, nothing is kept."""
        self.folder = folder
        self.name = uuid.uuid4().hex
        self.written = 0  # records so far, those of files that were removed included
        self._files: deque[tuple[int, Path]] = deque()  # with the number of records before it

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records, which a kill of this process does not lose.

        What cannot be written, for want of room or of the folder, the driver is told all the same.
        """
        lines = [encode(record) for record in records]
        if not self._files or self.written - self._files[-1][0] >= FILE_RECORDS:
            self._files.append((self.written, self.folder / f"{self.name}-{self.written}{SHARD}"))
        self.written += len(lines)
        with suppress(OSError), self._files[-1][1].open("ab") as file:
            file.write(b"".join(lines))

    def forget(self, count: int) -> None:
        """Remove the files that hold none but the first `count` records."""
        while self._files:
            end = self._files[1][0] if len(self._files) > 1 else self.written
            if end > count:
                return
            with suppress(OSError):
                self._files.popleft()[1].unlink(missing_ok=True)
