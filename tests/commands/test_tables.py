"""Tables on terminals of 80 and 120 columns: whole words and intervals, or a block for each row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.experiments import load, settings, write_questions, write_scripts
from helpers.shell import Shell

from hcache.commands.console import console, print_rows

INTERVAL = re.compile(r"-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]")


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    write_scripts(tmp_path, "ab")
    for split, count in (("train", 12), ("valid", 6), ("test", 45)):
        write_questions(tmp_path, split, count)
    load(tmp_path, settings("ab", runs="runs"))
    shell = Shell(tmp_path, capsys, monkeypatch)
    shell("sample", "experiment.yaml")
    return shell


def fits(text: str, width: int) -> bool:
    return max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_leaderboard_fits_and_breaks_no_interval(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    shell("train", "experiment.yaml", "--algo", "sft", *shell.sets("train.iterations=5"))
    monkeypatch.setattr(console, "width", width)
    printed = shell("eval", "experiment.yaml")
    table, _, said = printed.partition("\nsft against the best static sequence: ")
    assert said, "the verdict stands below"
    assert fits(table, width)
    names = ("who", "quality", "cost", "reward", "against best static", "gap closed")
    header = table.partition("──")[0]
    assert all(word in header for name in names for word in name.split())
    for line in table.splitlines():
        assert line.count("[") == line.count("]") == len(INTERVAL.findall(line))
    assert len(INTERVAL.findall(table)) >= 5
    monkeypatch.setattr(console, "width", 200)
    wide = shell("eval", "experiment.yaml", "--wide")
    assert len(INTERVAL.findall(wide)) > 2 * len(INTERVAL.findall(table)) and "AIQ" in wide


@pytest.mark.parametrize("width", [80, 120])
def test_wide_rows_become_blocks(shell: Shell, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(console, "width", width)
    printed = shell("sql", "select * from outcomes limit 3", "--db", "small.duckdb")
    assert fits(printed, width)
    assert re.search(r"^trajectory_id +[0-9a-f]{16}\s*$", printed, re.MULTILINE)
    assert printed.count("trajectory_id") == 3


def test_long_texts_are_cut_where_the_rest_fits(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 80)
    query = "select repeat('word ', 60) as text, 12345 as number"
    printed = shell("sql", query, "--db", "small.duckdb")
    assert fits(printed, 80) and "…" in printed and "12345" in printed


def test_sql_shows_forty_rows_and_says_how_many_more(shell: Shell) -> None:
    query = ["sql", "select query_id from queries", "--db", "small.duckdb"]
    printed = shell(*query)
    assert "23 more rows; --rows 0 shows all" in printed
    assert len(re.findall(r"\b[0-9a-f]{32}\b", printed)) == 40
    assert len(re.findall(r"\b[0-9a-f]{32}\b", shell(*query, "--rows", "0"))) == 63
    assert len(shell(*query, "--format", "csv").splitlines()) == 64


def test_a_share_far_below_the_best_static_is_said_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from hcache.evaluation.leaderboard import share
    from hcache.evaluation.statistics import Interval

    assert share(Interval(-455.0, -900.0, -10.0)) == "< -1"
    assert share(Interval(float("nan"))) == "-"
    assert share(Interval(0.5, 0.4, 0.6)) == "0.500"


@pytest.mark.parametrize("width", [20, 40, 80])
def test_nothing_passes_the_edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "width", width)
    rows = [{"name": "a long name of many words", "value": 0.25, "note": "x" * 90}]
    for elide in (False, True):
        print_rows(rows, elide=elide)
        assert fits(capsys.readouterr().out, width)
