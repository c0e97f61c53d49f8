"""The rivals of Stable-Baselines3: its PPO, and MaskablePPO of sb3-contrib.

Both learn in hcache's vector environment, which is faster than any of SB3's own, with networks of
64 × 64 tanh units, as many environments, steps, passes and minibatches as PPO in CleanRL's style,
and a learning rate that stays, as is SB3's default. PPO without masks learns from the reward of
−1 that STOP has as the first action; when it is evaluated, STOP is masked there too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from hcache.envs.gym import Array, RoutingVectorEnv
from hcache.replay.tree import Tree

from .learner import ALPHA, Scored, at_rates
from .plain_ppo import CLIP, ENTROPY, ENVIRONMENTS, GAMMA, LAMBDA, RATES, STEPS


class Vector(VecEnv):
    """hcache's vector environment as SB3 asks for one; infos stay empty."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.envs = RoutingVectorEnv(tree, ALPHA, num_envs=ENVIRONMENTS)
        self.first = seed
        self.infos: list[dict[str, Any]] = [{} for _ in range(ENVIRONMENTS)]
        spaces = self.envs.single_observation_space, self.envs.single_action_space
        super().__init__(ENVIRONMENTS, *spaces)

    def reset(self) -> Array:
        """Start everywhere."""
        return self.envs.reset(seed=self.first)[0]

    def step_async(self, actions: Array) -> None:
        """Take note of the actions."""
        self.actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Play them."""
        seen, rewards, over, _, _ = self.envs.step(self.actions)
        return seen, rewards.astype(np.float32), over, self.infos

    def env_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Results of a method for each environment, as `action_masks` gives them."""
        return list(getattr(self.envs, method_name)())

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, which all share."""
        return [getattr(self.envs, attr_name)] * ENVIRONMENTS

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing is ever set."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """None is."""
        return [False] * ENVIRONMENTS

    def close(self) -> None:
        """Nothing to close."""


class SB3:
    """A PPO of SB3's, one rollout and its passes a step."""

    def __init__(self, kind: Any, tree: Tree, seed: int, rate: float) -> None:
        envs = Vector(tree, seed)
        self.agent = kind(
            "MlpPolicy",
            envs,
            learning_rate=rate,
            n_steps=STEPS,
            batch_size=STEPS * ENVIRONMENTS // 4,
            n_epochs=4,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            clip_range=CLIP,
            ent_coef=ENTROPY,
            seed=seed,
            device="cpu",
        )
        of = self.agent.policy.get_distribution
        observe = envs.envs.mdp.observations
        self.policy = Scored(tree.arms, observe, lambda seen: of(seen).distribution.logits)

    def step(self) -> None:
        """One rollout and its passes."""
        self.agent.learn(STEPS * ENVIRONMENTS, reset_num_timesteps=False)


LEARNERS = {
    **at_rates("sb3-contrib MaskablePPO", RATES, lambda *given: SB3(MaskablePPO, *given)),
    **at_rates("Stable-Baselines3 PPO", RATES, lambda *given: SB3(PPO, *given)),
}
