"""`hcache status`: who samples, how far, at what cost; a run that was killed is seen as such."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import Raw, failing, load, sample, settings
from helpers.shell import Shell

from hcache.sampling import Sampler, status
from hcache.sampling.status import read_status, status_path
from hcache.store import Spool

SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from helpers.experiments import failing, load, settings
from hcache.sampling import Sampler, status
status.SECONDS_BETWEEN = 0

def factory(arm, logprobs, made=failing("ab", 8)):
    engine = made(arm, logprobs)
    fault = engine.fault
    engine.fault = lambda answered: time.sleep(600) if answered >= 8 else fault(answered)
    return engine

Sampler(load(Path.cwd(), settings("ab")), factory).run()
"""


@pytest.fixture
def shell(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    load(folder, settings("ab"))
    monkeypatch.setattr(status, "SECONDS_BETWEEN", 0)
    return Shell(folder, capsys, monkeypatch)


def asked_meanwhile(shell: Shell, raw: Raw, ask: Callable[[], Any], **how: Any) -> list[Any]:
    """What is said after the fourth reply of a run, from within it."""
    said: list[Any] = []

    def look(tally: Any) -> None:
        if sum(tally.generated.values()) >= 4 and not said:
            said.append(ask())

    Sampler(load(shell.folder, raw), failing([], 0), on_progress=look, **how).run()
    return said


def test_before_and_after_a_run_it_says_what_is_there(shell: Shell) -> None:
    sample(shell.folder, settings("ab"))
    assert not status_path(shell.folder / "small.duckdb").exists()
    said = shell("status", "small.duckdb")
    assert said.startswith("nobody is sampling into small.duckdb\n")
    found = json.loads(
        shell("status", "experiment.yaml", "--db", "small.duckdb", "--format", "json")
    )
    assert (found["state"], found["sampler"], found["run"]) == ("idle", None, None)
    assert [(row["arm"], row["generations"]) for row in found["stored"]] == [("a", 15), ("b", 15)]
    assert all(row["spent"] > 0 for row in found["stored"])


def test_spent_is_what_the_database_costs_at_the_prices(shell: Shell) -> None:
    raw = settings("ab")
    raw["arms"]["b"]["price"] = {"input": 3, "output": 5, "per": 1000}
    runs: list[Any] = []
    Sampler(
        load(shell.folder, raw), on_progress=lambda tally: runs.append(dict(tally.spent_of))
    ).run()
    stored = json.loads(shell("status", "small.duckdb", "--format", "json"))["stored"]
    assert runs[-1] == pytest.approx({row["arm"]: row["spent"] for row in stored})
    for row, prices in zip(stored, ((1, 1), (3, 5)), strict=True):
        tokens = row["prompt_tokens"], row["output_tokens"]
        by_hand = (prices[0] * tokens[0] + prices[1] * tokens[1]) / 1000
        assert row["spent"] == pytest.approx(by_hand)


def test_meanwhile_it_says_who_how_far_and_how_fast(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = settings("ab")
    [found] = asked_meanwhile(
        shell, raw, lambda: json.loads(shell("status", "small.duckdb", "--format", "json"))
    )
    run = found["run"]
    assert found["state"] == "sampling" and str(os.getpid()) in found["sampler"]
    assert (run["pid"], run["experiment"], run["queries"]) == (os.getpid(), "small", 5)
    assert run["generated"] == sum(arm["generated"] for arm in run["arms"].values()) > 0
    assert run["generated"] + run["left"] == 30
    assert run["seconds_left"] == pytest.approx(run["left"] * run["seconds"] / run["generated"])
    tokens = sum(arm["output_tokens"] for arm in run["arms"].values())
    assert run["tokens_per_second"] == pytest.approx(tokens / run["seconds"])
    assert read_status(shell.folder / "small.duckdb") is None  # the run has ended


def test_meanwhile_it_says_so_in_words(shell: Shell) -> None:
    [said] = asked_meanwhile(shell, settings("ab"), lambda: shell("status", "small.duckdb"))
    assert f"process {os.getpid()}" in said
    assert "is sampling small since 20" in said and "of 5 queries complete" in said
    assert re.search(r"tokens a second, about 0:\d\d:\d\d left", said)
    assert "spent so far: 0." in said
    assert "left at most" in said and "in the database" in said


def test_workers_and_endpoints_are_shown(shell: Shell) -> None:
    """Whatever their names hold."""
    parts = {"worker 1 (cuda:0)": 7, "http://127.0.0.1:8000/v1": 5, "[bold]?": 0}

    def ask() -> tuple[str, Any]:
        return shell("status", "small.duckdb"), json.loads(
            shell("status", "small.duckdb", "--format", "json")
        )

    [(said, found)] = asked_meanwhile(shell, settings("ab"), ask, answered=lambda: parts)
    assert "workers and endpoints" in said
    assert all(name in said for name in parts)
    assert found["run"]["parts"] == parts


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL and its lock")
def test_a_run_that_was_killed_is_seen_as_such_and_the_next_one_clears_it(shell: Shell) -> None:
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", SLOW, tests]
    with subprocess.Popen(command, cwd=shell.folder, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            run = read_status(shell.folder / "small.duckdb")
            if run is not None and run.generated >= 4:
                break
            time.sleep(0.1)
        found = json.loads(shell("status", "small.duckdb", "--format", "json"))
        assert found["state"] == "sampling" and found["run"]["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
    found = json.loads(shell("status", "small.duckdb", "--format", "json"))
    assert found["state"] == "killed"
    said = " ".join(shell("status", "small.duckdb").split())
    assert f"process {process.pid}" in said and "was killed after" in said
    assert "the same command goes on" in said and "wait in small.duckdb.spool" in said
    sample(shell.folder, settings("ab"))
    assert json.loads(shell("status", "small.duckdb", "--format", "json"))["state"] == "idle"


def test_a_status_that_cannot_be_written_stops_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status, "replace_file", full)
    assert sum(sample(shell.folder, settings("ab")).generated.values()) == 30


def test_a_status_that_is_damaged_is_one_line(shell: Shell) -> None:
    sample(shell.folder, settings("ab"))
    for text in ("", "{}", '{"pid": "x"}', "\\xff"):
        status_path(shell.folder / "small.duckdb").write_text(text)
        error = shell("status", "small.duckdb", code=1)
        assert "cannot be read (it is damaged). Remove it" in " ".join(error.split())


def test_where_nothing_was_sampled_it_says_how_to(shell: Shell) -> None:
    error = shell("status", "experiment.yaml", code=1)
    assert "there is no database small.duckdb" in " ".join(error.split())


def test_a_sampler_without_a_status_is_still_named(shell: Shell) -> None:
    sample(shell.folder, settings("ab"))
    spool = Spool(shell.folder / "small.duckdb")
    said = shell("status", "small.duckdb")
    assert f"process {os.getpid()}" in said and "is sampling into small.duckdb" in said
    spool.close()


def test_while_the_database_is_written_it_still_says_how_far_the_run_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hcache.commands.status.PATIENCE_SECONDS", 0.1)
    code = "import duckdb; c = duckdb.connect('small.duckdb'); print(flush=True); input()"

    def ask() -> Any:
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=shell.folder, stdin=-1, stdout=-1
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            said = json.loads(shell("status", "small.duckdb", "--format", "json"))
            process.communicate(b"\n")
        return said

    [found] = asked_meanwhile(shell, settings("ab"), ask)
    assert found["state"] == "sampling" and found["run"]["generated"] > 0
    assert found["stored"] == []
