"""The ensemble: its vote, its test against the best static sequence, and what it falls back on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.forest import random_forest, synthetic_forest
from scipy import stats

from hcache.errors import RunError
from hcache.policies import load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import static_leaves
from hcache.replay.static import best_static, common_paths
from hcache.replay.tree import NONE, Tree
from hcache.trainers import fit
from hcache.trainers.ensemble import Ensemble, EnsembleSettings
from hcache.trainers.soft import Soft, SoftSettings

ALPHA = 0.1
torch.set_num_threads(1)


def fitted(train: Tree, valid: Tree, seed: int = 0, iterations: int = 20) -> Ensemble:
    trainer = Ensemble(train, EnsembleSettings(members=3), alpha=ALPHA, seed=seed)
    fit(
        trainer,
        valid,
        iterations=iterations,
        evaluate_every=2,
        patience=0,
        on_metrics=lambda metrics: None,
    )
    return trainer


def test_members_are_runs_of_soft_and_vote_with_their_mean() -> None:
    tree = random_forest(1, queries=6, arms=2, hops=2).tree
    settings = EnsembleSettings(members=3, confidence=0)
    trainer = Ensemble(tree, settings, alpha=ALPHA, seed=2)
    alone = [Soft(tree, SoftSettings(), alpha=ALPHA, seed=seed) for seed in (6, 7, 8)]
    metrics, each = trainer.step(), [run.step() for run in alone]
    assert metrics["loss"] == pytest.approx(sum(m["loss"] for m in each) / 3)
    mean_NA = torch.stack([run.policy.probs(tree.states) for run in alone]).mean(dim=0)
    assert torch.equal(trainer.policy.probs(tree.states), mean_NA)


@pytest.mark.parametrize("seed", range(20))
def test_coin_flips_leave_the_best_static_sequence(seed: int) -> None:
    """Where features say nothing of the outcome, the router is the best fixed choice."""
    train, valid, test = (
        synthetic_forest(count, seed=10 * seed + place, features=16, prefix=str(place))
        for place, count in enumerate((60, 40, 50))
    )
    for tree in (train, valid, test):
        generator = torch.Generator().manual_seed(seed)
        flips_M = torch.randint(2, tree.quality_M.shape, generator=generator)
        tree.quality_M[:] = flips_M[torch.randperm(len(flips_M), generator=generator)].double()
    policy = fitted(train, valid, seed, iterations=6).policy
    path = best_static([train, valid], ALPHA)
    if bool(policy.trusted):  # by chance, in one of a hundred tests
        reward_M = test.reward_M(ALPHA)
        static_T = reward_M[static_leaves(test, [path])[:, 0]]
        lost_T = static_T - reward_M[greedy_leaves(policy, test)]
        assert stats.ttest_1samp(lost_T, 0, alternative="greater").pvalue > 0.05
    else:
        assert torch.equal(greedy_leaves(policy, test), static_leaves(test, [path])[:, 0])


def test_what_can_be_learned_is_trusted() -> None:
    train, valid = (
        synthetic_forest(count, seed=seed, features=64, noise=0.5, prefix=str(seed))
        for seed, count in enumerate((300, 80))
    )
    assert bool(fitted(train, valid).policy.trusted)


def test_the_test_is_a_paired_t_test_over_queries() -> None:
    train, valid = (random_forest(s, queries=12, arms=2, hops=2, ragged=False).tree for s in (1, 2))
    trainer = Ensemble(train, EnsembleSettings(members=2), alpha=ALPHA, seed=0)
    path = best_static([train, valid], ALPHA)
    reward_M = valid.reward_M(ALPHA)
    ours, static = greedy_leaves(trainer.policy, valid), static_leaves(valid, [path])[:, 0]
    wanted = stats.ttest_rel(reward_M[ours], reward_M[static], alternative="greater").pvalue
    assert trainer.doubt(valid, path) == pytest.approx(float(wanted))


def test_without_a_common_sequence_there_is_nothing_to_fall_back_on() -> None:
    one = random_forest(1, queries=4, arms=2, hops=1, ragged=False).tree
    one.leaf_NA[0, 0] = one.leaf_NA[1, 1] = NONE  # each tree can do without either arm
    assert not common_paths([one, one])
    trainer = Ensemble(one, EnsembleSettings(members=1), alpha=ALPHA, seed=0)
    trainer.validate(one)
    assert bool(trainer.policy.trusted)


@pytest.mark.parametrize("trusted", [True, False])
def test_saved_and_read_it_decides_the_same(trusted: bool, tmp_path: Path) -> None:
    tree = random_forest(3, queries=6, arms=3, hops=3).tree
    policy = Ensemble(tree, EnsembleSettings(members=2), alpha=ALPHA, seed=0).policy
    if not trusted:
        policy.fall_back((1, 2))
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert torch.equal(again.probs(tree.states), policy.probs(tree.states))


def test_the_sequence_is_followed_and_left_only_where_it_must() -> None:
    tree = random_forest(4, queries=9, arms=3, hops=3).tree
    policy = Ensemble(tree, EnsembleSettings(members=1), alpha=ALPHA, seed=0).policy
    policy.fall_back((2, 0))
    probs_NA = policy.probs(tree.states)
    for state, (hop, row) in enumerate(zip(tree.hop_N.tolist(), probs_NA.tolist(), strict=True)):
        valid = tree.valid_NA[state].tolist()
        action = (2, 0, tree.stop)[hop]
        chance = 1 / sum(valid)
        wanted = [float(a == action) if valid[action] else chance * valid[a] for a in range(4)]
        assert row == pytest.approx(wanted)


def test_it_starts_from_an_ensemble_of_its_size() -> None:
    tree = random_forest(1, queries=3).tree
    settings = EnsembleSettings(members=2)
    start = Ensemble(tree, settings, alpha=ALPHA, seed=7).policy
    again = Ensemble(tree, settings, alpha=ALPHA, seed=0, init=start).policy
    assert torch.equal(again.probs(tree.states), start.probs(tree.states))
    for other in (start, Soft(tree, alpha=ALPHA, seed=0).policy):
        with pytest.raises(RunError, match="an ensemble of 3 cannot start from a"):
            Ensemble(tree, EnsembleSettings(members=3), alpha=ALPHA, seed=0, init=other)
