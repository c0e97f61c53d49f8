"""What is loaded of pruned trees is what pruned sampling asks for, no more and no less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.experiments import failing, load, settings, table

from hcache.errors import EngineError
from hcache.experiment import Experiment
from hcache.replay.exact import mean_by_query, oracle_leaves
from hcache.replay.loading import Replay, load_replay
from hcache.replay.tree import NONE, Tree
from hcache.store import Store

Raw = dict[str, Any]
ALPHA = 100.0  # a call costs some thousandths
WORKFLOWS: list[Raw] = [{"name": "relay", "hops": 3}, {"name": "cascade", "hops": 3}]
PRUNINGS: list[Raw] = [{"width": 1}, {"width": 2}, {"bound": True}, {"width": 2, "bound": True}]


def experiment_of(folder: Path, workflow: Raw, db: str, **sampling: Any) -> Experiment:
    raw = settings("abc", workflow=workflow, train={"alpha": ALPHA}, db=db)
    raw["arms"]["b"]["temperature"] = 1.0
    return load(folder, raw | {"sampling": {"replicas": 2, **sampling}})


def run(experiment: Experiment, **how: Any) -> None:
    from hcache.sampling import Sampler

    Sampler(experiment, **how).run()


def loaded(experiment: Experiment, split: str = "train") -> Replay:
    with Store(experiment.db) as store:
        return load_replay(store, experiment.config, split)


def outcomes(tree: Tree) -> set[tuple[str, int, str]]:
    """Query, replica and sequence of every leaf that a tree leads to."""
    from hcache.replay.tree import path_name, tree_of_leaf

    linked = set(tree.leaf_NA[tree.leaf_NA != NONE].tolist())
    assert linked == set(range(len(tree.quality_M)))
    owner_M = tree_of_leaf(tree)
    return {
        (
            tree.queries[int(tree.query_T[owner])],
            int(tree.replica_T[owner]),
            path_name(path, tree.arms),
        )
        for owner, path in zip(owner_M.tolist(), tree.path_ML.tolist(), strict=True)
    }


def stored(experiment: Experiment) -> set[tuple[str, int, str]]:
    rows = table(experiment.db, "outcomes").filter(split="train")
    return set(rows.select("query_id", "replica", "sequence").rows())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda each: str(each["name"]))
@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_all_that_was_sampled_is_loaded(folder: Path, workflow: Raw, pruning: Raw) -> None:
    experiment = experiment_of(folder, workflow, "small.duckdb", **pruning)
    run(experiment)
    found = loaded(experiment)
    assert found.incomplete == 0
    assert outcomes(found.tree) == stored(experiment)
    assert bool(found.tree.valid_NA.any(dim=1).all())
    partial = found.tree.partial
    if workflow["name"] == "cascade" and pruning == {"width": 2}:
        assert partial is None  # no state offers more
        return
    assert partial is not None and 0 < partial.queries <= len(found.tree.queries)
    assert partial.share == pytest.approx(
        len(stored(experiment)) / (6 * experiment.workflow.trajectories(3))
    )
    assert partial.at_random == ("bound" not in pruning)
    assert partial.exact_at == (ALPHA if pruning == {"bound": True} else None)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda each: str(each["name"]))
@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_what_is_there_besides_is_cut_off(folder: Path, workflow: Raw, pruning: Raw) -> None:
    """Rows of a larger run that was stopped are no part of the tree: chance did not choose them."""
    alone = experiment_of(folder, workflow, "alone.duckdb", **pruning)
    run(alone)
    with pytest.raises(EngineError):
        after = 30 if workflow["name"] == "relay" else 4  # a cascade asks each arm once a question
        run(experiment_of(folder, workflow, "small.duckdb"), factory=failing("c", after))
    experiment = experiment_of(folder, workflow, "small.duckdb", **pruning)
    run(experiment)
    assert stored(alone) <= stored(experiment)
    found = loaded(experiment)
    assert found.incomplete == 0
    tree, mine = found.tree, loaded(alone).tree
    whole = len(tree.queries) - (0 if tree.partial is None else tree.partial.queries)
    assert outcomes(mine) <= outcomes(tree) if whole else outcomes(mine) == outcomes(tree)


def test_whole_trees_stay_whole(folder: Path) -> None:
    whole = experiment_of(folder, WORKFLOWS[0], "small.duckdb")
    run(whole, splits=["test"])
    experiment = experiment_of(folder, WORKFLOWS[0], "small.duckdb", width=1)
    run(experiment, splits=["train", "valid"])
    assert loaded(experiment, "test").tree.partial is None
    assert len(loaded(experiment, "test").tree.quality_M) == 2 * 39
    assert loaded(experiment, "train").tree.partial is not None


def test_a_bound_keeps_the_oracle_of_its_alpha(folder: Path) -> None:
    whole = experiment_of(folder, WORKFLOWS[0], "whole.duckdb")
    pruned = experiment_of(folder, WORKFLOWS[0], "small.duckdb", bound=True)
    run(whole)
    run(pruned)
    means = []
    for experiment in (whole, pruned):
        tree = loaded(experiment).tree
        reward_M = tree.reward_M(ALPHA)
        means.append(mean_by_query(tree, reward_M[oracle_leaves(tree, reward_M)]))
    assert torch.allclose(means[0], means[1], rtol=0, atol=1e-9)


def test_another_alpha_misses_what_its_bound_would_ask_for(folder: Path) -> None:
    pruned = experiment_of(folder, WORKFLOWS[0], "small.duckdb", bound=True)
    run(pruned)
    config = pruned.config
    other = config.model_copy(update={"train": config.train.model_copy(update={"alpha": 0.0})})
    with Store(pruned.db) as store:
        found = load_replay(store, other, "train")
    assert found.incomplete > 0


def test_an_outcome_that_is_asked_for_and_missing_is_no_pruning(folder: Path) -> None:
    experiment = experiment_of(folder, WORKFLOWS[0], "small.duckdb", width=1)
    with pytest.raises(EngineError):
        run(experiment, factory=failing("c", 4))
    assert loaded(experiment).incomplete > 0
    run(experiment)
    assert loaded(experiment).incomplete == 0
