"""The spool: what was written stays readable, whatever happens to process or disk."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.errors import StoreBusyError, StoreError
from hcache.store import Spool, spool_path
from hcache.store.spool import encode, parse_records

RECORDS: list[dict[str, Any]] = [{"text": "one\n"}, {"text": "zwei ü"}, {"ids": [1, 2]}]

values = st.none() | st.integers() | st.text(st.characters()) | st.lists(st.integers())
records = st.lists(st.dictionaries(st.text(st.characters()), values, max_size=4), max_size=5)


def written(folder: Path, items: list[dict[str, Any]] = RECORDS) -> Path:
    """A spool left behind with these records in it."""
    spool = Spool(folder / "db")
    spool.append(items)
    spool.close()
    return spool_path(folder / "db")


def recovered(folder: Path) -> list[dict[str, Any]]:
    spool = Spool(folder / "db")
    try:
        return spool.recover()
    finally:
        spool.close()


@given(records)
def test_records_come_back(items: list[dict[str, Any]]) -> None:
    data = b"".join(map(encode, items))
    assert parse_records(data, Path("spool")) == (items, len(data))


@given(records, st.data())
def test_any_torn_end_loses_the_last_record_only(
    items: list[dict[str, Any]], data: st.DataObject
) -> None:
    whole = b"".join(map(encode, items))
    last = encode({"last": 1})
    torn = last[: data.draw(st.integers(0, len(last) - 1))]
    assert parse_records(whole + torn, Path("spool")) == (items, len(whole))


def test_writing_goes_on_behind_a_torn_end(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    spool = Spool(tmp_path / "db")
    assert spool.recover() == RECORDS[:2]
    spool.append([{"more": 1}])
    spool.close()
    assert recovered(tmp_path) == [*RECORDS[:2], {"more": 1}]


def test_damage_in_the_middle_is_an_error_and_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes().replace(b"zwei", b"drei")
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"record 2 is damaged.*Move the file away"):
        recovered(tmp_path)
    assert path.read_bytes() == data


def test_second_writer_is_refused(tmp_path: Path) -> None:
    first = Spool(tmp_path / "db")
    with pytest.raises(StoreBusyError, match=rf"process {os.getpid()} \(.*is sampling into .*db"):
        Spool(tmp_path / "db")
    first.append(RECORDS)
    first.close()
    assert recovered(tmp_path) == RECORDS


def test_file_removed_between_opening_and_locking_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Spool(tmp_path / "db")
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        first.close()
        lock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(StoreBusyError):
            Spool(tmp_path / "db")
    Spool(tmp_path / "db").close()


def test_spool_is_gone_once_its_records_are_safe(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "db")
    spool.append(RECORDS)
    spool.clear()
    spool.append(RECORDS[:1])
    assert spool.recover() == RECORDS[:1]
    spool.clear()
    spool.close()
    spool.close()
    assert not spool_path(tmp_path / "db").exists()


def test_nothing_to_write_writes_nothing(tmp_path: Path) -> None:
    assert not written(tmp_path, []).exists()


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write beside .*Choose another place with --db"):
        Spool(tmp_path / "file" / "db")


def test_full_disk_keeps_what_was_written_before(tmp_path: Path) -> None:
    code = """
import os, resource, signal, sys
from pathlib import Path
from hcache.errors import StoreError
from hcache.store import Spool
print(os.getpid())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
spool = Spool(Path(sys.argv[1]))
spool.append([{"before": 1}])
try:
    spool.append([{"x": "y" * 700}, {"x": "z" * 700}])
except StoreError as error:
    print(error)
spool.append([{"after": 2}])
try:
    Spool(Path(sys.argv[1]))
except StoreError as error:
    print(error)
spool.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "db")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pid, first, second = done.stdout.splitlines()
    assert "no room left on the disk" in first and "Free some space" in first
    assert f"process {pid} (" in second  # the lock is still held
    assert recovered(tmp_path) == [{"before": 1}, {"after": 2}]
