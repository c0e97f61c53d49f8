"""The TorchRL environment: its checks pass, its steps are the tree's, and PPO learns on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.fitting import ALPHA
from helpers.forest import random_forest, synthetic_forest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs import ActionMask, TransformedEnv
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from hcache.envs.mdp import RoutingMDP
from hcache.envs.torchrl import TorchRLRoutingEnv
from hcache.evaluation.static import best_static, static_mean
from hcache.replay.exact import follow, oracle_leaves
from hcache.replay.tree import NONE, Tree, greedy

quick = settings(max_examples=30, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_the_check_of_torchrl_passes(seed: int) -> None:
    env = TorchRLRoutingEnv(random_forest(seed).tree, 0.1, num_envs=5)
    check_env_specs(env, seed=0)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(TransformedEnv(env, ActionMask()), break_when_any_done="both")


@quick
@given(
    st.integers(0, 10_000), st.integers(1, 5), st.booleans(), st.integers(0, 100), st.booleans()
)
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


class PPO:
    """PPO of TorchRL's own parts: a masked categorical, GAE and the clipped loss."""

    def __init__(self, tree: Tree, num_envs: int) -> None:
        self.env = TorchRLRoutingEnv(tree, ALPHA, num_envs=num_envs)
        width, actions = self.env.mdp.observation_NW.shape[1], tree.actions
        body = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, actions))
        self.actor = ProbabilisticActor(
            TensorDictModule(body, in_keys=["observation"], out_keys=["logits"]),
            in_keys={"logits": "logits", "mask": "action_mask"},
            spec=self.env.action_spec,
            distribution_class=MaskedCategorical,
            return_log_prob=True,
        )
        critic = ValueOperator(nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1)))
        self.gae = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
        self.loss = ClipPPOLoss(self.actor, critic, entropy_coeff=0.01, normalize_advantage=True)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=3e-3)

    def learn(self, iterations: int, steps: int, epochs: int = 4, minibatch: int = 256) -> None:
        for _ in range(iterations):
            with torch.no_grad():
                played = self.env.rollout(steps, self.actor, break_when_any_done=False)
                self.gae(played)
            flat = played.reshape(-1)
            for _ in range(epochs):
                for part in torch.randperm(len(flat)).split(minibatch):
                    losses = self.loss(flat[part])
                    total = sum(value for key, value in losses.items() if key.startswith("loss_"))
                    self.optimizer.zero_grad()
                    total.backward()
                    self.optimizer.step()

    def actions(self) -> Tensor:
        """The greedy action of every state, int64 [N]."""
        mdp = self.env.mdp
        states = TensorDict({"observation": mdp.observation_NW[: mdp.end]}, [mdp.end])
        with torch.no_grad():
            logits = self.actor[0](states)["logits"]
        return greedy(logits, mdp.tree.valid_NA)


@pytest.mark.slow
def test_ppo_of_torchrl_learns_on_it() -> None:
    """It closes most of the gap between the best static sequence and the oracle."""
    torch.manual_seed(0)
    tree = synthetic_forest(64, seed=1, features=32, noise=0.3, hops=2)
    agent = PPO(tree, num_envs=256)
    agent.learn(iterations=40, steps=4)
    reward_M = tree.reward_M(ALPHA)
    reached = float(reward_M[follow(tree, agent.actions())].mean())
    static = static_mean([reward_M], [tree], best_static([tree], ALPHA))
    oracle = float(reward_M[oracle_leaves(tree, reward_M)].mean())
    print(static, reached, oracle)
    assert reached > static + 0.5 * (oracle - static)
