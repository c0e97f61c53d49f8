"""Every registered policy through the same paces, and what is particular to each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.forest import random_forest
from helpers.policies import SequencePolicy

from hcache.artefacts import write_object
from hcache.errors import ConfigError, RunError
from hcache.joint.policy import JointPolicy
from hcache.policies import POLICIES, Policy, load_policy, write_policy
from hcache.policies.cascade import CascadePolicy
from hcache.policies.ensemble import EnsemblePolicy
from hcache.policies.factorisation import FactorisationPolicy
from hcache.policies.inputs import ROWS, text_scale
from hcache.policies.mlp import MASKED, MLPPolicy, MLPSettings
from hcache.policies.rollout import greedy_leaves
from hcache.replay.static import common_paths
from hcache.replay.tree import Tree

FOREST = random_forest(5, queries=6, arms=3)

NAMES = sorted(
    name
    for name, cls in POLICIES.items()
    if name in ("random", "sequence") or issubclass(cls, MLPPolicy)
)
"""Policies that can be made from a tree alone; the others are tested with their trainers."""


def example(name: str, tree: Tree) -> Policy:
    """A policy of a registered class; one that learns has `for_tree`, one that does not, arms."""
    cls = POLICIES[name]
    if hasattr(cls, "for_tree"):
        return cls.for_tree(tree, seed=3)  # type: ignore[no-any-return]
    extra = {"sequence": ([1, 0],)}.get(name, ())
    return cls(tree.arms, *extra)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_gives_probabilities_and_survives_saving(name: str, tmp_path: Path) -> None:
    tree = FOREST.tree
    policy = example(name, tree)
    probs_NA = policy.probs(tree.states)
    assert probs_NA.shape == tree.valid_NA.shape
    assert bool((probs_NA[~tree.valid_NA] == 0).all())
    assert bool((probs_NA >= 0).all())
    assert torch.allclose(probs_NA.sum(dim=1).double(), torch.ones(len(probs_NA)).double())
    policy.save(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert type(again) is type(policy)
    assert again.arms == policy.arms
    assert torch.equal(again.probs(tree.states), probs_NA)
    assert torch.equal(greedy_leaves(again, tree), greedy_leaves(policy, tree))
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "policy.json",
        "policy.safetensors",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_without_stop_no_policy_stops(name: str) -> None:
    tree = random_forest(2, arms=3, ragged=False).tree.without_stop()
    policy = example(name, tree)
    assert bool((policy.probs(tree.states)[:, tree.stop] == 0).all())
    leaf_T = greedy_leaves(policy, tree)
    assert bool((tree.path_ML[leaf_T] >= 0).all())


def test_a_sequence_is_followed_and_then_stopped() -> None:
    tree = random_forest(2, arms=3, hops=3, ragged=False).tree
    leaf_T = greedy_leaves(SequencePolicy(tree.arms, (2, 1)), tree)
    assert tree.path_ML[leaf_T].tolist() == [[2, 1, -1]] * len(tree)


def test_a_sequence_falls_back_to_chance_where_an_action_is_missing() -> None:
    tree = random_forest(2, arms=3, ragged=False).tree
    states = tree.without_stop().states[tree.levels[1].start + torch.arange(2)]
    assert SequencePolicy(tree.arms, (0,)).probs(states).tolist() == [[1 / 3] * 3 + [0.0]] * 2


@pytest.mark.parametrize("path", [[], [3], [-1]])
def test_an_impossible_sequence_is_refused(path: list[int]) -> None:
    with pytest.raises(ConfigError, match="no sequence"):
        SequencePolicy(("a", "b", "c"), path)


def test_mlp_is_the_same_for_the_same_seed_only() -> None:
    tree = FOREST.tree
    one, two, three = (MLPPolicy.for_tree(tree, seed=s).probs(tree.states) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_mlp_logits_and_values() -> None:
    tree = FOREST.tree
    policy = MLPPolicy.for_tree(tree, MLPSettings(hidden=8, layers=1, embedding=2), seed=0)
    logits_NA, values_N = policy.logits_and_values(tree.states)
    assert torch.equal(logits_NA, policy.logits(tree.states))
    assert torch.equal(values_N, policy.values(tree.states))
    assert bool((logits_NA[~tree.valid_NA] == MASKED).all())
    assert torch.allclose(logits_NA.softmax(dim=1).double(), policy.probs(tree.states), atol=1e-6)


def test_mlp_scales_come_from_the_training_tree() -> None:
    """Both networks equal the plain ones over features that were standardised row by row."""
    tree = FOREST.tree
    policy = MLPPolicy.for_tree(tree, seed=0)
    text_ND = (tree.features_ND - tree.features_ND.mean(dim=0)) / policy.text_scale
    assert text_ND.norm(dim=1).square().mean().sqrt().item() == pytest.approx(8.0, rel=1e-4)
    assert policy.cost_scale.item() == pytest.approx(tree.cost_M.mean().item())
    seen_NI = torch.cat([text_ND, policy.inputs(tree.states).rest_NR], dim=1)
    plain_NA = policy.actor(seen_NI).masked_fill(~tree.valid_NA, MASKED)
    assert torch.allclose(policy.logits(tree.states), plain_NA, rtol=0, atol=1e-6)
    assert torch.allclose(policy.values(tree.states), policy.critic(seen_NI)[:, 0], atol=1e-6)


def test_mlp_refuses_other_features_and_more_hops() -> None:
    policy = MLPPolicy.for_tree(random_forest(1, features=4, hops=2).tree, seed=0)
    with pytest.raises(RunError, match="5 text features"):
        policy.probs(random_forest(1, features=5, hops=2).tree.states)
    with pytest.raises(RunError, match="has 3 hops"):
        policy.probs(random_forest(1, features=4, hops=3, ragged=False).tree.states)


def saved(folder: Path) -> Path:
    MLPPolicy.for_tree(FOREST.tree, seed=0).save(folder)
    return folder


def edit(folder: Path, **changes: object) -> None:
    path = folder / "policy.json"
    write_object(path, {**json.loads(path.read_text()), **changes})


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no policy"):
        load_policy(tmp_path)
    folder = saved(tmp_path / "p")
    edit(folder, name="crystal ball")
    with pytest.raises(RunError, match="unknown class 'crystal ball'"):
        load_policy(folder)
    edit(saved(folder), format=99)
    with pytest.raises(RunError, match="format 99"):
        load_policy(folder)
    edit(saved(folder), name="sequence")
    with pytest.raises(RunError, match="does not fit"):
        load_policy(folder)
    settings = json.loads((saved(folder) / "policy.json").read_text())["settings"]
    for changed in ({"hidden": 3}, {"arms": [*settings["arms"][:-1], 1.5]}):
        edit(folder, settings={**settings, **changed})
        with pytest.raises(RunError, match="does not fit"):
            load_policy(folder)


SAVED: dict[str, Callable[[], Policy]] = {
    "mlp": lambda: MLPPolicy.for_tree(FOREST.tree, seed=0),
    "ensemble": lambda: EnsemblePolicy([MLPPolicy.for_tree(FOREST.tree, seed=n) for n in (0, 1)]),
    "factorisation": lambda: FactorisationPolicy.for_tree(
        FOREST.tree, (tuple(common_paths([FOREST.tree])),), 2, seed=0
    ),
    "cascade": lambda: CascadePolicy(FOREST.tree.arms, 3, 2),
    "joint": lambda: JointPolicy.around(MLPPolicy.for_tree(FOREST.tree, seed=0)),
}


@pytest.mark.parametrize("name", SAVED)
def test_sizes_beyond_what_was_saved_take_no_memory(name: str, tmp_path: Path) -> None:
    SAVED[name]().save(tmp_path)
    settings = json.loads((tmp_path / "policy.json").read_text())["settings"]
    sizes = {key for key, value in settings.items() if type(value) is int}
    assert sizes
    for key in sizes:
        edit(tmp_path, settings={**settings, key: 10**7})
        with pytest.raises(RunError, match=r"size mismatch|Missing key|less than or equal"):
            load_policy(tmp_path)


def test_tensors_of_another_type_are_refused(tmp_path: Path) -> None:
    policy = MLPPolicy.for_tree(FOREST.tree, seed=0)
    exact = {name: tensor.double() for name, tensor in policy.state_dict().items()}
    write_policy(tmp_path, "mlp", policy.shape, exact)
    with pytest.raises(RunError, match="a tensor is of another type"):
        load_policy(tmp_path)


def test_damaged_files_are_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "p")
    (folder / "policy.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        load_policy(folder)
    (folder / "policy.json").write_text("[]")
    with pytest.raises(RunError, match="it is no object"):
        load_policy(folder)
    edit(saved(folder), tensors=None)
    with pytest.raises(RunError, match="does not describe"):
        load_policy(folder)
    tensors = saved(folder) / "policy.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"oops")
    with pytest.raises(RunError, match="is damaged"):
        load_policy(folder)
    tensors.unlink()
    with pytest.raises(RunError, match="is missing"):
        load_policy(folder)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="there twice"):
        POLICIES.register("random")(object)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_scale_of_text_features_is_their_typical_length(dtype: torch.dtype) -> None:
    features_ND = (torch.randn(2 * ROWS + 5, 8) + 1).to(dtype)
    mean_D, scale = text_scale(features_ND, norm=2.0)
    exact_ND = features_ND.double()
    length = (exact_ND - exact_ND.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert mean_D.double().allclose(exact_ND.mean(dim=0), atol=1e-5)
    assert scale == pytest.approx(float(length) / 2)


PEAK = """
import re, sys, torch
from pathlib import Path
from hcache.policies.inputs import text_scale
def peak():  # kB
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
features_ND = torch.ones(100_000, 256, dtype=getattr(torch, sys.argv[1]))
text_scale(features_ND[:10_000], norm=1.0)
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
before = peak()
text_scale(features_ND, norm=1.0)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_scale_of_text_features_is_found_without_a_copy_of_them(dtype: str) -> None:
    command = [sys.executable, "-c", PEAK, dtype]
    grown = int(subprocess.check_output(command, text=True))
    assert grown < 50_000  # kB; a copy in float32 has 100,000
