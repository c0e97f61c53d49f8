"""Figures from partial trees: estimates of what chance left out, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.policies import SequencePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.learning.forest import forest
from benchmarks.pruning import Method, pruned
from hcache.errors import DataError
from hcache.evaluation.evaluator import evaluate
from hcache.evaluation.report import Report
from hcache.replay.exact import mean_by_query, static_leaves
from hcache.replay.static import FEWEST, best_static, common_paths, estimated, often
from hcache.replay.tree import Tree

ALPHA = 0.25
WIDTH, BOUND = Method("width", 1), Method("bound", bound=True)


def trees(queries: int = 300, noise: float = 0.3) -> tuple[Tree, Tree, Tree]:
    found = [forest(queries, seed=seed, noise=noise) for seed in (1, 2, 3)]
    return found[0], found[1], replace(found[2], quality_M=found[2].quality_M.clamp(max=1.0))


def part(tree: Tree, method: Method, seed: int = 0) -> Tree:
    return pruned(tree, method, ALPHA, seed, 1.0)[0]


def report(test: Tree, *selection: Tree) -> Report:
    policies = {"a": SequencePolicy(test.arms, [0])}
    return evaluate(test, policies, alpha=ALPHA, selection=selection, resamples=200)


def row_of(found: Report, role: str) -> tuple[str, float]:
    [row] = [row for row in found.groups[0].rows if row.role == role]
    return row.name, row.reward.estimate


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999))
def test_estimates_are_near_the_means_of_whole_trees(seed: int) -> None:
    whole = forest(300, seed=seed, noise=0.3)
    cut = part(whole, WIDTH, seed)
    paths = [path for path in often([cut]) if len(path) > 1]
    found = list(estimated([cut], ALPHA, None, paths))
    assert found and all(FEWEST <= one.queries < 300 for one in found)
    reward_MS = whole.reward_M(ALPHA)[static_leaves(whole, [one.path for one in found])]
    means = mean_by_query(whole, reward_MS).mean(dim=0).tolist()
    for one, mean in zip(found, means, strict=True):
        assert abs(one.reward - mean) < 6 * one.error  # of some dozens of sequences in 15 forests


def test_of_whole_trees_estimates_are_the_means() -> None:
    whole, *_ = trees(60)
    found = list(estimated([whole], ALPHA, None, common_paths([whole])))
    assert {one.error for one in found} == {0.0}
    best = max(found, key=lambda one: one.reward)
    assert best.path == best_static([whole], ALPHA)


def test_the_best_sequence_is_found_where_chance_left_it_out() -> None:
    train, valid, test = trees(800)
    best = best_static([train, valid], ALPHA)
    assert len(best) > 1
    cut = [part(train, WIDTH), part(valid, WIDTH)]
    chosen = best_static(cut, ALPHA)
    reward_M = test.reward_M(ALPHA)
    lost = (reward_M[static_leaves(test, [best])] - reward_M[static_leaves(test, [chosen])]).mean()
    assert float(lost) < 0.05
    assert all(len(path) == 1 for path in common_paths(cut))
    at_hand = best_static(cut, ALPHA, within=[part(test, WIDTH)])
    assert len(at_hand) == 1  # one that every evaluated tree has


def test_a_maximum_over_partial_trees_is_a_lower_bound_and_says_so() -> None:
    train, valid, test = trees()
    whole = report(test, train, valid)
    assert row_of(whole, "oracle")[0] == "oracle"
    assert (whole.share, whole.warnings) == (1.0, ())
    cut = report(part(test, WIDTH), part(train, WIDTH), part(valid, WIDTH))
    name, reward = row_of(cut, "oracle")
    assert name == "oracle, a lower bound (23.1% of trajectories)"
    assert reward < row_of(whole, "oracle")[1]
    assert cut.share == pytest.approx(9 / 39)
    evaluated, chosen = cut.warnings
    assert "the oracle is a lower bound" in evaluated and "23.1%" in evaluated
    assert f"{FEWEST} queries or more" in chosen


def test_a_bound_keeps_the_oracle_and_names_what_it_does_not_keep() -> None:
    train, valid, test = trees()
    whole, cut = report(test, train, valid), report(part(test, BOUND), train, valid)
    assert row_of(cut, "oracle")[0] == "oracle"
    assert row_of(cut, "oracle")[1] == pytest.approx(row_of(whole, "oracle")[1], abs=1e-9)
    assert "a lower bound" in row_of(cut, "oracle of quality")[0]
    [warning] = cut.warnings
    assert "at this alpha alone" in warning and "not missing at random" in warning


def test_whole_trees_are_evaluated_as_such_after_partial_training() -> None:
    train, valid, test = trees()
    found = report(test, part(train, WIDTH), part(valid, WIDTH))
    assert row_of(found, "oracle") == row_of(report(test, train, valid), "oracle")
    assert found.share == 1 and len(found.warnings) == 1


def test_without_any_sequence_in_common_there_is_nothing_to_compare_with() -> None:
    train, valid, test = trees(60)
    cut = part(test, WIDTH).without_stop()
    with pytest.raises(DataError):
        report(cut, train.without_stop(), valid.without_stop())
    assert torch.equal(cut.root_T, part(test, WIDTH).root_T)
