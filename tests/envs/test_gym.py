"""Gymnasium environments: the checkers pass, one and many play alike, and as the tree says."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from helpers.forest import Leaf, Node, random_forest, small_forests
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import hcache.envs
from hcache.envs.gym import RoutingEnv, RoutingVectorEnv
from hcache.envs.mdp import RoutingMDP
from hcache.errors import ConfigError, DataError
from hcache.replay.tree import Tree

ID = "hcache/Routing-v0"
quick = settings(max_examples=30, deadline=None)
forests = small_forests(seeds=10_000, hops=3)


def single(tree: Tree, **values: Any) -> RoutingEnv:
    env = gymnasium.make(ID, tree=tree, alpha=0.1, **values).unwrapped
    assert isinstance(env, RoutingEnv)
    return env


def many(tree: Tree, count: int, **values: Any) -> RoutingVectorEnv:
    envs = gymnasium.make_vec(ID, num_envs=count, tree=tree, alpha=0.1, **values)
    assert isinstance(envs, RoutingVectorEnv)
    return envs


@pytest.mark.parametrize("seed", range(4))
def test_the_checkers_of_gymnasium_and_sb3_pass(seed: int) -> None:
    env = single(random_forest(seed).tree)
    check_env(env)
    check_env_of_sb3(env)


@quick
@given(forests, st.randoms(use_true_random=False))
def test_an_episode_is_a_walk_down_the_nested_tree(forest: Any, rng: Any) -> None:
    tree: Tree = forest.tree
    env = single(tree)
    for index, root in enumerate(forest.roots):
        place: Node | Leaf = root
        _, info = env.reset(options={"tree": index})
        while isinstance(place, Node):
            mask = [action in place.actions for action in range(tree.actions)]
            assert info["action_mask"].tolist() == mask == env.action_masks().tolist()
            assert info["tree"] == index
            action = rng.choice(sorted(place.actions))
            place = place.actions[action]
            seen, reward, terminated, truncated, info = env.step(np.int64(action))
            assert seen in env.observation_space
            assert terminated == isinstance(place, Leaf) and not truncated
            if isinstance(place, Node):
                hop = [float(place.hop == h) for h in range(tree.hops)]
                cost = place.cost / float(tree.cost_M.mean())
                assert seen.tolist() == pytest.approx([*place.features, *hop, cost], abs=1e-6)
                assert reward == 0.0 and info.keys() == {"action_mask", "tree"}
        assert not seen.any()
        assert reward == pytest.approx(place.quality - 0.1 * place.cost, abs=1e-12)
        assert (info["quality"], info["cost"]) == (place.quality, place.cost)
        assert info["path"] == tuple(tree.arms[arm] for arm in place.path)
        assert info["query"] == tree.queries[int(tree.query_T[index])]
        assert info["invalid_action"] is False


def told(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """The infos of one of many environments, by their masks, as a single one tells them."""
    own = {key: value for key, value in infos.items() if not key.startswith("_")}
    assert all(not np.any(v[~infos[f"_{k}"]]) for k, v in own.items() if k[:6] != "final_")
    return {
        key: told(value, row) if isinstance(value, dict) else value[row]
        for key, value in own.items()
        if infos[f"_{key}"][row]
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


@quick
@given(forests, st.integers(1, 5), st.integers(0, 1000), st.sampled_from([0.0, 0.2]))
def test_many_equal_single_ones_step_by_step(
    forest: Any, count: int, seed: int, careless: float
) -> None:
    """Actions are random valid ones, now and then any; single ones restart where many did."""
    rng = np.random.default_rng(seed)
    envs, ones = many(forest.tree, count), [single(forest.tree) for _ in range(count)]
    observations, infos = envs.reset(seed=seed)
    for row, env in enumerate(ones):
        seen, info = env.reset(options={"tree": int(infos["tree"][row])})
        assert np.array_equal(seen, observations[row]) and same(info, told(infos, row))
    for _ in range(8):
        scores = rng.random(envs.action_masks().shape) * (
            envs.action_masks() | (rng.random((count, 1)) < careless)
        )
        actions = scores.argmax(axis=1)
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        for row, env in enumerate(ones):
            seen, reward, terminated, truncated, info = env.step(actions[row])
            own = told(infos, row)
            assert (reward, terminated, truncated) == (
                rewards[row], terminations[row], truncations[row],
            )  # fmt: skip
            if terminated:
                assert np.array_equal(own.pop("final_obs"), seen)
                assert same(own.pop("final_info"), info)
                seen, info = env.reset(options={"tree": int(own["tree"])})
            assert np.array_equal(seen, observations[row]) and same(info, own)


def test_infos_of_many_have_the_form_of_gymnasiums_own() -> None:
    """Keys, masks, types and shapes are those of SyncVectorEnv in the same mode."""
    tree = random_forest(3, queries=1).tree
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    theirs = gymnasium.make_vec(
        ID, num_envs=3, tree=tree, alpha=0.1, vectorization_mode="sync", vector_kwargs=mode
    )
    ours = many(tree, 3)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (ours.observation_space, ours.action_space) == (
        theirs.observation_space, theirs.action_space,
    )  # fmt: skip
    pairs: list[Any] = [(ours.reset(seed=0), theirs.reset(seed=0))]
    for _ in range(6):
        actions = ours.action_masks().argmax(axis=1)
        pairs.append((ours.step(actions), theirs.step(actions)))
    assert any("final_info" in mine[-1] for mine, _ in pairs)
    for mine, other in pairs:
        assert [form(x) for x in mine] == [form(x) for x in other]


def form(value: Any) -> Any:
    """Keys, types, shapes and contents of what a vector environment gives."""
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    parts = [None if part is None else np.asarray(part).tolist() for part in value]
    return value.dtype, value.shape, parts


def test_what_was_given_stays() -> None:
    """What a step returned is not changed by later steps."""
    envs = many(random_forest(0).tree, 4)
    observations, infos = envs.reset(seed=0)
    kept = observations.copy(), infos["tree"].copy(), infos["action_mask"].copy()
    for _ in range(4):
        envs.step(envs.action_masks().argmax(axis=1))
    assert np.array_equal(kept[0], observations)
    assert np.array_equal(kept[1], infos["tree"])
    assert np.array_equal(kept[2], infos["action_mask"])


@pytest.mark.parametrize("reward", [-1.0, -7.5])
def test_an_invalid_action_ends_the_episode(reward: float) -> None:
    tree = random_forest(1, ragged=False).tree
    env = single(tree, invalid_reward=reward)
    env.reset(seed=0)
    seen, got, terminated, truncated, info = env.step(np.int64(tree.stop))
    assert (got, terminated, truncated, info["invalid_action"]) == (reward, True, False, True)
    assert not seen.any() and "quality" not in info and info["query"] in tree.queries


def test_seeds_and_options_choose_the_trees() -> None:
    tree = random_forest(1, queries=50).tree
    envs = many(tree, 20)
    drawn = [envs.reset(seed=seed)[1]["tree"].tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert envs.reset(options={"tree": range(20)})[1]["tree"].tolist() == [*range(20)]
    assert envs.reset(options={"tree": 7})[1]["tree"].tolist() == [7] * 20


@pytest.mark.parametrize("chosen", [-1, 3, [0, 1], [0, 1, 3]])
def test_trees_that_are_not_there_are_refused(chosen: Any) -> None:
    with pytest.raises(ConfigError, match="Give numbers from 0 to 2"):
        many(random_forest(1).tree, 3).reset(options={"tree": chosen})


@pytest.mark.parametrize("action", [-1, 3])
def test_actions_that_are_not_there_are_refused(action: int) -> None:
    env = single(random_forest(1).tree)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="Give numbers from 0 to 2, the last one for STOP"):
        env.step(np.int64(action))


def test_observations_of_another_split_are_like_those_of_training() -> None:
    train, test = random_forest(1, hops=3).tree, random_forest(2, hops=2, ragged=False).tree
    env = single(test, like=train)
    assert env.observation_space == single(train).observation_space
    seen = env.mdp.observation_NW[:-1]
    assert seen[:, 4:7].argmax(dim=1).equal(test.hop_N)
    assert seen[:, 7].double() == pytest.approx(test.cost_N / train.cost_M.mean(), abs=1e-6)


@pytest.mark.parametrize("other", [{"arms": 3}, {"features": 5}, {"hops": 2, "ragged": False}])
def test_a_tree_that_cannot_be_like_another_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="Load both with the same experiment"):
        RoutingMDP(random_forest(1, ragged=False).tree, 0.1, like=random_forest(2, **other).tree)


def test_importing_it_registers_it() -> None:
    assert hcache.envs.__doc__ and ID in gymnasium.registry
