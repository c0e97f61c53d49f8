"""The TorchRL environment: its checks pass, and its steps are the tree's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.forest import random_forest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.envs import ActionMask, TransformedEnv
from torchrl.envs.utils import check_env_specs

from hcache.envs.mdp import RoutingMDP
from hcache.envs.torchrl import TorchRLRoutingEnv
from hcache.replay.tree import NONE

quick = settings(max_examples=30, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_the_check_of_torchrl_passes(seed: int) -> None:
    env = TorchRLRoutingEnv(random_forest(seed).tree, 0.1, num_envs=5)
    check_env_specs(env, seed=0)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(TransformedEnv(env, ActionMask()), break_when_any_done="both")


@quick
@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans(), st.integers(0, 100), st.booleans())
def test_steps_and_resets_are_those_of_the_tree(
    seed: int, count: int, ragged: bool, play: int, masked: bool
) -> None:
    """Episodes in play go on where others are reset; each is followed by hand."""
    tree = random_forest(seed, ragged=ragged).tree
    mdp = RoutingMDP(tree, 0.1)
    env: Any = TorchRLRoutingEnv(tree, 0.1, num_envs=count, seed=play)
    env = TransformedEnv(env, ActionMask()) if masked else env
    torch.manual_seed(play)
    played = env.rollout(8, break_when_any_done=False)
    row_of = {tuple(row): at for at, row in enumerate(mdp.observation_NW.tolist())}
    for steps in played.unbind(0):
        before_over = True
        expected = NONE
        for step in steps.unbind(0):
            state = row_of[tuple(step["observation"].tolist())]
            assert state in tree.root_T if before_over else state == expected
            assert step["action_mask"].tolist() == tree.valid_NA[state].tolist()
            action, after = int(step["action"]), step["next"]
            assert tree.valid_NA[state, action] or not masked
            leaf, child = int(tree.leaf_NA[state, action]), int(tree.child_NA[state, action])
            reward = float(tree.reward_M(0.1)[leaf]) if leaf >= 0 else 0.0 if child >= 0 else -1.0
            assert float(after["reward"]) == pytest.approx(reward, abs=1e-5)
            assert after["done"] == after["terminated"] == (child < 0)
            assert int(after["leaf"]) == leaf
            expected, before_over = child, child < 0
            seen = mdp.observation_NW[child if child >= 0 else mdp.end]
            assert after["observation"].tolist() == seen.tolist()


def test_seeds_choose_the_trees() -> None:
    tree = random_forest(1, queries=50).tree
    env = TorchRLRoutingEnv(tree, 0.1, num_envs=20)
    drawn = []
    for seed in (1, 1, 2):
        env.set_seed(seed)
        drawn.append(env.reset()["observation"])
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
