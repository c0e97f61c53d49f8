"""SQL that anybody wrote: it reaches the database alone, and each result and error can be shown."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.commands.console import csv_text
from hcache.errors import HcacheError, StoreError
from hcache.experiment import Experiment
from hcache.files import json_text
from hcache.store import Store, answer, open_for_people, spool_path

BIG = 2**128 - 1
EVERY_TYPE = "select * from test_all_types()"


@pytest.fixture
def db(sampled: Experiment, tmp_path: Path) -> Path:
    """A database of its own folder, with a spool beside it, and the folder is the current one."""
    path = tmp_path / "copy.duckdb"
    shutil.copy(sampled.db, path)
    spool_path(path).write_text("finished, not yet committed")
    (tmp_path / "secret.txt").write_text("secret")
    shutil.copy(sampled.db, tmp_path / "other.duckdb")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ask(db: Path, sql: str, external: bool = False) -> list[dict[str, Any]]:
    with open_for_people(db, external) as store:
        return answer(store, sql).rows


OUTSIDE = [
    "copy queries to '{folder}/out.csv'",
    "copy queries to '{db}.spool'",
    "copy queries to '{db}' (use_tmp_file false)",
    "copy queries to '{db}' (format parquet)",
    "copy queries to '{db}.wal' (use_tmp_file false)",
    "copy queries to '{db}.tmp/out.csv'",
    "explain analyze copy queries to '{db}' (use_tmp_file false)",
    "export database '{folder}/out'",
    "export database '{db}.tmp'",
    "import database '{folder}'",
    "attach '{folder}/other.duckdb'",
    "attach '{folder}/other.duckdb' as other (read_write)",
    "attach '{folder}/new.duckdb'",
    "attach '{db}' as again",
    "attach 'md:'",
    "from '{folder}/other.duckdb'",
    "from read_text('{folder}/secret.txt')",
    "from read_blob('{db}')",
    "from read_text('{db}.spool')",
    "from read_csv('{folder}/secret.txt')",
    "from '{folder}/secret.csv'",
    "from glob('{folder}/*')",
    "from sniff_csv('{folder}/secret.txt')",
    "from query('from read_text(''{folder}/secret.txt'')')",
    "create temp view v as from read_text('{folder}/secret.txt')",
    "from 'http://127.0.0.1:{port}/x.csv'",
    "from read_text('https://127.0.0.1:{port}/x')",
    "install httpfs",
    "install spatial from 'http://127.0.0.1:{port}'",
    "load httpfs",
    "load '{folder}/x.duckdb_extension'",
    "update extensions",
    "from sqlite_scan('{folder}/secret.txt', 't')",
    "call start_ui()",
    "set threads = 1",
    "set disabled_filesystems = ''",
    "set enable_external_access = true",
    "set allowed_directories = ['/']",
    "reset lock_configuration",
    "set lock_configuration = false",
    "set temp_directory = '{folder}'",
    "pragma enable_profiling",
    "pragma profiling_output = '{folder}/out.json'",
    "call enable_logging(storage = 'file', storage_path = '{folder}/log')",
    "select 1; copy queries to '{folder}/out.csv'",
    "from frame",
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_sql_reaches_nothing_but_the_database(
    db: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(db.parent)
    frame = pl.DataFrame({"secret": ["secret"]})  # a variable is no table
    before = files(db.parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        with pytest.raises(StoreError) as caught:
            ask(db, sql.format(folder=db.parent, db=db, port=port))
        with pytest.raises(TimeoutError):
            server.accept()
    assert "\n" not in str(caught.value) and "secret" not in caught.value.args
    assert files(db.parent) == before and len(frame) == 1


def test_a_relative_path_is_no_way_out(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(db.parent)
    before = files(db.parent)
    for sql in (
        "copy queries to 'copy.duckdb' (use_tmp_file false)",
        "from read_blob('copy.duckdb')",
    ):
        with pytest.raises(StoreError, match="--allow-external-access"):
            ask(Path("copy.duckdb"), sql)
    assert files(db.parent) == before


@pytest.mark.parametrize("sql", ["set threads = 1", "pragma threads = 2", "copy queries to 'x'"])
def test_what_is_refused_says_how_it_would_be_allowed(db: Path, sql: str) -> None:
    with pytest.raises(StoreError, match=r"hcache sql --allow-external-access$"):
        ask(db, sql)


def test_views_of_a_stranger_read_no_file(db: Path) -> None:
    secret = db.parent / "secret.txt"
    with duckdb.connect(str(db)) as connection:
        connection.execute(f"create view leak as select content from read_text('{secret}')")
        connection.execute(f"create macro leaks() as table from read_text('{secret}')")
        connection.execute(f"create or replace view outcomes as from read_text('{secret}')")
    for sql in ("from leak", "from leaks()", "from outcomes"):
        with pytest.raises(StoreError, match="Permission"):
            ask(db, sql)
    assert ask(db, "from leak", external=True) == [{"content": "secret"}]
    with Store(db) as store, pytest.raises(StoreError, match="Permission"):
        store.trajectories()  # what hcache asks by itself


def test_external_access_is_given_where_it_is_asked_for(db: Path) -> None:
    out = db.parent / "out.csv"
    ask(db, f"copy (select 1 as one) to '{out}'", external=True)
    assert out.read_text().split() == ["one", "1"]
    assert ask(db, "set threads = 2; select 1 as one", external=True) == [{"one": 1}]


@pytest.mark.parametrize("name", ["md:x", ":memory:", "a b's.duckdb"])
def test_a_database_is_a_file_whatever_its_name(db: Path, name: str) -> None:
    path = db.with_name(name)
    db.rename(path)
    assert ask(path, "select count(*) as n from queries") == [{"n": 5}]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "folder", "pipe"])
def test_what_is_no_database_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError):
        open_for_people(tmp_path / name)


# Values of every type


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (f"{BIG}::uhugeint", str(BIG)),
        ("interval '-3 days'", "-3 days"),
        ("interval '1 month 2 days 00:00:01'", "1 month 2 days 00:00:01"),
        ("'infinity'::date", "infinity"),
        ("'-infinity'::timestamp", "-infinity"),
        ("'infinity'::timestamptz", "infinity"),
        ("date '0044-03-15 (BC)'", "0044-03-15 (BC)"),
        ("timestamp '2026-01-02 03:04:05'", "2026-01-02 03:04:05"),
        ("time '24:00:00'", "24:00:00"),
        ("'01:02:03+04'::timetz", "01:02:03+04"),
        ("union_value(a := 1::int)", "1"),
        ("'101'::bit", "101"),
        ("'\\xAA'::blob", "\\xAA"),
        ("'x'::enum('x', 'y')", "x"),
        ("1.50::decimal(9, 2)", "1.50"),
        ("'00000000-0000-0000-0000-00000000000f'::uuid", "00000000-0000-0000-0000-00000000000f"),
        (f"'{10**60}'::bignum", str(10**60)),
        ("(2::hugeint ** 3)::hugeint", 8),
        ("170141183460469231731687303715884105727::hugeint", 2**127 - 1),
        ("sum(3)", 3),
        ("18446744073709551615::ubigint", 2**64 - 1),
        ("true", True),
        ("1.5::double", 1.5),
        ("'a' || chr(0)", "a\0"),
        ("null", None),
        (f"[{BIG}::uhugeint]", [str(BIG)]),
        ("[date 'infinity', null]", ["infinity", None]),
        ("array_value(interval 1 day)", ["1 day"]),
        ("{'a b': {'c\"': [interval 1 day]}}", {"a b": {'c"': ["1 day"]}}),
        ("map {[1]: {'d': date '2026-01-02'}}", {"[1]": {"d": "2026-01-02"}}),
        ("[[union_value(a := 1::int)]]", [["1"]]),
        ("row(1, interval 1 day)", "(1, 1 day)"),
        ("'{\"a\": 1}'::json", '{"a": 1}'),
    ],
)
def test_value(sampled: Experiment, sql: str, wanted: object) -> None:
    with open_for_people(sampled.db) as store:
        found = answer(store, f"select {sql} as v")
    assert found.rows == [{"v": wanted}] and type(found.rows[0]["v"]) is type(wanted)
    assert json.loads(json_text(found.rows)) == found.rows
    text = csv_text(found.columns, found.rows)
    if isinstance(wanted, str) and wanted.isdigit():
        assert text == f"v\n{wanted}\n"


def test_all_types_of_duckdb_can_be_shown(sampled: Experiment) -> None:
    with open_for_people(sampled.db) as store:
        found = answer(store, EVERY_TYPE)
    plain = (bool, int, float, str, list, dict, type(None))

    def check(value: object) -> None:
        assert isinstance(value, plain)
        for inner in value.values() if isinstance(value, dict) else ():
            check(inner)
        for inner in value if isinstance(value, list) else ():
            check(inner)

    assert len(found.columns) > 40
    for row in found.rows:
        check(row)
    assert found.rows[1]["uhugeint"] == str(BIG)
    assert csv_text(found.columns, found.rows).count("\n") >= 4
    json_text(found.rows)


def test_columns_of_one_name_are_told_apart(sampled: Experiment) -> None:
    with open_for_people(sampled.db) as store:
        found = answer(store, "select 1 as a, 2 as a, 3 as a_1, 4 as a limit 0")
        assert len(set(found.columns)) == 4 and found.columns[:2] == ["a", "a_1"]
        assert answer(store, "").columns == answer(store, "-- nothing").columns == []
        assert answer(store, "select 1; select 2 as b").rows == [{"b": 2}]


def test_order_is_kept(sampled: Experiment) -> None:
    rows = ask(sampled.db, "select i from range(100000) t(i) order by i desc")
    assert [row["i"] for row in rows] == list(range(99999, -1, -1))


def test_a_type_of_many_levels_is_text_below_some(sampled: Experiment) -> None:
    (row,) = ask(sampled.db, f"select {'[' * 120}1{']' * 120} as v")
    assert json_text(row)


# Errors

HOSTILE = [
    "\ud800",
    "select '\udfff'",
    "select \0",
    "select " + "(" * 5000 + "1" + ")" * 5000,
    "select " + "[" * 3000,
    "select " + "1+" * 20000 + "1",
    "(" * 100000,
    "select $1",
    "select ?",
    "select error('a\nb')",
    "select 'x'::integer",
    "select " + "no_such_column_" * 1000,
    "selec\n\nt",
    "select repeat('x', 5000000000)",
    "from query(null)",
    "execute nothing",
    "rollback",
    "create table t (i int)",
    "delete from queries",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_whatever_is_wrong_is_one_line(sampled: Experiment, sql: str) -> None:
    with open_for_people(sampled.db) as store:
        for ask in (lambda: answer(store, sql), lambda: store.sql(sql)):
            with pytest.raises(StoreError) as caught:
                ask()
            assert "\n" not in str(caught.value) and 5 < len(str(caught.value)) < 800


WORDS = [
    "select", "from", "where", "group", "by", "order", "limit", "outcomes", "queries",
    "trajectories", "asks", "*", ",", "(", ")", "[", "]", "{", "}", ";", "'", '"', "$1", "?",
    "--", "/*", "1", "-1", "1e400", "null", "true", "union", "all", "with", "as", "join",
    "using", "unnest(", "count(*)", "list(", "interval", "date", "'infinity'", "::uhugeint",
    "::bit", "::varchar[]", "::json", "map{", "pivot", "describe", "explain", "set", "pragma",
    "copy", "attach", "create", "begin", "commit", "execute", "values", "é", "🦆",
]  # fmt: skip


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([*WORDS, "\0", "\ud800", "\u202e"]), max_size=12).map(" ".join)
    | st.text(max_size=40)
)
def test_any_text_is_answered_or_refused(sampled: Experiment, sql: str) -> None:
    with open_for_people(sampled.db) as store:
        try:
            found = answer(store, sql)
        except HcacheError as error:
            assert "\n" not in str(error)
        else:
            assert json_text(found.rows) and isinstance(csv_text(*found), str)


def test_ctrl_c_is_an_interrupt(sampled: Experiment) -> None:
    long = "select count(*) from range(100000000) a, range(100000000) b where a.range % 7 = b.range"
    with open_for_people(sampled.db) as store:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            answer(store, long)
