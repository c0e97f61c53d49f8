"""The spool: finished generations on disk at once, while the database may be busy.

An append-only file beside the database, one record a line: CRC-32 in hex, a space, JSON. It is
locked for its writer. Records stay until they are committed to the database; a torn last line
(the process was killed while writing it) is dropped, anything else that does not check is an
error. Workers on other machines write such files too, see `store/shards.py`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hcache.errors import StoreBusyError, StoreError
from hcache.store.holders import UNKNOWN, holder_of

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SYNC_SECONDS = 1.0
SHARD = ".shard"  # ending of the files that workers write


def spool_path(db: Path) -> Path:
    """Path of the spool of a database."""
    return db.with_name(db.name + ".spool")


def shards_path(db: Path) -> Path:
    """Folder in which workers on other machines keep what they have finished for a database."""
    return db.with_name(db.name + ".shards")


class Spool:
    """The writer's end; at most one process holds it."""

    def __init__(self, db: Path) -> None:
        self.path = spool_path(db)
        self.shards = shards_path(db)
        self._taken_in: list[Path] = []  # shards whose records `recover` has returned
        self._synced = 0.0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise StoreError(
                f"cannot write beside {db} ({error.strerror}).", "Choose another place with --db."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._in_place():
                raise FileNotFoundError  # whoever held the lock has removed the file
        except OSError as error:
            holder = UNKNOWN if isinstance(error, FileNotFoundError) else holder_of(self._file)
            self._file.close()
            raise sampled_meanwhile(holder, db) from error

    def recover(self) -> list[dict[str, Any]]:
        """The records that were never committed, those in shards included; a torn tail is cut off.

        Raises:
            StoreError: a record in the middle that does not check.
        """
        self._file.seek(0)
        data = self._file.read()
        records, good = parse_records(data, self.path)
        if good < len(data):
            self._file.truncate(good)
        self._taken_in = sorted(self.shards.glob(f"*{SHARD}"))
        for shard in self._taken_in:
            records += parse_records(shard.read_bytes(), shard)[0]
        return records

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records; they survive a kill at once, and a power cut within a second.

        Raises:
            StoreError: the disk is full, or the file was taken away. What was written before stays
                readable.
        """
        data = b"".join(encode(record) for record in records)
        if not data:
            return
        if not self._in_place():
            raise taken_away(self.path)
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(data)
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            self._restore(end)
            if error.errno in FULL:
                raise disk_full(self.path) from error
            raise StoreError(
                f"cannot write {self.path} ({error.strerror}).",
                "Check the disk and run the same command again: what was finished is kept.",
            ) from error

    def clear(self) -> None:
        """Forget all records: they are in the database now."""
        self._file.truncate(0)
        while self._taken_in:
            self._taken_in.pop().unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock; an empty spool is removed."""
        if self._file.closed:
            return
        try:
            if self._file.seek(0, os.SEEK_END) == 0 and self._in_place():
                self.path.unlink(missing_ok=True)
        finally:
            self._file.close()

    def _in_place(self) -> bool:
        """True if the file is the one at its path: another may be of another sampler."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _restore(self, end: int) -> None:
        # Python keeps what it could not write and would try again on close: start afresh.
        descriptor = os.dup(self._file.fileno())
        with suppress(OSError):  # the same full disk, said once already
            self._file.close()
        self._file = os.fdopen(descriptor, "a+b")
        self._file.truncate(end)


def sampling(db: Path) -> str:
    """The process that is sampling into a database, in words; empty where none is."""
    try:
        with spool_path(db).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return holder_of(file)
    except FileNotFoundError:
        pass
    return ""


def sampled_meanwhile(holder: str, db: Path) -> StoreBusyError:
    """The error for a database that another process is sampling into."""
    return StoreBusyError(
        f"{holder} is sampling into {db}.",
        "Wait for it to end, or sample into another file with --db.",
    )


def encode(record: dict[str, Any]) -> bytes:
    """One line of the spool."""
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_records(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a spool, and the length of the part that is whole."""
    records: list[dict[str, Any]] = []
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        if end < 0:
            break
        checksum, _, body = data[start:end].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            if end == len(data) - 1:
                break
            raise StoreError(
                f"{path}: record {len(records) + 1} is damaged.",
                "Move the file away to go on without it; what it holds would be sampled again.",
            )
        records.append(json.loads(body))
        start = end + 1
    return records, start


def taken_away(path: Path) -> StoreError:
    """The error for a file of sampling that another has removed or replaced."""
    return StoreError(
        f"{path} was removed or replaced while sampling.",
        "Run the same command again: it goes on with what is there.",
    )


def disk_full(path: Path) -> StoreError:
    """The error for a disk with no room left."""
    return StoreError(
        f"no room left on the disk of {path}; all that was finished before is kept.",
        "Free some space and run the same command again.",
    )
