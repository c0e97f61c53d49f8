"""Leakage: no run is evaluated on what it was trained or selected on, whatever became of splits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import Raw, load, settings, write_scripts

from hcache.errors import RunError
from hcache.experiment import Experiment
from hcache.keys import digest
from hcache.runs.evaluating import compare, evaluate_runs
from hcache.runs.folder import Run
from hcache.runs.leakage import seen_of
from hcache.runs.training import train, with_train
from hcache.sampling import Sampler

WORDS = [f"{first}{second}" for first in ("ape", "bee", "cat", "doe", "elk") for second in range(8)]


def write(folder: Path, name: str, questions: Iterable[str]) -> None:
    """A file of questions that arm a answers, or arm b."""
    rows = [{"question": text, "answer": "ab"[len(text) % 2]} for text in questions]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def raw_of(folder: Path, **sections: object) -> Raw:
    quick = {"algo": "sft", "iterations": 2, "evaluate_every": 1}
    return settings("ab", runs=str(folder / "runs"), train=quick, **sections)


def prepared(folder: Path, **files: list[str]) -> Experiment:
    """Files of questions written and sampled; all else is as before."""
    for name, questions in files.items():
        write(folder, name, questions)
    experiment = load(folder, raw_of(folder))
    Sampler(experiment).run()
    return experiment


def seeded(experiment: Experiment, seed: int, algo: str = "sft") -> Experiment:
    settings = experiment.config.train.model_copy(update={"seed": seed, "algo": algo})
    return with_train(experiment, settings)


@pytest.fixture
def first(tmp_path: Path) -> Experiment:
    write_scripts(tmp_path, "ab")
    return prepared(tmp_path, train=WORDS[:6], valid=WORDS[6:9], test=WORDS[9:12])


@pytest.fixture
def old(first: Experiment) -> Run:
    """A run on the first splits, whose question ape0 is one of test after that, in other dress."""
    run = train(first)
    prepared(
        first.folder,
        train=WORDS[1:6],
        valid=WORDS[6:9],
        test=[*WORDS[9:12], f"  {WORDS[0].upper()} ?"],
    )
    return run


def as_it_is(experiment: Experiment) -> Experiment:
    return load(experiment.folder, raw_of(experiment.folder))


def test_a_higher_limit_moves_no_question_and_old_runs_know_none_of_test(tmp_path: Path) -> None:
    write_scripts(tmp_path, "ab")
    write(tmp_path, "all", WORDS)
    raw = raw_of(tmp_path)
    source = {"path": "all.jsonl", "limit": 15}
    raw["data"]["made"]["sources"] = {"train/valid/test": source}
    small = load(tmp_path, raw)
    assert Sampler(small).run().moved == 0
    run = train(small)
    source["limit"] = 40
    large = load(tmp_path, raw)
    for split, queries in small.splits.items():
        assert set(queries) < set(large.splits[split])
    assert Sampler(large).run().moved == 0
    report = evaluate_runs(large, [run, train(seeded(large, 1))])
    assert list(report.seeds.values()) == [1, 1]  # of other training data, so no seeds of one
    assert not any("Left out" in note for note in report.notes)
    assert report.groups[0].queries == len(large.splits["test"])


def test_a_run_is_not_evaluated_on_what_it_was_trained_on(old: Run, first: Experiment) -> None:
    now = as_it_is(first)
    new = train(seeded(now, 1))
    report = evaluate_runs(now, [old, new])
    assert report.seeds == {"sft": 1}
    (note,) = report.notes
    assert note.startswith(f"Left out: {old.name}: it was trained on 1 of the 4 questions of test")
    assert "APE0 ?" in note and "Train it again" in note
    assert (new.folder / "eval-test.json").exists() and not (old.folder / "eval-test.json").exists()
    with pytest.raises(RunError, match=f"^{old.name}: it was trained on 1 of the 4"):
        evaluate_runs(now, [old])
    with pytest.raises(RunError, match=f"{old.name}: it was trained on 1 of the 4"):
        compare(new, old)


def test_validation_questions_count_too_but_each_split_may_be_asked_for(first: Experiment) -> None:
    run = train(first)
    for split, how in (("train", "trained"), ("valid", "selected")):
        assert f"In-sample: routers were {how} on these questions." in (
            evaluate_runs(first, [run], split).notes
        )
    swapped = prepared(
        first.folder, train=WORDS[9:12], valid=WORDS[:6], test=[*WORDS[6:9], *WORDS[12:14]]
    )
    with pytest.raises(RunError, match="it was selected on 3 of the 5 questions of test"):
        evaluate_runs(swapped, [run])
    with pytest.raises(RunError, match="it was trained on 6 of the 6 questions of valid"):
        evaluate_runs(swapped, [run], "valid")


def test_another_workflows_runs_are_left_out_as_well(old: Run, first: Experiment) -> None:
    now = as_it_is(first)
    report = evaluate_runs(now, [train(seeded(now, 1))], others=[(now, [old])])
    assert report.seeds == {"sft": 1} and old.name in report.notes[0]


def test_what_a_run_started_from_has_been_seen_too(old: Run, first: Experiment) -> None:
    now = as_it_is(first)
    chained = train(seeded(now, 0, "ppo"), init=old.folder)
    before, after = seen_of(old), seen_of(chained)
    assert before is not None and after is not None and after.whole
    assert before.train <= after.train and before.valid <= after.valid
    with pytest.raises(RunError, match="trained on 1 of the 4 questions of test"):
        evaluate_runs(now, [chained])


@pytest.mark.parametrize("algo", ["knn", "joint", "sft+ppo"])
def test_every_trainer_keeps_them(first: Experiment, algo: str) -> None:
    seen = seen_of(train(seeded(first, 0, algo)))
    assert seen is not None and seen.whole
    for split in ("train", "valid"):
        assert seen.of(split) == {query.wording for query in first.splits[split]}


def forget(run: Run) -> Run:
    """The run as an older version left it."""
    manifest = {key: value for key, value in run.manifest.items() if key != "queries"}
    run.write_manifest(manifest)
    run.queries_file.unlink()
    return run


def test_a_run_of_an_older_version_is_checked_by_its_database(first: Experiment) -> None:
    run = forget(train(first))
    assert seen_of(run) is not None
    assert evaluate_runs(first, [run]).notes == ()
    prepared(first.folder, train=WORDS[1:6], valid=WORDS[6:9], test=[*WORDS[9:12], WORDS[0]])
    assert seen_of(run) is None
    note, other = evaluate_runs(as_it_is(first), [run]).notes
    assert "other training data" in other
    assert "cannot be checked" in note and note.endswith(f"train them again: {run.name}.")
    chained = train(seeded(as_it_is(first), 0, "ppo"), init=run.folder)
    seen = seen_of(chained)
    assert seen is not None and not seen.whole
    assert "cannot be checked" in evaluate_runs(as_it_is(first), [chained]).notes[0]


@pytest.mark.parametrize("text", [None, "[]", "{", '{"train": [], "valid": [], "whole": true}'])
def test_a_damaged_list_leaves_the_run_out(first: Experiment, text: str | None) -> None:
    run, other = train(first), train(seeded(first, 1))
    run.queries_file.unlink()
    if text is not None:
        run.queries_file.write_text(text)
    report = evaluate_runs(first, [run, other])
    assert report.seeds == {"sft": 1}
    assert f"Left out: {run.name}:" in report.notes[0] and "damaged" in report.notes[0]


@pytest.mark.parametrize(
    "stored",
    [[], 7, {"train": 1, "valid": [], "whole": True}, {"train": [], "valid": [1], "whole": True}]
    + [{"train": [], "valid": [], "whole": whole} for whole in (1, None, "yes")],
)
def test_a_list_of_another_shape_is_damaged_whatever_its_digest(
    first: Experiment, stored: Any
) -> None:
    run = train(first)
    run.queries_file.write_text(json.dumps(stored))
    run.write_manifest({**run.manifest, "queries": digest(stored)})
    with pytest.raises(RunError, match="is missing or damaged"):
        seen_of(run)


def test_queries_that_change_their_split_are_counted(first: Experiment) -> None:
    write(first.folder, "train", WORDS[:3])
    write(first.folder, "test", WORDS[3:12:3] + WORDS[10:12])
    write(first.folder, "valid", WORDS[6:9][1:])
    experiment = as_it_is(first)
    assert Sampler(experiment).run().moved == 2  # doubles of train and valid, now of test
