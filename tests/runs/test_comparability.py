"""What stands in one report: comparable runs alone, and what a report says that it lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.experiments import Raw, held, load, sample, settings, write_questions, write_scripts
from typer.testing import CliRunner

from hcache.commands.app import app
from hcache.errors import RunError
from hcache.evaluation.report import Report
from hcache.experiment import Experiment
from hcache.runs.evaluating import compare, evaluate_runs
from hcache.runs.folder import Run
from hcache.runs.training import train, with_train
from hcache.sampling import Sampler

QUICK = {"algo": "sft", "iterations": 2, "evaluate_every": 1}


def raw_of(folder: Path, **sections: object) -> Raw:
    runs = str(folder / "runs")
    return settings("ab", runs=runs, train=QUICK, evaluate={"resamples": 100}) | sections


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scripts(tmp_path, "ab")
    return tmp_path


@pytest.fixture
def experiment(folder: Path) -> Experiment:
    made = load(folder, raw_of(folder))
    Sampler(made).run()
    return made


def run_of(experiment: Experiment, seed: int = 0, **changes: object) -> Run:
    update = {"seed": seed, **changes}
    return train(with_train(experiment, experiment.config.train.model_copy(update=update)))


def at(experiment: Experiment, *overrides: str) -> Experiment:
    return Experiment.load(experiment.source, overrides, experiment.db)


def edit(run: Run, change: Callable[[Raw], object]) -> Run:
    manifest = Run(run.folder).manifest
    change(manifest)
    run.write_manifest(manifest)
    return Run(run.folder)


def said(report: Report) -> str:
    return "\n".join(report.notes)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("arms.b.price=300", "price of b"),
        ("train.iterations=3", "iterations"),
        ("train.settings.lr=0.5", "lr"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_two_methods(
    experiment: Experiment, override: str, difference: str
) -> None:
    report = evaluate_runs(experiment, [run_of(experiment), run_of(at(experiment, override), 1)])
    assert list(report.seeds.values()) == [1, 1]
    assert all(f"({difference} " in name for name in report.seeds)


def test_runs_that_started_from_other_settings_are_two_methods(experiment: Experiment) -> None:
    starts = [run_of(experiment), run_of(experiment, 5, settings={"lr": 0.5})]
    ppo = with_train(experiment, experiment.config.train.model_copy(update={"algo": "ppo"}))
    runs = [train(ppo, init=start.folder) for start in starts]
    seeded = with_train(ppo, ppo.config.train.model_copy(update={"seed": 1}))
    runs.append(train(seeded, init=starts[1].folder))
    report = evaluate_runs(experiment, runs)
    assert sorted(report.seeds.values()) == [1, 2]
    assert all("0. sft: lr 0.5" in name or "0. sft: lr 0.001" in name for name in report.seeds)


def test_runs_before_and_after_growth_are_not_averaged(
    folder: Path, experiment: Experiment
) -> None:
    old = run_of(experiment)
    write_questions(folder, "train", 6)
    grown = load(folder, raw_of(folder))
    Sampler(grown).run()
    report = evaluate_runs(grown, [old, run_of(grown, 1)])
    assert list(report.seeds.values()) == [1, 1]
    assert all("(data " in name for name in report.seeds)
    assert f"{old.name}: it was trained on other training data than the database" in said(report)
    shown = CliRunner().invoke(app, ["train", str(grown.source), "--db", str(grown.db)])
    assert f"The data have changed since {old.name}" in shown.output.replace("\n", " ")


def test_one_run_of_each_seed_counts(experiment: Experiment) -> None:
    run = run_of(experiment)
    copied = Run(run.folder.with_name("copied"))
    shutil.copytree(run.folder, copied.folder)
    copied = edit(copied, lambda manifest: manifest.update(created="2999-01-01"))
    report = evaluate_runs(experiment, [run, copied])
    assert report.seeds == {"sft": 1}
    assert f"Left out: {run.name}: copied is the same method and seed, and newer." in said(report)


def damage_manifest(run: Run) -> None:
    (run.folder / "manifest.json").write_text("{")


def damage_config(run: Run) -> None:
    edit(run, lambda manifest: manifest.update(config={}))


def damage_weights(run: Run) -> None:
    (run.policy_folder / "policy.safetensors").write_bytes(b"torn")


def damage_metrics(run: Run) -> None:
    (run.folder / "metrics.jsonl").write_text("not JSON\n")


def change_model(run: Run) -> None:
    edit(run, lambda manifest: manifest["arms"].update(b="another"))


def change_hops(run: Run) -> None:
    edit(run, lambda manifest: manifest["config"]["workflow"].update(hops=1))


def change_pool(run: Run) -> None:
    edit(run, lambda manifest: manifest["config"]["arms"].pop("b"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damage_manifest, "manifest.json is damaged"),
        (damage_config, "is damaged"),
        (damage_weights, "policy"),
        (damage_metrics, "metrics.jsonl is damaged"),
        (change_model, "the model behind b has changed"),
        (change_hops, "it was trained for 1 hops, not 2"),
        (change_pool, "it chooses among the arms a"),
    ],
)
def test_a_run_that_does_not_fit_is_left_out_by_name_and_the_rest_goes_on(
    experiment: Experiment, change: Callable[[Run], None], reason: str
) -> None:
    run_of(experiment)
    odd = run_of(experiment, 1)
    change(odd)
    arguments = ["eval", str(experiment.source), "--db", str(experiment.db), "--format", "json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["seeds"] == {"sft": 1}
    (note,) = [note for note in report["notes"] if note.startswith(f"Left out: {odd.name}: ")]
    assert reason in note


def test_two_runs_are_compared_at_one_price(experiment: Experiment) -> None:
    dear = at(experiment, "arms.a.price=100", "arms.b.price=300")
    one, two = run_of(experiment), run_of(dear)
    line = compare(one, two)
    assert f"Both at the prices of {one.name}; {two.name} was trained at others." in line
    other = edit(run_of(experiment, 1), lambda manifest: manifest["config"].update(quality="em"))
    with pytest.raises(RunError, match="quality"):
        compare(one, other)


MEASURES = [{"extract": "line"}, {"quality": "em"}, {"extract": "line", "quality": "em"}]


@pytest.mark.parametrize("measure", MEASURES)
def test_rewards_of_another_metric_or_extractor_are_not_compared(
    folder: Path, experiment: Experiment, measure: Raw
) -> None:
    one = run_of(experiment)
    made = raw_of(folder)["data"]["made"] | {"metrics": ["f1", "em"]} | measure
    elsewhere = {"name": "other", "db": "other.duckdb", "data": {"made": made}}
    sample(folder, raw_of(folder, **elsewhere))
    other = load(folder, raw_of(folder, **elsewhere))
    two = run_of(other)
    own = f"{measure.get('quality', 'f1')} of {measure.get('extract', 'text')}"
    words = f"other measures {own} on made, small measures f1 of text"
    with pytest.raises(RunError, match=words):
        compare(one, two)
    with pytest.raises(RunError, match=words):
        evaluate_runs(experiment, [one], others=[(other, [two])])


def test_a_run_of_another_extractor_stands_apart_and_the_report_says_so(
    folder: Path, experiment: Experiment
) -> None:
    old = run_of(experiment)
    data = raw_of(folder)["data"]["made"] | {"extract": "line"}
    sample(folder, raw_of(folder, data={"made": data}))
    changed = load(folder, raw_of(folder, data={"made": data}))
    report = evaluate_runs(changed, [old, run_of(changed, 1)])
    assert list(report.seeds.values()) == [1, 1]
    assert {"quality of made f1 of text" in name for name in report.seeds} == {True, False}
    assert f"{old.name}: it was trained at other prices or on another quality" in said(report)


def test_models_and_questions_that_changed_since_sampling_are_a_warning(
    folder: Path, experiment: Experiment
) -> None:
    run = run_of(experiment)
    assert evaluate_runs(experiment, [run]).warnings == ()
    (folder / "a.json").write_text(json.dumps([["(?s)^(.*)$", "other"]]))
    (model,) = evaluate_runs(experiment, [run]).warnings
    assert "model files of a have changed since sampling" in model
    write_questions(folder, "test", 2)
    _, questions = evaluate_runs(load(folder, raw_of(folder)), [run]).warnings
    assert "questions of test have changed since sampling" in questions
    for command in ("train", "eval"):
        shown = CliRunner().invoke(
            app, [command, str(experiment.source), "--db", str(run.experiment().db)]
        )
        assert "model files of a have changed since sampling" in shown.output.replace("\n", " ")
    (folder / "a.json").unlink()  # evaluation needs no model
    assert len(evaluate_runs(load(folder, raw_of(folder)), [run]).warnings) == 1


def test_a_run_is_trained_by_one_process_at_a_time_until_that_ends(experiment: Experiment) -> None:
    run = run_of(experiment)
    edit(run, lambda manifest: manifest.pop("outcome"))  # as if it had been stopped
    with (
        held(run) as process,
        pytest.raises(RunError, match=rf"being trained by another process \(pid {process.pid}"),
    ):
        run_of(experiment)
    assert run_of(experiment).finished


def test_a_report_says_which_queries_it_lacks(folder: Path) -> None:
    write_questions(folder, "test", 9)
    sample(folder, raw_of(folder), budget=56)
    experiment = load(folder, raw_of(folder))
    report = evaluate_runs(experiment, [], "test")
    lacking = sum(left.queries for left in report.left_out if left.split == "test")
    assert lacking == 9 - report.queries > 0
    assert any("Queries left out: " in note for note in report.notes)
    assert any(f"{lacking} of 9 queries of test" in warning for warning in report.warnings)
    shown = CliRunner().invoke(app, ["eval", str(experiment.source), "--db", str(experiment.db)])
    assert "WARNING: " in shown.output and "not sampled" in shown.output


@pytest.mark.parametrize(
    ("replicas", "words"), [(1, "one replica cannot tell"), (2, "is luck, by")]
)
def test_the_luck_of_the_oracle_is_told_where_replies_are_sampled(
    folder: Path, replicas: int, words: str
) -> None:
    raw = raw_of(folder, sampling={"replicas": replicas})
    sample(folder, raw)
    assert "luck" not in said(evaluate_runs(load(folder, raw), []))
    for arm in raw["arms"].values():
        arm["temperature"] = 1.0
    sample(folder, raw)
    assert words in said(evaluate_runs(load(folder, raw), []))
