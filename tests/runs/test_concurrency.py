"""Two commands at once on the same files: each works, or says who holds what and harms nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.experiments import facts, load, sample, settings, write_questions, write_scripts
from helpers.paths import ROOT

from hcache.experiment import Experiment
from hcache.runs.folder import Run, all_runs
from hcache.runs.training import repeat, train
from hcache.sampling import Sampler
from hcache.store import spool_path

ENDLESS = ("--set", f"train.iterations={10**9}", "--set", f"train.patience={10**9}")
IMPATIENT = (
    "import hcache.sampling.sampler as s; s.PATIENCE_SECONDS = 0.5; s.COMMIT_SECONDS = 0.1\n"
)
SLOW = """
import time, hcache.engines.scripted as e, hcache.sampling.sampler as s
step, s.COMMIT_SECONDS = e.ScriptedEngine.step, 0.1
def slowly(self):
    time.sleep(0.1); self.batch = 1; return step(self)
e.ScriptedEngine.step = slowly
"""


def begun(folder: Path, *arguments: str, first: str = "") -> subprocess.Popen[str]:
    """A command of hcache in a process of its own, after some lines of Python."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{first}\n"
    code += "from hcache.commands import main\nif __name__ == '__main__':\n    main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a process has printed; its errors where it is to fail, which are one line."""
    out, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    if code:
        assert errors.count("\n") == 1 and errors.startswith("error: ")
    return errors if code else out


def until(condition: object, process: subprocess.Popen[str]) -> None:
    """Wait for something that a process is to do."""
    assert callable(condition)
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@contextmanager
def beside(process: subprocess.Popen[str], end: int | None = None) -> Iterator[None]:
    """A process that works all through a block; `end` is the signal that it is sent then."""
    try:
        yield
        assert process.poll() is None, "it has ended too early to show anything"
        if end is not None:
            process.send_signal(end)
            assert process.communicate(timeout=60) and process.returncode == 128 + end
    except BaseException:
        process.kill()
        process.communicate()
        raise


def experiment_in(folder: Path, questions: int) -> Experiment:
    """Two scripted arms over two hops, with a router that learns fast."""
    write_scripts(folder, "ab")
    write_questions(folder, "train", questions)
    quick = {"algo": "sft", "iterations": 4, "evaluate_every": 2}
    return load(folder, settings("ab", runs="runs", train=quick))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that was sampled, with a finished run."""
    folder = tmp_path_factory.mktemp("concurrent")
    experiment = experiment_in(folder, 6)
    Sampler(experiment).run()
    train(experiment, folder=folder / "runs")
    return folder


@pytest.fixture
def running(sampled: Path) -> Iterator[tuple[subprocess.Popen[str], Run]]:
    """A training without an end, and its run."""
    known = {run.name for run in all_runs(sampled / "runs")}
    process = begun(sampled, "train", "experiment.yaml", "--algo", "ppo", *ENDLESS)
    until(lambda: {run.name for run in all_runs(sampled / "runs")} - known, process)
    (run,) = (run for run in all_runs(sampled / "runs") if run.name not in known)
    until(lambda: (run.folder / "metrics.jsonl").exists(), process)
    with beside(process, signal.SIGTERM):
        yield process, run
    for file in (run.folder / "manifest.json", run.checkpoint):
        file.unlink(missing_ok=True)


def test_what_is_being_trained_is_trained_once(
    sampled: Path, running: tuple[subprocess.Popen[str], Run]
) -> None:
    process, run = running
    for command in (("train", "experiment.yaml", "--algo", "ppo", *ENDLESS), ("runs", "repeat")):
        target = () if command[0] == "train" else (str(run.folder),)
        said = ended(begun(sampled, *command, *target), 1)
        assert f"{run.name} is being trained by another process (pid {process.pid} on" in said
    assert [line["iteration"] for line in run.metrics()[:3]] == [0, 1, 2]


def test_reports_beside_a_training_are_of_what_is_finished(
    sampled: Path, running: tuple[subprocess.Popen[str], Run]
) -> None:
    found = ended(begun(sampled, "eval", "experiment.yaml", "--format", "json"))
    assert json.loads(found)["seeds"] == {"sft": 1}
    ended(begun(sampled, "report", "experiment.yaml"))
    assert running[1].name not in (sampled / "runs/report/index.html").read_text(encoding="utf-8")


def test_two_benches_share_their_runs(sampled: Path) -> None:
    options = ("--algos", "soft,sft", "--set", "runs=both", "--format", "json")
    commands = [begun(sampled, "bench", "experiment.yaml", *options) for _ in "12"]
    reports = [json.loads(ended(command)) for command in commands]
    assert reports[0]["seeds"] == reports[1]["seeds"] == {"soft": 1, "sft": 1}
    runs = all_runs(sampled / "both")
    assert len(runs) == 2
    for run in runs:
        lines = [line["iteration"] for line in run.metrics()]
        assert lines == list(range(len(lines)))
        os.chdir(sampled)
        assert repeat(run, sampled / "small.duckdb") is None


def test_a_damaged_run_is_left_out_of_a_bench(sampled: Path) -> None:
    bench = (
        "bench",
        "experiment.yaml",
        "--algos",
        "soft,sft",
        "--set",
        "runs=damaged",
        "--format",
        "json",
    )
    ended(begun(sampled, *bench))
    for name in ("manifest.json", "metrics.jsonl"):
        (run,) = (run for run in all_runs(sampled / "damaged") if run.name.startswith("soft"))
        whole = (run.folder / name).read_bytes()
        (run.folder / name).write_bytes(whole[:-9])
        process = begun(sampled, *bench)
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 1 and "Traceback" not in errors
        assert "error: 1 of 2 runs are left out." in errors
        report = json.loads(out)
        assert report["seeds"] == {"sft": 1}
        said = [*errors.splitlines(), *report["notes"]]
        assert sum("soft" in line and "is damaged" in line for line in said) == 1
        (run.folder / name).write_bytes(whole)


@pytest.fixture
def begun_sampling(tmp_path: Path) -> subprocess.Popen[str]:
    """A sampler that takes its time, which has stored something."""
    experiment_in(tmp_path, 40)
    process = begun(tmp_path, "sample", "experiment.yaml", first=SLOW)
    until(lambda: spooled(tmp_path), process)
    return process


def spooled(folder: Path) -> bool:
    """Whether generations wait beside a database that is there."""
    spool = spool_path(folder / "small.duckdb")
    return (folder / "small.duckdb").exists() and spool.exists() and spool.stat().st_size > 0


def undisturbed(folder: Path) -> bool:
    """Whether a database holds what a run that nothing disturbed finds."""
    sample(folder, settings("ab", runs="runs", db="alone.duckdb"))
    return facts(folder / "small.duckdb") == facts(folder / "alone.duckdb")


def test_a_second_sampler_is_told_of_the_first(
    tmp_path: Path, begun_sampling: subprocess.Popen[str]
) -> None:
    with beside(begun_sampling):
        said = ended(begun(tmp_path, "sample", "experiment.yaml"), 1)
        assert f"process {begun_sampling.pid} (" in said and "is sampling into" in said
    ended(begun_sampling)
    assert undisturbed(tmp_path)


def test_scoring_and_reading_go_on_beside_a_sampler(
    tmp_path: Path, begun_sampling: subprocess.Popen[str]
) -> None:
    with beside(begun_sampling):
        db = ("--db", "small.duckdb")
        ended(begun(tmp_path, "sql", "select * from leaderboard", *db))
        ended(begun(tmp_path, "rescore", "experiment.yaml"))
        ended(begun(tmp_path, "plan", "experiment.yaml"))
    ended(begun_sampling)
    assert undisturbed(tmp_path)


def test_a_reader_that_stays_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    experiment_in(tmp_path, 4)
    ended(begun(tmp_path, "sample", "experiment.yaml", "--budget", "12"))
    endless = "select count(*) from range(1000000000000) a where a.range % 7 = 8"
    reader = begun(tmp_path, "sql", endless, "--db", "small.duckdb")
    until(lambda: held_by_another(tmp_path / "small.duckdb"), reader)
    with beside(reader, signal.SIGINT):
        done = ended(begun(tmp_path, "sample", "experiment.yaml", first=IMPATIENT))
        assert "finished generations wait beside it" in done
        for command in (("sample", "experiment.yaml"), ("sample", "experiment.yaml")):
            said = ended(begun(tmp_path, *command, first=IMPATIENT), 1)
            assert f"is held open by process {reader.pid} (" in said
        assert spool_path(tmp_path / "small.duckdb").stat().st_size
    ended(begun(tmp_path, "sample", "experiment.yaml"))
    assert undisturbed(tmp_path)


def held_by_another(db: Path) -> bool:
    """Whether another process has a database open."""
    locks = Path("/proc/locks").read_text()
    return f":{db.stat().st_ino} " in locks
