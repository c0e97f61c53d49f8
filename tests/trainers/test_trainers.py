"""The loop of training; PPO's and SFT's parts against plain loops."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fitting import ALPHA, fresh, run, same, small
from helpers.forest import Forest, Leaf, Node, nodes_of, random_forest, synthetic_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.config.file import parse_settings
from hcache.errors import ConfigError, RunError
from hcache.evaluation.evaluator import evaluate
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves, reach, sequences
from hcache.replay.tree import tree_of_leaf, tree_of_state
from hcache.trainers import TRAINERS, fit, greedy_metrics
from hcache.trainers.device import pick_device
from hcache.trainers.ppo import (
    PPO,
    Batch,
    PPOSettings,
    approx_kl,
    evaluated,
    explained_variance,
    gae,
)
from hcache.trainers.sft import (
    SFT,
    Balance,
    SFTSettings,
    TargetSettings,
    balanced,
    best_actions,
    best_leaves,
    best_quality,
)


def test_patience_ends_training_and_best_weights_are_kept() -> None:
    trainer = fresh("sft", lr=1e-12)
    fitted, lines = run(trainer, iterations=50, patience=3)
    assert fitted.stopped_early
    assert fitted.iterations == 6
    assert fitted.best_iteration == 0
    assert len(lines) == 7


def test_fit_refuses_bad_counts() -> None:
    wrong: Any = (("iterations", -1), ("evaluate_every", 0), ("patience", -1))
    for name, value in wrong:
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            run(fresh("sft"), **{name: value})


def test_divergence_is_an_error() -> None:
    trainer = fresh("sft")
    trainer.step = lambda: {"loss": math.nan}
    with pytest.raises(RunError, match="loss is not finite at iteration 1"):
        run(trainer)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    run(fresh("sft"), checkpoint=checkpoint)
    with pytest.raises(RunError, match=r"lr was 0\.001 and is 0\.5"):
        run(fresh("sft", lr=0.5), checkpoint=checkpoint, resume=True)
    with pytest.raises(RunError, match="seed was 0 and is 7"):
        run(fresh("sft", seed=7), checkpoint=checkpoint, resume=True)
    with pytest.raises(RunError, match="trainer was 'SFT' and is 'PPO'"):
        run(fresh("ppo"), checkpoint=checkpoint, resume=True)
    run(fresh("sft", lr=0.5), checkpoint=checkpoint, resume=False)
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot be read"):
        run(fresh("sft"), checkpoint=checkpoint, resume=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run(fresh("sft"), checkpoint=tmp_path / "c")
    wider = synthetic_forest(16, seed=1, features=20, hops=2)
    trainer = SFT(wider, alpha=ALPHA, seed=0)
    with pytest.raises(RunError, match="does not fit the trainer"):
        run(trainer, checkpoint=tmp_path / "c", resume=True)


def test_a_trainer_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="there twice"):
        TRAINERS.register("ppo")(object)


def test_settings_are_checked() -> None:
    for kind, values, message in (
        (PPOSettings, {"clip_coef": 0}, r"here: clip_coef: .*greater than 0 \(it is 0\)"),
        (PPOSettings, {"gae_lambda": 1.1}, "gae_lambda: .*less than or equal to 1"),
        (PPOSettings, {"lr": math.nan}, "lr: .*finite number"),
        (PPOSettings, {"norm_adv": 1}, "norm_adv: .*valid boolean"),
        (PPOSettings, {"advantage": "td"}, "advantage: .*'exact' or 'gae'"),
        (SFTSettings, {"ties": "some"}, "ties: .*'all', 'random_one' or 'deterministic_one'"),
        (PPOSettings, {"hiden": 3}, "hiden: unknown setting; did you mean 'hidden'"),
        (PPOSettings, {"hidden": True}, "hidden: .*valid integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_settings(kind, values, "here")
    assert parse_settings(PPOSettings, {"hidden": 3, "lr": 1}, "here").hidden == 3


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        pick_device("cuda")


# PPO


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 1), st.integers(0, 10**6))
def test_gae_equals_the_plain_loop(hops: int, episodes: int, lam: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    length_E = torch.randint(1, hops + 1, (episodes,), generator=generator)
    live_LE = torch.arange(hops)[:, None] < length_E
    value_LE = torch.randn(hops, episodes, generator=generator, dtype=torch.float64)
    reward_LE = torch.zeros_like(value_LE)
    reward_LE[length_E - 1, torch.arange(episodes)] = torch.randn(
        episodes, generator=generator, dtype=torch.float64
    )
    fast_LE = gae(reward_LE, value_LE, live_LE, lam)
    for episode in range(episodes):
        length = int(length_E[episode])
        value = [*value_LE[:length, episode].tolist(), 0.0]
        reward = reward_LE[:length, episode].tolist()
        for t in range(length):
            slow = sum(
                lam**k * (reward[t + k] + value[t + k + 1] - value[t + k])
                for k in range(length - t)
            )
            assert fast_LE[t, episode].item() == pytest.approx(slow, abs=1e-9)
        assert bool((fast_LE[length:, episode] == 0).all())


def plain_value(node: Node, probs: list[list[float]], alpha: float) -> float:
    return sum(
        probs[node.index][action] * plain_q(child, probs, alpha)
        for action, child in node.actions.items()
    )


def plain_q(child: Node | Leaf, probs: list[list[float]], alpha: float) -> float:
    if isinstance(child, Node):
        return plain_value(child, probs, alpha)
    return child.quality - alpha * child.cost


def plain_chances(roots: list[Node], probs: list[list[float]]) -> dict[int, float]:
    """Probability that an episode passes each state, by number."""
    chances: dict[int, float] = {}

    def walk(node: Node, chance: float) -> None:
        chances[node.index] = chance
        for action, child in node.actions.items():
            if isinstance(child, Node):
                walk(child, chance * probs[node.index][action])

    for root in roots:
        walk(root, 1.0)
    return chances


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1]), st.booleans())
def test_exact_evaluation_equals_the_plain_loop(seed: int, alpha: float, stop: bool) -> None:
    forest = random_forest(seed, queries=3, arms=3, hops=3, replicas=2, stop=stop)
    tree = forest.tree
    chances = torch.rand(tree.valid_NA.shape, generator=torch.Generator().manual_seed(seed))
    logprob_NA = chances.double().masked_fill(~tree.valid_NA, -torch.inf).log_softmax(dim=1)
    found = evaluated(tree, tree.reward_M(alpha), logprob_NA, floor=0.02)
    assert bool((found.advantage_NA[~tree.valid_NA] == 0).all())
    probs = logprob_NA.exp().tolist()
    passed = plain_chances(forest.roots, probs)
    mean = statistics.fmean(passed.values())
    for node in (node for root in forest.roots for node in nodes_of(root)):
        weight = (passed[node.index] + 0.02) / (mean + 0.02)
        assert float(found.weight_N[node.index]) == pytest.approx(weight, abs=1e-5)
        value = plain_value(node, probs, alpha)
        for action, child in node.actions.items():
            slow = plain_q(child, probs, alpha) - value
            assert float(found.advantage_NA[node.index, action]) == pytest.approx(slow, abs=1e-6)
    values = [plain_value(root, probs, alpha) for root in forest.roots]
    assert float(found.reward) == pytest.approx(statistics.fmean(values), abs=1e-9)
    asked = sum(passed[state] * (1 - probs[state][tree.stop]) for state in passed)
    assert float(found.hops) == pytest.approx(asked / len(values), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_of_exact_ppo_equals_that_of_a_plain_loop(seed: int) -> None:
    """An update after two others, so that ratios are not 1 and some are clipped."""
    forest = random_forest(seed, queries=4, arms=3, hops=3)
    tree = forest.tree
    chosen = PPOSettings(clip_coef=0.05, feature_dropout=0, lr=0.02)
    trainer = PPO(tree, chosen, alpha=0.1, seed=seed)
    trainer.step()
    with torch.no_grad():
        old_NA = trainer.policy.logits(tree.states).log_softmax(dim=1)
    trainer.step()

    now_NA = trainer.policy.logits(tree.states).log_softmax(dim=1)
    before = evaluated(tree, tree.reward_M(0.1), old_NA, floor=0)
    losses = trainer.expected_losses(before, now_NA)
    weights = list(trainer.policy.actor.parameters())
    fast = torch.autograd.grad(losses["loss"], weights)
    assert float(losses["clip_fraction"]) > 0

    loss, kl = torch.zeros(()), 0.0
    probs = old_NA.double().exp().tolist()
    passed = plain_chances(forest.roots, probs)
    for node in (node for root in forest.roots for node in nodes_of(root)):
        share = passed[node.index] / sum(passed.values())
        value = plain_value(node, probs, 0.1)
        now_A = trainer.policy.logits(tree.states[torch.tensor([node.index])])[0].log_softmax(dim=0)
        for action, child in node.actions.items():
            old, new = probs[node.index][action], now_A[action].exp()
            gain = plain_q(child, probs, 0.1) - value
            clipped = (new / old).clamp(0.95, 1.05)
            loss = loss - share * old * torch.minimum(new / old * gain, clipped * gain)
            loss = loss + chosen.ent_coef * share * new * new.log()
            kl += share * old * math.log(old / float(new.detach()))
    for one, other in zip(fast, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert float(losses["approx_kl"]) == pytest.approx(kl, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("advantage", ["gae", "exact"])
def test_a_ppo_run_that_was_killed_ends_with_the_same_bits(advantage: Any, tmp_path: Path) -> None:
    fitted, _ = run(fresh("ppo", advantage=advantage))

    def kill(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(fresh("ppo", advantage=advantage), on_metrics=kill, checkpoint=tmp_path / "c")
    again, _ = run(fresh("ppo", advantage=advantage), checkpoint=tmp_path / "c", resume=True)
    assert same(again.policy.state_dict(), fitted.policy.state_dict())


@pytest.mark.parametrize("seed", range(5))
def test_a_rollout_walks_the_tree(seed: int) -> None:
    tree = random_forest(seed, queries=4, arms=3, hops=3).tree
    trainer = PPO(tree, PPOSettings(episodes=50), alpha=0.1, seed=0)
    rollout = trainer.rollout()
    seen = torch.zeros(len(tree))
    for episode in range(50):
        state = int(rollout.state_LE[0, episode])
        seen[tree.root_T.tolist().index(state)] += 1
        for hop in range(tree.hops):
            assert bool(rollout.live_LE[hop, episode])
            assert int(rollout.state_LE[hop, episode]) == state
            action = int(rollout.action_LE[hop, episode])
            leaf, state = int(tree.leaf_NA[state, action]), int(tree.child_NA[state, action])
            reward = float(rollout.reward_LE[hop, episode])
            if leaf >= 0:
                break
            assert reward == 0
        assert reward == pytest.approx(float(tree.reward_M(0.1)[leaf]), abs=1e-6)
        assert not bool(rollout.live_LE[hop + 1 :, episode].any())
    assert seen.max() - seen.min() <= 1  # every tree as often as any other


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20))
def test_approx_kl_is_k3_and_never_negative(log_ratios: list[float]) -> None:
    k3 = sum(math.exp(x) - 1 - x for x in log_ratios) / len(log_ratios)
    found = float(approx_kl(torch.tensor(log_ratios)))
    assert found == pytest.approx(k3, rel=1e-4, abs=1e-6)
    assert found >= 0


def test_approx_kl_is_the_kl_on_average_and_keeps_small_changes() -> None:
    old, new = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.3, 0.4, 0.3])
    action_B = torch.multinomial(
        old, 200_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    estimate = float(approx_kl((new / old).log()[action_B]))
    assert estimate == pytest.approx(float((old * (old / new).log()).sum()), rel=0.02)
    assert float(approx_kl(torch.tensor([1e-4]))) == pytest.approx(0.5e-8, rel=0.01)


def test_explained_variance_against_its_definition() -> None:
    return_B = torch.tensor([0.0, 1.0, 2.0, 5.0])
    value_B = torch.tensor([0.5, 1.0, 1.0, 4.0])
    left = statistics.pvariance((return_B - value_B).tolist())
    wanted = 1 - left / statistics.pvariance(return_B.tolist())
    assert float(explained_variance(value_B, return_B)) == pytest.approx(wanted)
    assert float(explained_variance(return_B - 7, return_B)) == 1
    assert float(explained_variance(torch.zeros(4), return_B)) == 0
    for count in (1, 3):  # returns that are equal: nothing to explain
        value_B = torch.arange(count).float()
        assert float(explained_variance(value_B, torch.ones(count))) == 0


def test_diagnostics_of_a_step_against_a_plain_loop() -> None:
    """One update on all steps: nothing has moved yet, and the norm is that of autograd."""
    values: dict[str, Any] = {"update_epochs": 1, "minibatches": 1, "advantage": "gae"}
    values |= {"max_grad_norm": 1e-3}
    trainer, twin = fresh("ppo", **values), fresh("ppo", **values)
    rollout = twin.rollout()
    advantage_LE, return_LE = twin.estimate(rollout)
    live_LE = rollout.live_LE
    steps = (rollout.state_LE, rollout.action_LE, rollout.logprob_LE, advantage_LE, return_LE)
    twin._losses(Batch(*(value_LE[live_LE] for value_LE in steps)))["loss"].backward()
    squares = [float(weight.grad.square().sum()) for weight in twin.policy.parameters()]
    explained = explained_variance(rollout.value_LE[live_LE], return_LE[live_LE])
    metrics = trainer.step()
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)
    assert metrics["grad_norm"] > 1e-3  # before clipping
    assert metrics["explained_variance"] == pytest.approx(float(explained), rel=1e-6)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
    for moved in (
        fresh("ppo", update_epochs=4, minibatches=4, lr=1e-2, advantage="gae"),
        fresh("ppo", update_epochs=4, lr=1e-2),
    ):
        assert moved.step()["approx_kl"] > 1e-4


def test_ppo_with_stop_masked_never_stops() -> None:
    tree = small("train").without_stop()
    trainer = PPO(tree, alpha=1.0, seed=0)
    for _ in range(3):
        trainer.step()
    rollout = trainer.rollout()
    assert not bool((rollout.action_LE == tree.stop).any())
    assert bool(rollout.live_LE.all())
    leaf_T = greedy_leaves(trainer.policy, tree)
    assert bool((tree.path_ML[leaf_T] >= 0).all())


def test_ppo_closes_the_gap_on_unseen_queries() -> None:
    train, valid, test = (
        synthetic_forest(count, seed=seed, features=64, noise=0.5, prefix=str(seed))
        for seed, count in enumerate((300, 80, 200))
    )
    trainer = PPO(train, alpha=ALPHA, seed=0)
    fitted = fit(
        trainer,
        valid,
        iterations=40,
        evaluate_every=5,
        patience=0,
        on_metrics=lambda metrics: None,
    )
    report = evaluate(
        test, {"ppo": fitted.policy}, alpha=ALPHA, selection=[train, valid], resamples=1000
    )
    (row,) = (row for row in report.groups[0].rows if row.role == "router")
    assert row.gap_closed.estimate >= 0.8
    assert row.verdict == "better"


# SFT


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1]))
def test_targets_reach_only_the_best_leaves(seed: int, alpha: float) -> None:
    forest: Forest = random_forest(seed, queries=3, arms=3, hops=3)
    tree = forest.tree
    reward_M = tree.reward_M(alpha)
    best_T = reward_M[oracle_leaves(tree, reward_M)]
    owner_N = tree_of_state(tree)
    generator = torch.Generator().manual_seed(0)
    for ties in ("all", "random_one", "deterministic_one"):
        target_NA = best_actions(tree, reward_M, ties, generator)
        assert torch.allclose(target_NA.sum(dim=1), torch.ones(len(target_NA)).double())
        assert bool((target_NA[~tree.valid_NA] == 0).all())
        flow_NA = reach(tree, target_NA)[:, None] * target_NA
        total_T = torch.zeros(len(tree)).double()
        for state, action in (flow_NA * (tree.leaf_NA >= 0)).nonzero().tolist():
            leaf, owner = int(tree.leaf_NA[state, action]), int(owner_N[state])
            assert float(reward_M[leaf]) == pytest.approx(float(best_T[owner]), abs=1e-9)
            total_T[owner] += flow_NA[state, action]
        assert torch.allclose(total_T, torch.ones(len(tree)).double())


def test_ties_are_settled_as_asked() -> None:
    tree = random_forest(0, queries=1, arms=3, hops=1, ragged=False).tree
    tree.quality_M[:] = 1.0
    tree.cost_M[:] = torch.tensor([3.0, 1.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    reward_M = tree.reward_M(0.0)
    third = pytest.approx(1 / 3)
    assert best_actions(tree, reward_M, "all", generator)[0].tolist() == [third, third, third, 0]
    cheapest = best_actions(tree, reward_M, "deterministic_one", generator)
    assert cheapest[0].tolist() == [0, 1, 0, 0]
    drawn = [
        int(best_actions(tree, reward_M, "random_one", generator)[0].argmax()) for _ in range(600)
    ]
    assert all(150 < drawn.count(action) < 250 for action in range(3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1]))
def test_best_leaves_are_every_tied_one_or_one_of_each_tree(seed: int, alpha: float) -> None:
    tree = random_forest(seed, queries=4, arms=3, hops=2, replicas=2).tree
    reward_M, tree_M = tree.reward_M(alpha), tree_of_leaf(tree)
    generator = torch.Generator().manual_seed(0)
    best_T = reward_M[oracle_leaves(tree, reward_M)]
    tied = {leaf for leaf, t in enumerate(tree_M.tolist()) if reward_M[leaf] >= best_T[t] - 1e-12}
    found = best_leaves(tree, reward_M, TargetSettings(), generator).tolist()
    assert (set(found), len(found)) == (tied, len(tied))
    assert tree_M[found].tolist() == sorted(tree_M[found].tolist())
    one = best_leaves(tree, reward_M, TargetSettings(ties="deterministic_one"), generator)
    assert one.tolist() == oracle_leaves(tree, reward_M).tolist()
    even = best_leaves(tree, reward_M, TargetSettings(balance="oversample"), generator)
    counts = even.unique(return_counts=True)
    paths = [tuple(path) for path in tree.path_ML[even].tolist()]
    assert set(counts[0].tolist()) == tied
    assert len({paths.count(path) for path in paths}) == 1
    high = TargetSettings(min_best=float(best_quality(tree).max()))
    good = best_leaves(tree, reward_M, high, generator)
    assert set(good.tolist()) == {
        leaf for leaf in tied if best_quality(tree)[tree_M[leaf]] >= high.min_best
    }


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 10**6))
def test_balance_makes_classes_even(classes: list[int], seed: int) -> None:
    class_T = torch.tensor(classes)
    kept_T = torch.ones(len(classes), dtype=torch.bool)
    kept_T[1::7] = False
    generator = torch.Generator().manual_seed(seed)
    counts = [int((kept_T & (class_T == c)).sum()) for c in range(5)]
    present = [count for count in counts if count]
    sizes: dict[Balance, int] = {"undersample": min(present), "oversample": max(present)}
    for balance, size in sizes.items():
        copies_T = balanced(class_T, kept_T, TargetSettings(balance=balance), generator)
        assert bool((copies_T[~kept_T] == 0).all())
        sums = [float(copies_T[class_T == c].sum()) for c in range(5)]
        assert sums == [size if count else 0 for count in counts]
        if balance == "oversample":
            assert bool((copies_T[kept_T] >= 1).all())
    assert torch.equal(balanced(class_T, kept_T, TargetSettings(), generator), kept_T.double())


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.floats(1, 6),
    st.floats(1, 4),
    st.integers(0, 10**6),
)
def test_smart_balance_fills_small_classes_up_and_never_cuts(
    classes: list[int], factor: float, skip: float, seed: int
) -> None:
    class_T = torch.tensor(classes)
    kept_T = torch.ones(len(classes), dtype=torch.bool)
    kept_T[1::7] = False
    generator = torch.Generator().manual_seed(seed)
    chosen = TargetSettings(balance="smart", balance_factor=factor, balance_skip=skip)
    copies_T = balanced(class_T, kept_T, chosen, generator)
    counts = [int((kept_T & (class_T == c)).sum()) for c in range(5)]
    present = [count for count in counts if count]
    if max(present) / min(present) <= skip:
        assert torch.equal(copies_T, kept_T.double())
        return
    for c, count in enumerate(counts):
        mine_t = copies_T[kept_T & (class_T == c)]
        assert float(mine_t.sum()) == min(math.ceil(count * factor), max(present))
        assert not count or (mine_t.min() >= 1 and mine_t.max() - mine_t.min() <= 1)
    assert bool((copies_T[~kept_T] == 0).all())


def test_smart_balance_is_settled_by_its_settings() -> None:
    tree = small("train")
    sizes = {
        factor: float(
            SFT(
                tree, SFTSettings(balance="smart", balance_factor=factor), alpha=ALPHA, seed=0
            ).targets.weight_K.max()
        )
        for factor in (1.0, 3.0)
    }
    even = SFTSettings(balance="smart", balance_factor=3.0, balance_skip=99.0)
    plain, skipped = (
        SFT(tree, chosen, alpha=ALPHA, seed=0).targets.weight_K for chosen in (SFTSettings(), even)
    )
    assert sizes[1.0] == float(plain.max()) != sizes[3.0]
    assert torch.equal(skipped, plain)


def test_min_best_skips_queries_and_says_if_none_is_left() -> None:
    tree = random_forest(3, queries=8, arms=2, ragged=False).tree
    owner_N = tree_of_state(tree)
    for t in range(4):
        leaves = tree.leaf_NA[owner_N == t]
        tree.quality_M[leaves[leaves >= 0]] = 0.0
    trainer = SFT(tree, SFTSettings(min_best=0.5), alpha=ALPHA, seed=0)
    assert set(owner_N[trainer.targets.kept_K].tolist()) == {
        t for t in range(8) if float(best_quality(tree)[t]) >= 0.5
    }
    with pytest.raises(ConfigError, match="Lower min_best"):
        SFT(tree, SFTSettings(min_best=2.0), alpha=ALPHA, seed=0)


@pytest.mark.parametrize("balance", ["none", "undersample", "oversample", "smart"])
@pytest.mark.parametrize("ties", ["all", "random_one", "deterministic_one"])
def test_sft_learns_the_training_trees(ties: str, balance: str) -> None:
    trainer = fresh("sft", ties=ties, balance=balance, lr=1e-2)
    losses = [trainer.step()["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] / 2
    before, after = fresh("sft").policy, trainer.policy
    tree = small("train")
    rewards = [greedy_metrics(policy, tree, ALPHA)["reward"] for policy in (before, after)]
    assert rewards[1] > rewards[0]
    assert len(sequences(tree)) == 12
