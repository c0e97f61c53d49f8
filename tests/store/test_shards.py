"""Shards: what workers on other machines leave, taken in once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.errors import StoreError
from hcache.store import Spool
from hcache.store.shards import FILE_RECORDS, Shard
from hcache.store.spool import shards_path

Records = list[dict[str, Any]]


def numbered(*numbers: int) -> Records:
    return [{"number": number} for number in numbers]


def taken_in(db: Path) -> list[int]:
    """The numbers of the records that a sampler finds, which it then has written."""
    with closing(Spool(db)) as spool:
        records = spool.recover()
        spool.clear()
    return [record["number"] for record in records]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    shards_path(tmp_path / "some.duckdb").mkdir()
    return tmp_path / "some.duckdb"


def test_what_is_left_is_taken_in_once(db: Path) -> None:
    for numbers in ((1, 2), (3,)):
        Shard(shards_path(db)).append(numbered(*numbers))
    with closing(Spool(db)) as spool:
        spool.append(numbered(0))
    assert sorted(taken_in(db)) == [0, 1, 2, 3]
    assert taken_in(db) == [] and not list(shards_path(db).iterdir())


def test_what_is_not_written_yet_stays(db: Path) -> None:
    """A sampler that ends between taking in and writing has lost nothing."""
    Shard(shards_path(db)).append(numbered(1))
    with closing(Spool(db)) as spool:
        spool.recover()
    assert taken_in(db) == [1]


def test_commits_leave_the_shards_of_this_run(db: Path) -> None:
    with closing(Spool(db)) as spool:
        spool.recover()
        Shard(shards_path(db)).append(numbered(1))
        spool.append(numbered(2))
        spool.clear()
    assert taken_in(db) == [1]


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, FILE_RECORDS), min_size=1, max_size=6), data=st.data())
def test_only_what_is_safe_is_removed(
    sizes: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    db = tmp_path_factory.mktemp("shards") / "some.duckdb"
    shards_path(db).mkdir()
    shard, total, safe = Shard(shards_path(db)), 0, 0
    for size in sizes:
        shard.append(numbered(*range(total, total + size)))
        total += size
        safe = data.draw(st.integers(safe, total))
        shard.forget(safe)
        kept = sum(file.read_bytes().count(b"\n") for file in shards_path(db).iterdir())
        assert total - safe <= kept < total - safe + 2 * FILE_RECORDS
    left = sorted(taken_in(db))
    assert left == list(range(total - len(left), total)) and len(left) >= total - safe


def test_all_is_removed_when_all_is_safe(db: Path) -> None:
    shard = Shard(shards_path(db))
    for first in (0, 1):
        shard.append(numbered(first))
        shard.forget(first + 1)
        assert not list(shards_path(db).iterdir())


def test_a_torn_end_is_left_out_and_damage_is_said(db: Path) -> None:
    Shard(shards_path(db)).append(numbered(1, 2))
    (file,) = shards_path(db).iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with closing(Spool(db)) as spool:
        assert spool.recover() == numbered(1)
    file.write_bytes(whole.replace(b"1", b"7", 1) + whole)
    with (
        closing(Spool(db)) as spool,
        pytest.raises(StoreError, match=r"shard: record 1 is damaged"),
    ):
        spool.recover()


def test_without_the_folder_nothing_is_kept(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "not-shared")
    shard.append(numbered(1))
    shard.forget(1)
    assert not list(tmp_path.iterdir())
