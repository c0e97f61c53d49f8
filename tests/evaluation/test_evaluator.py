"""Reports against plain loops, their invariants, and what must be refused."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from helpers.forest import Forest, Leaf, Node, lay_out, leaves_of, random_forest
from helpers.policies import RandomPolicy, SequencePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.errors import ConfigError, DataError, RunError
from hcache.evaluation.baselines import BEST_ON_TEST, BEST_STATIC
from hcache.evaluation.evaluator import evaluate
from hcache.evaluation.leaderboard import footnotes, lines
from hcache.evaluation.report import Report, Row
from hcache.evaluation.statistics import VANISHES
from hcache.policies import Policy
from hcache.policies.mlp import MLPPolicy
from hcache.replay.exact import returns
from hcache.replay.static import best_static
from hcache.replay.tree import Tree

quick = settings(max_examples=30, deadline=None)


def three(seed: int, **options: Any) -> tuple[Forest, Forest, Forest]:
    """Train, valid and test forests of one shape with different queries."""
    made = [random_forest(seed + i, prefix=p, **options) for i, p in enumerate(("a", "b", "c"))]
    return made[0], made[1], made[2]


def evaluated(seed: int, alpha: float = 0.1, stop: bool = True, **options: Any) -> Report:
    train, valid, test = three(seed, ragged=False, queries=6, **options)
    policies: dict[str, Policy | list[Policy]] = {
        "mlp": [MLPPolicy.for_tree(train.tree, seed=s) for s in range(2)],
        "a": SequencePolicy(train.tree.arms, [0]),
    }
    return evaluate(
        test.tree,
        policies,
        alpha=alpha,
        selection=[train.tree, valid.tree],
        stop=stop,
        resamples=200,
    )


def row(report: Report, role: str, name: str = "", group: int = 0) -> Row:
    found = [r for r in report.groups[group].rows if r.role == role and name in ("", r.name)]
    return found[0]


def best_static_twin(
    forests: list[Forest], alpha: float, stop: bool, kind: str | None = None
) -> tuple[int, ...]:
    """Plain loops: mean over the queries of the mean over replicas, cheapest of equals."""
    scores: dict[tuple[int, ...], list[list[tuple[float, float]]]] = {}
    for forest in forests:
        replicas = len(forest.roots) // len(forest.tree.queries)
        for t, root in enumerate(forest.roots):
            if kind not in (None, forest.tree.kinds[t // replicas]):
                continue
            for leaf in leaves_of(root):
                if not stop and len(leaf.path) < forest.tree.hops:
                    continue
                per_query = scores.setdefault(leaf.path, [])
                if t % replicas == 0:
                    per_query.append([])
                per_query[-1].append((leaf.quality - alpha * leaf.cost, leaf.cost))

    def means(path: tuple[int, ...]) -> tuple[float, float]:
        queries = scores[path]
        parts = [[sum(v[i] for v in q) / len(q) for q in queries] for i in (0, 1)]
        return sum(parts[0]) / len(queries), sum(parts[1]) / len(queries)

    top = max(means(path)[0] for path in scores)
    tied = [path for path in scores if means(path)[0] >= top - 1e-12]
    return min(tied, key=lambda path: (round(means(path)[1], 9), len(path), path))


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.5]), st.booleans(), st.integers(1, 2))
def test_best_static_equals_plain_loops(seed: int, alpha: float, stop: bool, replicas: int) -> None:
    forests = list(three(seed, ragged=False, replicas=replicas))[:2]
    trees = [f.tree if stop else f.tree.without_stop() for f in forests]
    assert best_static(trees, alpha) == best_static_twin(forests, alpha, stop)


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1]), st.booleans())
def test_best_static_per_kind_equals_plain_loops(seed: int, alpha: float, stop: bool) -> None:
    train, valid, test = three(seed, ragged=False, queries=6)
    forests = [
        replace(f, tree=replace(f.tree, kinds=("x", "y", "x", "y", "y", "x")))
        for f in (train, valid, test)
    ]
    selection = [forest.tree for forest in forests[:2]]
    report = evaluate(forests[2].tree, {}, alpha=alpha, selection=selection, stop=stop, resamples=9)
    found = []
    for kind, root in zip(forests[2].tree.kinds, forests[2].roots, strict=True):
        path = best_static_twin(forests[:2], alpha, stop, kind)
        found += [leaf for leaf in leaves_of(root) if leaf.path == path]
    mean = sum(leaf.quality - alpha * leaf.cost for leaf in found) / 6
    assert row(report, "static per kind").reward.estimate == pytest.approx(mean)


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_rows_keep_their_order(seed: int, alpha: float, stop: bool) -> None:
    report = evaluated(seed, alpha, stop)
    oracle, static = row(report, "oracle").reward.estimate, row(report, "static").reward.estimate
    on_test = row(report, "static on test").reward.estimate
    assert oracle >= on_test - 1e-12 >= static - 2e-12
    for line in report.groups[0].rows:
        assert line.reward.estimate == pytest.approx(
            line.quality.estimate - alpha * line.cost.estimate, abs=1e-9
        )
        assert line.difference.estimate == pytest.approx(line.reward.estimate - static, abs=1e-12)
        if line.role not in ("single", "cheapest", "most expensive"):  # these may end after one hop
            assert oracle >= line.reward.estimate - 1e-12
    assert row(report, "static").difference.estimate == 0
    assert row(report, "static").difference.low == 0
    closed = [row(report, role).gap_closed for role in ("oracle", "static")]
    if row(report, "oracle").difference.low > 1e-12:
        assert [each.estimate for each in closed] == pytest.approx([1, 0], abs=1e-12)
    else:
        assert all(math.isnan(each.estimate) and each.note == VANISHES for each in closed)


def test_random_is_the_exact_expectation() -> None:
    train, _, test = three(3, ragged=False)
    report = evaluate(test.tree, {}, alpha=0.1, selection=train.tree, resamples=50)
    probs = RandomPolicy(test.tree.arms).probs(test.tree.states)
    wanted = returns(test.tree, test.tree.reward_M(0.1), probs).mean().item()
    assert row(report, "random").reward.estimate == pytest.approx(wanted)
    assert 1 <= row(report, "random").hops <= 3


def test_a_static_router_equals_the_static_row() -> None:
    train, valid, test = three(8, ragged=False, queries=30)
    path = best_static([train.tree, valid.tree], 0.1)
    report = evaluate(
        test.tree,
        {"same": SequencePolicy(test.tree.arms, path)},
        alpha=0.1,
        selection=[train.tree, valid.tree],
        resamples=100,
    )
    mine, static = row(report, "router"), row(report, "static")
    assert (mine.quality, mine.cost, mine.reward) == (static.quality, static.cost, static.reward)
    assert mine.difference.low == mine.difference.high == 0
    assert mine.verdict == "equal"
    assert "against the best static sequence: equal (the same reward" in report.verdicts["same"]
    assert "show differences" not in report.verdicts["same"]


def test_seeds_are_averaged() -> None:
    train, _, test = three(8, ragged=False, queries=12)
    arms = test.tree.arms
    a, b = SequencePolicy(arms, [0]), SequencePolicy(arms, [1])
    report = evaluate(
        test.tree,
        {"a": a, "b": b, "both": [a, b]},
        alpha=0.1,
        selection=train.tree,
        resamples=50,
    )
    rewards = [row(report, "router", name).reward.estimate for name in ("a", "b", "both")]
    assert rewards[2] == pytest.approx((rewards[0] + rewards[1]) / 2)
    assert row(report, "router", "both").seeds == 2
    assert row(report, "router", "both").reward.spread == pytest.approx(
        abs(rewards[0] - rewards[1]) / 2**0.5
    )
    assert report.seeds == {"a": 1, "b": 1, "both": 2}


def test_single_models_are_rows_by_arm() -> None:
    report = evaluated(5)
    names = [line.name for line in report.groups[0].rows if line.role == "single"]
    assert names == ["a", "b"]
    assert all(row(report, "single", name).hops == 1 for name in names)
    assert report.best_single in names
    assert row(report, "single", "a").reward == row(report, "router", "a").reward


def test_without_stop_singles_stay_and_the_rest_runs_on() -> None:
    report = evaluated(5, stop=False)
    assert row(report, "single", "a").hops == 1
    for role in ("static", "static on test", "random", "oracle", "router"):
        assert row(report, role).hops == 3
    assert report.best_static.count(">") == 2


def test_without_single_outcomes_a_model_alone_is_the_same_model_throughout() -> None:
    train, _, test = three(5, ragged=False, stop=False)
    report = evaluate(test.tree, {}, alpha=0.1, selection=train.tree, resamples=50)
    names = [r.name for r in report.groups[0].rows if r.role == "single"]
    assert names == ["a>a>a", "b>b>b"][: len(names)] and len(names) == len(test.tree.arms)
    assert report.best_single in names
    assert not report.notes


def test_every_cast_of_roles_has_its_row() -> None:
    train, _, test = three(5, ragged=False, stop=False)
    report = evaluate(test.tree, {}, alpha=0.1, selection=train.tree, resamples=50)
    arms, hops = test.tree.arms, test.tree.hops
    wanted = [">".join(cast) for cast in product(arms, repeat=hops) if len(set(cast)) > 1]
    found = {
        r.name: r.reward.estimate for r in report.groups[0].rows if r.role == "role assignment"
    }
    assert list(found) == wanted
    assert max(*found.values(), *singles_of(report)) == pytest.approx(
        row(report, "static on test").reward.estimate
    )
    assert not [
        r for r in evaluated(5).groups[0].rows if r.role == "role assignment"
    ]  # these end early


def singles_of(report: Report) -> list[float]:
    return [r.reward.estimate for r in report.groups[0].rows if r.role == "single"]


def test_trees_without_a_model_alone_say_so() -> None:
    test, train = (
        lay_out(
            [Node([0.0], 0.0, 0, {0: Node([0.0], 0.0, 1, {1: Leaf(1.0, 1.0, (0, 1))})})],
            "ab",
            hops=2,
            prefix=prefix,
        ).tree
        for prefix in "xy"
    )
    report = evaluate(test, {}, alpha=0.1, selection=train, resamples=50)
    assert report.best_single == ""
    assert report.notes == ("No row for a, b alone: the trees lack that outcome.",)


def test_groups_are_the_report_of_their_queries() -> None:
    report = evaluated(9)
    assert [(g.by, g.name, g.queries) for g in report.groups] == [
        ("all", "all", 6),
        ("dataset", "x", 3),
        ("dataset", "y", 3),
        ("kind", "k", 2),
        ("kind", "l", 2),
        ("kind", "m", 2),
    ]
    for role in ("static", "oracle", "router"):
        parts = [row(report, role, group=g) for g in (1, 2)]
        whole = row(report, role).quality.estimate
        assert whole == pytest.approx(sum(p.quality.estimate for p in parts) / 2)
    assert len({group.rows[2].sequence for group in report.groups}) == 1


def test_few_queries_decide_nothing() -> None:
    report = evaluated(9)
    assert {line.verdict for line in report.groups[0].rows if line.role == "router"} == {
        "too few queries"
    }


def test_one_query_is_enough_for_a_report() -> None:
    train, _, test = three(4, ragged=False, queries=1)
    report = evaluate(test.tree, {}, alpha=0.0, selection=train.tree, resamples=20)
    assert report.to_dict()["groups"][0]["rows"][0]["quality"]["low"] is None


def test_replicas_are_averaged() -> None:
    train, _, test = three(4, ragged=False, replicas=2)
    report = evaluate(test.tree, {}, alpha=0.1, selection=train.tree, resamples=20)
    assert (report.queries, report.trees, report.replicas) == (3, 6, 2)


def test_ragged_trees_end_where_they_end() -> None:
    """A tree that ends after its first arm counts there for every longer sequence."""

    def root(early: bool) -> Node:
        rest = Node([0.0], 1.0, 1, {0: Leaf(0.0, 2.0, (0, 0)), 1: Leaf(0.0, 1.0, (0,))})
        return Node([0.0], 0.0, 0, {0: Leaf(1.0, 1.0, (0,)) if early else rest})

    train = lay_out([root(False), root(False)], "a", hops=2, prefix="t").tree
    test = lay_out([root(True), root(False)], "a", hops=2, prefix="u").tree
    report = evaluate(test, {}, alpha=-0.1, selection=train, resamples=20)
    assert report.best_static == "a>a"
    assert row(report, "static").quality.estimate == 0.5
    assert row(report, "static").hops == 1.5


def test_the_report_can_be_written_as_json_csv_and_table() -> None:
    report = evaluated(6)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    for key in ("queries", "trees", "seeds", "alpha", "resamples", "level", "verdicts", "rows"):
        assert key in plain
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, fieldnames=list(report.rows[0]))
    writer.writeheader()
    writer.writerows(report.rows)
    assert sheet.getvalue().count("\n") == 1 + sum(len(g.rows) for g in report.groups)
    text = str([lines(group, wide) for group in report.groups for wide in (False, True)])
    assert BEST_STATIC in text
    assert BEST_ON_TEST in text
    assert "(2 seeds)" in text


def test_equal_calls_give_equal_reports() -> None:
    assert evaluated(7).to_dict() == evaluated(7).to_dict()


def test_test_queries_do_not_change_what_is_chosen() -> None:
    train, valid, test = three(11, ragged=False)
    better = replace(test.tree, quality_M=1 - test.tree.quality_M)
    chosen = {
        evaluate(t, {}, alpha=0.1, selection=[train.tree, valid.tree], resamples=20).best_static
        for t in (test.tree, better)
    }
    assert len(chosen) == 1


def test_what_does_not_fit_is_refused() -> None:
    train, _, test = three(1, ragged=False)

    def report(tree: Tree = test.tree, policies: Any = None, selection: Any = train.tree) -> Report:
        return evaluate(tree, policies or {}, alpha=0.1, selection=selection, resamples=20)

    with pytest.raises(DataError, match="in test and in selection"):
        report(selection=[train.tree, test.tree])
    with pytest.raises(ConfigError, match="no selection trees"):
        report(selection=[])
    with pytest.raises(ConfigError, match="selection has the arms"):
        report(selection=random_forest(1, arms=3, prefix="z").tree)
    with pytest.raises(ConfigError, match="'empty' has no policy"):
        report(policies={"empty": []})
    with pytest.raises(RunError, match="routes among"):
        report(policies={"other": RandomPolicy(("x", "y"))})
    with pytest.raises(DataError, match="test trees lack the sequence"):
        leaf_NA = torch.full_like(test.tree.leaf_NA, -1)
        child_NA = test.tree.child_NA.clone()
        child_NA[:, 0] = -1
        report(replace(test.tree, leaf_NA=leaf_NA, child_NA=child_NA))


def test_no_common_sequence_is_an_error() -> None:
    roots = [Node([0.0], 0.0, 0, {arm: Leaf(1.0, 1.0, (arm,))}) for arm in (0, 1)]
    with pytest.raises(DataError, match="no static sequence"):
        best_static([lay_out(roots, "ab", hops=1).tree], 0.1)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, hcache.policies, hcache.evaluation.evaluator;"
        "heavy = {'duckdb', 'polars'} & set(sys.modules);"
        "import hcache.trainers;"  # which read the database, each what it needs of it
        "heavy |= {'vllm', 'sklearn', 'rich', 'transformers', 'matplotlib'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_ratio_over_a_gap_that_may_be_zero_is_not_printed() -> None:
    """Two queries: the oracle's lead over the best static sequence has an interval with 0."""
    train, _, test = three(8, ragged=False, queries=2)
    report = evaluate(
        test.tree,
        {"a": SequencePolicy(test.tree.arms, [0])},
        alpha=0.1,
        selection=train.tree,
        resamples=9,
    )
    assert not row(report, "oracle").difference.excludes_zero
    flat = json.loads(report.to_json())["rows"]
    for found in (row for row in flat if row["by"] == "all"):
        assert found["gap_closed"] is None and found["gap_closed_note"] == VANISHES
    assert f"No gap closed: {VANISHES}." in " ".join(footnotes(report.groups[0]))


def test_verdicts_are_corrected_for_the_number_of_routers() -> None:
    """The p-value of a router alone, times that of all routers where it is the smallest."""
    train, _, test = three(8, ragged=False, queries=30)
    arms = test.tree.arms
    best = best_static([train.tree], 0.1)
    others = [path for path in ([0], [1], [0, 1], [1, 0]) if tuple(path) != best]
    policies = {str(path): SequencePolicy(arms, path) for path in others}

    def p_values(chosen: list[str]) -> dict[str, float]:
        given: dict[str, Policy | list[Policy]] = {name: policies[name] for name in chosen}
        report = evaluate(test.tree, given, alpha=0.1, selection=train.tree, resamples=9)
        return {name: row(report, "router", name).p_value for name in chosen}

    alone = {name: p_values([name])[name] for name in policies}
    together = p_values(list(policies))
    smallest = min(alone, key=lambda name: alone[name])
    assert together[smallest] == pytest.approx(min(1.0, alone[smallest] * len(policies)))
    assert all(together[name] >= alone[name] for name in policies)
    assert math.isnan(row(evaluated(3), "static").p_value)
