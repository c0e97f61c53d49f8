"""Environment steps, beside the vector environments of other libraries.

They all step hcache's single environment, since there is no other that replays a tree. Each of
those holds a table of all observations, so the forest is small. Actions are drawn from the mask in
the same way everywhere, but for TorchRL's own environments, which draw them as they do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torchrl.envs import ActionMask, GymWrapper, ParallelEnv, SerialEnv, TransformedEnv

from benchmarks.learning.forest import forest
from benchmarks.learning.learner import ALPHA
from hcache.envs.gym import Array, RoutingEnv, RoutingVectorEnv
from hcache.envs.torchrl import TorchRLRoutingEnv
from hcache.replay.tree import Tree

from .contest import Action, Figures, contest

QUESTIONS = 200
ENVIRONMENTS = 64
MANY = 1024
WORKERS = 4  # processes; more only wait for each other
STEPS = 20  # a call

Transitions = dict[int, list[tuple[int, int]]]  # state -> (child, leaf) of each valid action


def rows(rounds: int, work: Path) -> list[Figures]:
    """Steps per second of all."""
    tree = forest(QUESTIONS, seed=0)
    with contestants(tree) as actions:
        return contest("environments", "steps/s", actions, rounds)


@contextmanager
def contestants(tree: Tree) -> Iterator[dict[str, Action]]:
    """Players of some steps, by name; workers end with the block."""
    one = partial(RoutingEnv, tree, ALPHA)
    with (
        closing(SubprocVecEnv([one] * WORKERS)) as subproc,
        closing(ParallelEnv(WORKERS, partial(wrapped, one))) as parallel,
        closing(SerialEnv(ENVIRONMENTS, partial(wrapped, one))) as serial,
    ):
        sync = SyncVectorEnv([one] * ENVIRONMENTS)
        yield {
            f"RoutingVectorEnv, {MANY:,}": vectorised(RoutingVectorEnv(tree, ALPHA, num_envs=MANY)),
            f"RoutingVectorEnv, {ENVIRONMENTS}": vectorised(
                RoutingVectorEnv(tree, ALPHA, num_envs=ENVIRONMENTS)
            ),
            f"TorchRLRoutingEnv, {MANY:,}": rollout(masked(TorchRLRoutingEnv, tree, MANY)),
            f"TorchRLRoutingEnv, {ENVIRONMENTS}": rollout(
                masked(TorchRLRoutingEnv, tree, ENVIRONMENTS)
            ),
            f"gymnasium SyncVectorEnv, {ENVIRONMENTS}": vectorised(sync),
            f"SB3 DummyVecEnv, {ENVIRONMENTS}": of_sb3(DummyVecEnv([one] * ENVIRONMENTS)),
            f"SB3 SubprocVecEnv, {WORKERS}": of_sb3(subproc),
            f"TorchRL SerialEnv, {ENVIRONMENTS}": rollout(serial),
            f"TorchRL ParallelEnv, {WORKERS}": rollout(parallel),
            "a dictionary, without observations": dictionary(tree),
        }


def drawn(mask_EA: Array) -> Array:
    """A random valid action of each, int64 [E]."""
    action_E: Array = (np.random.rand(*mask_EA.shape) * mask_EA).argmax(axis=1)
    return action_E


def vectorised(envs: Any) -> Action:
    """Plays a vector environment of gymnasium's."""
    told = [envs.reset(seed=0)[1]]

    def play() -> float:
        for _ in range(STEPS):
            told[0] = envs.step(drawn(told[0]["action_mask"]))[4]
        return float(STEPS * envs.num_envs)

    return play


def of_sb3(envs: Any) -> Action:
    """Plays a vector environment of SB3's, asking for masks as sb3-contrib does."""
    envs.reset()

    def play() -> float:
        for _ in range(STEPS):
            envs.step(drawn(np.stack(envs.env_method("action_masks"))))
        return float(STEPS * envs.num_envs)

    return play


def masked(kind: Callable[..., Any], tree: Tree, count: int) -> Any:
    """A batch of hcache's TorchRL environment that draws valid actions."""
    return TransformedEnv(kind(tree, ALPHA, num_envs=count), ActionMask())


class Plain(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A single environment whose STOP as the first action is another arm: TorchRL asks no mask."""

    def step(self, action: Any) -> Any:
        """Step with a valid action."""
        mask = self.env.unwrapped.action_masks()  # type: ignore[attr-defined]
        return self.env.step(action if mask[action] else np.int64(0))


def wrapped(one: Callable[[], RoutingEnv]) -> Any:
    """A single environment as TorchRL's."""
    return GymWrapper(Plain(one()))


def rollout(env: Any) -> Action:
    """Plays a batch of TorchRL's."""

    def play() -> float:
        played = env.rollout(STEPS, break_when_any_done=False)
        return float(played.numel())

    return play


def dictionary(tree: Tree) -> Action:
    """Plays one episode at a time over a dictionary of transitions."""
    transitions, roots = as_dictionaries(tree), tree.root_T.tolist()

    def play() -> float:
        steps = 0
        for _ in range(STEPS * ENVIRONMENTS):
            state, leaf = random.choice(roots), -1
            while leaf < 0:
                state, leaf = random.choice(transitions[state])
                steps += 1
        return float(steps)

    return play


def as_dictionaries(tree: Tree) -> Transitions:
    """The tree as a plain environment has it."""
    children, leaves = tree.child_NA.tolist(), tree.leaf_NA.tolist()
    return {
        state: [pair for pair in zip(*lists, strict=True) if max(pair) >= 0]
        for state, lists in enumerate(zip(children, leaves, strict=True))
    }
