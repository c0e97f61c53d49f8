"""Gymnasium environments on a tree: one episode at a time, or many at once.

Both are registered as `hcache/Routing-v0`, take what `RoutingMDP` takes, and gather in its tables.

    action       Discrete(A): an arm, or last STOP
    observation  see `hcache.envs.mdp`; the bounds are the same for every tree of that width, so
                 that an agent moves between splits
    reward       R = Q − α·C at the end of an episode, 0 before; `invalid_reward` for an action that
                 the state does not have, which ends the episode
    info         action_mask, int8 [A]; tree, the index of the tree that is played; and at the end
                 query (id), invalid_action (whether that ended it) and, where a leaf was reached,
                 quality, cost and path (names of arms, STOP left out)

A reset draws a tree uniformly, or takes those of `options={"tree": index}`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from hcache.envs.mdp import INVALID_REWARD, RoutingMDP
from hcache.errors import ConfigError
from hcache.replay.tree import NONE, Tree

Array = npt.NDArray[Any]
Info = dict[str, Any]
Told = dict[str, tuple[Array, Array]]  # values [E, …] and a mask [E] of where there is one
MOST = float(np.finfo(np.float32).max)


class RoutingEnv(gymnasium.Env[Array, np.int64]):
    """One question after another, routed by an agent."""

    metadata: ClassVar[Info] = {"render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        tree: Tree,
        alpha: float,
        invalid_reward: float = INVALID_REWARD,
        like: Tree | None = None,
    ) -> None:
        self.mdp = RoutingMDP(tree, alpha, invalid_reward, like)
        self.observation_space, self.action_space = spaces_of(self.mdp)
        self._episode = _Episodes(self.mdp, 1)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Start a tree.

        Raises:
            ConfigError: there is no tree of that index.
        """
        super().reset(seed=seed)
        self._episode.start(self.np_random, options=options)
        return self._episode.observations()[0], _single(self._episode.told())

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, Info]:
        """Play an action; episodes end, they are never truncated."""
        rewards, over, ends = self._episode.play(np.array([action]))
        info = _single(self._episode.told() | ends)
        return self._episode.observations()[0], float(rewards[0]), bool(over[0]), False, info

    def action_masks(self) -> Array:
        """Mask of valid actions, bool [A], as sb3-contrib asks for it."""
        mask: Array = self._episode.masks()[0]
        return mask


class RoutingVectorEnv(VectorEnv[Array, Array, Array]):
    """E questions at once, by gathers; where one ends, another starts in the same step.

    As `SyncVectorEnv` does in the mode SAME_STEP: the observations and infos of a step are those of
    the new episodes, `infos["final_obs"]` and `infos["final_info"]` those of the ends, and every
    key has a mask beside it, `_final_obs` and so on. All episodes draw from one generator.
    """

    metadata: ClassVar[Info] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        tree: Tree,
        alpha: float,
        invalid_reward: float = INVALID_REWARD,
        like: Tree | None = None,
        num_envs: int = 1,
    ) -> None:
        self.mdp = RoutingMDP(tree, alpha, invalid_reward, like)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces_of(self.mdp)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes = _Episodes(self.mdp, num_envs)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Start E trees, those of `options={"tree": indices}` where it is given.

        Raises:
            ConfigError: there is no tree of such an index, or there are not E of them.
        """
        super().reset(seed=seed)
        self._episodes.start(self.np_random, options=options)
        return self._episodes.observations(), _batched(self._episodes.told())

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """Play an action in each; where an episode ends, start another."""
        episodes = self._episodes
        rewards, over, ends = episodes.play(np.asarray(actions))
        infos: Info = {}
        if over.any():
            finals = np.full(self.num_envs, None, dtype=object)
            finals[over] = np.fromiter(episodes.observations(over), dtype=object)
            infos = {"final_obs": finals, "final_info": _batched(episodes.told(over) | ends)}
            infos |= {"_final_obs": over.copy(), "_final_info": over.copy()}
            episodes.start(self.np_random, over)
        infos |= _batched(episodes.told())
        return episodes.observations(), rewards, over, np.zeros_like(over), infos

    def action_masks(self) -> Array:
        """Masks of valid actions, bool [E, A]."""
        return self._episodes.masks()


class _Episodes:
    """E episodes in play: the tree and the state of each. All is NumPy's, in main memory."""

    def __init__(self, mdp: RoutingMDP, count: int) -> None:
        self.all = np.ones(count, dtype=bool)
        self.tree_E = np.zeros(count, dtype=np.int64)
        self.state_E = np.full(count, mdp.end)
        self.end, self.actions = mdp.end, mdp.tree.actions
        self.root_T = mdp.tree.root_T.numpy(force=True)
        self.observation_NW = mdp.observation_NW.numpy(force=True)
        self.valid_NA = mdp.valid_NA.numpy(force=True)
        self.next_NA = mdp.next_NA.numpy(force=True)
        self.leaf_NA = mdp.leaf_NA.numpy(force=True)
        self.reward_NA = mdp.reward_NA.numpy(force=True)
        self.quality_M = mdp.tree.quality_M.numpy(force=True)
        self.cost_M = mdp.tree.cost_M.numpy(force=True)
        self.query_T = mdp.tree.query_T.numpy(force=True)
        self.queries = np.fromiter(mdp.tree.queries, dtype=object)
        index_M, paths = mdp.paths
        self.index_M, self.paths = index_M.numpy(force=True), np.fromiter(paths, dtype=object)

    def start(
        self,
        generator: np.random.Generator,
        where: Array | None = None,
        options: Info | None = None,
    ) -> None:
        """Begin at the roots of trees, random ones or those of the options, everywhere or there."""
        where = self.all if where is None else where
        count, trees = int(where.sum()), len(self.root_T)
        options = options or {}
        if "tree" in options:
            chosen = _checked(options["tree"], count, trees)
        else:
            chosen = generator.integers(trees, size=count)
        self.tree_E[where] = chosen
        self.state_E[where] = self.root_T[chosen]

    def play(self, actions: Array) -> tuple[Array, Array, Told]:
        """Rewards, which episodes are over, and what is to be told of those; as `RoutingMDP.step`.

        Raises:
            ConfigError: an action is not of the action space, whatever the mask.
        """
        if actions.min() < 0 or actions.max() >= self.actions:
            raise ConfigError(
                f"there are no actions {np.unique(actions).tolist()}.",
                f"Give numbers from 0 to {self.actions - 1}, the last one for STOP.",
            )
        at = self.state_E, actions
        leaf_E, reward_E, self.state_E = self.leaf_NA[at], self.reward_NA[at], self.next_NA[at]
        over = self.state_E == self.end
        return reward_E, over, self._ends(leaf_E, over) if over.any() else {}

    def _ends(self, leaf_E: Array, over: Array) -> Told:
        reached = leaf_E != NONE
        return {
            "query": (self.queries[self.query_T[self.tree_E]], over),
            "invalid_action": (over & ~reached, over),
            "quality": (self.quality_M[leaf_E], reached),
            "cost": (self.cost_M[leaf_E], reached),
            "path": (self.paths[self.index_M[leaf_E]], reached),
        }

    def observations(self, where: Array | None = None) -> Array:
        """Observations everywhere or there, float32 [E or fewer, W]."""
        seen: Array = self.observation_NW[self.state_E if where is None else self.state_E[where]]
        return seen

    def masks(self) -> Array:
        """Masks of valid actions, bool [E, A]."""
        mask_EA: Array = self.valid_NA[self.state_E]
        return mask_EA

    def told(self, where: Array | None = None) -> Told:
        """Information on every step, everywhere or there."""
        where = self.all if where is None else where
        return {"action_mask": (self.masks().astype(np.int8), where), "tree": (self.tree_E, where)}


def spaces_of(mdp: RoutingMDP) -> tuple[spaces.Box, spaces.Discrete]:
    """Spaces of one episode. Text features and cost have no bounds but those of float32."""
    width, features = mdp.observation_NW.shape[1], mdp.tree.features_ND.shape[1]
    low, high = np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32)
    low[:features], high[:features], high[-1] = -MOST, MOST, MOST
    return spaces.Box(low, high), spaces.Discrete(mdp.tree.actions)


def _checked(chosen: Any, count: int, trees: int) -> Array:
    """Indices of trees [count]; one number stands for all."""
    index = np.asarray(chosen, dtype=np.int64)
    if index.shape not in ((), (count,)) or ((index < 0) | (index >= trees)).any():
        raise ConfigError(
            f'options["tree"] is {chosen!r}, which is not an index of a tree for each of {count}.',
            f"Give numbers from 0 to {trees - 1}.",
        )
    return np.broadcast_to(index, (count,))


def _single(told: Told) -> Info:
    """Info of a single environment."""
    values = {key: values[0] for key, (values, where) in told.items() if where[0]}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _batched(told: Told) -> Info:
    """Infos of a vector environment: blank where there is none, with a mask beside each key."""
    infos: Info = {}
    for key, (values, where) in told.items():
        infos[key] = np.full_like(values, None if values.dtype == object else 0)
        infos[key][where] = values[where]
        infos[f"_{key}"] = where.copy()
    return infos
