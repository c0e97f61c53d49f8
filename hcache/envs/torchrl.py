"""A TorchRL environment on the tensors of a tree: a batch of E episodes on the tree's device.

    action       int64 [E], an arm or last STOP
    observation  float32 [E, W], see `hcache.envs.mdp`
    action_mask  bool [E, A], as the transform `ActionMask` and masked distributions ask for it
    leaf         int64 [E], the leaf that was reached, by which quality and cost are looked up; NONE
                 on the way there and after an invalid action
    reward       float32 [E, 1], R = Q − α·C at the end of an episode, 0 before

Episodes are reset together or one by one, each to a tree drawn uniformly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hcache.envs.mdp import INVALID_REWARD, RoutingMDP
from hcache.packages import missing
from hcache.replay.tree import NONE, Tree

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise missing("torchrl", "torchrl") from error


class TorchRLRoutingEnv(EnvBase):  # type: ignore[misc]
    """E questions at once; takes what `RoutingMDP` takes."""

    def __init__(
        self,
        tree: Tree,
        alpha: float,
        invalid_reward: float = INVALID_REWARD,
        like: Tree | None = None,
        *,
        num_envs: int = 1,
        seed: int = 0,
    ) -> None:
        device = tree.root_T.device
        super().__init__(device=device, batch_size=torch.Size([num_envs]))
        self.mdp = RoutingMDP(tree, alpha, invalid_reward, like)
        self.state_E = torch.full((num_envs,), self.mdp.end, device=device)
        width, actions = self.mdp.observation_NW.shape[1], tree.actions
        leaves = len(tree.quality_M)
        self.observation_spec = Composite(
            observation=Unbounded((num_envs, width), dtype=torch.float32),
            action_mask=Binary(actions, shape=(num_envs, actions), dtype=torch.bool),
            leaf=Bounded(NONE, leaves - 1, shape=(num_envs,), dtype=torch.int64),
            shape=self.batch_size,
            device=device,
        )
        self.action_spec = Categorical(actions, shape=(num_envs,), device=device)
        self.reward_spec = Unbounded((num_envs, 1), dtype=torch.float32, device=device)
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.generator = torch.Generator(self.device)
        if seed is not None:
            self.generator.manual_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDictBase:
        root_T = self.mdp.tree.root_T
        drawn_E = torch.randint(
            len(root_T), self.batch_size, generator=self.generator, device=self.device
        )
        where = None if tensordict is None else tensordict.get("_reset", None)
        root_E = root_T[drawn_E]
        self.state_E = root_E if where is None else root_E.where(where[:, 0], self.state_E)
        return self._told(torch.full_like(self.state_E, NONE))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action_E = tensordict["action"]
        leaf_E = self.mdp.leaf_NA[self.state_E, action_E]
        self.state_E, reward_E, over_E = self.mdp.step(self.state_E, action_E)
        told = self._told(leaf_E)
        told["reward"] = reward_E.float()[:, None]
        told["done"] = told["terminated"] = over_E[:, None]
        return told

    def _told(self, leaf_E: Tensor) -> TensorDictBase:
        return TensorDict(
            {
                "observation": self.mdp.observation_NW[self.state_E],
                "action_mask": self.mdp.valid_NA[self.state_E],
                "leaf": leaf_E,
            },
            self.batch_size,
            device=self.device,
        )
