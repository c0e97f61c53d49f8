"""Continuations, planning and the predictors of scikit-learn, against plain walks and loops."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.forest import Forest, Leaf, Node, lay_out, nodes_of, random_forest, synthetic_forest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from hcache.artefacts import write_object
from hcache.errors import RunError
from hcache.policies import at_alpha, load_policy, predictors
from hcache.policies.planning import Paths, PlanningPolicy, continuations
from hcache.policies.predictors import PredictorPolicy
from hcache.policies.regression import (
    PENALTIES,
    KNNSettings,
    LogisticSettings,
    SharedRidge,
    SoftLogistic,
    SVMSettings,
)
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves, static_leaves
from hcache.replay.tree import NONE, States, Tree
from hcache.trainers import TRAINERS
from hcache.trainers.base import greedy_metrics
from hcache.trainers.predictors import KNN

NAMES = ["boosting", "knn", "logistic", "ridge", "svm"]
OTHER_SETTINGS = {
    "knn": KNNSettings(k=2),
    "logistic": LogisticSettings(strength=1.0),
    "svm": SVMSettings(strength=2.0),
}


def walk(node: Node) -> dict[tuple[int, ...], int]:
    """The leaf that every continuation of a node leads to, by recursion."""
    found: dict[tuple[int, ...], int] = {}
    for action, child in node.actions.items():
        if isinstance(child, Leaf):
            found[(action,)] = child.index
            continue
        found |= {(action, *path): leaf for path, leaf in walk(child).items()}
    return found


def all_nodes(forest: Forest) -> list[Node]:
    return sorted((n for root in forest.roots for n in nodes_of(root)), key=lambda n: n.index)


def indexed(tree: Tree) -> Tree:
    """The same tree, where the one feature of a state is its index."""
    return replace(tree, features_ND=torch.arange(len(tree.hop_N))[:, None].float())


class Known(PlanningPolicy):
    """Scores continuations by the value of the leaf that they lead to."""

    features = 1

    def __init__(self, tree: Tree, value_M: Tensor) -> None:
        found = continuations(tree)
        self.arms = tree.arms
        self.paths: Paths = tuple(plans.paths for plans in found)
        self.levels = tree.levels
        self.value_NS = [plans.values(value_M) for plans in found]

    def scores(self, hop: int, features_ND: Tensor) -> Tensor:
        row_N = features_ND[:, 0].long() - self.levels[hop].start
        return self.value_NS[hop][row_N].nan_to_num(-torch.inf)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_continuations_equal_the_walk(seed: int, ragged: bool, stop: bool) -> None:
    forest = random_forest(seed, queries=3, arms=3, hops=3, ragged=ragged, stop=stop)
    found = continuations(forest.tree)
    expected: list[set[tuple[int, ...]]] = [set() for _ in found]
    for node in all_nodes(forest):
        leaves = walk(node)
        expected[node.hop] |= leaves.keys()
        plans = found[node.hop]
        row = node.index - forest.tree.levels[node.hop].start
        by_path = dict(zip(plans.paths, plans.leaf_NS[row].tolist(), strict=True))
        assert {path: leaf for path, leaf in by_path.items() if leaf != NONE} == leaves
    for plans, wanted in zip(found, expected, strict=True):
        assert list(plans.paths) == sorted(wanted, key=lambda path: (len(path), path))


def test_without_stop_every_continuation_runs_to_the_last_hop() -> None:
    tree = random_forest(0, arms=3, ragged=False).tree
    assert [len(plans.paths) for plans in continuations(tree)] == [39, 13, 4]
    assert [len(plans.paths) for plans in continuations(tree.without_stop())] == [27, 9, 3]
    value_NS = continuations(tree)[2].values(tree.cost_M)
    assert torch.equal(value_NS[:, 0], tree.cost_M[tree.leaf_NA[tree.levels[2], 0]])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_plan_with_the_true_rewards_is_the_oracle(seed: int, stop: bool) -> None:
    tree = indexed(random_forest(seed, queries=4, arms=3, hops=3, stop=stop).tree)
    reward_M = tree.reward_M(0.1)
    leaf_T = greedy_leaves(Known(tree, reward_M), tree)
    best_T = reward_M[oracle_leaves(tree, reward_M)]
    assert reward_M[leaf_T].tolist() == pytest.approx(best_T.tolist(), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_first_action_of_the_best_plan_equals_the_loop(seed: int) -> None:
    tree = indexed(random_forest(seed, queries=4, arms=3, hops=3).tree)
    generator = torch.Generator().manual_seed(seed)
    policy = Known(tree, torch.rand(len(tree.quality_M), generator=generator))
    policy.value_NS = [torch.rand(v.shape, generator=generator) for v in policy.value_NS]
    probs = policy.probs(tree.states).tolist()
    for state, (hop, valid) in enumerate(
        zip(tree.hop_N.tolist(), tree.valid_NA.tolist(), strict=True)
    ):
        row = state - tree.levels[hop].start
        plans = zip(policy.value_NS[hop][row].tolist(), policy.paths[hop], strict=True)
        _, best = max((score, path) for score, path in plans if valid[path[0]])
        assert probs[state] == [float(action == best[0]) for action in range(tree.actions)]


def test_of_equal_plans_the_shortest_is_taken_and_without_any_all_that_is_valid() -> None:
    tree = indexed(random_forest(0, arms=2, ragged=False).tree)
    policy = Known(tree, torch.ones(len(tree.quality_M)))
    level = tree.levels[1]
    later = States(*(getattr(tree.states, name)[level] for name in vars(tree.states)))
    assert bool((policy.probs(later)[:, tree.stop] == 1).all())
    never = Known(tree.without_stop(), torch.ones(len(tree.quality_M)))
    only_stop_NA = torch.zeros_like(later.valid_NA)
    only_stop_NA[:, tree.stop] = True
    assert torch.equal(never.probs(replace(later, valid_NA=only_stop_NA)), only_stop_NA.double())


def test_states_that_do_not_fit_are_refused() -> None:
    shallow = random_forest(0, hops=2, ragged=False, features=4).tree
    policy = TRAINERS["knn"](shallow, alpha=0.1, seed=0).policy
    with pytest.raises(RunError, match="3 hops, the policy knows 2"):
        policy.probs(random_forest(0, hops=3, ragged=False, features=4).tree.states)
    with pytest.raises(RunError, match="5 text features, the policy was made for 4"):
        policy.probs(random_forest(0, hops=2, features=5).tree.states)


def plain_knn(train: Forest, policy: Any, node: Node, k: int) -> dict[tuple[int, ...], float]:
    """Means over the k nearest nodes of the same hop that have the continuation."""
    scores = {}
    for path in policy.paths[node.hop]:
        rows = []
        for other in all_nodes(train):
            leaf = walk(other).get(path) if other.hop == node.hop else None
            if leaf is None:
                continue
            distance = math.dist(other.features, node.features)
            quality = float(train.tree.quality_M[leaf])
            rows.append((distance, quality, float(train.tree.cost_M[leaf]) - other.cost))
        near = sorted(rows)[:k]
        mean_q, mean_c = (sum(row[i] for row in near) / len(near) for i in (1, 2))
        scores[path] = mean_q - policy.alpha * mean_c
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_nearest_neighbours_equal_the_loop(seed: int) -> None:
    train = random_forest(seed, queries=6, arms=2, hops=2)
    options = KNNSettings(k=2, metric="euclidean", weights="uniform")
    policy: Any = KNN(train.tree, options, alpha=0.05, seed=0).policy
    for node in all_nodes(random_forest(seed + 100, queries=3, arms=2, hops=2)):
        x_ND = torch.tensor([list(node.features)], dtype=torch.float32)
        fast = policy.scores(node.hop, x_ND)[0].tolist()
        slow = plain_knn(train, policy, node, 2)
        assert fast == pytest.approx([slow[path] for path in policy.paths[node.hop]], abs=1e-5)


def test_ridge_parts_what_is_common_from_what_differs() -> None:
    """The plain twin: one Ridge for the mean and for each difference, at the penalty that leaves
    the least squared error on the row that is left out."""
    rng = np.random.default_rng(1)
    x_ND = rng.normal(size=(40, 6)) + 3
    common_N = x_ND @ rng.normal(size=6)
    y_NS = common_N[:, None] + np.outer(x_ND[:, 0], [1.0, -1.0, 0.0]) + rng.normal(size=(40, 3))
    z_ND = x_ND - x_ND.mean(axis=0)
    z_ND = z_ND / np.sqrt((z_ND**2).sum(axis=1).mean())
    mean_N = y_NS.mean(axis=1)

    def best(target_N: np.ndarray) -> np.ndarray:
        def error(penalty: float) -> float:
            left_out = [np.arange(40) != row for row in range(40)]
            fits = [Ridge(alpha=penalty).fit(z_ND[keep], target_N[keep]) for keep in left_out]
            pairs = zip(fits, z_ND, target_N, strict=True)
            return float(sum((fit.predict(z_D[None])[0] - y) ** 2 for fit, z_D, y in pairs))

        fitted = Ridge(alpha=min(PENALTIES, key=error)).fit(z_ND, target_N)
        return np.asarray(fitted.predict(z_ND))

    wanted = [best(mean_N) + best(y_N - mean_N) for y_N in y_NS.T]
    found = SharedRidge().fit(x_ND, y_NS).predict(x_ND)
    assert found == pytest.approx(np.stack(wanted, axis=1), abs=1e-6)


@pytest.mark.parametrize("name", ["knn", "factorisation"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_margin_is_the_lead_of_the_best_plan_of_an_action(name: str, seed: int) -> None:
    train, other = random_forest(seed, queries=5), random_forest(seed + 1, queries=3)
    policy: Any = TRAINERS[name](train.tree, alpha=0.05, seed=0).policy
    nodes = [node for node in all_nodes(other) if node.hop < len(policy.paths)]
    states = other.tree.states[torch.tensor([node.index for node in nodes])]
    for action in range(other.tree.actions):
        found = policy.margin(states, action).tolist()
        for node, margin in zip(nodes, found, strict=True):
            with torch.no_grad():
                scores = policy.scores(node.hop, torch.tensor([list(node.features)]).float())[0]
            best = {True: -math.inf, False: -math.inf}
            for path, score in zip(policy.paths[node.hop], scores.tolist(), strict=True):
                if path[0] in node.actions:
                    best[path[0] == action] = max(best[path[0] == action], score)
            assert margin == pytest.approx(best[True] - best[False], abs=1e-5, nan_ok=True)


def test_soft_logistic_regression_minimises_the_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    x_ND, y_NS = rng.normal(size=(50, 3)), rng.random((50, 4))
    y_NS[:, 1], y_NS[:, 2], y_NS[:, 3] = 0.0, 1.0, rng.integers(0, 2, 50)
    scale = float(np.sqrt(((x_ND - x_ND.mean(axis=0)) ** 2).sum(axis=1).mean()))
    model = SoftLogistic(2.0).fit(x_ND, y_NS)
    predicted_NS = model.predict(x_ND)
    assert bool((predicted_NS[:, 1] == 0).all())
    assert bool((predicted_NS[:, 2] == 1).all())
    for column in (0, 3):
        error_N = predicted_NS[:, column] - y_NS[:, column]
        assert error_N.sum() == pytest.approx(0, abs=1e-2)
        z_ND, coef_D = (x_ND - x_ND.mean(axis=0)) / scale, model.coef_DS[:, column] * scale
        assert 2.0 * z_ND.T @ error_N + coef_D == pytest.approx(0, abs=1e-2)


def dear_and_cheap(queries: int) -> Tree:
    """Arm a is right and dear, arm b is poor and cheap; a second call brings nothing."""
    rng = np.random.default_rng(0)
    roots = []
    for _ in range(queries):
        root = Node(rng.normal(size=4), 0.0, 0)
        for action, quality, cost in ((0, 1.0, 10.0), (1, 0.2, 1.0)):
            later = Node(rng.normal(size=4), cost, 1)
            later.actions = {
                0: Leaf(quality, cost + 10, (action, 0)),
                1: Leaf(quality, cost + 1, (action, 1)),
                2: Leaf(quality, cost, (action,)),
            }
            root.actions[action] = later
        roots.append(root)
    return lay_out(roots, "ab", hops=2).tree


@pytest.mark.parametrize("name", NAMES)
def test_alpha_is_chosen_at_the_decision(name: str) -> None:
    tree = dear_and_cheap(12)
    policy: Any = TRAINERS[name](tree, alpha=0.05, seed=0).policy
    best, cheapest = at_alpha(policy, 0.0), at_alpha(policy, 100.0)
    assert bool((tree.quality_M[greedy_leaves(best, tree)] == 1).all())
    assert bool((tree.cost_M[greedy_leaves(cheapest, tree)] == 1).all())
    assert policy.alpha == 0.05
    assert policy.at(1.0).regressors is policy.regressors


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_ragged_forests_of_few_queries(name: str, queries: int, seed: int) -> None:
    tree = random_forest(seed, queries=queries, arms=3, hops=3).tree
    for train in (tree, tree.without_stop()):
        policy = TRAINERS[name](train, alpha=0.1, seed=0).policy
        probs_NA = policy.probs(tree.states)
        assert probs_NA.dtype == torch.float64
        assert torch.allclose(probs_NA.sum(dim=1), torch.ones(len(probs_NA), dtype=torch.float64))
        assert bool((probs_NA[~tree.valid_NA] == 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_router_learns_repeats_and_comes_back(name: str, tmp_path: Path) -> None:
    train, valid = (synthetic_forest(n, seed=n, features=32, hops=2, noise=0.3) for n in (96, 48))
    one, two = (TRAINERS[name](train, alpha=0.02, seed=3).policy for _ in range(2))
    paths = [(0,), (1,), (2,), (0, 1), (1, 2), (2, 0)]
    static = valid.reward_M(0.02)[static_leaves(valid, paths)].mean(dim=0).max()
    assert greedy_metrics(one, valid, 0.02)["reward"] > float(static) + 0.3
    probs_NA = one.probs(valid.states)
    assert torch.equal(two.probs(valid.states), probs_NA)
    one.load_state_dict({key: value.clone() for key, value in one.state_dict().items()})
    assert torch.equal(one.probs(valid.states), probs_NA)
    one.save(tmp_path / "p")
    assert torch.equal(load_policy(tmp_path / "p").probs(valid.states), probs_NA)


def test_other_training_data_are_fitted_anew() -> None:
    one, two = (random_forest(seed, ragged=False, queries=8).tree for seed in (0, 1))
    policy, other = (TRAINERS["knn"](tree, alpha=0.1, seed=0).policy for tree in (one, two))
    assert not torch.equal(policy.probs(two.states), other.probs(two.states))
    policy.load_state_dict(other.state_dict())
    assert torch.equal(policy.probs(two.states), other.probs(two.states))


@pytest.mark.parametrize(("name", "together"), [("knn", True), ("logistic", True), ("svm", False)])
def test_seeds_share_what_does_not_depend_on_them(name: str, together: bool) -> None:
    tree = random_forest(0, queries=8, arms=3, ragged=False).tree
    one, two = (TRAINERS[name](tree, alpha=0.1, seed=seed).policy for seed in (0, 1))
    again = TRAINERS[name](tree, alpha=0.7, seed=0).policy
    assert isinstance(one, PredictorPolicy) and isinstance(two, PredictorPolicy)
    assert isinstance(again, PredictorPolicy)
    assert again.regressors is one.regressors
    assert (one.regressors is two.regressors) == together
    other = TRAINERS[name](tree, OTHER_SETTINGS[name], alpha=0.1, seed=0).policy
    assert isinstance(other, PredictorPolicy)
    assert other.regressors is not one.regressors


def test_nothing_is_predicted_twice_and_no_more_is_kept_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = random_forest(0, queries=8, arms=3, ragged=False).tree
    policy = KNN(tree, alpha=0.1, seed=0).policy
    assert isinstance(policy, PredictorPolicy)
    asked: list[int] = []
    predict = predictors.Regressors._predict

    def counted(self: Any, hop: int, x_ND: Any) -> Any:
        asked.append(hop)
        return predict(self, hop, x_ND)

    monkeypatch.setattr(predictors.Regressors, "_predict", counted)
    views = [policy, policy.at(0.0), policy.at(5.0)]
    first = [view.probs(tree.states) for view in views]
    assert asked == list(range(tree.hops))
    monkeypatch.setattr(predictors, "REMEMBERED", 1)
    policy.regressors._predicted.clear()
    second = [view.probs(tree.states) for view in views]
    assert len(asked) == 4 * tree.hops and len(policy.regressors._predicted) == 1
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    kept = weakref.ref(policy.regressors)
    del policy, views
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("name", ["svm", "cascade", "factorisation"])
def test_a_saved_policy_is_read_where_no_trainer_was_imported(name: str, tmp_path: Path) -> None:
    tree = random_forest(0, queries=6, arms=3, ragged=False).tree
    policy = TRAINERS[name](tree, alpha=0.1, seed=0).policy
    policy.save(tmp_path / "p")
    torch.save(vars(tree.states), tmp_path / "states")
    script = """
import sys, torch
from pathlib import Path
from hcache.policies import load_policy
from hcache.replay.tree import States
torch.set_num_threads(1)
folder = Path(sys.argv[1])
states = States(**torch.load(folder / "states"))
torch.save(load_policy(folder / "p").probs(states), folder / "probs")
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "probs"), policy.probs(tree.states))


def test_a_description_of_no_predictor_is_refused(tmp_path: Path) -> None:
    tree = random_forest(0, ragged=False).tree
    TRAINERS["knn"](tree, alpha=0.1, seed=0).policy.save(tmp_path)
    description = tmp_path / "policy.json"
    text = description.read_text().replace('"knn"', '"sft"')
    write_object(description, json.loads(text))
    with pytest.raises(RunError, match="sft predicts nothing"):
        load_policy(tmp_path)
