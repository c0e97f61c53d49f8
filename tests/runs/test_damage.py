"""Damaged artefacts: what reads one gives what it would have given, or an error of ours."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.damage import COUNT, WHOLE, damages, in_place_of
from helpers.experiments import held, load, settings, write_script, write_scripts
from typer.testing import CliRunner

from hcache.commands.app import app
from hcache.errors import HcacheError, RunError
from hcache.experiment import Experiment
from hcache.keys import digest_file
from hcache.replay.loading import load_replay
from hcache.runs.comparability import damage
from hcache.runs.folder import Run, all_runs
from hcache.runs.leakage import seen_of
from hcache.runs.training import repeat, train, with_train
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.store.digest import content_digest

QUICK = {"algo": "sft", "iterations": 4, "evaluate_every": 2}
Read = Callable[[Run], Any]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("damage")
    write_scripts(folder, "ab")
    made = load(folder, settings("ab", runs=str(folder / "runs"), train=QUICK))
    Sampler(made).run()
    return made


@pytest.fixture
def run(experiment: Experiment, tmp_path: Path) -> Run:
    return seeded(experiment, 0, tmp_path)


def seeded(experiment: Experiment, seed: int, folder: Path) -> Run:
    """A run of that seed in that folder: a copy, since all of one seed are the same."""
    whole = trained(experiment, seed)
    return Run(shutil.copytree(whole.folder, folder / whole.name))


@cache
def trained(experiment: Experiment, seed: int) -> Run:
    config = experiment.config.train.model_copy(update={"seed": seed})
    return train(with_train(experiment, config), folder=experiment.folder / "trained")


def policy_of(run: Run) -> Any:
    policy: Any = run.policy
    weights = {name: value.tolist() for name, value in policy.state_dict().items()}
    return policy.arms, str(policy.settings), weights


READERS: dict[str, Read] = {
    "manifest.json": lambda run: (run.manifest, run.config, run.finished),
    "metrics.jsonl": lambda run: run.metrics(),
    "queries.json": lambda run: seen_of(run),
    "policy/policy.json": policy_of,
    "policy/policy.safetensors": policy_of,
}


def outcome(read: Read, run: Run) -> Any:
    """What is read of a run as it is now, or None for an error of ours; others come through."""
    try:
        return read(Run(run.folder))
    except HcacheError as error:
        assert str(run.folder) in str(error) and "\n" not in str(error)[:200]
        return None


def put(file: Path, found: Iterator[Any]) -> Iterator[None]:
    """Put each content in place of a file, then the file again."""
    whole = file.read_bytes()
    try:
        for content in found:
            if isinstance(content, bytes):
                file.write_bytes(content)
            yield
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
def test_what_is_read_is_what_was_written_or_an_error(run: Run, name: str) -> None:
    read, file = READERS[name], run.folder / name
    whole = read(run)
    said = []
    for _ in put(file, damages(file.read_bytes())):
        found = outcome(read, run)
        assert found is None or found == whole
        said.append(found is None)
        damage(Run(run.folder))
    assert len(said) == COUNT + len(WHOLE) and sum(said) > 0.9 * len(said)
    for _ in put(file, in_place_of(file)):
        assert outcome(read, run) is None
    assert outcome(read, run) == whole


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "policy/policy.json"])
def test_files_without_a_digest_are_read_and_end_in_no_traceback(run: Run, name: str) -> None:
    before = run.manifest
    del before["outcome"]["files"], before["partial"]  # as versions without digests wrote it
    (run.folder / "manifest.json").write_text(json.dumps(before))
    description = json.loads((run.folder / "policy/policy.json").read_text())
    description.pop("digest", None)
    (run.folder / "policy/policy.json").write_text(json.dumps(description))
    assert damage(Run(run.folder)) == ""
    file = run.folder / name
    for _ in put(file, damages(file.read_bytes())):
        outcome(READERS[name], run)
        damage(Run(run.folder))  # an error but ours would end the test


VALUES: list[Any] = [None, [], {}, "x", 7, -0.5, True, [[1]], {"a": [None]}]


def test_entries_of_other_types_are_an_error_where_there_is_no_digest(run: Run) -> None:
    before = run.manifest
    file = run.folder / "manifest.json"
    places = [(key,) for key in before] + [
        (key, inner) for key in ("config", "identity", "outcome") for inner in before[key]
    ]
    for place in places:
        for value in VALUES:
            changed = json.loads(json.dumps(before))
            part = changed if len(place) == 1 else changed[place[0]]
            part[place[-1]] = value
            file.write_text(json.dumps(changed))
            outcome(READERS["manifest.json"], run)
            damage(Run(run.folder))


def test_a_policy_of_another_run_is_not_taken_for_a_runs_own(
    experiment: Experiment, run: Run, tmp_path: Path
) -> None:
    other = seeded(experiment, 1, tmp_path)
    for name in ("policy.json", "policy.safetensors"):
        (run.policy_folder / name).write_bytes((other.policy_folder / name).read_bytes())
    assert outcome(policy_of, run) is None


def spoil(file: Path, how: str) -> None:
    data = file.read_bytes()
    contents = {
        "truncated": data[: len(data) // 2],
        "a bit": data[:-20] + bytes([data[-20] ^ 4]) + data[-19:],
        "empty": b"",
        "not UTF-8": b"\xff" + data,
        "a list": b"[]\n",
    }
    if how == "a folder":
        file.unlink()
        file.mkdir()
    elif how.startswith("a link to "):
        file.unlink()
        file.symlink_to(file.name if how == "a link to itself" else "nowhere")
    else:
        file.write_bytes(contents[how])


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("manifest.json", "a list"),
        ("manifest.json", "a folder"),
        ("manifest.json", "a link to nowhere"),
        ("manifest.json", "a link to itself"),
        ("metrics.jsonl", "a bit"),
        ("metrics.jsonl", "not UTF-8"),
        ("policy/policy.json", "truncated"),
        ("queries.json", "empty"),
    ],
)
def test_the_rest_of_the_runs_is_still_listed(
    experiment: Experiment, tmp_path: Path, name: str, how: str
) -> None:
    kept, odd = (seeded(experiment, seed, tmp_path) for seed in (0, 1))
    spoil(odd.folder / name, how)
    assert {found.name for found in all_runs(tmp_path)} == {kept.name, odd.name}
    listed = CliRunner().invoke(app, ["runs", "list", "--runs", str(tmp_path), "--format", "json"])
    states = {Path(row["run"]).name: row["state"] for row in json.loads(listed.stdout)}
    assert states[kept.name] == "finished"
    assert states[odd.name] == ("damaged" if name == "manifest.json" else "finished")
    where = ["--db", str(experiment.db), "--set", f"runs={tmp_path}"]
    arguments = ["eval", str(experiment.source), *where, "--format", "json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["seeds"] == {"sft": 1}
    (note,) = [note for note in report["notes"] if note.startswith(f"Left out: {odd.name}: ")]
    assert "damaged" in note
    alone = CliRunner().invoke(app, ["eval", str(odd.folder), "--db", str(experiment.db)])
    assert alone.exit_code == 1 and isinstance(alone.exception, HcacheError)


def test_a_folder_that_is_closed_is_told_and_the_rest_of_the_runs_is_listed(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept, odd = (seeded(experiment, seed, tmp_path) for seed in (0, 1))
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if Path(path) == odd.folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert all_runs(tmp_path) == [kept]
    (line,) = caplog.messages
    assert line.startswith(f"{odd.folder} cannot be read (")
    with pytest.raises(RunError, match="cannot be read"):
        all_runs(odd.folder)
    assert all_runs(tmp_path / "nothing") == []


def test_a_manifest_that_cannot_be_reached_is_damage_not_its_lack(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(run.folder / "manifest.json")
    lstat, read_bytes = os.lstat, Path.read_bytes

    def denied(path: Any, **options: Any) -> Any:
        if str(path) == file:
            raise PermissionError(13, "Permission denied", file)
        return lstat(path, **options)

    def unread(path: Path) -> bytes:
        if str(path) == file:
            raise PermissionError(13, "Permission denied", file)
        return read_bytes(path)

    monkeypatch.setattr(os, "lstat", denied)
    monkeypatch.setattr(Path, "read_bytes", unread)
    with pytest.raises(RunError, match=r"manifest.json cannot be read: this user may not") as told:
        _ = Run(run.folder).finished
    assert "rm -r" not in str(told.value)  # the run may be sound


def test_a_manifest_of_another_run_is_told_in_the_list(
    experiment: Experiment, tmp_path: Path
) -> None:
    kept, odd = (seeded(experiment, seed, tmp_path) for seed in (0, 1))
    shutil.copy(kept.folder / "manifest.json", odd.folder)
    listed = CliRunner().invoke(app, ["runs", "list", "--runs", str(tmp_path), "--format", "json"])
    states = {Path(row["run"]).name: row["state"] for row in json.loads(listed.stdout)}
    assert states[kept.name] == "finished"
    assert states[odd.name] == f"finished; its manifest is that of {kept.name}"


def test_a_report_says_what_it_was_made_from_and_what_was_left_out(
    experiment: Experiment, tmp_path: Path
) -> None:
    kept, odd = (seeded(experiment, seed, tmp_path) for seed in (0, 1))
    spoil(odd.folder / "metrics.jsonl", "a bit")
    where = ["--db", str(experiment.db), "--set", f"runs={tmp_path}"]
    arguments = ["report", str(experiment.source), *where, "--out", str(tmp_path / "page")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    html, markdown, text = (
        (tmp_path / "page" / name).read_text()
        for name in ("index.html", "report.md", "report.json")
    )
    made_from = json.loads(text)["made_from"]
    policy = json.loads((kept.policy_folder / "policy.json").read_text())
    digests = {(row["kind"], row["name"]): row["digest"] for row in made_from}
    with Store(experiment.db) as store:
        outcomes = {
            ("outcomes", split): load_replay(store, experiment.config, split).fingerprint
            for split in ("test", "train", "valid")
        }
        content = content_digest(store).digest
    assert digests == outcomes | {
        ("database", f"of {experiment.name}"): content,
        ("run", kept.name): json.loads((kept.folder / "manifest.json").read_text())["digest"],
        ("policy", kept.name): digest_file(kept.policy_folder / "policy.json"),
    }
    assert policy["tensors"] == kept.manifest["outcome"]["weights"]
    for page in (html, markdown):
        assert all(row["digest"] in page for row in made_from)
        assert odd.name in page.replace("\\", "") and odd.digest not in page


# Runs that were stopped, and runs that two processes want


class Stopped(Exception):
    """Ends a training as a kill does."""


def stopped(experiment: Experiment, folder: Path) -> Run:
    """A run that ended behind its first checkpoint; a copy, as above."""
    whole = stopped_once(experiment)
    return Run(shutil.copytree(whole.folder, folder / whole.name))


@cache
def stopped_once(experiment: Experiment) -> Run:
    def stop(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train(experiment, folder=experiment.folder / "once", on_metrics=stop)
    (run,) = all_runs(experiment.folder / "once")
    return run


def test_a_damaged_checkpoint_is_refused_and_the_way_out_is_one(
    experiment: Experiment, tmp_path: Path
) -> None:
    run = stopped(experiment, tmp_path / "stopped")
    data = run.checkpoint.read_bytes()
    for content in (data[:100], data[:-1] + bytes([data[-1] ^ 1]), b""):
        run.checkpoint.write_bytes(content)
        with pytest.raises(RunError, match=r"is damaged: .* Delete it to start anew: rm -r "):
            train(experiment, folder=run.folder.parent)
    run.checkpoint.unlink()
    assert repeat(train(experiment, folder=run.folder.parent), experiment.db) is None


def test_a_checkpoint_on_other_data_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    """Of the same settings and seed, so that all but the data are the same."""
    run = stopped(experiment, tmp_path / "stopped")
    write_scripts(tmp_path, "ab")
    write_script(tmp_path, "a", [["(?s)^(.*)$", r"another \1"]])
    others = load(tmp_path, settings("ab", train=QUICK))
    Sampler(others).run()
    run.checkpoint.write_bytes(stopped(others, tmp_path / "others").checkpoint.read_bytes())
    with pytest.raises(RunError, match="is of another run"):
        train(experiment, folder=run.folder.parent)


def test_a_finished_run_in_the_folder_of_another_is_not_taken_for_it(
    experiment: Experiment, run: Run, tmp_path: Path
) -> None:
    other = seeded(experiment, 1, tmp_path / "other")
    shutil.rmtree(run.folder)
    shutil.copytree(other.folder, run.folder)
    with pytest.raises(RunError, match="is damaged: it is that of another run"):
        train(experiment, folder=tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xff", b'{"iteration": 0.0}\n' * 9])
def test_a_run_that_goes_on_takes_its_metrics_from_its_checkpoint(
    experiment: Experiment, tmp_path: Path, content: bytes | None
) -> None:
    whole = trained(experiment, 0)
    run = stopped(experiment, tmp_path / "stopped")
    file = run.folder / "metrics.jsonl"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    train(experiment, folder=run.folder.parent)
    assert file.read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()


def test_a_run_is_not_written_into_the_folder_that_took_its_place(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Removed as an error message says, and trained anew, while the first training goes on."""
    moved: list[Path] = []

    def replace(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 2:
            (run,) = all_runs(tmp_path)
            moved.append(run.folder.rename(tmp_path.parent / f"{tmp_path.name}-moved"))
            train(experiment, folder=tmp_path)

    with pytest.raises(RunError, match="was removed or replaced while it was being trained"):
        train(experiment, folder=tmp_path, on_metrics=replace)
    (run,) = all_runs(tmp_path)
    assert [line["iteration"] for line in run.metrics()] == [0, 1, 2, 3, 4]
    assert repeat(run, experiment.db) is None and moved


def test_who_waits_for_a_run_says_for_whom_and_takes_what_the_other_made(
    experiment: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = stopped(experiment, tmp_path)
    with held(run) as process:
        waiting = threading.Thread(
            target=train, args=[experiment], kwargs={"folder": tmp_path, "wait": True}
        )
        waiting.start()
        while not caplog.messages:
            time.sleep(0.01)
        process.kill()
        waiting.join()
    (line,) = caplog.messages
    assert f"(pid {process.pid} on " in line and line.endswith("waiting for its end.")
    assert Run(run.folder).finished


def test_training_starts_from_no_run_that_is_not_finished(
    experiment: Experiment, tmp_path: Path
) -> None:
    run = stopped(experiment, tmp_path / "stopped")
    with pytest.raises(RunError, match="is not finished"):
        train(experiment, init=run.folder, folder=tmp_path)
    assert seeded(experiment, 1, tmp_path).finished
