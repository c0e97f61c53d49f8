"""Damage to files, as disks, copies and editors do it: seeded, so that every run sees the same."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

COUNT = 200
WHOLE = (b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000)


def damages(data: bytes, count: int = COUNT) -> Iterator[bytes]:
    """Other contents in place of `data`: `WHOLE`, then `count` at random places of it."""
    yield from WHOLE
    dice = random.Random(len(data))
    made = 0
    while made < count:
        changed = _damaged(data, dice)
        if changed != data:
            made += 1
            yield changed


def _damaged(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    end = min(len(data), at + dice.randint(1, 64))
    match dice.randrange(6):
        case 0:  # a bit
            return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
        case 1:  # a byte, of those that JSON has most
            return data[:at] + bytes([dice.choice(b'0123456789-.eE"{}[],: n')]) + data[at + 1 :]
        case 2:  # the rest is missing
            return data[:at]
        case 3:  # a block of zeros
            return data[:at] + bytes(end - at) + data[end:]
        case 4:  # a part is missing
            return data[:at] + data[end:]
        case _:  # a part is there twice
            return data[:end] + data[at:]


def in_place_of(file: Path) -> Iterator[str]:
    """What else can be where a file was: nothing, a folder, a link to nowhere, a pipe; by name."""
    file.unlink()
    yield "nothing"
    file.mkdir()
    yield "a folder"
    file.rmdir()
    file.symlink_to("nowhere")
    yield "a link to nowhere"
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    yield "a pipe"  # which nobody writes into: who reads it waits for ever
    file.unlink(missing_ok=True)
