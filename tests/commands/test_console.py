"""Foreign text on the terminal: shown as it is, never obeyed, wherever it comes from."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import load, settings, write_script
from helpers.paths import ROOT
from helpers.shell import Shell
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import BarColumn

from hcache.commands import main
from hcache.commands.console import PlainConsole, markdown_text, notes, progress, table_of
from hcache.commands.sampling import SamplingProgress
from hcache.data.visible import tell_of_warnings, visible
from hcache.files import json_text
from hcache.runs.workers import worker_pool
from hcache.sampling.tally import Tally

HOSTILE = r"s[a:b:c] + t[0:100:2] and \[x = 5\] [/bold] [red]no[/red] :smile: \\[1] end"
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
ACTING = "a\x1b[2Jb\x07c\x9bd\u202ee\u2066f\x7fg\rh"


def printed(renderable: object, width: int = 200) -> str:
    out = io.StringIO()
    PlainConsole(file=out, width=width).print(renderable)
    return out.getvalue()


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    script = json.dumps(HOSTILE)[1:-1].replace("\\\\", "\\\\\\\\")
    write_script(tmp_path, "m", [["(?s).*", json.loads(f'"{script}"') + ACTING]])
    rows = [{"question": f"Row {n}: {HOSTILE}?", "answer": "5", "kind": HOSTILE} for n in range(3)]
    for split, row in zip(("train", "valid", "test"), rows, strict=True):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    load(tmp_path, settings("m", runs="runs"))
    return Shell(tmp_path, capsys, monkeypatch)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_replies_and_questions_are_printed_as_they_are(shell: Shell) -> None:
    planned = shell("plan", "experiment.yaml", "--show", "1")
    assert HOSTILE in flat(planned)
    shell("sample", "experiment.yaml")
    query = "select trajectory_id, kind from outcomes limit 1"
    (row,) = json.loads(shell("sql", query, "--db", "small.duckdb", "--format", "json"))
    assert row["kind"] == HOSTILE
    told = shell("show", row["trajectory_id"], "--db", "small.duckdb")
    assert flat(told).count(HOSTILE) >= 3  # question, prompt and reply
    assert r"a\x1b[2Jb\x07c\x9bd\u202ee\u2066f\x7fg" in flat(told)
    assert not set(told) & set(ACTING) - set("abcdefgh[2J")
    table = shell("sql", "select kind from outcomes limit 1", "--db", "small.duckdb")
    assert HOSTILE in table


def test_a_defect_in_line_100_is_reported_in_line_100(shell: Shell) -> None:
    rows = [json.dumps({"question": f"q{n}", "answer": "x"}) for n in range(99)]
    (shell.folder / "train.jsonl").write_text("\n".join([*rows, '{"question": "q", "answer":']))
    message = shell("sample", "experiment.yaml", code=1)
    assert "train.jsonl:100:" in message


@pytest.mark.parametrize("name", ["x[/y]", "x[red]y", ":smile:", r"x\[y\]", "x\x1b[31my"])
def test_paths_in_messages_are_text(shell: Shell, name: str) -> None:
    assert visible(name) in shell("runs", "list", "--runs", name)
    for command in (["sql", "select 1", "--db", name], ["sample", name], ["runs", "show", name]):
        assert visible(name) in flat(shell(*command, code=1))
    assert visible(name) in shell("sql", f'select "{name}"', "--db", "small.duckdb", code=1) or (
        not (shell.folder / "small.duckdb").exists()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "experiment.yaml", "--set", 'data={"a\\nb": {}}'),
        ("plan", "experiment.yaml", "--set", "quality='a\\n\\nb'"),
        ("plan", "a\nb\r\nc.yaml"),
        ("eval", "a\nb"),
        ("sql", "select 1", "--db", "a\nb.duckdb"),
        ("export", "a\nb", "--db", "a\nb.duckdb"),
    ],
    ids=ascii,
)
def test_an_error_is_one_line_whatever_it_names(shell: Shell, arguments: tuple[str, ...]) -> None:
    said = shell(*arguments, code=1)
    assert said.startswith("error: ") and said.count("\n") == 1 and r"\n" in said


def test_runs_in_a_folder_with_brackets(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    quick = shell.sets("train.iterations=2", "runs=runs[/bold]:100:x")
    assert "runs[/bold]:100:x/sft-" in shell("train", "experiment.yaml", "--algo", "sft", *quick)
    assert "runs[/bold]:100:x" in flat(shell("runs", "list", "--runs", "runs[/bold]:100:x"))


def test_nested_columns_are_json_in_csv(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    query = "select [1, 2] as list, {'a': [date '2026-01-02']} as struct"
    query += ", null::int[] as none, 'a,b' as t"
    text = shell("sql", query, "--db", "small.duckdb", "--format", "csv")
    (row,) = csv.DictReader(text.splitlines())
    assert json.loads(row["list"]) == [1, 2] and row["none"] == "" and row["t"] == "a,b"
    assert json.loads(row["struct"]) == {"a": ["2026-01-02"]}
    asks = shell("sql", "select asks from trajectories", "--db", "small.duckdb", "--format", "csv")
    assert all(json.loads(each["asks"]) for each in csv.DictReader(asks.splitlines()))


def test_a_row_of_one_nothing_is_a_row_of_csv(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    query = "select null as a from range(3)"
    text = shell("sql", query, "--db", "small.duckdb", "--format", "csv")
    assert [*csv.reader(text.splitlines())] == [["a"], [""], [""], [""]]


def test_json_has_no_nan(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    query = "select 'nan'::double as a, ['inf'::double, 1] as b, date '2026-01-02' as c"
    text = shell("sql", query, "--db", "small.duckdb", "--format", "json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    (row,) = json.loads(text, parse_constant=refuse)
    assert row == {"a": None, "b": [None, 1.0], "c": "2026-01-02"}


@given(st.text())
def test_nothing_that_acts_reaches_the_terminal(text: str) -> None:
    shown = visible(text)
    kinds = {character: unicodedata.category(character) for character in shown}
    assert not {c for c, kind in kinds.items() if kind in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    assert not {c for c in shown if unicodedata.bidirectional(c) in BIDI}
    assert visible(shown) == shown


def test_no_character_of_format_reorders_or_hides() -> None:
    kept = {
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(sign := chr(code)) == "Cf" and visible(sign) == sign
    }
    joiners = {"U+200C", "U+200D"}
    seen = {*(f"U+{0x600 + n:04X}" for n in range(6)), "U+06DD", "U+070F", "U+0890", "U+0891"}
    assert kept == joiners | seen | {"U+08E2", "U+110BD", "U+110CD"}


@pytest.mark.parametrize(
    "sign", "\u200e\u200f\u061c\u202e\u2067\xad\u200b\ufeff\u2063\u3164\U000e0041"
)
def test_what_reorders_or_hides_is_written_out(shell: Shell, sign: str) -> None:
    assert visible(f"a{sign}b") == f"a{sign.encode('unicode_escape').decode()}b"
    assert sign not in shell("runs", "list", "--runs", f"a{sign}b")


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم", "क्\u200dष", "👩\u200d💻", "❤\ufe0f", "שלום, 5", "\u0600١٢"]
)
def test_scripts_and_emoji_are_written_as_they_are(text: str) -> None:
    assert visible(text) == text


BLANK = "\u115f\u1160\u3164\uffa0"  # letters without a glyph


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters=BLANK)))
def test_plain_text_is_not_touched(text: str) -> None:
    assert visible(text) == text
    assert printed(text, 10_000) == text + "\n"
    assert text in printed(table_of([{"a": text}]), 10_000)


def test_progress_bars_show_names_as_they_are() -> None:
    bars = progress("{task.description}", BarColumn())
    bars.add_task(HOSTILE + ACTING, total=1)
    assert HOSTILE + visible(ACTING) in printed(bars.get_renderable())
    assert bars.console is notes


def test_rows_in_markdown_show_foreign_text_as_text() -> None:
    text = "a|b <b>*x*</b> `c`\n[d](e) _f_" + ACTING
    head, rule, line = markdown_text(["a_b", "n"], [{"a_b": text, "n": 0.123456}]).splitlines()
    assert (head, rule) == (r"| a\_b | n |", "| --- | ---: |")
    assert line.startswith(r"| a\|b &lt;b>\*x\*&lt;/b> \`c\` \[d\](e) \_f\_a\\x1b\[2Jb")
    assert line.endswith(" | 0.1235 |") and not set(line) & set(ACTING) - set("abcdefgh[2J")


def test_json_text_of_what_json_lacks() -> None:
    assert json.loads(json_text({"a": float("nan"), "b": (1, Path("x"))})) == {
        "a": None,
        "b": [1, "x"],
    }


WARNED = "the message " + ACTING + " [bold]x[/bold] [/] :smile:"
SHOWN = r"the message a\x1b[2Jb\x07c\x9bd\u202ee\u2066f\x7fg\x0dh [bold]x[/bold] [/] :smile:"


def logged() -> None:
    logging.getLogger("hcache.replay").warning("%s", WARNED)


def warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(WARNED, stacklevel=2)


@pytest.mark.parametrize("speak", [logged, warned])
def test_warnings_are_shown_as_any_other_text(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, speak: Callable[[], None]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr("hcache.commands.runs.say", lambda _: speak())
    shell.patch.chdir(shell.folder)
    shell.patch.setattr(sys, "argv", ["hcache", "runs", "list"])
    with pytest.raises(SystemExit):
        main()
    told = shell.capture.readouterr().err
    assert SHOWN in told
    assert told.count("the message") == told.count("\n") == 1


def test_warnings_of_workers_are_shown_as_any_other_text(capfd: pytest.CaptureFixture[str]) -> None:
    with worker_pool(2) as pool:
        for speak in (logged, warned):
            pool.submit(speak).result()
    told = capfd.readouterr().err
    assert told.count(SHOWN) == told.count("the message") == 2


def test_a_message_that_does_not_take_its_arguments_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(logging.root, "handlers", [])
    tell_of_warnings(print)
    logging.getLogger("hcache.replay").warning("%d parts", "three")
    assert "'%d parts'" in capsys.readouterr().err


def test_only_one_place_makes_consoles() -> None:
    for file in sorted((ROOT / "hcache").rglob("*.py")):
        if file.name == "console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not {"Console", "Progress", "TextColumn", "escape"} & set(names), file


def test_where_there_is_no_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("hcache.commands.console.monotonic", lambda: now)
    monkeypatch.setattr(notes, "_file", sys.stderr)
    with progress("{task.description}", BarColumn(), "{task.completed:.0f}/9") as bars:
        task = bars.add_task("small[x]")
        for now in (1.0, 59.0, 61.0, 62.0, 130.0):
            bars.update(task, completed=round(now / 20))
        lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines] == ["small[x] 3/9", "small[x] 6/9"]


@pytest.mark.parametrize("step", ["show_cursor", "set_live", "push_render_hook"])
def test_a_signal_while_bars_start_is_still_a_signal(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not become an error of rich's, which takes off at the end what was not there yet."""
    console, hooks = type(notes), list(notes._render_hooks)
    real, calls = getattr(console, step), 0

    def interrupted(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(console, step, interrupted)
    tally = Tally(queries=1, expected=Counter(a=1))
    with pytest.raises(KeyboardInterrupt), SamplingProgress() as bars:
        bars.update(tally)
    assert not bars.bars.live.is_started
    assert notes._render_hooks == hooks
