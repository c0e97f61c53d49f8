"""Transitions as a Minari data set: what is read back is what the tree holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from helpers.forest import random_forest

import hcache.envs.minari as module
from hcache.envs.gym import RoutingEnv
from hcache.envs.mdp import RoutingMDP
from hcache.envs.minari import export_minari
from hcache.envs.transitions import transitions
from hcache.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Minari's own for each test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_a_data_set_loads_back_equal() -> None:
    tree = random_forest(5, replicas=2).tree
    mdp = RoutingMDP(tree, 0.1)
    export_minari(mdp, "hcache/routing-v0")
    dataset = minari.load_dataset("hcache/routing-v0")
    played = transitions(mdp)
    env = RoutingEnv(tree, 0.1)
    assert dataset.total_steps == len(played)
    assert dataset.observation_space == env.observation_space
    assert dataset.action_space == env.action_space
    leaves = played.leaf_B.unique().tolist()
    metadata = dataset.storage.get_episode_metadata(range(len(leaves)))
    for leaf, episode, told in zip(leaves, dataset.iterate_episodes(), metadata, strict=True):
        own = played.leaf_B == leaf
        observations = [*played.observation_BW[own].numpy(), np.zeros(env.observation_space.shape)]
        assert np.array_equal(episode.observations, observations)
        assert np.array_equal(episode.actions, played.action_B[own])
        assert np.array_equal(episode.rewards, played.reward_B[own])
        assert episode.rewards.dtype == np.float64
        assert np.array_equal(episode.terminations, played.terminal_B[own])
        assert not episode.truncations.any()
        assert np.array_equal(episode.infos["action_mask"][:-1], played.mask_BA[own])
        assert (told["quality"], told["cost"]) == (tree.quality_M[leaf], tree.cost_M[leaf])
        replayed(env, episode, told)


def replayed(env: RoutingEnv, episode: Any, told: dict[str, Any]) -> None:
    """An environment that is reset as the episode says plays the same."""
    seen, info = env.reset(options=told["options"])
    for step, action in enumerate(episode.actions):
        assert np.array_equal(seen, episode.observations[step])
        seen, reward, over, _, info = env.step(action)
        assert (reward, over) == (episode.rewards[step], episode.terminations[step])
    assert info["query"] == told["query"] and info["quality"] == told["quality"]


@pytest.mark.parametrize("name", ["routing", "../routing-v0", "a b-v0", ""])
def test_names_that_minari_does_not_take_are_refused(home: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="Write name-v0"):
        export_minari(RoutingMDP(random_forest(1).tree, 0.1), name)
    assert [*home.iterdir()] == []


def test_a_data_set_is_not_written_over() -> None:
    mdp = RoutingMDP(random_forest(1).tree, 0.1)
    export_minari(mdp, "routing-v0")
    with pytest.raises(ConfigError, match="minari delete routing-v0"):
        export_minari(mdp, "routing-v0")


def test_a_data_set_is_whole_or_absent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_metadata", fail)
    with pytest.raises(KeyboardInterrupt):
        export_minari(RoutingMDP(random_forest(1).tree, 0.1), "routing-v0")
    assert [*home.iterdir()] == []
