"""Who is evaluated, against walks over nested nodes, and what the report makes of it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forest import Forest, Leaf, Node, lay_out, leaves_of, nodes_of, random_forest
from helpers.fronts import aiq_twin, apgr_cpt_twin, area_twin, pareto_twin
from helpers.policies import SequencePolicy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hcache.errors import DataError
from hcache.evaluation.baselines import (
    GRID,
    HALVES,
    Candidate,
    Evaluator,
    cheapest_and_most_expensive,
)
from hcache.evaluation.evaluator import evaluate
from hcache.evaluation.fronts import aiq
from hcache.evaluation.report import Report, Row
from hcache.evaluation.statistics import (
    VANISHES,
    interval_of_draws,
    interval_of_mean,
    smallest_effect,
)
from hcache.policies import AnyAlpha, Policy
from hcache.replay.static import common_paths, single_paths
from hcache.replay.tree import States, Tree
from hcache.trainers import TRAINERS

quick = settings(max_examples=25, deadline=None)
ALPHA = 0.1


class Plain:
    """A router by a random linear score; the same row by row as in one go."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.arms = tree.arms
        generator = torch.Generator().manual_seed(seed)
        shape = (tree.features_ND.shape[1] + 2, tree.actions)
        self.weight_IA = torch.randn(shape, generator=generator, dtype=torch.float64)

    def scores(self, states: States) -> Tensor:
        columns = (states.features_ND.double(), states.hop_N[:, None], states.cost_N[:, None] / 3)
        inputs_NI = torch.cat(columns, dim=1)
        return (inputs_NI[:, :, None] * self.weight_IA).sum(dim=1)

    def probs(self, states: States) -> Tensor:
        return self.scores(states).masked_fill(~states.valid_NA, -torch.inf).softmax(dim=1)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Priced(Plain):
    """The same with a price on each action, which weighs as much as α."""

    alpha = 0.0

    def at(self, alpha: float) -> Policy:
        found = type(self).__new__(type(self))
        vars(found).update(vars(self), alpha=alpha)
        return found

    def scores(self, states: States) -> Tensor:
        return super().scores(states) - self.alpha * 8 * self.weight_IA[0].abs()


def made(seed: int, **options: Any) -> Forest:
    return random_forest(seed, **{"queries": 4, "arms": 2, "replicas": 2} | options)


def groups_of(forest: Forest) -> Iterator[list[Node]]:
    """The roots of each query."""
    size = len(forest.roots) // len(forest.tree.queries)
    for start in range(0, len(forest.roots), size):
        yield forest.roots[start : start + size]


def walk(root: Node, choose: Callable[[Node], int]) -> tuple[list[int], Leaf]:
    """The actions on the way down, STOP included, and the leaf at the end."""
    actions: list[int] = []
    place: Node | Leaf = root
    while isinstance(place, Node):
        actions.append(choose(place))
        place = place.actions[actions[-1]]
    return actions, place


def greedy_walk(root: Node, policy: Policy, tree: Tree) -> tuple[list[int], Leaf]:
    def choose(node: Node) -> int:
        (probs,) = policy.probs(tree.states[torch.tensor([node.index])]).tolist()
        return max(node.actions, key=lambda action: (probs[action], -action))

    return walk(root, choose)


def static_walk(root: Node, path: Sequence[int], stop: int) -> Leaf | None:
    """The arms in turn, then STOP; None where an action is missing."""
    plan = iter([*path, *[stop] * 9])
    try:
        return walk(root, lambda node: next(plan))[1]
    except KeyError:
        return None


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def by_query(forest: Forest, value: Callable[[Node], float]) -> list[float]:
    return [mean([value(root) for root in roots]) for roots in groups_of(forest)]


def all_static_paths(forests: Sequence[Forest]) -> list[tuple[int, ...]]:
    """The sequences that every tree can be led through, by trying all."""
    roots = [root for forest in forests for root in forest.roots]
    stop = forests[0].tree.stop
    named = {leaf.path for root in roots for leaf in leaves_of(root)}
    possible = [p for p in named if all(static_walk(root, p, stop) for root in roots)]
    return sorted(possible, key=lambda path: (len(path), path))


# Flow


@quick
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 3), st.integers(1, 2))
def test_flow_equals_a_walk(seed: int, ragged: bool, replicas: int, routers: int) -> None:
    forest = made(seed, ragged=ragged, replicas=replicas, arms=3)
    tree = forest.tree
    policies = [Plain(tree, seed + i) for i in range(routers)]
    found = Evaluator(tree, ALPHA).router("r", policies)
    assert found.flow_QLA is not None
    wanted = np.zeros((4, tree.path_ML.shape[1], tree.actions))
    for q, roots in enumerate(groups_of(forest)):
        for policy in policies:
            for root in roots:
                for hop, action in enumerate(greedy_walk(root, policy, tree)[0]):
                    wanted[q, hop, action] += 1 / (replicas * routers)
    assert np.allclose(found.flow_QLA, wanted, rtol=0, atol=1e-12)


def test_flow_by_hand() -> None:
    """Of four trees: two end at once, one stops after its first arm, one goes on."""
    rest = [Node([0.0], 1.0, 1, {1: Leaf(1.0, 2.0, (0, 1)), 2: Leaf(0.0, 1.0, (0,))})]
    rest.append(Node([0.0], 1.0, 1, {2: Leaf(0.0, 1.0, (0,))}))
    roots = [Node([0.0], 0.0, 0, {0: node}) for node in rest]
    roots += [Node([0.0], 0.0, 0, {1: Leaf(1.0, 1.0, (1,))}) for _ in range(2)]
    test = lay_out(roots, "ab", hops=3).tree  # of three hops that the workflow has, two are used
    found = Evaluator(test, 0.0).oracle()
    assert found.flow_QLA is not None
    assert found.flow_QLA.mean(axis=0).tolist() == [
        [0.5, 0.5, 0.0],
        [0.0, 0.25, 0.25],
        [0.0, 0.0, 0.0],
    ]
    assert found.flow_QLA[0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@quick
@given(st.integers(0, 10**6), st.booleans())
def test_rows_tell_flow_and_stops(seed: int, stop: bool) -> None:
    test, train = made(seed, ragged=False), made(seed + 1, ragged=False, prefix="t")
    router = Plain(test.tree, seed)
    report = report_of(test, train, {"r": router}, stop=stop)
    tree = test.tree if stop else test.tree.without_stop()
    for group in report.groups:
        (row,) = (row for row in group.rows if row.role == "router")
        walks = [
            greedy_walk(root, router, tree)[0] if stop else no_stop_walk(root, router, tree)
            for roots, inside in zip(groups_of(test), members(test, group), strict=True)
            for root in roots
            if inside
        ]
        assert row.stops == pytest.approx(mean([tree.stop in walk for walk in walks]))
        for hop, share in enumerate(row.flow):
            for action, name in enumerate("ab"):
                taken = [len(walk) > hop and walk[hop] == action for walk in walks]
                assert share[name] == pytest.approx(mean(taken))
            assert list(share) == ["a", "b", "STOP"]
        assert sum(row.flow[0].values()) == pytest.approx(1)
    chance = next(row for row in report.groups[0].rows if row.role == "random")
    assert chance.flow == () and math.isnan(chance.stops)


def no_stop_walk(root: Node, policy: Policy, tree: Tree) -> list[int]:
    def choose(node: Node) -> int:
        (probs,) = policy.probs(tree.states[torch.tensor([node.index])]).tolist()
        return max((a for a in node.actions if a != tree.stop), key=lambda a: (probs[a], -a))

    return walk(root, choose)[0]


def members(forest: Forest, group: Any) -> list[bool]:
    labels = {
        "all": ["all"] * len(forest.tree.queries),
        "dataset": forest.tree.datasets,
        "kind": forest.tree.kinds,
    }
    return [label == group.name for label in labels[group.by]]


def report_of(
    test: Forest, train: Forest, policies: Mapping[str, Policy | Sequence[Policy]], **options: Any
) -> Report:
    options = {"alpha": ALPHA, "resamples": 40} | options
    return evaluate(test.tree, policies, selection=train.tree, **options)


def line(report: Report, role: str, name: str = "") -> Row:
    (found,) = (r for r in report.groups[0].rows if r.role == role and name in ("", r.name))
    return found


# Fronts


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_router_fronts_equal_each_alpha_alone(seed: int, alpha: float, ragged: bool) -> None:
    forest = made(seed, ragged=ragged)
    tree, policies = forest.tree, [Priced(forest.tree, seed), Priced(forest.tree, seed + 1)]
    found = Evaluator(tree, alpha).router("r", policies)
    assert found.front is not None
    assert found.front.alphas == tuple(factor * (alpha if alpha > 0 else 1.0) for factor in GRID)
    for field in ("quality", "cost"):
        own = [values_at(forest, policy, alpha, field) for policy in policies]
        assert np.allclose(getattr(found, field), own, rtol=0, atol=1e-12)
        for place, at in enumerate(found.front.alphas):
            each = [values_at(forest, policy, at, field) for policy in policies]
            array_QF = getattr(found.front, field).mean(axis=0)
            assert np.allclose(array_QF[:, place], np.mean(each, axis=0), rtol=0, atol=1e-12)


def values_at(forest: Forest, policy: Priced, alpha: float, field: str) -> list[float]:
    """What the greedy walk of the policy at an α comes to on each query."""
    view = policy.at(alpha)

    def value(root: Node) -> float:
        found: float = getattr(greedy_walk(root, view, forest.tree)[1], field)
        return found

    return by_query(forest, value)


def test_the_knob_of_the_twin_turns() -> None:
    forest = made(0, queries=8)
    front = Evaluator(forest.tree, 0.1).router("r", [Priced(forest.tree, 0)]).front
    assert front is not None
    assert len(set(front.cost.mean(axis=(0, 1)).tolist())) > 2


def test_a_front_takes_seeds_that_all_serve_any_alpha() -> None:
    tree = made(0).tree
    assert isinstance(Priced(tree, 0), AnyAlpha) and not isinstance(Plain(tree, 0), AnyAlpha)
    evaluator = Evaluator(tree, ALPHA)
    assert evaluator.router("r", [Plain(tree, 0)]).front is None
    assert evaluator.router("r", [Priced(tree, 0), Plain(tree, 0)]).front is None


def best_leaf(root: Node, alpha: float) -> Leaf:
    """Of the leaves of highest reward the cheapest."""
    leaves = list(leaves_of(root))
    top = max(leaf.quality - alpha * leaf.cost for leaf in leaves)
    tied = [leaf for leaf in leaves if leaf.quality - alpha * leaf.cost >= top - 1e-9]
    return min(tied, key=lambda leaf: leaf.cost)


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.2]))
def test_the_oracle_and_its_front_equal_plain_loops(seed: int, alpha: float) -> None:
    forest = made(seed)
    found = Evaluator(forest.tree, alpha).oracle()
    assert found.front is not None
    for place, at in enumerate(found.front.alphas):
        quality = by_query(forest, lambda root, a=at: best_leaf(root, a).quality)  # type: ignore[misc]
        cost = by_query(forest, lambda root, a=at: best_leaf(root, a).cost)  # type: ignore[misc]
        assert found.front.quality[0, :, place].tolist() == pytest.approx(quality)
        assert found.front.cost[0, :, place].tolist() == pytest.approx(cost)
    reward = by_query(
        forest, lambda r: best_leaf(r, alpha).quality - alpha * best_leaf(r, alpha).cost
    )
    assert found.reward[0].tolist() == pytest.approx(reward)


@quick
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_best_quality_equals_a_plain_loop(seed: int, replicas: int) -> None:
    forest = made(seed, replicas=replicas)
    found = Evaluator(forest.tree, 0.3).best_quality()

    def best(root: Node) -> Leaf:
        top = max(leaf.quality for leaf in leaves_of(root))
        return min(
            (leaf for leaf in leaves_of(root) if leaf.quality == top), key=lambda leaf: leaf.cost
        )

    for field in ("quality", "cost"):
        wanted = by_query(forest, lambda root, f=field: getattr(best(root), f))  # type: ignore[misc]
        assert getattr(found, field)[0].tolist() == pytest.approx(wanted)


# Halves


def noisy_forest(seed: int, *, queries: int, replicas: int, gaps: float) -> Forest:
    """Distinct qualities; some arms are missing in some trees, but never the first."""
    rng = random.Random(seed)

    def grow(path: tuple[int, ...]) -> Node:
        node = Node([0.0], float(len(path)), len(path))
        for action in (a for a in range(3) if a == 0 or rng.random() >= gaps):
            longer = (*path, action)
            node.actions[action] = end(longer) if len(longer) == 2 else grow(longer)
        if path and (path == (0,) or rng.random() >= gaps):
            node.actions[3] = end(path)
        return node

    def end(path: tuple[int, ...]) -> Leaf:
        return Leaf(rng.gauss(0, 1), float(rng.randint(1, 5)), path)

    roots = [grow(()) for _ in range(queries * replicas)]
    return lay_out(roots, "abc", hops=2, replicas=replicas)


def halves_twin(forest: Forest, alpha: float) -> list[list[Leaf]]:
    """The leaf of each tree of each query: best on the other parity, possible on its own."""
    stop = forest.tree.stop
    found = []
    for roots in groups_of(forest):
        paths = {leaf.path for root in roots for leaf in leaves_of(root)}
        ends = {path: [static_walk(root, path, stop) for root in roots] for path in paths}
        possible = {path: leaves for path, leaves in ends.items() if all(leaves)}
        chosen: list[Leaf] = []
        for replica in range(len(roots)):
            others = [r for r in range(len(roots)) if r % 2 != replica % 2]
            sums = {
                path: sum(leaf.quality - alpha * leaf.cost for leaf in picked(leaves, others))
                for path, leaves in possible.items()
            }
            best = max(sums, key=lambda path: sums[path])
            chosen += picked(possible[best], [replica])
        found.append(chosen)
    return found


def picked(leaves: Sequence[Leaf | None], places: Sequence[int]) -> list[Leaf]:
    return [leaf for place in places if (leaf := leaves[place]) is not None]


@quick
@given(
    st.integers(0, 10**6),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([0.0, 0.4]),
)
def test_halves_equal_the_plain_loop(seed: int, replicas: int, alpha: float, gaps: float) -> None:
    forest = noisy_forest(seed, queries=4, replicas=replicas, gaps=gaps)
    (found,) = Evaluator(forest.tree, alpha).halves()
    assert (found.name, found.role) == (HALVES, "oracle of halves")
    leaves = halves_twin(forest, alpha)
    assert found.quality[0].tolist() == pytest.approx(
        [mean([x.quality for x in q]) for q in leaves]
    )
    assert found.cost[0].tolist() == pytest.approx([mean([x.cost for x in q]) for q in leaves])
    assert found.hops[0].tolist() == pytest.approx([mean([len(x.path) for x in q]) for q in leaves])
    assert np.allclose(found.reward, found.quality - alpha * found.cost)


def test_halves_by_hand() -> None:
    """Arm a is best on even replicas and b on odd ones: what is chosen loses both ways."""
    gains = [(1.0, 0.0), (0.0, 0.5), (1.0, 0.25), (0.0, 0.5)]
    roots = [Node([0.0], 0.0, 0, {a: Leaf(g[a], 1.0, (a,)) for a in (0, 1)}) for g in gains]
    (found,) = Evaluator(lay_out(roots, "ab", hops=1, replicas=4).tree, 0.0).halves()
    assert found.quality.tolist() == [[(0.0 + 0.0 + 0.0 + 0.25) / 4]]
    (found,) = Evaluator(lay_out(roots, "ab", hops=1, replicas=2).tree, 0.0).halves()
    assert found.quality.tolist() == [[0.0, 0.125]]


def test_one_replica_has_no_halves() -> None:
    assert list(Evaluator(made(0, replicas=1).tree, ALPHA).halves()) == []


def test_halves_of_pure_noise_gain_nothing() -> None:
    rng = np.random.default_rng(0)
    arms, queries, replicas = "abcdefghijklmnop", 300, 4
    noise = rng.normal(size=(queries * replicas, len(arms)))
    roots = [
        Node([0.0], 0.0, 0, {a: Leaf(float(v), 1.0, (a,)) for a, v in enumerate(row)})
        for row in noise
    ]
    evaluator = Evaluator(lay_out(roots, arms, hops=1, replicas=replicas).tree, 0.0)
    (halves,) = evaluator.halves()
    bound = 4 / math.sqrt(queries * replicas)  # four standard errors, were all leaves independent
    assert abs(halves.reward.mean() - noise.mean()) < bound
    assert evaluator.oracle().reward.mean() > noise.mean() + 1.5  # 1.77 in expectation
    per_query = noise.reshape(queries, replicas, -1).mean(axis=1).max(axis=1).mean()
    assert per_query > noise.mean() + 0.7  # what choosing on the scored samples would bring


def test_halves_find_what_is_truly_there() -> None:
    rng = np.random.default_rng(1)
    truth, roots = rng.normal(size=(200, 4)), []
    for row in truth:
        for _ in range(2):
            values = row + 0.1 * rng.normal(size=4)
            leaves = {a: Leaf(float(v), 1.0, (a,)) for a, v in enumerate(values)}
            roots.append(Node([0.0], 0.0, 0, dict(leaves)))
    (found,) = Evaluator(lay_out(roots, "abcd", hops=1, replicas=2).tree, 0.0).halves()
    assert found.reward.mean() == pytest.approx(truth.max(axis=1).mean(), abs=0.05)


def test_halves_count_an_early_end_for_every_longer_sequence() -> None:
    """As static sequences do: replica 0 ends after a, replica 1 asks twice."""
    rest = Node([0.0], 1.0, 1, {0: Leaf(1.0, 2.0, (0, 0))})
    first = [Node([0.0], 0.0, 0, {0: child}) for child in (Leaf(1.0, 1.0, (0,)), rest)]
    other = [Node([0.0], 0.0, 0, {0: Leaf(7.0, 9.0, (0,))}) for _ in range(2)]
    tree = lay_out(first + other, "a", hops=2, replicas=2).tree
    evaluator = Evaluator(tree, 0.0)
    assert evaluator.statics([(0, 0)])[0].tolist() == [[1.0], [7.0]]  # the only sequence there is
    (found,) = evaluator.halves()
    assert found.quality.tolist() == [[1.0, 7.0]]
    assert found.cost.tolist() == [[1.5, 9.0]]


# Single models and static sequences


def one_hop(costs: Sequence[Sequence[float]], prefix: str, **options: Any) -> Forest:
    """Trees of arms alone at given costs."""
    roots = [
        Node([0.0], 0.0, 0, {a: Leaf(float(a), cost, (a,)) for a, cost in enumerate(row)})
        for row in costs
    ]
    return lay_out(roots, "abc"[: len(costs[0])], hops=1, prefix=prefix, **options)


def test_extremes_are_chosen_on_selection() -> None:
    test = one_hop([[9.0, 5.0, 1.0], [8.0, 5.0, 1.0]], "t")
    chosen_on = [one_hop([[1.0, 2.0, 3.0]], "s"), one_hop([[1.0, 9.0, 3.0]] * 2, "v")]
    cheapest, costliest = cheapest_and_most_expensive(
        Evaluator(test.tree, 0.1), [f.tree for f in chosen_on]
    )
    assert (cheapest.name, cheapest.role, cheapest.sequence) == ("cheapest model", "cheapest", "a")
    assert (costliest.name, costliest.role, costliest.sequence) == (
        "most expensive model",
        "most expensive",
        "b",
    )
    assert cheapest.cost.tolist() == [[9.0, 8.0]]
    assert costliest.cost.tolist() == [[5.0, 5.0]]
    assert costliest.reward.tolist() == [[0.5, 0.5]]


@quick
@given(st.integers(0, 10**6))
def test_extremes_equal_a_plain_loop(seed: int) -> None:
    forests = [made(seed + i, ragged=False, arms=3, prefix=p) for i, p in enumerate("tsv")]
    cheapest, costliest = cheapest_and_most_expensive(
        Evaluator(forests[0].tree, ALPHA), [f.tree for f in forests[1:]]
    )

    def cost(arm: int) -> float:
        costs = []
        for forest in forests[1:]:
            costs += by_query(forest, lambda root: cost_of(root, arm))
        return mean(costs)

    def cost_of(root: Node, arm: int) -> float:
        leaf = static_walk(root, (arm,), 3)
        assert leaf is not None
        return leaf.cost

    costs = [cost(arm) for arm in range(3)]
    assert cheapest.sequence == "abc"[costs.index(min(costs))]
    assert costliest.sequence == "abc"[costs.index(max(costs))]
    assert cheapest.cost[0].tolist() == by_query(
        forests[0], lambda root: cost_of(root, costs.index(min(costs)))
    )


def test_no_extremes_without_a_model_alone() -> None:
    test, train = (relay(lambda arm: 1 - arm, prefix=p) for p in "ts")
    assert list(cheapest_and_most_expensive(Evaluator(test.tree, ALPHA), [train.tree])) == []


def relay(second: Callable[[int], int], prefix: str = "q", stop: Sequence[int] = ()) -> Forest:
    """Two arms, two hops; after an arm only `second` of it, and STOP after those in `stop`."""

    def after(arm: int) -> Node:
        leaf = Leaf(1.0, 2.0, (arm, second(arm)))
        ends: dict[int, Node | Leaf] = {2: Leaf(0.0, 1.0, (arm,))} if arm in stop else {}
        return Node([0.0], 1.0, 1, {second(arm): leaf, **ends})

    roots = [Node([0.0], 0.0, 0, {arm: after(arm) for arm in (0, 1)}) for _ in range(2)]
    return lay_out(roots, "ab", hops=2, prefix=prefix)


def test_a_model_alone_is_one_hop_else_the_same_throughout_else_nothing() -> None:
    def same(arm: int) -> int:
        return arm

    def other(arm: int) -> int:
        return 1 - arm

    assert single_paths([relay(same, stop=[0, 1]).tree]) == [(0,), (1,)]
    assert single_paths([relay(same).tree]) == [(0, 0), (1, 1)]
    assert single_paths([relay(same, stop=[1]).tree]) == [(0, 0), (1,)]
    assert single_paths([relay(other, stop=[1]).tree]) == [(1,)]
    assert single_paths([relay(other).tree]) == []
    # All trees must have it, those of selection too.
    assert single_paths([relay(same, stop=[0, 1]).tree, relay(same, stop=[0]).tree]) == [
        (0,),
        (1, 1),
    ]
    assert single_paths([relay(same, stop=[0, 1]).tree, relay(other).tree]) == []


@quick
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 2))
def test_statics_equal_a_walk(seed: int, ragged: bool, replicas: int) -> None:
    forest = made(seed, ragged=ragged, replicas=replicas, queries=3)
    paths = common_paths([forest.tree])
    assert paths == all_static_paths([forest])
    for place, values_QS in enumerate(Evaluator(forest.tree, ALPHA).statics(paths)):
        assert values_QS.shape == (3, len(paths))
        for s, path in enumerate(paths):

            def value(root: Node, p: Sequence[int] = path, f: int = place) -> float:
                leaf = static_walk(root, p, 2)
                assert leaf is not None
                return (leaf.quality, leaf.cost)[f]

            assert values_QS[:, s].tolist() == pytest.approx(by_query(forest, value))


# Other workflows


def test_queries_give_the_order() -> None:
    forest = made(3, queries=5)
    tree = forest.tree
    wanted = ("q3", "q0", "q4")
    own, other = Evaluator(tree, ALPHA), Evaluator(tree, ALPHA, wanted)
    router = Priced(tree, 0)
    for make in (
        Evaluator.oracle,
        Evaluator.random,
        lambda evaluator: evaluator.router("r", [router]),
    ):
        before, after = make(own), make(other)
        for field in ("quality", "cost", "reward", "hops"):
            assert getattr(after, field).tolist() == getattr(before, field)[:, [3, 0, 4]].tolist()
        assert (before.flow_QLA is None) == (after.flow_QLA is None)
        if before.flow_QLA is not None and after.flow_QLA is not None:
            assert after.flow_QLA.tolist() == before.flow_QLA[[3, 0, 4]].tolist()
        if before.front is not None and after.front is not None:
            assert after.front.cost.tolist() == before.front.cost[:, [3, 0, 4]].tolist()
    assert len(set(own.oracle().reward[0].tolist())) > 1


def test_a_missing_query_is_an_error() -> None:
    tree = made(3).tree
    with pytest.raises(DataError, match="2 of the evaluated queries are not complete"):
        Evaluator(tree, ALPHA, ["q0", "x", "q1", "y"])


def mixed(forest: Forest, queries: Sequence[str]) -> Forest:
    """The same trees under other names of queries, whose kinds and data sets mean nothing here."""
    count = len(forest.tree.queries)
    return replace(
        forest,
        tree=replace(
            forest.tree, queries=tuple(queries), kinds=("?",) * count, datasets=("?",) * count
        ),
    )


@quick
@given(st.integers(0, 10**6))
def test_a_router_elsewhere_is_judged_on_its_own_trees(seed: int) -> None:
    test, train = made(seed, ragged=False), made(seed + 1, ragged=False, prefix="t")
    names = ("q2", "more", "q0", "q3", "q1")
    other = mixed(made(seed + 2, queries=5, hops=2, replicas=3), names)
    router = Plain(other.tree, seed)
    report = report_of(test, train, {}, elsewhere=[(other.tree, {"there": [router]})])
    there = {}
    for name, roots in zip(names, groups_of(other), strict=True):
        leaves = [greedy_walk(root, router, other.tree)[1] for root in roots]
        there[name] = mean([leaf.quality - ALPHA * leaf.cost for leaf in leaves])
    static = tuple("ab".index(arm) for arm in report.best_static.split(">"))

    def reward(root: Node) -> float:
        leaf = static_walk(root, static, 2)
        assert leaf is not None
        return leaf.quality - ALPHA * leaf.cost

    here = by_query(test, reward)
    differences = [there[q] - own for q, own in zip(test.tree.queries, here, strict=True)]
    for group in report.groups:
        inside = members(test, group)
        (row,) = (row for row in group.rows if row.role == "router")
        mine = [v for v, member in zip(differences, inside, strict=True) if member]
        assert row.difference.estimate == pytest.approx(mean(mine), abs=1e-12)
        rewards = [there[q] for q, member in zip(test.tree.queries, inside, strict=True) if member]
        assert row.reward.estimate == pytest.approx(mean(rewards), abs=1e-12)
        if len(mine) > 1:  # paired: the interval is that of the differences
            paired = interval_of_mean(mine)
            own = (row.difference.low, row.difference.high)
            assert own == pytest.approx((paired.low, paired.high), abs=1e-9)
    assert report.seeds == {"there": 1} and "there" in report.verdicts


def draws_twin(queries: int, resamples: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    found: list[list[int]] = rng.integers(queries, size=(resamples, queries)).tolist()
    return found


def test_a_router_elsewhere_needs_every_query() -> None:
    test, train = made(0, ragged=False), made(1, ragged=False, prefix="t")
    other = mixed(made(2), ("q0", "q1", "q2", "x")).tree
    with pytest.raises(DataError, match="1 of the evaluated queries are not complete"):
        report_of(test, train, {}, elsewhere=[(other, {"r": Plain(other, 0)})])


def test_nobody_stops_elsewhere_either() -> None:
    test, train = made(0, ragged=False), made(1, ragged=False, prefix="t")
    other = made(2, ragged=False).tree
    there = [(other, {"r": SequencePolicy("ab", [0])})]
    report = report_of(test, train, {}, stop=False, elsewhere=there)
    assert line(report, "router").stops == 0
    assert line(report, "router").hops == 3


def test_a_router_elsewhere_may_have_other_arms() -> None:
    test, train = made(0, ragged=False), made(1, ragged=False, prefix="t")
    other = made(2, ragged=False, arms=3).tree
    there = [(other, {"r": SequencePolicy("abc", [2])})]
    report = report_of(test, train, {}, elsewhere=there)
    assert line(report, "router").flow[0]["c"] == 1


# What the report makes of it


def mean_costs(forest: Forest) -> dict[tuple[int, ...], tuple[float, float]]:
    """Mean cost and quality of each static sequence that all trees have."""
    found = {}
    for path in all_static_paths([forest]):
        leaves = [[static_walk(root, path, 2) for root in roots] for roots in groups_of(forest)]
        means = [
            [mean([getattr(x, f) for x in row]) for row in leaves] for f in ("cost", "quality")
        ]
        found[path] = (mean(means[0]), mean(means[1]))
    return found


@quick
@given(st.integers(0, 10**6))
def test_regret_and_aiq_equal_plain_loops(seed: int) -> None:
    test, train = made(seed, ragged=False), made(seed + 1, ragged=False, prefix="t")
    knobs, point = [Priced(test.tree, 0), Priced(test.tree, 1)], Plain(test.tree, 2)
    report = report_of(test, train, {"knob": knobs, "point": point})
    evaluator = Evaluator(test.tree, ALPHA)
    candidates = {
        "knob": evaluator.router("knob", knobs),
        "point": evaluator.router("point", [point]),
        "oracle": evaluator.oracle(),
    }
    reference = max(cost for cost, _ in mean_costs(test).values())
    best = by_query(test, lambda root: max(x.quality - ALPHA * x.cost for x in leaves_of(root)))
    assert report.groups[0].reference_cost == pytest.approx(reference)
    for row in report.groups[0].rows:
        assert row.regret.estimate == pytest.approx(mean(best) - row.reward.estimate, abs=1e-9)
        if row.role not in ("single", "cheapest", "most expensive"):
            assert row.regret.estimate >= -1e-9
        points = [(p.cost, p.quality) for p in row.front]
        assert len(points) == (len(GRID) if row.name in ("knob", "oracle") else 0)
        points = points or [(row.cost.estimate, row.quality.estimate)]
        assert row.aiq.estimate == pytest.approx(aiq_twin(points, reference))
        if row.name in candidates:
            cost, quality = points_twin(candidates[row.name])
            means = zip(cost.mean(axis=(0, 1)), quality.mean(axis=(0, 1)), strict=True)
            assert np.allclose(points, list(means), rtol=0, atol=1e-12)
            draws = [
                [
                    aiq(cost_QF[draw].mean(axis=0), quality_QF[draw].mean(axis=0), reference)
                    for cost_QF, quality_QF in zip(cost, quality, strict=True)
                ]
                for draw in draws_twin(4, 40)
            ]
            value_S = [
                aiq(cost_QF.mean(axis=0), quality_QF.mean(axis=0), reference)
                for cost_QF, quality_QF in zip(cost, quality, strict=True)
            ]
            wanted = interval_of_draws(row.aiq.estimate, np.array(value_S), np.array(draws), 4)
            assert (row.aiq.low, row.aiq.high) == pytest.approx((wanted.low, wanted.high))
    oracle, static = line(report, "oracle"), line(report, "static")
    assert (oracle.regret.estimate, oracle.regret.low, oracle.regret.high) == (0, 0, 0)
    assert oracle.aiq.estimate >= static.aiq.estimate - 1e-9


def test_the_reference_is_that_of_the_queries_of_a_group() -> None:
    """a is dear on q0 and q2 (data set x), b on q1 and q3 (data set y)."""
    costs = [[9.0, 1.0], [1.0, 5.0]] * 2
    test = one_hop(costs, "q", datasets=["x", "y"] * 2)
    report = report_of(test, one_hop(costs, "t"), {"r": Plain(test.tree, 0)})
    assert [(g.name, g.reference_cost) for g in report.groups] == [("all", 5), ("x", 9), ("y", 5)]
    for group in report.groups:
        for row in group.rows:
            points = [(p.cost, p.quality) for p in row.front]
            points = points or [(row.cost.estimate, row.quality.estimate)]
            assert row.aiq.estimate == pytest.approx(aiq_twin(points, group.reference_cost))


def points_twin(candidate: Candidate) -> tuple[np.ndarray, np.ndarray]:
    if candidate.front is not None:
        return candidate.front.cost, candidate.front.quality
    return candidate.cost[:, :, None], candidate.quality[:, :, None]


@quick
@given(st.integers(0, 10**6), st.booleans())
def test_the_plane_equals_plain_loops(seed: int, knob: bool) -> None:
    test, train = made(seed, ragged=False), made(seed + 1, ragged=False, prefix="t")
    policies = {"r": (Priced if knob else Plain)(test.tree, seed)}
    report = report_of(test, train, policies)
    plane, means = report.plane, mean_costs(test)
    named = [(">".join("ab"[arm] for arm in path), *point) for path, point in means.items()]
    assert [(p.name, p.cost, p.quality) for p in plane.statics] == named
    assert all(point.alpha is None for point in plane.statics)
    row = line(report, "router")
    routers = [("r", p.cost, p.quality) for p in row.front]
    every = named + (routers or [("r", row.cost.estimate, row.quality.estimate)])
    kept = pareto_twin([point[1:] for point in every])
    by_cost = sorted((c, name) for (name, c, _), keep in zip(every, kept, strict=True) if keep)
    assert list(plane.pareto) == list(dict.fromkeys(name for _, name in by_cost))
    points = list(means.values())
    reference = max(cost for cost, _ in points)
    assert plane.static_aiq == pytest.approx(aiq_twin(points, reference))
    assert plane.static_area == pytest.approx(area_twin(points, reference))
    assert plane.area == pytest.approx(area_twin([p[1:] for p in every], reference))
    assert plane.area >= plane.static_area - 1e-12


def two_arms(seed: int, prefix: str, strong: int) -> Forest:
    """Random trees of two arms, where one is better on the whole."""
    forest = random_forest(seed, queries=8, hops=2, replicas=2, ragged=False, prefix=prefix)
    for roots in groups_of(forest):
        for root in roots:
            for arm in (0, 1):
                leaf = static_walk(root, (arm,), 2)
                assert leaf is not None
                if random.Random(seed + leaf.index).random() < 0.7:
                    leaf.quality = float(arm == strong)
    return lay_out(forest.roots, "ab", hops=2, replicas=2, prefix=prefix)


@quick
@given(st.integers(0, 10**6), st.integers(0, 1), st.integers(0, 1))
def test_two_models_equal_the_threshold_loop(seed: int, chosen: int, on_test: int) -> None:
    test, train = two_arms(seed, "q", on_test), two_arms(seed + 1, "t", chosen)
    policies = [Plain(test.tree, seed), Plain(test.tree, seed + 1)]
    report = report_of(test, train, {"r": policies})

    def of(root: Node, arm: int) -> float:
        leaf = static_walk(root, (arm,), 2)
        assert leaf is not None
        return leaf.quality

    totals = [mean(by_query(train, lambda root, a=arm: of(root, a))) for arm in (0, 1)]  # type: ignore[misc]
    if totals[0] == totals[1]:
        return  # of equals the cheaper; another test
    strong = totals.index(max(totals))

    def score(root: Node) -> float:
        states = test.tree.states[torch.tensor([root.index])]
        return mean([float(policy.probs(states)[0, strong]) for policy in policies])

    weak_Q, strong_Q = (by_query(test, lambda r, a=a: of(r, a)) for a in (1 - strong, strong))  # type: ignore[misc]
    found = report.two_models["r"]
    gap = interval_of_mean(np.array(strong_Q) - np.array(weak_Q))
    if gap.low <= 1e-12 and gap.high >= -1e-12:
        assert math.isnan(found.apgr) and found.note == VANISHES
        return
    wanted = apgr_cpt_twin(by_query(test, score), weak_Q, strong_Q)
    got = [found.apgr, found.cpt20, found.cpt50, found.cpt80]
    assert got == pytest.approx(wanted, nan_ok=True)
    if math.isnan(wanted[0]):
        assert mean(strong_Q) <= mean(weak_Q)


def test_a_planner_is_judged_by_its_margin() -> None:
    """Its probabilities are 0 or 1, and would rank no query above another of the same choice."""
    test, train = two_arms(3, "q", 1), two_arms(4, "t", 1)
    policy: Any = TRAINERS["logistic"](train.tree, alpha=0.0, seed=0).policy
    found = report_of(test, train, {"r": policy}).two_models["r"]

    def of(root: Node, arm: int) -> float:
        leaf = static_walk(root, (arm,), 2)
        assert leaf is not None
        return leaf.quality

    def margin(root: Node) -> float:
        x_ND = torch.tensor([list(root.features)]).float()
        scores = dict(zip(policy.paths[0], policy.scores(0, x_ND)[0].tolist(), strict=True))
        best: list[float] = [
            max(score for path, score in scores.items() if path[0] == arm) for arm in (0, 1)
        ]
        return best[1] - best[0]

    weak_Q, strong_Q = (by_query(test, lambda r, a=a: of(r, a)) for a in (0, 1))  # type: ignore[misc]
    wanted = apgr_cpt_twin(by_query(test, margin), weak_Q, strong_Q)
    assert [found.apgr, found.cpt20, found.cpt50, found.cpt80] == pytest.approx(wanted)


def test_the_strong_model_is_the_one_of_selection() -> None:
    """b is strong on selection alone, a on test alone: no gap, and no other choice."""
    train = one_hop([[1.0, 1.0]] * 2, "t")
    test = one_hop([[1.0, 1.0]] * 4, "q")
    router = Plain(test.tree, 0)
    assert report_of(test, train, {"r": router}).two_models["r"].apgr == 0.5  # one score for all
    swapped = replace(test.tree, quality_M=1 - test.tree.quality_M)
    report = evaluate(swapped, {"r": router}, alpha=ALPHA, selection=train.tree, resamples=9)
    assert math.isnan(report.two_models["r"].apgr)
    assert report.to_dict()["two_models"]["r"]["apgr"] is None


def test_two_models_are_two_and_have_one_hop_outcomes() -> None:
    test, train = made(0, arms=3, ragged=False), made(1, arms=3, ragged=False, prefix="t")
    assert report_of(test, train, {"r": Plain(test.tree, 0)}).two_models == {}
    test, train = (relay(lambda arm: arm, prefix=p) for p in "qt")
    assert report_of(test, train, {"r": Plain(test.tree, 0)}).two_models == {}
    test, train = (relay(lambda arm: arm, prefix=p, stop=[0, 1]) for p in "qt")
    assert set(report_of(test, train, {"r": Plain(test.tree, 0)}).two_models) == {"r"}


@quick
@given(st.integers(0, 10**6))
def test_the_sentence_tells_the_smallest_effect(seed: int) -> None:
    test, train = made(seed, ragged=False), made(seed + 1, ragged=False, prefix="t")
    router = Plain(test.tree, seed)
    report = report_of(test, train, {"r": router})
    static = tuple("ab".index(arm) for arm in report.best_static.split(">"))

    def difference(root: Node) -> float:
        mine, other = greedy_walk(root, router, test.tree)[1], static_walk(root, static, 2)
        assert other is not None
        return mine.quality - other.quality - ALPHA * (mine.cost - other.cost)

    values = by_query(test, difference)
    wanted = smallest_effect(np.array([values]))
    assert line(report, "router").smallest_effect == pytest.approx(wanted, abs=1e-9)
    if wanted < 1e-9:
        assert "show differences" not in report.verdicts["r"]
        return
    said = report.verdicts["r"].split("so many queries show differences from ")[1]
    assert float(said.removesuffix(" up.")) == pytest.approx(wanted, abs=6e-5)


def test_one_query_has_no_smallest_effect() -> None:
    test, train = made(0, queries=1, ragged=False), made(1, queries=1, ragged=False, prefix="t")
    report = report_of(test, train, {"r": Priced(test.tree, 0)})
    assert math.isnan(line(report, "router").smallest_effect)
    assert "differences from" not in report.verdicts["r"]
    assert report.verdicts["r"].endswith(").")
    assert line(report, "router").aiq.note == "one query has no interval"
    plain = as_json(report)
    assert all(row["smallest_effect"] is None for row in plain["rows"])


def as_json(report: Report) -> Any:
    """The report as it comes back from a file without NaN."""
    return json.loads(json.dumps(report.to_dict(), allow_nan=False))


@pytest.mark.parametrize("stop", [True, False])
def test_all_of_it_goes_into_json(stop: bool) -> None:
    test, train = made(4, ragged=False), made(5, ragged=False, prefix="t")
    other = made(6, ragged=False).tree
    report = report_of(
        test,
        train,
        {"knob": [Priced(test.tree, 0)], "point": Plain(test.tree, 1)},
        stop=stop,
        elsewhere=[(other, {"there": Priced(other, 0)})],
    )
    plain = as_json(report)
    assert plain["plane"]["pareto"] == list(report.plane.pareto)
    assert set(plain["two_models"]) == {"knob", "point"}
    rows = {row["name"]: row for row in plain["groups"][0]["rows"]}
    assert {HALVES, "knob", "point", "there", "oracle of quality, then cost"} <= set(rows)
    assert [point["alpha"] for point in rows["knob"]["front"]] == [ALPHA * f for f in GRID]
    assert len(rows["there"]["front"]) == len(GRID) and rows["point"]["front"] == []
    assert set(rows["point"]["flow"][0]) == {"a", "b", "STOP"}
    for name in ("knob", "point", "there"):
        assert plain["verdicts"][name]
        assert isinstance(rows[name]["aiq"]["low"], float)
        assert isinstance(rows[name]["smallest_effect"], float)
    assert rows["random"]["stops"] is None  # it has no flow
    flat = {row["name"]: row for row in plain["rows"] if row["by"] == "all"}
    assert flat["knob"]["regret"] == rows["knob"]["regret"]["estimate"]


def test_free_sequences_are_noted() -> None:
    test, train = made(4, ragged=False), made(5, ragged=False, prefix="t")
    for forest in (test, train):
        for root in forest.roots:
            for node in nodes_of(root):
                node.cost = 0.0
            for leaf in leaves_of(root):
                leaf.cost = 0.0
        forest.tree.cost_M[:] = 0.0
        forest.tree.cost_N[:] = 0.0
    report = report_of(test, train, {"r": Priced(test.tree, 0)})
    assert report.groups[0].reference_cost == 0
    for row in report.groups[0].rows:
        assert math.isnan(row.aiq.estimate) and row.aiq.note == "every sequence is free"
        assert row.cost.estimate == 0
    plane = report.plane
    assert all(map(math.isnan, (plane.static_aiq, plane.static_area, plane.area)))
    assert len(plane.pareto) == 1 and len(plane.statics) == len(all_static_paths([test]))
    plain = as_json(report)
    assert plain["plane"]["area"] is None
    assert plain["groups"][0]["rows"][0]["aiq"]["note"] == "every sequence is free"
