"""All routers at once: what is trained, nothing twice, and evaluating across workflows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.experiments import load, settings, write_scripts
from typer.testing import CliRunner

from hcache.commands.app import app
from hcache.errors import HcacheError, RunError
from hcache.experiment import Experiment
from hcache.runs.benching import Job, algorithms, jobs, run_all
from hcache.runs.evaluating import compare, evaluate_runs
from hcache.runs.folder import Run
from hcache.runs.training import train, with_train
from hcache.sampling import Sampler
from hcache.trainers import TRAINERS


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Experiment]:
    """A relay and a cascade of the same arms on the same questions, in one database, sampled."""
    folder = tmp_path_factory.mktemp("pair")
    write_scripts(folder, "ab")
    quick = {"iterations": 2, "evaluate_every": 1}
    relay = load(folder, settings("ab", runs=str(folder / "runs"), train=quick))
    cascade = load(
        folder,
        settings(
            "ab",
            name="cascaded",
            workflow={"name": "cascade", "hops": 2},
            runs=str(folder / "runs"),
            train={"algo": "cascade", **quick},
        ),
    )
    Sampler(relay).run()
    assert Sampler(cascade).run().generated == {}
    return relay, cascade


def fail(job: Job, error: RunError) -> None:
    """No job is to fail."""
    raise AssertionError(f"{job.name}: {error}")


def test_every_trainer_stands_there_or_says_why_not(pair: tuple[Experiment, Experiment]) -> None:
    found = algorithms(pair[0])
    assert list(found) == [*sorted(TRAINERS), "sft+ppo"]
    assert {name: reason for name, reason in found.items() if reason} == {
        "joint-live": "runs the models in every step; ask for it by name",
        "language": "needs train.settings.path",
    }
    config = pair[0].config
    without_stop = config.train.model_copy(update={"stop": False})
    running_on = config.model_copy(update={"train": without_stop})
    found = algorithms(load(pair[0].source.parent, running_on.model_dump(mode="json")))
    assert "no state offers STOP" in found["cascade"]


def test_jobs_differ_in_algorithm_and_seed_alone(pair: tuple[Experiment, Experiment]) -> None:
    made = jobs(pair[0], ["ppo", "sft"], 2)
    assert [job.name for job in made] == ["ppo seed 0", "ppo seed 1", "sft seed 0", "sft seed 1"]
    assert len({job.key for job in made}) == 4
    for job in made:
        same = {"algo": "ppo", "seed": 0, "settings": {}}
        assert job.experiment.config.train.model_copy(update=same) == pair[0].config.train


def test_runs_are_those_of_the_train_command_and_are_not_made_twice(
    pair: tuple[Experiment, Experiment],
) -> None:
    done: dict[str, Run] = {}
    wanted = jobs(pair[0], ["sft", "sft+ppo", "knn"], 1)
    run_all(wanted, lambda job, run: done.__setitem__(job.key, run), fail)
    assert done.keys() == {job.key for job in wanted}
    for job in wanted:
        run = done[job.key]
        written = (run.folder / "manifest.json").stat().st_mtime_ns
        assert train(job.experiment).folder == run.folder
        assert (run.folder / "manifest.json").stat().st_mtime_ns == written
    chained = next(run for key, run in done.items() if "sft+ppo" in key)
    first = next(run for key, run in done.items() if "sft seed" in key)
    assert chained.manifest["identity"]["init"] == first.manifest["outcome"]["weights"]


def test_the_error_of_a_run_is_told(pair: tuple[Experiment, Experiment]) -> None:
    with pytest.raises(HcacheError, match="unknown trainer 'pop'"):
        run_all(jobs(pair[0], ["pop"], 1), lambda job, run: None, fail)


def test_routers_of_two_workflows_are_judged_on_the_same_questions(
    pair: tuple[Experiment, Experiment],
) -> None:
    relay, cascade = pair
    one, two = train(relay), train(cascade)
    report = evaluate_runs(relay, [one], "test", [(cascade, [two])])
    alone = evaluate_runs(cascade, [two], "test")
    rewards = {row.name: row.reward.estimate for row in report.groups[0].rows}
    own = {row.name: row.reward.estimate for row in alone.groups[0].rows}
    assert rewards["cascade (cascaded)"] == own["cascade"]
    assert "cascade (cascaded)" in report.verdicts
    assert f"{one.name} against {two.name}: too few queries" in compare(one, two)


def test_runs_of_other_rewards_cannot_be_compared(pair: tuple[Experiment, Experiment]) -> None:
    relay = pair[0]
    other = relay.config.train.model_copy(update={"alpha": 0.7})
    one, two = train(relay), train(with_train(relay, other))
    with pytest.raises(RunError, match="different rewards"):
        compare(one, two)


def test_routers_for_any_alpha_are_judged_at_any(pair: tuple[Experiment, Experiment]) -> None:
    relay = pair[0]
    runs = [
        train(with_train(relay, relay.config.train.model_copy(update={"algo": name})))
        for name in ("front", "sft")
    ]
    dear = relay.config.train.model_copy(update={"alpha": 3.0})
    report = evaluate_runs(with_train(relay, dear), runs, "valid")
    assert list(report.seeds) == ["front"]
    assert report.notes == (
        f"Left out: {runs[1].name}: it was trained for α = 0.1.",
        "In-sample: routers were selected on these questions.",
    )


def test_of_joint_runs_only_the_high_level_is_judged_and_that_is_said(
    pair: tuple[Experiment, Experiment],
) -> None:
    (job,) = jobs(pair[0], ["joint"], 1)
    run = train(job.experiment)
    report = evaluate_runs(job.experiment, [run], "valid")
    assert any("on replies as they are without its ΔW" in note for note in report.notes)


def test_the_command_trains_and_judges(pair: tuple[Experiment, Experiment], tmp_path: Path) -> None:
    files = []
    for experiment in pair:
        file = experiment.source.parent / f"{experiment.name}.yaml"
        file.write_text(json.dumps(experiment.config.model_dump(mode="json")), encoding="utf-8")
        files.append(str(file))
    arguments = ["bench", files[0], "--with", files[1], "--algos", "sft,knn", "--seeds", "2"]
    options = ["--db", str(pair[0].db), "--set", f"runs={tmp_path}", "--format", "json"]
    done = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert json.loads(done.stdout)["seeds"] == {"sft": 2, "knn": 2, "cascade (cascaded)": 2}
