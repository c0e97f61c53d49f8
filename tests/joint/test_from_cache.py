"""Joint training: its gradient against plain REINFORCE, what it estimates, and what it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.experiments import load
from helpers.forest import synthetic_forest
from helpers.joint import ROLES, raw, serve, slow_logprob, write_checkpoint

from hcache.errors import RunError
from hcache.experiment import Experiment
from hcache.joint.calls import CallTree
from hcache.joint.from_cache import (
    TRUST,
    Joint,
    JointSettings,
    baselines,
    effective_share,
    leaf_probs,
    leaf_sums,
)
from hcache.joint.policy import JointPolicy
from hcache.policies import load_policy
from hcache.policies.mlp import MLPPolicy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.loading import load_replay
from hcache.replay.tree import NONE, Tree, tree_of_leaf
from hcache.runs.evaluating import evaluate_runs
from hcache.runs.routing import with_changes
from hcache.runs.training import train
from hcache.sampling import Sampler
from hcache.store import Store
from hcache.trainers import fit
from hcache.trainers.base import greedy_metrics

pytest.importorskip("transformers")
ALPHA = 0.1


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Untrained models, but with rewards: which reply is right is decided below."""
    folder = tmp_path_factory.mktemp("joint")
    write_checkpoint(folder / "one", 1)
    write_checkpoint(folder / "two", 2, heads=4)
    experiment = load(folder, raw(folder))
    Sampler(experiment, serve).run()
    return experiment


def rewarded(experiment: Experiment, split: str = "train") -> CallTree:
    """A split whose qualities are numbers from a seed: untrained models are never right."""
    with Store(experiment.db) as store:
        tree = Joint.enrich(load_replay(store, experiment.config, split).tree, experiment)
    generator = torch.Generator().manual_seed(0)
    quality_M = torch.rand(len(tree.quality_M), generator=generator, dtype=torch.float64)
    return replace(tree, quality_M=quality_M)


def trainer_at_ratio_one(tree: CallTree, **settings: Any) -> Joint:
    """A trainer with ΔW ≠ 0 that takes the policy as it stands for the behaviour."""
    trainer = Joint(tree, JointSettings(init="xavier", **settings), alpha=ALPHA, seed=0)
    scorer, calls = trainer.cache.scorer, trainer.cache.calls
    with torch.no_grad():
        for arm, part in scorer.chunks(torch.arange(len(calls))):
            low = trainer.policy.delta(arm, trainer.cache.features_QD[calls.query_U[part]])
            scorer.behaviour_U[part] = scorer.logprobs(arm, part, low)
    return trainer


def gradients(trainer: Joint) -> dict[str, torch.Tensor]:
    named = trainer.policy.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


@pytest.mark.parametrize("layers", [1, 2])
def test_at_ratio_one_the_gradient_is_that_of_reinforce(spoken: Experiment, layers: int) -> None:
    """Trajectory by trajectory: −(R − b)·∇(log π_high + Σ log π_low), with merged weights.

    The sample is every assignment, as often as the router chooses it. Within a query the high
    level's baseline is one for all; the low level's comes from trajectories without the call.
    """
    tree = rewarded(spoken)
    trainer = trainer_at_ratio_one(tree, adapted_layers=layers)
    trainer.climb(torch.arange(len(tree.queries)))
    found = gradients(trainer)
    trainer.optimizer.zero_grad()
    loss = reinforce_loss(trainer, tree, layers)
    loss.backward()
    wanted = gradients(trainer)
    assert found.keys() == wanted.keys()
    assert {name.split(".")[0] for name in found} == {"actor", "embedding", "low"}
    for name, value in wanted.items():
        scale = float(value.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(found[name], value, atol=2e-4 * scale, rtol=2e-3, msg=name)


def reinforce_loss(trainer: Joint, tree: CallTree, layers: int) -> torch.Tensor:
    """The mean over trees of −Σ_M p_M·(R_M − b)·log π(M), one trajectory after the other."""
    policy, reward_M = trainer.policy, tree.reward_M(ALPHA)
    chance_M = leaf_probs(tree, policy.probs(tree.states))
    baseline_U = baselines(tree, tree.calls, reward_M)
    logprob_NA = policy.logits(tree.states).double().log_softmax(dim=1)
    tree_M = tree_of_leaf(tree)
    loss = torch.zeros((), dtype=torch.float64)
    for leaf in tree.leaf_NA[tree.leaf_NA != NONE].tolist():
        weight = float(chance_M[leaf]) / len(tree)
        common = float(reward_M[tree.query_T[tree_M] == tree.query_T[tree_M[leaf]]].mean())
        high = log_choices(tree, logprob_NA, leaf)
        loss = loss - weight * (float(reward_M[leaf]) - common) * high
        for pair in (tree.calls.leaf_E == leaf).nonzero()[:, 0]:
            call = int(tree.calls.call_E[pair])
            low = log_said(trainer, tree, call, layers)
            loss = loss - weight * float(reward_M[leaf] - baseline_U[call]) * low
    return loss


def log_choices(tree: Tree, logprob_NA: torch.Tensor, leaf: int) -> torch.Tensor:
    """log π of the decisions on the way to a leaf, found by walking back."""
    state, action = (tree.leaf_NA == leaf).nonzero()[0].tolist()
    total = logprob_NA[state, action]
    while len(came := (tree.child_NA == state).nonzero()):
        state, action = came[0].tolist()
        total = total + logprob_NA[state, action]
    return total


def log_said(trainer: Joint, tree: CallTree, call: int, layers: int) -> torch.Tensor:
    """Σ log π of a call by itself, its weights merged by a functional call."""
    calls, cache = tree.calls, trainer.cache
    arm = int(calls.arm_U[call])
    low = trainer.policy.delta(arm, cache.features_QD[calls.query_U[call]][None])
    checkpoint = trainer.checkpoints.by_arm[arm]
    weights = dict(checkpoint.model.named_parameters())
    for layer in range(len(checkpoint.layers))[-layers:]:
        name = f"model.layers.{layer}.self_attn.o_proj.weight"
        weights[name] = weights[name] + low.scale * low.a_BOR[0] @ low.b_BRI[0]

    def forward(**inputs: Any) -> Any:
        return torch.func.functional_call(checkpoint.model, weights, kwargs=inputs)

    return slow_logprob(forward, cache.scorer.tokens[call])


def test_without_delta_nothing_is_reweighted(spoken: Experiment) -> None:
    tree = rewarded(spoken)
    trainer = Joint(tree, alpha=ALPHA, seed=0)
    found = trainer.validate(tree)
    assert found.pop("covered") == pytest.approx(1.0)
    assert found == pytest.approx(greedy_metrics(trainer.policy, tree, ALPHA), abs=1e-6)


def test_a_step_raises_the_expected_reward_and_uses_up_the_cache(spoken: Experiment) -> None:
    trainer = Joint(rewarded(spoken), JointSettings(min_ess=0.9), alpha=ALPHA, seed=0)
    lines = [trainer.step() for _ in range(40)]
    moving = [line for line in lines if "ess" in line]
    assert moving[0]["train_reward"] < moving[-1]["train_reward"]
    assert moving[0]["ess"] > 0.9 > moving[-1]["ess"]
    assert lines[-1] == {"halted": 1.0} and moving[-1]["halted"] == 1.0
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    trainer.step()
    assert all(torch.equal(before[k], v) for k, v in trainer.policy.state_dict().items())


@pytest.mark.parametrize("failure", [0.0, -1.0])
def test_value_cost_and_effective_share_follow_from_the_same_weights(
    spoken: Experiment, failure: float
) -> None:
    """Leaf by leaf: R as often as ΔW makes it likelier, the rest a failure at the usual cost."""
    tree = rewarded(spoken)
    trainer = Joint(tree, JointSettings(failure=failure), alpha=ALPHA, seed=0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        trainer.step()
    log_ratio_U = 2 * torch.randn(len(tree.calls), generator=generator, dtype=torch.float64)
    trainer.log_ratio_U = log_ratio_U.clone()
    chance_M = leaf_probs(tree, trainer.policy.probs(tree.states))
    weights, values = [], []
    for leaf in range(len(tree.quality_M)):
        own = tree.calls.call_E[tree.calls.leaf_E == leaf]
        weight = min(TRUST, math.exp(float(log_ratio_U[own].sum())))
        like = (tree.path_ML == tree.path_ML[leaf]).all(dim=1)
        lacking = failure - ALPHA * float(tree.cost_M[like].mean())
        reward = float(tree.quality_M[leaf]) - ALPHA * float(tree.cost_M[leaf])
        weights.append(weight)
        values.append(weight * reward + (1 - weight) * lacking)
    found_M = trainer._weights(trainer.cache, log_ratio_U)
    assert found_M.tolist() == pytest.approx(weights) and TRUST in weights
    assert trainer._value(found_M).tolist() == pytest.approx(values)
    chances = chance_M.tolist()
    first = sum(p * w for p, w in zip(chances, weights, strict=True))
    second = sum(p * w * w for p, w in zip(chances, weights, strict=True))
    wanted = first**2 / (sum(chances) * second)
    assert effective_share(found_M, chance_M) == pytest.approx(wanted)


def test_a_step_reports_the_share_and_value_of_its_weights(spoken: Experiment) -> None:
    """The metrics of a pass are of the ratios that it scored, not of calls one by one."""
    tree = rewarded(spoken)
    trainer = Joint(tree, JointSettings(lr_low=1e-2, min_ess=0), alpha=ALPHA, seed=0)
    metrics = [trainer.step() for _ in range(3)][-1]
    probs_NA = trainer.policy.probs(tree.states)
    chance_M = leaf_probs(tree, probs_NA)
    weight_M = leaf_sums(tree.calls, trainer.log_ratio_U, tree).exp().clamp(max=TRUST)
    assert metrics["ess"] < 0.99
    assert metrics["ess"] == pytest.approx(effective_share(weight_M, chance_M))
    wanted = chance_M @ trainer._value(weight_M) / len(tree)
    assert metrics["train_reward"] == pytest.approx(float(wanted))


def test_validation_reweights_cost_like_quality(spoken: Experiment) -> None:
    tree = rewarded(spoken)
    tree = replace(tree, cost_M=1 - tree.quality_M**2)
    trainer = Joint(tree, JointSettings(lr_low=1e-2, min_ess=0), alpha=ALPHA, seed=0)
    for _ in range(3):
        trainer.step()
    found = trainer.validate(tree)
    behaviour_U = trainer.cache.scorer.behaviour_U
    qualities, costs, covered = [], [], []
    for leaf in greedy_leaves(trainer.policy, tree).tolist():
        own = tree.calls.call_E[tree.calls.leaf_E == leaf]
        ratio = sum(
            float(log_said(trainer, tree, call, 1).detach() - behaviour_U[call])
            for call in own.tolist()
        )
        weight = min(TRUST, math.exp(ratio))
        like = (tree.path_ML == tree.path_ML[leaf]).all(dim=1)
        usual = float(tree.cost_M[like].mean())
        qualities.append(weight * float(tree.quality_M[leaf]))
        costs.append(weight * float(tree.cost_M[leaf]) + (1 - weight) * usual)
        covered.append(weight)
    mean = {name: sum(some) / len(some) for name, some in
            {"quality": qualities, "cost": costs, "covered": covered}.items()}  # fmt: skip
    assert abs(mean["cost"] - float(tree.cost_M[greedy_leaves(trainer.policy, tree)].mean())) > 1e-3
    mean["reward"] = mean["quality"] - ALPHA * mean["cost"]
    assert {name: found[name] for name in mean} == pytest.approx(mean, rel=1e-4)


def test_failure_is_what_a_trajectory_without_quality_is_worth(spoken: Experiment) -> None:
    tree = rewarded(spoken)
    tree = replace(tree, quality_M=torch.where(tree.quality_M > 0.5, tree.quality_M, 0.0))
    trainer = Joint(tree, JointSettings(failure=-1.0), alpha=ALPHA, seed=0)
    plain_M = tree.reward_M(ALPHA)
    assert torch.equal(trainer.reward_M, torch.where(tree.quality_M > 0, plain_M, plain_M - 1))


def test_a_killed_run_goes_on_to_the_same_bits(spoken: Experiment, tmp_path: Path) -> None:
    tree, valid = rewarded(spoken), rewarded(spoken, "valid")
    how: dict[str, Any] = {"iterations": 4, "evaluate_every": 2, "patience": 0}

    def run(on_metrics: Any = lambda metrics: None, **options: Any) -> Any:
        trainer = Joint(tree, JointSettings(cosine_steps=4), alpha=ALPHA, seed=3)
        fitted = fit(trainer, valid, on_metrics=on_metrics, **how, **options)
        return fitted.policy.state_dict(), trainer.state()

    def kill(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 3:
            raise KeyboardInterrupt

    whole = run()
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(kill, checkpoint=checkpoint, resume=True)
    again = run(checkpoint=checkpoint, resume=True)
    for one, two in zip(whole, again, strict=True):
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_policy_is_saved_whole_and_goes_on(spoken: Experiment, tmp_path: Path) -> None:
    tree = rewarded(spoken)
    trainer = Joint(tree, JointSettings(rank=3, lora_scale=0.5), alpha=ALPHA, seed=0)
    trainer.step()
    trainer.policy.save(tmp_path)
    policy = load_policy(tmp_path)
    assert isinstance(policy, JointPolicy)
    features_QD = trainer.cache.features_QD
    one, two = trainer.policy.delta(1, features_QD), policy.delta(1, features_QD)
    assert torch.equal(one.a_BOR, two.a_BOR) and torch.equal(one.b_BRI, two.b_BRI)
    assert one.scale == two.scale == 0.5 and one.a_BOR.shape[2] == 3
    assert torch.equal(policy.probs(tree.states), trainer.policy.probs(tree.states))
    again = Joint(tree, alpha=ALPHA, seed=1, init=policy)
    assert torch.equal(again.policy.delta(1, features_QD).a_BOR, one.a_BOR)
    plain = replace(tree, speakers=(None, None))
    with pytest.raises(RunError, match="made for other checkpoints"):
        Joint(plain, alpha=ALPHA, seed=1, init=policy)


def test_a_router_from_sft_is_taken_as_the_high_level(spoken: Experiment) -> None:
    tree = rewarded(spoken)
    high = MLPPolicy.for_tree(tree, seed=5)
    trainer = Joint(tree, alpha=ALPHA, seed=0, init=high)
    assert torch.equal(trainer.policy.probs(tree.states), high.probs(tree.states))


def test_without_turns_it_is_the_exact_policy_gradient() -> None:
    tree = synthetic_forest(16, seed=1, features=16, hops=2)
    trainer = Joint(tree, JointSettings(batch_queries=16), alpha=0.0, seed=0)
    trainer.climb(torch.arange(16))
    found = gradients(trainer)
    trainer.optimizer.zero_grad()
    logprob_NA = trainer.policy.logits(tree.states).double().log_softmax(dim=1)
    leaves = tree.leaf_NA[tree.leaf_NA != NONE].tolist()
    chances = [log_choices(tree, logprob_NA, leaf).exp() for leaf in leaves]
    expected = torch.stack(chances) @ tree.quality_M[leaves] / len(tree)
    (-expected).backward()
    for name, value in gradients(trainer).items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_it_learns_from_the_cache_what_helps_live(tmp_path: Path) -> None:
    """The two-role demo in small: better live on test than the best assignment without ΔW."""
    sets = [
        "data.roles.sources.valid.limit=24",
        "data.roles.sources.test.limit=160",
        "sampling.replicas=4",
        "train.iterations=14",
        "train.patience=14",
    ]
    experiment = Experiment.load(ROLES / "experiment.yaml", sets, tmp_path / "roles.duckdb")
    Sampler(experiment, serve).run()
    run = train(experiment, folder=tmp_path)
    Sampler(with_changes(experiment, run), splits=["test"]).run()
    report = evaluate_runs(experiment, [run])
    (changed,) = (row for row in report.groups[0].rows if row.name == "joint with ΔW")
    assert changed.difference.low > 0
    assert changed.quality.estimate > changed.reward.estimate > 0
