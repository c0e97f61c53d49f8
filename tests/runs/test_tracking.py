"""Trackers are given what metrics.jsonl has, each iteration once, and change nothing of a run."""

from __future__ import annotations

import io
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.experiments import load, settings, write_scripts
from helpers.paths import ROOT
from helpers.shell import Shell
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from hcache.errors import RunError
from hcache.experiment import Experiment
from hcache.runs.comparability import damage
from hcache.runs.folder import Run, all_runs
from hcache.runs.tracking import EVENTS, TRACKERS, Tracker, record
from hcache.runs.training import repeat, train
from hcache.sampling import Sampler

Lines = list[tuple[int, dict[str, float]]]
PPO = {"algo": "ppo", "iterations": 7, "evaluate_every": 3, "settings": {"episodes": 16}}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("tracking")
    write_scripts(folder, "ab")
    made = load(folder, settings("ab", runs=str(folder / "runs"), train=PPO))
    Sampler(made).run()
    return made


@pytest.fixture
def experiment(sampled: Experiment, tmp_path: Path) -> Experiment:
    """The experiment with a folder of its own for runs."""
    config = sampled.config.model_copy(update={"runs": str(tmp_path / "runs")})
    return Experiment(config, sampled.source, sampled.db)


@pytest.fixture
def shell(
    sampled: Experiment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """A command line in a folder of its own with what was sampled."""
    folder = shutil.copytree(sampled.folder, tmp_path / "shell", ignore=lambda *_: ["runs"])
    (folder / "experiment.yaml").write_text(json.dumps(settings("ab", train=PPO)))
    return Shell(folder, capsys, monkeypatch)


def reader_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0})


def read(reader: EventAccumulator) -> Lines:
    """What TensorBoard reads: steps in the order of the file, each value as it is written."""
    reader.Reload()
    found: dict[int, dict[str, float]] = {}
    for tag in reader.Tags()["scalars"]:
        for event in reader.Scalars(tag):
            values = found.setdefault(event.step, {})
            assert tag not in values, f"step {event.step} has {tag} twice"
            values[tag] = event.value
    return sorted(found.items())


def kept(run: Run) -> Lines:
    """The lines of metrics.jsonl in the precision of an event file."""
    return [
        (int(line.pop("iteration")), {k: float(np.float32(v)) for k, v in line.items()})
        for line in run.metrics()
    ]


def stop_at(iteration: int) -> Any:
    """A callback that is Ctrl-C in one iteration."""

    def on_metrics(metrics: Mapping[str, float]) -> None:
        if metrics["iteration"] == iteration:
            raise KeyboardInterrupt

    return on_metrics


def stopped(experiment: Experiment, iteration: int, tracker: str = "tensorboard") -> Path:
    """The folder of a training that was stopped in an iteration."""
    with pytest.raises(KeyboardInterrupt):
        train(experiment, on_metrics=stop_at(iteration), tracker=tracker)
    (run,) = all_runs(Path(experiment.config.runs))
    return run.folder


# TensorBoard


def test_an_event_file_has_what_metrics_has(experiment: Experiment) -> None:
    run = train(experiment)
    assert read(reader_of(run.folder / "events")) == kept(run)
    assert [step for step, _ in kept(run)] == [*range(8)]
    scalars = {
        "train_reward", "train_hops", "policy_loss", "entropy", "approx_kl", "clip_fraction",
        "grad_norm",
    }  # fmt: skip
    assert scalars <= kept(run)[1][1].keys()
    evaluated = {f"valid_{name}" for name in ("reward", "quality", "cost", "hops")}
    assert evaluated <= kept(run)[3][1].keys()


@pytest.mark.parametrize("iteration", [2, 5, 7])
def test_a_run_that_goes_on_has_each_step_once(experiment: Experiment, iteration: int) -> None:
    """Also for a TensorBoard that has read the file before, and goes on reading."""
    events = stopped(experiment, iteration) / "events"
    reader = reader_of(events)
    assert [step for step, _ in read(reader)] == [*range(iteration + 1)]
    run = train(experiment)
    assert read(reader_of(events)) == read(reader) == kept(run)


def test_an_event_file_tells_nothing_of_the_machine(experiment: Experiment) -> None:
    run = train(experiment)
    (file,) = (run.folder / "events").iterdir()
    assert file == run.folder / EVENTS
    assert platform.node().encode() not in file.read_bytes()


@given(st.binary(max_size=300))
def test_records_are_framed_as_tensorboard_frames_them(data: bytes) -> None:
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert record(data) == file.getvalue()


# Nothing of a run depends on it


def test_a_tracker_changes_nothing_of_a_run(experiment: Experiment, tmp_path: Path) -> None:
    with_events = train(experiment)
    without = train(experiment, folder=tmp_path / "else", tracker="none")
    assert without.name == with_events.name and not (without.folder / "events").exists()
    for part in ("metrics.jsonl", "policy/policy.safetensors", "policy/policy.json"):
        assert (without.folder / part).read_bytes() == (with_events.folder / part).read_bytes()
    same = ("identity", "settings", "config")
    assert all(without.manifest[name] == with_events.manifest[name] for name in same)
    (with_events.folder / EVENTS).unlink()
    assert not damage(Run(with_events.folder))
    assert repeat(with_events) is None


def test_repeating_a_run_tracks_nothing(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(experiment)
    for name in set(TRACKERS) - {"none"}:
        monkeypatch.delitem(TRACKERS.entries, name)
    assert repeat(run) is None


# Trackers by name


class Fake(Tracker):
    """Writes down what it is told; fails in `fails`."""

    told: list[Any]
    fails = ""

    def _tell(self, what: str, *values: Any) -> None:
        self.told.append((what, *values))
        if what == self.fails:
            raise OSError(f"no network in {what}.")

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        self._tell("start", run.name, dict(settings))

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._tell("log", iteration, dict(metrics))

    def end(self) -> None:
        self._tell("end")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    kind = type("Fake", (Fake,), {"told": []})
    monkeypatch.setitem(TRACKERS.entries, "fake", kind)
    return kind


def test_a_tracker_is_told_all(experiment: Experiment, fake: type[Fake]) -> None:
    run = train(experiment, tracker="fake")
    (start, name, told), *logs, end = fake.told
    assert (start, name, end) == ("start", run.name, ("end",))
    assert told["lr"] == 6e-3 and told["algo"] == "ppo" and told["experiment"] == "small"
    lines = [{"iteration": float(i), **metrics} for _, i, metrics in logs]
    assert lines == run.metrics()
    assert not (run.folder / "events").exists()
    train(experiment, tracker="fake")  # finished already
    assert len(fake.told) == len(logs) + 2


def test_a_tracker_is_ended_by_ctrl_c_and_told_all_again(
    experiment: Experiment, fake: type[Fake]
) -> None:
    stopped(experiment, 5, "fake")
    assert [what for what, *_ in fake.told] == ["start", *["log"] * 6, "end"]
    fake.told.clear()
    train(experiment, tracker="fake")
    assert [i for what, i, *_ in fake.told[1:-1]] == [*range(8)]


def test_each_run_of_a_chain_is_tracked(experiment: Experiment, fake: type[Fake]) -> None:
    chained = experiment.config.train.model_copy(update={"algo": "sft+ppo"})
    config = experiment.config.model_copy(update={"train": chained})
    train(Experiment(config, experiment.source, experiment.db), tracker="fake")
    starts = [told for told in fake.told if told[0] == "start"]
    assert [settings["algo"] for _, _, settings in starts] == ["sft", "sft+ppo"]


@pytest.mark.parametrize("part", ["start", "log", "end"])
def test_a_tracker_that_fails_is_one_line_and_the_run_goes_on(
    experiment: Experiment, fake: type[Fake], part: str, tmp_path: Path
) -> None:
    fake.fails = part
    line = rf"^the tracker Fake failed \(no network in {part}\)\. .*--tracker none"
    with pytest.raises(RunError, match=line):
        train(experiment, tracker="fake")
    whole = train(experiment, folder=tmp_path / "else")
    metrics = (whole.folder / "metrics.jsonl").read_bytes()
    assert (train(experiment, tracker="none").folder / "metrics.jsonl").read_bytes() == metrics


def test_ctrl_c_is_not_hidden_by_a_tracker_that_fails(
    experiment: Experiment, fake: type[Fake]
) -> None:
    fake.fails = "end"
    stopped(experiment, 5, "fake")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [name, *(known for known in sys.modules if known.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    message = shell("train", "experiment.yaml", "--tracker", name, code=1)
    assert f"--tracker {name}: its package cannot be imported" in message
    assert f"pip install {name}" in message and "--tracker none" in message
    assert "Traceback" not in message and message.count("\n") == 1
    assert not (shell.folder / "runs").exists()


def test_an_unknown_tracker_is_one_line(shell: Shell) -> None:
    message = shell("train", "experiment.yaml", "--tracker", "tensorbord", code=1)
    assert "unknown tracker 'tensorbord'; did you mean 'tensorboard'?" in message
    assert "hcache.trackers" in message


def test_bench_tracks_each_run(shell: Shell) -> None:
    quick = ("--algos", "sft", "--seeds", "2", *shell.sets("train.iterations=3"))
    shell("bench", "experiment.yaml", *quick)
    runs = all_runs(shell.folder / "runs")
    assert len(runs) == 2
    assert all(read(reader_of(run.folder / "events")) == kept(run) for run in runs)
    shell("bench", "experiment.yaml", *quick, "--tracker", "none", *shell.sets("runs=else"))
    assert not [*(shell.folder / "else").rglob("events")]


# The real ones, where they are installed

READ = {
    "mlflow": """
import mlflow
(run,) = mlflow.search_runs(experiment_names=["small"], output_format="list")
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_reward")
print([[metric.step, metric.value] for metric in history], run.info.status == "FINISHED")
""",
    "trackio": """
import contextlib, trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("small")
logs = SQLiteStorage.get_logs("small", run.name)
print([[line["step"], line["train_reward"]] for line in logs if "train_reward" in line], True)
""",
    "wandb": """
import json, pathlib
from wandb.proto.wandb_internal_pb2 import Record
file = max(pathlib.Path("runs").rglob("*.wandb"), key=lambda file: file.stat().st_mtime)
data, place, found, ended, parts = file.read_bytes(), 7, [], False, b""
while place + 7 <= len(data):  # a log as LevelDB has it: blocks of 32 KiB, records in parts
    if place % 32768 > 32761:
        place += -place % 32768
    length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
    parts += data[place + 7 : place + 7 + length]
    place += 7 + length
    if kind in (1, 4):
        line, parts = Record.FromString(parts), b""
        values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in line.history.item}
        if "train_reward" in values:
            found.append([values["_step"], values["train_reward"]])
        ended |= line.HasField("exit")
print(found, ended)
""",
}
"""Programs that print [step, train_reward] of the one run, in order, and whether it has ended."""


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_real_tracker_has_each_step_once(shell: Shell, name: str, tmp_path: Path) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
    }

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=shell.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    sets = shell.sets("train.iterations=20", "train.evaluate_every=5", "train.patience=99")
    stop = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}]
from pathlib import Path
from hcache.experiment import Experiment
from hcache.runs.training import train
def stop(metrics):
    if metrics["iteration"] == 13:
        raise KeyboardInterrupt
try:
    experiment = Experiment.load(Path("experiment.yaml"), {sets[1::2]!r})
    train(experiment, on_metrics=stop, tracker={name!r})
except KeyboardInterrupt:
    pass
"""
    python("-c", stop)
    python(str(ROOT / "cli.py"), "train", "experiment.yaml", "--tracker", name, *sets)
    steps, ended = python("-c", READ[name]).strip().splitlines()[-1].rsplit(" ", 1)
    (run,) = all_runs(shell.folder / "runs")
    wanted = [[int(line["iteration"]), line["train_reward"]] for line in run.metrics()[1:]]
    assert json.loads(steps) == wanted and ended == "True"
