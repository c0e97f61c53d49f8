"""Every registered trainer through the same paces: fit, save, load, evaluate, resume, live.

A new router needs no edit here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.fitting import ALPHA, NAMES, fresh, run, same, small
from helpers.forest import random_forest
from helpers.policies import RandomPolicy

from hcache.errors import RunError
from hcache.evaluation.evaluator import evaluate
from hcache.experiment import Experiment
from hcache.policies import load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.loading import load_replay
from hcache.replay.tree import path_name
from hcache.runs.evaluating import evaluate_runs
from hcache.runs.routing import live_router
from hcache.runs.training import repeat, train, with_train
from hcache.store import Store
from hcache.trainers import TRAINERS

LEARNING = [name for name in NAMES if not TRAINERS[name].closed_form]


@pytest.mark.parametrize("name", NAMES)
def test_every_trainer_fits_saves_loads_and_is_judged(name: str, tmp_path: Path) -> None:
    trainer = fresh(name)
    fitted, lines = run(trainer)
    last = 0 if trainer.closed_form else 6
    assert [line["iteration"] for line in lines] == list(range(last + 1))
    assert ["valid_reward" in line for line in lines] == [i % 2 == 0 for i in range(last + 1)]
    best = max(line["valid_reward"] for line in lines if "valid_reward" in line)
    assert fitted.best_reward == best
    assert trainer.validate(small("valid"))["reward"] == best
    fitted.policy.save(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert same(again.state_dict(), fitted.policy.state_dict())  # type: ignore[attr-defined]
    states = small("test").states
    assert torch.equal(again.probs(states), fitted.policy.probs(states))
    report = evaluate(
        small("test"), {name: again}, alpha=ALPHA, selection=small("train"), resamples=50
    )
    assert report.verdicts[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_help(name: str) -> None:
    assert TRAINERS[name].__doc__
    for field, spec in TRAINERS[name].Settings.model_fields.items():
        assert spec.description, field


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_repeats_to_the_bit(name: str) -> None:
    (one, lines_one), (two, lines_two), (other, _) = (run(fresh(name, seed)) for seed in (4, 4, 5))
    assert same(one.policy.state_dict(), two.policy.state_dict())
    assert lines_one == lines_two
    if name in LEARNING:
        assert not same(one.policy.state_dict(), other.policy.state_dict())


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("killed_at", [1, 2, 3, 5])
def test_a_killed_run_ends_with_the_same_bits(name: str, killed_at: int, tmp_path: Path) -> None:
    whole = fresh(name)
    fitted, lines = run(whole)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def kill(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fresh(name), on_metrics=kill, checkpoint=checkpoint, resume=True)
    resumed = fresh(name)
    again, rest = run(resumed, checkpoint=checkpoint, resume=True)
    assert again.iterations == fitted.iterations
    assert again.best_iteration == fitted.best_iteration
    assert again.best_reward == fitted.best_reward
    assert same(again.policy.state_dict(), fitted.policy.state_dict())
    assert same(resumed.state(), whole.state())
    assert rest == lines[len(lines) - len(rest) :]
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.name]
    finished, nothing = run(fresh(name), checkpoint=checkpoint, resume=True)
    assert nothing == []
    assert same(finished.policy.state_dict(), fitted.policy.state_dict())


@pytest.mark.parametrize("name", LEARNING)
def test_training_goes_on_from_a_policy(name: str) -> None:
    start, _ = run(fresh(name))
    before = {k: v.clone() for k, v in start.policy.state_dict().items()}
    trainer = TRAINERS[name](small("train"), None, alpha=ALPHA, seed=1, init=start.policy)
    assert same(trainer.policy.state_dict(), before)
    trainer.step()
    assert not same(trainer.policy.state_dict(), before)
    assert same(start.policy.state_dict(), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_does_not_fit_is_refused(name: str) -> None:
    make = TRAINERS[name]
    with pytest.raises(RunError, match="cannot start from a RandomPolicy"):
        make(small("train"), alpha=ALPHA, seed=0, init=RandomPolicy(small("train").arms))
    other = make(random_forest(1, arms=2, features=16).tree, alpha=ALPHA, seed=0).policy
    with pytest.raises(RunError, match=r"Start from a run on the same pool|Leave --init out"):
        make(small("train"), alpha=ALPHA, seed=0, init=other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_ragged_forests_can_be_trained_on(name: str, seed: int) -> None:
    tree = random_forest(seed, queries=5, arms=3, hops=3, replicas=2).tree
    trainer = TRAINERS[name](tree, alpha=0.1, seed=0)
    assert all(math.isfinite(value) for value in trainer.step().values())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_judged_repeated_and_routes_live(
    name: str, sampled: Experiment, tmp_path: Path
) -> None:
    settings = sampled.config.train.model_copy(update={"algo": name, "iterations": 2})
    experiment = with_train(sampled, settings)
    run = train(experiment, folder=tmp_path)
    report = evaluate_runs(experiment, [run], "valid")
    assert report.seeds == {name: 1}
    assert repeat(run, sampled.db) is None
    with Store(sampled.db) as store:
        tree = load_replay(store, sampled.config, "valid").tree
    leaf_T = greedy_leaves(load_policy(run.policy_folder), tree)
    questions = {query.id: query.question for query in sampled.splits["valid"]}
    with live_router(run.folder) as router:
        for index, query in enumerate(tree.queries):
            routed = router.route(questions[query])
            assert routed.sequence == path_name(tree.path_ML[leaf_T[index]].tolist(), tree.arms)
            assert routed.cost == pytest.approx(float(tree.cost_M[leaf_T[index]]))


@pytest.mark.parametrize("name", NAMES)
def test_features_may_stay_as_they_are_stored(name: str) -> None:
    """In float16, as `load_replay` leaves them, all is as if they had been made float32 before."""
    half = replace(small("train"), features_ND=small("train").features_ND.half())
    whole = replace(half, features_ND=half.features_ND.float())
    cls = TRAINERS[name]
    one, two = (cls(tree, cls.Settings(), alpha=ALPHA, seed=0) for tree in (half, whole))
    for trainer in (one, two):
        trainer.step()
    assert torch.equal(one.policy.probs(half.states), two.policy.probs(whole.states))
