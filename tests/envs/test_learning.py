"""Agents of other libraries learn to route through the environments: SB3's and TorchRL's PPO."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from helpers.fitting import ALPHA
from helpers.forest import synthetic_forest
from helpers.paths import DEMO, ROOT
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import hcache.envs  # noqa: F401  # registers the environment
from hcache.config.file import read_config
from hcache.envs.mdp import RoutingMDP
from hcache.envs.torchrl import TorchRLRoutingEnv
from hcache.replay.exact import follow, oracle_leaves
from hcache.replay.loading import load_replay
from hcache.replay.static import best_static, static_mean
from hcache.replay.tree import Tree, greedy
from hcache.store import Store

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Task:
    """A tree to learn on, and the α of its reward."""

    tree: Tree
    alpha: float


def synthetic(_: Path) -> Task:
    """The synthetic task."""
    return Task(synthetic_forest(64, seed=1, features=32, noise=0.3, hops=2), ALPHA)


def demo(folder: Path) -> Task:
    """Questions of the demo, sampled from its models."""
    file, db = DEMO / "experiment.yaml", folder / "demo.duckdb"
    limits = {"train": 64, "valid": 8, "test": 8}
    sets = [f"--set=data.demo.sources.{split}.limit={n}" for split, n in limits.items()]
    subprocess.run(
        [sys.executable, ROOT / "cli.py", "sample", file, "--db", db, *sets],
        cwd=ROOT, check=True, capture_output=True, timeout=1800,
    )  # fmt: skip
    config = read_config(file, [word.removeprefix("--set=") for word in sets])
    with Store(db) as store:
        return Task(load_replay(store, config, "train").tree, config.train.alpha)


@pytest.fixture(
    scope="module",
    params=[
        synthetic,
        pytest.param(
            demo,
            marks=[
                pytest.mark.vllm,
                pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
            ],
        ),
    ],
)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Task:
    made: Task = request.param(tmp_path_factory.mktemp("learning"))
    return made


def maskable_ppo(task: Task) -> Tensor:
    """The greedy actions of SB3's agent after 10,000 steps, int64 [N]."""
    tree, alpha = task.tree, task.alpha
    envs = make_vec_env(
        lambda: gymnasium.make("hcache/Routing-v0", tree=tree, alpha=alpha), 32, seed=0
    )
    agent = MaskablePPO(
        "MlpPolicy", envs, n_steps=32, batch_size=256, learning_rate=2e-3, gamma=1.0, seed=0
    )
    agent.learn(10_000)
    mdp = RoutingMDP(tree, alpha)
    actions, _ = agent.predict(
        mdp.observation_NW.numpy(), action_masks=mdp.valid_NA.numpy(), deterministic=True
    )
    return torch.as_tensor(actions)[: mdp.end]


def torchrl_ppo(task: Task) -> Tensor:
    """The greedy actions of an agent of TorchRL's parts, int64 [N]."""
    torch.manual_seed(0)
    env = TorchRLRoutingEnv(task.tree, task.alpha, num_envs=256)
    width, actions = env.mdp.observation_NW.shape[1], task.tree.actions
    logits = TensorDictModule(network(width, actions), ["observation"], ["logits"])
    actor = ProbabilisticActor(
        logits,
        in_keys={"logits": "logits", "mask": "action_mask"},
        spec=env.action_spec,
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(width, 1))
    gae = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.003, normalize_advantage=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=5e-3)
    for _ in range(60):
        with torch.no_grad():
            played = env.rollout(4, actor, break_when_any_done=False)
            gae(played)
        for _ in range(4):
            descend(loss, optimizer, played.reshape(-1))
    states = TensorDict({"observation": env.mdp.observation_NW[: env.mdp.end]}, [env.mdp.end])
    with torch.no_grad():
        return greedy(logits(states)["logits"], task.tree.valid_NA)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))


def descend(loss: Any, optimizer: torch.optim.Optimizer, steps: Any) -> None:
    for part in torch.randperm(len(steps)).split(512):
        losses = loss(steps[part])
        optimizer.zero_grad()
        (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
        optimizer.step()


@pytest.mark.parametrize("learn", [maskable_ppo, torchrl_ppo])
def test_agents_close_half_the_gap_and_more(task: Task, learn: Callable[[Task], Tensor]) -> None:
    """The gap between the best static sequence and the oracle, on the queries of training."""
    tree = task.tree
    reward_M = tree.reward_M(task.alpha)
    static = static_mean([reward_M], [tree], best_static([tree], task.alpha))
    oracle = float(reward_M[oracle_leaves(tree, reward_M)].mean())
    reached = float(reward_M[follow(tree, learn(task))].mean())
    assert reached > static + 0.5 * (oracle - static)
