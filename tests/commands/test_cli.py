"""The command line on a scripted experiment: what it prints, its exit codes, its errors."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from helpers.experiments import facts, held, load, settings, table, write_questions, write_scripts
from helpers.paths import ROOT
from helpers.shell import Shell

import hcache
from hcache.commands import main
from hcache.commands.app import app
from hcache.commands.options import Format
from hcache.data.metrics import METRICS
from hcache.runs.folder import Run
from hcache.store import Store, write

QUICK = ["train.iterations=20", "train.patience=3"]


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    write_scripts(tmp_path, "ab")
    for split, count in (("train", 12), ("valid", 6), ("test", 6)):
        write_questions(tmp_path, split, count)
    load(tmp_path, settings("ab", runs="runs"))  # writes experiment.yaml
    return Shell(tmp_path, capsys, monkeypatch)


@pytest.fixture
def trained(shell: Shell) -> Shell:
    shell("sample", "experiment.yaml")
    shell("train", "experiment.yaml", "--algo", "sft", *shell.sets(*QUICK))
    return shell


def run_folder(shell: Shell, algo: str = "sft") -> str:
    (folder,) = (shell.folder / "runs").glob(f"{algo}-*")
    return str(folder.relative_to(shell.folder))


def test_plan_counts_what_sample_then_does(shell: Shell) -> None:
    planned = shell("plan", "experiment.yaml", "--show", "2")
    assert "24 queries, at most 144 generations" in planned
    assert "prompt 2" in planned and "user: train" in planned.replace("\n", " ")
    assert "144 generations made" in shell("sample", "experiment.yaml")
    assert "at most 0 generations" in shell("plan", "experiment.yaml")
    assert "0 generations made (144 were there)" in shell("sample", "experiment.yaml")


def test_rescore_says_how_many_values_changed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "holds no experiment" not in shell("sample", "experiment.yaml")
    assert "0 scores made anew, 0 values changed" in shell("rescore", "experiment.yaml")
    rows = table(shell.folder / "small.duckdb", "scores").filter(metric="em")
    changed = int((rows["value"] != 0).sum())
    old = [row | {"version": "old", "value": 0.0} for row in rows.to_dicts()]
    write(shell.folder / "small.duckdb", {"scores": old})
    said = "144 scores made anew, " + f"{changed} values changed"
    assert changed > 0 and said in shell("rescore", "experiment.yaml")
    assert json.loads(shell("rescore", "experiment.yaml", "--format", "json")) == {
        "new": 0, "anew": 0, "changed": 0, "left": 0, "timed_out": 0
    }  # fmt: skip
    message = shell("rescore", "experiment.yaml", "--set", "name=other", code=1)
    assert "holds no experiment 'other'" in message


def test_outdated_scores_stop_eval_train_and_report(trained: Shell) -> None:
    rows = table(trained.folder / "small.duckdb", "scores").filter(metric="f1").to_dicts()
    old = [row | {"version": "old"} for row in rows]
    write(trained.folder / "small.duckdb", {"scores": old})
    for command in ("eval", "train", "report"):
        message = trained(command, "experiment.yaml", code=1)
        assert "by another version" in message and "hcache rescore EXPERIMENT.yaml" in message
    assert "144 scores made anew, 0 values changed" in trained("sample", "experiment.yaml")
    trained("eval", "experiment.yaml")


def test_cut_replies_are_in_every_report(shell: Shell) -> None:
    cut = shell.sets("arms.b.max_tokens=1")
    sentence = "b: 72 of 72 replies cut at max_tokens (100.0%)."
    assert sentence in shell("sample", "experiment.yaml", *cut)
    quick = shell.sets(*QUICK)
    shell("train", "experiment.yaml", "--algo", "sft", *cut, *quick)
    sentence = "b: 18 of 18 replies cut at max_tokens (100.0%)."
    assert sentence in shell("eval", "experiment.yaml", *cut)
    replies = json.loads(shell("eval", "experiment.yaml", "--format", "json", *cut))["replies"]
    assert [(row["arm"], row["truncated"], row["too_long"]) for row in replies] == [
        ("a", 0, 0), ("b", 18, 0)
    ]  # fmt: skip
    bench = ("bench", "experiment.yaml", "--algos", "sft", *cut, *quick)
    assert sentence in shell(*bench)
    shell("report", "experiment.yaml", "--out", "page", *cut)
    page = (shell.folder / "page" / "index.html").read_text(encoding="utf-8")
    assert "How replies ended" in page and "<td>18 (100.0%)</td>" in page


def test_sql_formats(trained: Shell) -> None:
    query = "select sequence, f1 from sequences where split = 'test' order by sequence"
    rows = json.loads(trained("sql", query, "--db", "small.duckdb", "--format", "json"))
    assert [row["sequence"] for row in rows] == ["a", "a>a", "a>b", "b", "b>a", "b>b"]
    text = trained("sql", query, "--db", "small.duckdb", "--format", "csv")
    assert [row["sequence"] for row in csv.DictReader(text.splitlines())] == [
        row["sequence"] for row in rows
    ]
    table = trained("sql", query, "--db", "small.duckdb")
    assert all(row["sequence"] in table for row in rows)
    assert "no rows" in trained("sql", f"{query} limit 0", "--db", "small.duckdb")


def test_sql_cannot_write(trained: Shell) -> None:
    before = (trained.folder / "small.duckdb").read_bytes()
    message = trained("sql", "delete from generations", "--db", "small.duckdb", code=1)
    assert "read-only" in message
    assert (trained.folder / "small.duckdb").read_bytes() == before


def test_show_tells_the_whole_trajectory(trained: Shell) -> None:
    query = "select trajectory_id from outcomes where sequence = 'a>b' and split = 'test' limit 1"
    (row,) = json.loads(trained("sql", query, "--db", "small.duckdb", "--format", "json"))
    shown = trained("show", row["trajectory_id"][:12], "--db", "small.duckdb")
    for part in ("question:", "1. a:", "2. b:", "tokens, cost", "reply:", "references:", "f1"):
        assert part in shown
    message = trained("show", "nothing", "--db", "small.duckdb", code=1)
    assert "no trajectory 'nothing'" in message


def test_show_tells_every_score(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS.entries, "brevity", lambda answer, references: 0.125)
    raw = settings("a")
    raw["data"]["made"]["metrics"] = ["em", "f1", "brevity"]
    load(shell.folder, raw)
    shell("sample", "experiment.yaml")
    query = "select trajectory_id from outcomes where f1 = 0 limit 1"
    (row,) = json.loads(shell("sql", query, "--db", "small.duckdb", "--format", "json"))
    shown = shell("show", row["trajectory_id"], "--db", "small.duckdb")
    assert "scores: f1 0, em 0, brevity 0.125; cost" in shown.replace("\n", " ")


def test_eval_prints_table_json_and_csv(trained: Shell) -> None:
    assert "oracle" in trained("eval", "experiment.yaml")
    report = json.loads(trained("eval", "experiment.yaml", "--format", "json"))
    assert report["queries"] == 6
    names = {row["name"] for row in report["rows"]}
    assert {"a", "b", "random", "oracle", "sft"} <= names
    rows = [*csv.DictReader(trained("eval", "experiment.yaml", "--format", "csv").splitlines())]
    assert [row["name"] for row in rows] == [row["name"] for row in report["rows"]]
    looks = (trained.folder / run_folder(trained) / "looks.jsonl").read_text().splitlines()
    assert [json.loads(look)["split"] for look in looks] == ["test"] * 3
    one = json.loads(trained("eval", run_folder(trained), "--split", "valid", "--format", "json"))
    assert one["queries"] == 6 and "sft" in one["verdicts"]


def printing(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    if not getattr(command, "commands", None):
        yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from printing(below, f"{name} {each}".strip())


def test_rows_have_one_option_for_their_form_everywhere() -> None:
    found = {}
    for name, command in printing(typer.main.get_command(app)):
        options = {option: param for param in command.params for option in param.opts}
        assert not {"--json", "--csv"} & options.keys(), name
        if "--format" in options:
            found[name] = options["--format"].type_descriptor.annotation
    assert {*found.values()} == {Format} and [*Format] == ["table", "json", "csv", "markdown"]
    assert {"bench", "check", "eval", "plan", "show", "sql", "status", "runs show"} <= {*found}


@pytest.mark.parametrize(
    ("command", "column"),
    [
        (("plan", "experiment.yaml"), "cached"),
        (("prices", "experiment.yaml"), "input"),
        (("status", "experiment.yaml"), "generations"),
        (("digest", "experiment.yaml"), "digest"),
        (("check", "experiment.yaml"), "fault"),
        (("eval", "experiment.yaml"), "gap_closed"),
        (("rescore", "experiment.yaml"), "changed"),
        (("doctor",), "found"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_rows_in_every_form_are_the_same(
    trained: Shell, command: tuple[str, ...], column: str
) -> None:
    text = trained(*command, "--format", "csv")
    rows = [*csv.DictReader(text.splitlines())]
    head, rule, *lines = trained(*command, "--format", "markdown").splitlines()
    assert column.replace("_", r"\_") in head and set(rule) <= set("| -:")
    assert column in text.splitlines()[0].split(",") and len(lines) == len(rows)
    json.loads(trained(*command, "--format", "json"))


def test_train_finds_its_run_again_and_init_starts_from_another(trained: Shell) -> None:
    first = run_folder(trained)
    manifest = (trained.folder / first / "manifest.json").read_bytes()
    trained("train", "experiment.yaml", "--algo", "sft", *trained.sets(*QUICK))
    assert (trained.folder / first / "manifest.json").read_bytes() == manifest
    trained("train", "experiment.yaml", "--init", first, *trained.sets(*QUICK))
    names = {
        row["name"]
        for row in json.loads(trained("eval", "experiment.yaml", "--format", "json"))["rows"]
    }
    assert {"sft", "sft+ppo"} <= names


def test_runs_are_listed_shown_and_repeated(trained: Shell) -> None:
    folder = run_folder(trained)
    (row,) = json.loads(trained("runs", "list", "--format", "json"))
    assert row["folder"] == folder and row["state"] == "finished"
    assert "sft" in trained("runs", "list")
    assert "config.train.alpha" in trained("runs", "show", folder)
    shown = json.loads(trained("runs", "show", folder, "--format", "json"))
    assert shown["outcome"]["weights"] and shown["packages"]["torch"] and shown["machine"]["cores"]
    assert "identical" in trained("runs", "repeat", folder)


def test_runs_are_named_by_how_their_names_begin(trained: Shell) -> None:
    name = Path(run_folder(trained)).name
    for begin in ("sft", "sft-s0", f"runs/{name[:-3]}"):
        assert name in trained("runs", "show", begin)
        assert json.loads(trained("eval", begin, "--format", "json"))["seeds"] == {"sft": 1}
    trained("train", "experiment.yaml", "--algo", "sft", "--seed", "10", *trained.sets(*QUICK))
    trained("train", "experiment.yaml", "--algo", "sft", "--seed", "1", *trained.sets(*QUICK))
    message = trained("runs", "show", "sft-s", code=1)
    assert "3 runs begin with sft-s" in message and name in message
    assert '"seed": 1,' in trained("runs", "show", "sft-s1-", "--format", "json")
    assert "there is no run s0" in trained("runs", "show", "s0", code=1)


def test_runs_say_running_while_they_are_trained_and_stay_then(trained: Shell) -> None:
    run = Run(trained.folder / run_folder(trained))
    run.write_manifest(run.manifest | {"outcome": None})
    assert "stopped" in trained("runs", "list")
    with held(run):
        assert "running" in trained("runs", "list") and "stopped" not in trained("runs", "list")
        assert "being trained by another" in trained("runs", "delete", run.name, "--yes", code=1)
    assert "stopped" in trained("runs", "list") and run.folder.exists()


def test_runs_are_deleted_when_that_is_confirmed(trained: Shell) -> None:
    folder = trained.folder / run_folder(trained)
    trained("runs", "delete", "sft", code=1)  # nobody answers
    assert (folder / "manifest.json").exists()
    assert "deleted" in trained("runs", "delete", "sft", "--yes")
    assert not folder.exists() and "no runs below" in trained("runs", "list")


@pytest.mark.parametrize(
    "target", [["experiment.yaml"], ["small.duckdb"], ["--db", "small.duckdb"]]
)
def test_an_experiment_or_a_database_is_asked(trained: Shell, target: list[str]) -> None:
    query = "select trajectory_id from outcomes limit 1"
    (row,) = json.loads(trained("sql", query, *target, "--format", "json"))
    assert row["trajectory_id"][:12] in trained("show", row["trajectory_id"], *target)
    assert "144 trajectories of small" in trained("export", "out.jsonl", *target)
    assert "  all" in trained("digest", *target) and "nobody is" in trained("status", *target)
    assert "clean" in trained("check", *target)
    trained("sql", query, code=2)


def test_a_second_database_beside_the_file_is_warned_of(trained: Shell) -> None:
    home = trained.folder
    trained.folder = home / "work"
    trained.folder.mkdir()
    said = trained("train", "../experiment.yaml", code=1)
    assert "WARNING: another database of small lies beside its file: " in said
    assert f"{home / 'small.duckdb'}; used is" in said and "--db" in said
    assert "another" not in trained("prices", "../experiment.yaml", "--db", "../small.duckdb")


def test_runs_are_compared_in_words(trained: Shell) -> None:
    first = run_folder(trained)
    for seed in ("1", "2"):
        trained("train", "experiment.yaml", "--algo", "sft", "--seed", seed, *trained.sets(*QUICK))
    second = str(next((trained.folder / "runs").glob("sft-s1-*")).relative_to(trained.folder))
    same = trained("runs", "compare", first, first, "--split", "train")
    assert f"against {Path(first).name}: too few queries (" in same
    assert "+0.0000" in same and "12 queries of train" in same
    forth, back = (
        trained("runs", "compare", one, two) for one, two in ((first, second), (second, first))
    )
    found = [re.search(r"reward ([+-][\d.]+)", text) for text in (forth, back)]
    forth_value, back_value = (float(match.group(1)) for match in found if match)
    assert forth_value == -back_value
    looks = (trained.folder / second / "looks.jsonl").read_text().splitlines()
    assert [json.loads(look)["split"] for look in looks] == ["test", "test"]
    other = ["--set", "train.alpha=0.9", *trained.sets(*QUICK)]
    trained("train", "experiment.yaml", "--algo", "sft", "--seed", "7", *other)
    third = str(next((trained.folder / "runs").glob("sft-s7-*")).relative_to(trained.folder))
    assert "different rewards" in trained("runs", "compare", first, third, code=1)


def test_repeat_says_the_first_difference(trained: Shell) -> None:
    folder = trained.folder / run_folder(trained)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    changed = json.loads(lines[3]) | {"loss": 1e9}
    lines[3] = json.dumps(changed)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "metrics.jsonl is damaged" in trained("runs", "repeat", run_folder(trained), code=1)
    run = Run(folder)
    outcome = run.manifest["outcome"] | {"files": run.files()}
    run.write_manifest(run.manifest | {"outcome": outcome})  # as if it had been trained so
    message = trained("runs", "repeat", run_folder(trained), code=1)
    assert "line 4" in message and "1000000000" in message


def test_an_empty_question_is_refused(trained: Shell) -> None:
    for question in ("", " \n"):
        assert "the question is empty" in trained("route", "sft", question, code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "experiment.yaml", "--algo", "sft", "--live"], "--live is joint training"),
        (["eval", "sft", "--set", "train.alpha=0.3"], "are for experiment files"),
        (["report", "runs/report", "--verify", "--out", "page"], "--verify writes nothing"),
        (["check", "small.duckdb", "--all"], "need an experiment file"),
        (["digest", "small.duckdb", "--db", "other.duckdb"], "two databases"),
        (["plan", "experiment.yaml", "--batch", "b.jsonl", "--show", "3"], "without --show"),
    ],
)
def test_options_that_do_not_apply_are_refused(
    shell: Shell, arguments: list[str], words: str
) -> None:
    shell.patch.setenv("COLUMNS", "200")
    shell(*arguments, code=2)
    shell.patch.setattr(sys, "argv", ["hcache", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert words in " ".join(shell.capture.readouterr().err.split())


def test_numbers_with_an_exponent_are_numbers_everywhere(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    rate = shell.sets("train.settings.lr=1e-3", *QUICK)
    shell("train", "experiment.yaml", "--algo", "sft", *rate)
    shown = json.loads(shell("runs", "show", "sft", "--format", "json"))
    assert shown["config"]["train"]["settings"]["lr"] == 0.001


def test_a_budget_below_one_tree_says_the_least_that_does_something(shell: Shell) -> None:
    said = shell("sample", "experiment.yaml", "--budget", "5")
    assert "0 generations made" in said and "give --budget 6 or more" in said
    assert "run the same command again" not in said
    said = shell("sample", "experiment.yaml", "--budget", "6")
    assert "6 generations made" in said and "run the same command again" in said


def test_plan_shows_prompts_of_each_data_set_also_when_all_is_there(shell: Shell) -> None:
    raw = settings("ab")
    raw["data"]["other"] = {"sources": {"test": {"path": "other.jsonl"}}}
    write_questions(shell.folder, "other", 2)
    load(shell.folder, raw)
    for _ in range(2):
        said = shell("plan", "experiment.yaml", "--show", "3")
        prompts = re.findall(r"^user: (\D+)\d", said, re.MULTILINE)
        assert prompts == ["train", "other", "train"]
        assert f"database: {(shell.folder / 'small.duckdb').resolve()}" in said
        shell("sample", "experiment.yaml")


def test_route_asks_the_models_live(trained: Shell) -> None:
    routed = json.loads(trained("route", run_folder(trained), "test0", "--format", "json"))
    assert routed["answer"] == routed["steps"][-1]["reply"]
    assert routed["sequence"].split(">") == [step["arm"] for step in routed["steps"]]
    assert "answer" in trained("route", run_folder(trained), "test0")


def test_instruction_of_a_data_set_is_asked_and_kept(trained: Shell) -> None:
    """Another instruction makes other queries; `check` finds them whole, `route` asks alike."""
    told = trained.sets("data.made.instruction=Be brief.", "data.made.examples=1+1? 2.")
    assert "144 generations made" in trained("sample", "experiment.yaml", "--db", "t.duckdb", *told)
    rows = table(trained.folder / "t.duckdb", "queries")
    assert set(rows["instruction"]) == {"Be brief."} and set(rows["examples"]) == {"1+1? 2."}
    plain = table(trained.folder / "small.duckdb", "queries")
    assert set(plain["instruction"]) == {None}
    assert not set(rows["query_id"]) & set(plain["query_id"])
    for message in table(trained.folder / "t.duckdb", "messages")["messages"]:
        text = json.loads(message)[-1]["content"]
        assert text.startswith("1+1? 2.\n\n") and text.endswith("\n\nBe brief.")
    assert "t.duckdb: clean" in trained("check", "experiment.yaml", "--db", "t.duckdb", *told)
    assert "t.duckdb: clean" in trained("check", "t.duckdb")  # from the database alone


def test_route_asks_as_the_data_set_does(trained: Shell) -> None:
    """Where data sets have instructions of their own, it must be said whose is meant."""
    folder = trained.folder
    raw = settings("ab", runs="more")
    raw["data"] = {
        name: {"instruction": f"As {name}.", "sources": made["sources"]}
        for name, made in (("one", raw["data"]["made"]), ("two", raw["data"]["made"]))
    }
    for split in ("train", "valid", "test"):
        write_questions(folder, f"other{split}", 4)
    sources = {split: {"path": f"other{split}.jsonl"} for split in ("train", "valid", "test")}
    raw["data"]["two"]["sources"] = sources
    (folder / "two.yaml").write_text(json.dumps(raw))
    trained("sample", "two.yaml", "--db", "two.duckdb")
    trained("train", "two.yaml", "--db", "two.duckdb", "--algo", "sft", *trained.sets(*QUICK))
    (run,) = (folder / "more").glob("sft-*")
    refused = trained("route", str(run), "test0", code=1)
    assert "instructions of their own" in refused and "--data one|two" in refused
    assert "did you mean 'two'" in trained("route", str(run), "test0", "--data", "twoo", code=1)
    routed = json.loads(trained("route", str(run), "test0", "--data", "two", "--format", "json"))
    for step in routed["steps"]:
        assert step["messages"][-1]["content"].endswith("\n\nAs two.")


def test_a_question_that_is_not_utf8_is_refused(trained: Shell) -> None:
    said = trained("route", run_folder(trained), "caf\udce9?", code=1)
    assert said == "error: the question is not UTF-8. Type it in UTF-8.\n"


def test_doctor_names_what_is_missing(shell: Shell) -> None:
    findings = {row["part"]: row for row in json.loads(shell("doctor", "--format", "json"))}
    assert findings["duckdb"]["found"] and not findings["duckdb"]["advice"]
    assert {"engine", "torch", "device for sampling"} <= findings.keys()
    assert "engine" in shell("doctor")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "experiment.yaml"], "there is no database"),
        (["eval", "experiment.yaml"], "there is no database"),
        (["sql", "select 1", "--db", "none.duckdb"], "hcache sample"),
        (["train", "nothing.yaml"], "nothing.yaml"),
        (["train", "experiment.yaml", "--algo", "pppo"], "did you mean 'ppo'?"),
        (["eval", "runs/nothing"], "there is no run"),
        (["route", "runs/nothing", "q"], "there is no run"),
        (["runs", "repeat", "runs/nothing"], "there is no run"),
        (["eval", "experiment.yaml", "--split", "tset"], "test, train, valid"),
        (["sample", "experiment.yaml", "--set", "arms.a.temprature=1"], "did you mean 'temp"),
        (["sample", "experiment.yaml", "--db", "data-folder"], "not a DuckDB database"),
    ],
)
def test_errors_are_one_line_with_the_fix(shell: Shell, arguments: list[str], words: str) -> None:
    (shell.folder / "data-folder").mkdir()
    message = shell(*arguments, code=1)
    assert message.startswith("error: ") and words in message
    assert message.count("\n") == 1 and "Traceback" not in message


def test_train_before_sample_of_this_experiment(trained: Shell) -> None:
    message = trained("train", "experiment.yaml", "--set", "name=other", code=1)
    assert "no experiment 'other'" in message and "hcache sample" in message


@pytest.mark.parametrize("alpha", ["nan", "inf", "-1"])
def test_eval_takes_the_alphas_that_an_experiment_file_takes(trained: Shell, alpha: str) -> None:
    message = trained("eval", "experiment.yaml", "--alpha", alpha, code=1)
    assert message.startswith("error: --alpha: alpha: ") and message.count("\n") == 1


def test_a_run_that_is_not_finished_is_not_repeated(trained: Shell) -> None:
    run = Run(trained.folder / run_folder(trained))
    run.write_manifest(run.manifest | {"outcome": None})
    message = trained("runs", "repeat", run_folder(trained), code=1)
    assert message.startswith("error: ") and "is not finished. Run the same train" in message


def test_a_missing_plugin_can_be_overridden_as_the_error_says(shell: Shell) -> None:
    absent = ["--set", "plugins=[none.py]"]
    message = shell("plan", "experiment.yaml", *absent, code=1)
    (override,) = re.findall(r"--set (\S+)\.", message)
    (shell.folder / "own.py").write_text("")
    assert "24 queries" in shell(
        "plan", "experiment.yaml", *absent, "--set", override.replace("PATH", "own.py")
    )


def test_wrong_usage_is_exit_code_2(shell: Shell) -> None:
    for arguments in (
        ["nothing"],
        ["sql", "select 1"],
        ["train"],
        ["sample", "x", "--budget", "-1"],
    ):
        shell(*arguments, code=2)


def test_every_command_has_an_example_in_its_help(shell: Shell) -> None:
    names = [
        command.name or getattr(command.callback, "__name__", "")
        for command in app.registered_commands
    ]
    assert set(names) == {
        "demo", "plan", "sample", "train", "bench", "eval", "report", "route", "show", "sql",
        "export", "doctor", "check", "rescore",
        "verify", "digest", "merge", "status", "prices", "import", "reproduce", "logged",
    }  # fmt: skip
    for name, _ in printing(typer.main.get_command(app)):
        assert "Example" in shell(*name.split(), "--help"), name


@pytest.mark.parametrize(("ending", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_request_to_end_loses_nothing(shell: Shell, ending: str, code: int) -> None:
    slow = (
        "import time, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import hcache.engines.scripted as s; step = s.ScriptedEngine.step\n"
        "def slowly(self):\n    time.sleep(0.05); self.batch = 1; return step(self)\n"
        "s.ScriptedEngine.step = slowly\n"
        "from hcache.commands import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, str(ROOT), "sample", "experiment.yaml"],
        cwd=shell.folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    spool = shell.folder / "small.duckdb.spool"
    while not spool.exists() or spool.stat().st_size == 0:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.Signals[ending])
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == code, errors
    assert f"stopped by {ending}; run the same command again" in errors
    assert "Traceback" not in errors
    with Store(shell.folder / "small.duckdb") as store:
        kept = store.sql("select count(*) from generations").item()
    assert 0 < kept < 144
    assert f"{144 - kept} generations made" in shell("sample", "experiment.yaml")
    shell("sample", "experiment.yaml", "--db", "undisturbed.duckdb")
    assert facts(shell.folder / "small.duckdb") == facts(shell.folder / "undisturbed.duckdb")


def test_a_full_disk_keeps_what_was_finished(shell: Shell) -> None:
    """No file may grow past 20 kB: room for some replies, not for the database."""
    limited = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from hcache.commands import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(ROOT), "sample", "experiment.yaml"],
        cwd=shell.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no room left" in done.stderr and "Traceback" not in done.stderr
    assert "generations made" in shell("sample", "experiment.yaml")


def test_train_on_a_device_that_is_not_there(trained: Shell) -> None:
    message = trained("train", "experiment.yaml", "--device", "tpu", code=1)
    assert "train.settings: device" in message and "'cuda'" in message


def test_training_that_was_killed_goes_on_to_the_same_bits(shell: Shell) -> None:
    shell("sample", "experiment.yaml")
    sets = shell.sets("train.iterations=100", "train.patience=100", "train.evaluate_every=5")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "train", "experiment.yaml", *sets],
        cwd=shell.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list((shell.folder / "runs").glob("ppo-*/checkpoint.safetensors")):
        time.sleep(0.01)
        assert process.poll() is None, "it was over before it could be killed"
    process.kill()
    process.wait()
    killed = shell.folder / run_folder(shell, "ppo")
    assert "stopped" in shell("runs", "list")
    assert "not finished" in shell("eval", str(killed), code=1)
    shell("train", "experiment.yaml", *sets)
    shell("train", "experiment.yaml", *sets, "--set", "runs=elsewhere")
    (whole,) = (shell.folder / "elsewhere").glob("ppo-*")
    for part in ("metrics.jsonl", "policy/policy.safetensors"):
        assert (killed / part).read_bytes() == (whole / part).read_bytes()


def test_the_package_is_the_command_and_knows_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hcache", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, f"hcache {hcache.__version__}\n")
