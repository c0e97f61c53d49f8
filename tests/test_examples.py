"""The experiments in examples/: they load, and `plan` works on real rows with small models."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.paths import ROOT

from hcache.config.file import parse_settings, read_config
from hcache.experiment import Experiment
from hcache.runs.evaluating import evaluate_runs
from hcache.runs.training import train, with_train
from hcache.sampling import Sampler, make_plan
from hcache.trainers import TRAINERS

DATA = ROOT.parent / "shared" / "data"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def overrides(example: Path) -> list[str]:
    """The demo's models in place of those of the hub, and the first rows of real files."""
    config = read_config(example)
    models = ROOT / "data" / "demo" / "models"
    found = [
        f"models.{name}.path={models / small}"
        for name, small in zip(config.models, ("generalist", "calculator", "reader"), strict=False)
    ]
    for name, dataset in config.data.items():
        for key, source in dataset.sources.items():
            place = f"data.{name}.sources.{key}"
            rows = 6 * len(key.split("/")) ** 2  # enough for every part of those that are dealt
            found += [f"{place}.path={DATA / source.path}", f"{place}.limit={rows}"]
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_says_what_it_is_and_loads(example: Path) -> None:
    assert example.read_text(encoding="utf-8").startswith("# ")
    assert Experiment.load(example).name == example.stem


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_every_algorithm_of_an_example_takes_its_settings(example: Path) -> None:
    own = read_config(example).train
    for algo in (own.algo, *own.also):
        config = read_config(example, algo=algo).train
        assert config.algo == algo
        parse_settings(TRAINERS[algo].Settings, config.settings, str(example))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_plan_counts_every_sequence(example: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(example, overrides(example), tmp_path / "none.duckdb")
    plan = make_plan(experiment, show=1)
    arms, hops = len(experiment.pool), experiment.workflow.hops
    queries = len(experiment.queries())
    if experiment.workflow.name == "relay":
        assert plan.missing == sum(arms**hop for hop in range(1, hops + 1)) * queries
    elif experiment.workflow.name == "cascade":  # nobody reads another's reply
        assert plan.missing == arms * queries
    else:  # a dialogue for each cast, and at least one call in each
        assert plan.missing >= arms**hops * queries
    assert plan.prompts[0].messages[-1].content


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")
def test_hierrouter_runs_with_small_models_put_in(tmp_path: Path) -> None:
    preset = ROOT / "examples" / "hierrouter.yaml"
    small = {"dtype": "float32", "max_model_len": 256}
    config = read_config(preset)
    changes = [f"models.{name}.{k}={v}" for name in config.models for k, v in small.items()]
    changes += [f"arms.{name}.max_tokens=8" for name in config.arms]
    experiment = Experiment.load(preset, [*overrides(preset), *changes], tmp_path / "h.duckdb")
    tally = Sampler(experiment).run()
    assert tally.complete == tally.queries == len(experiment.queries()) > 30
    settings = experiment.config.train.model_copy(update={"algo": "ppo", "iterations": 2})
    trained = with_train(experiment, settings)
    run = train(trained, folder=tmp_path)
    report = evaluate_runs(trained, [run], "test")
    assert {group.name for group in report.groups if group.by == "dataset"} == set(config.data)
    assert report.groups[0].queries == len(experiment.splits["test"])
