"""`hcache sql` and `hcache show` on what strangers wrote: formats, hostile ids and replies."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import duckdb
import pytest
from helpers.experiments import table
from helpers.shell import Shell
from hypothesis import given
from hypothesis import strategies as st

from hcache.commands import main
from hcache.commands.console import csv_text
from hcache.experiment import Experiment

FORMULAS = ["=1+1", "+x", "-x", "@sum(1)", "\t=1", "\r=1", "=cmd|'/c calc'!A1", "-3 days", "--1"]
NUMBERS = ["-1.5", "+2", "-1e-05", "-0"]


@pytest.fixture
def shell(
    sampled: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:  # fmt: skip
    shutil.copy(sampled.db, tmp_path / "copy.duckdb")
    return Shell(tmp_path, capfd, monkeypatch)


def sql(shell: Shell, query: str, *arguments: str, code: int = 0) -> str:
    return shell("sql", query, "--db", "copy.duckdb", *arguments, code=code)


def change(shell: Shell, query: str, *values: object) -> None:
    with duckdb.connect(str(shell.folder / "copy.duckdb")) as connection:
        connection.execute(query, list(values))


def test_sql_reaches_other_files_only_by_its_option(shell: Shell) -> None:
    (shell.folder / "secret.txt").write_text("secret")
    message = sql(shell, "from read_text('secret.txt')", code=1)
    assert message.startswith("error: ") and message.count("\n") == 1
    assert "--allow-external-access" in message
    query = "select content from read_text('secret.txt')"
    assert "secret" in sql(shell, query, "--allow-external-access")
    sql(shell, "copy queries to 'copy.duckdb' (use_tmp_file false)", code=1)
    assert len(json.loads(sql(shell, "from queries", "--format", "json"))) == 5


@pytest.mark.parametrize("format", ["table", "json", "csv"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (f"{2**128 - 1}::uhugeint", f"{2**128 - 1}"),
        ("interval 3 days", "3 days"),
        ("date 'infinity'", "infinity"),
        ("union_value(a := 'one')", "one"),
        ("[date 'infinity', null]", "infinity"),
        ("sum(12)", "12"),
    ],
)
def test_any_type_is_text_in_any_format(shell: Shell, value: str, text: str, format: str) -> None:
    assert text in sql(shell, f"select {value} as v", "--format", format)


def test_formulas_are_quoted_in_csv_and_numbers_are_not(shell: Shell) -> None:
    values = [*FORMULAS, *NUMBERS, "plain", "a=b"]
    rows = ", ".join("('{}')".format(value.replace("'", "''")) for value in values)
    query = f'select v as "=v", -1.5::double as d, -2 as i from (values {rows}) as t(v)'
    text = sql(shell, query, "--format", "csv")
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found[0] == ["'=v", "d", "i"]
    kept = [*NUMBERS, "plain", "a=b"]
    assert [row[0] for row in found[1:]] == [*(f"'{value}" for value in FORMULAS), *kept]
    assert {(row[1], row[2]) for row in found[1:]} == {("-1.5", "-2")}


CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_csv_is_read_back_and_runs_nothing(rows: list[tuple[object, object]]) -> None:
    text = csv_text(["a", "b"], [dict(zip("ab", row, strict=True)) for row in rows])
    head, *found = csv.reader(io.StringIO(text, newline=""))
    assert head == ["a", "b"] and len(found) == len(rows)
    for row, cells in zip(rows, found, strict=True):
        for value, cell in zip(row, cells, strict=True):
            if isinstance(value, str):
                assert cell in (value, f"'{value}")
                if cell[:1] in set("=+-@\t\r"):
                    float(cell)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                assert cell == str(value)


# Showing


def first(shell: Shell) -> str:
    found = table(shell.folder / "copy.duckdb", "outcomes")["trajectory_id"]
    return str(found[0])


@pytest.mark.parametrize("name", ["\ud800", "\0", "", "%", "'; drop table x", "🦆", "x" * 100000])
def test_show_of_a_hostile_id_is_one_line(shell: Shell, name: str) -> None:
    message = shell("show", name, "--db", "copy.duckdb", code=1)
    assert message.startswith("error: ") and message.count("\n") == 1


@pytest.mark.parametrize(
    "messages",
    ["null", "{", "5", "[1]", "[{}]", '{"role": "user"}', "[" * 5000 + "]" * 5000, "9" * 5000],
)
def test_show_of_damaged_messages_is_one_line(shell: Shell, messages: str) -> None:
    change(shell, "update messages set messages = ?", messages)
    message = shell("show", first(shell), "--db", "copy.duckdb", code=1)
    assert "damaged" in message and "hcache check" in message and message.count("\n") == 1


@pytest.mark.parametrize("content", [None, 5, ["a", {"b": 1}], "\ud800", "[/bold]\x1b]0;x\x07"])
def test_show_of_strange_messages_is_text(shell: Shell, content: object) -> None:
    change(shell, "update messages set messages = ?", json.dumps([{"role": 1, "content": content}]))
    change(shell, "update trajectories set sequence = ?", "a\nb[/x]\x1b[2J")
    told = shell("show", first(shell), "--db", "copy.duckdb")
    assert "1:" in told and "\x1b" not in told and "[/x]" in told


@pytest.mark.parametrize(
    "view",
    [
        "* replace (interval '1 day' as cost)", "* replace ('x' as f1)", "* exclude (notes)",
        "* replace (date 'infinity' as answer)", "* replace (null as \"references\")",
        "* replace (1.5 as sequence)", "* exclude (sequence)",
    ],
)  # fmt: skip
def test_show_of_a_foreign_view_is_text_or_one_line(shell: Shell, view: str) -> None:
    name = first(shell)
    change(shell, "create table kept as select * from outcomes")
    change(shell, f"create or replace view outcomes as select {view} from kept")
    shell.patch.chdir(shell.folder)
    shell.patch.setattr("sys.argv", ["hcache", "show", name, "--db", "copy.duckdb"])
    with pytest.raises(SystemExit) as end:
        main()
    said = shell.capture.readouterr().err
    assert "panicked" not in said and (not end.value.code or said.count("\n") == 1)
