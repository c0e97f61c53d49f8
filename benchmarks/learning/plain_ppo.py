"""The rival: PPO as CleanRL's single file does it, on the observations of the same trees.

After ppo.py of CleanRL (https://docs.cleanrl.dev/rl-algorithms/ppo/): parallel environments that
start anew when an episode ends, GAE, four passes of four minibatches, normalised advantages,
clipped value loss, clipped gradients, annealed learning rate, separate networks of 64 × 64 tanh
units, orthogonal. With an action mask, and observations as tensors, which costs less than an
environment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from hcache.replay.tree import States, Tree

from .learner import ALPHA, Scored, at_rates

ENVIRONMENTS = 512
STEPS = 8
UPDATES = 200  # after which the learning rate would be 0
SLOW, RATES = 2.5e-4, (1e-3, 3e-3, 1e-2)  # the first is CleanRL's default
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, NORM = 1.0, 0.95, 0.2, 0.01, 0.5, 0.5


def layer(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """A linear layer, orthogonal."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Two hidden layers."""
    hidden = layer(inputs, 64), nn.Tanh(), layer(64, 64), nn.Tanh()
    return nn.Sequential(*hidden, layer(64, outputs, gain))


class PlainPPO:
    """Learns on a forest."""

    def __init__(self, tree: Tree, seed: int, rate: float) -> None:
        torch.manual_seed(seed)
        self.tree, self.hops, self.rate, self.update = tree, tree.hops, rate, 0
        self.reward_M = tree.reward_M(ALPHA).float()
        self.valid_NA = tree.valid_NA
        self.table_NI = self.observations(tree.states)
        inputs = self.table_NI.shape[1]
        self.actor = network(inputs, tree.actions, 0.01)
        self.critic = network(inputs, 1, 1.0)
        weights = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(weights, lr=rate, eps=1e-5)
        self.weights = weights
        self.state_E = self.starts(ENVIRONMENTS)
        self.policy = Scored(tree.arms, self.observations, self.actor)

    def observations(self, states: States) -> Tensor:
        """Text features, one-hot hop and cost, [n, I]."""
        hop_NL = nn.functional.one_hot(states.hop_N, self.hops).float()
        return torch.cat([states.features_ND, hop_NL, states.cost_N[:, None].float()], dim=1)

    def starts(self, count: int) -> Tensor:
        """Roots of random trees."""
        root_E: Tensor = self.tree.root_T[torch.randint(len(self.tree), (count,))]
        return root_E

    def choice(self, state: Tensor) -> Categorical:
        """The masked policy."""
        logits = self.actor(self.table_NI[state]).masked_fill(~self.valid_NA[state], -1e8)
        return Categorical(logits=logits)

    def step(self) -> None:
        """Play `STEPS` steps in each environment, then four passes over them."""
        self.optimizer.param_groups[0]["lr"] = self.rate * max(0.0, 1 - self.update / UPDATES)
        self.update += 1
        shape = (STEPS, ENVIRONMENTS)
        state, action = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        logprob, reward, done, value = (torch.zeros(shape) for _ in range(4))
        with torch.no_grad():
            for row in range(STEPS):
                state[row] = self.state_E
                chosen = self.choice(self.state_E)
                action[row] = chosen.sample()
                logprob[row] = chosen.log_prob(action[row])
                value[row] = self.critic(self.table_NI[self.state_E])[:, 0]
                leaf_E = self.tree.leaf_NA[self.state_E, action[row]]
                over_E = leaf_E >= 0
                reward[row] = torch.where(over_E, self.reward_M[leaf_E.clamp(min=0)], 0.0)
                done[row] = over_E.float()
                next_E = self.tree.child_NA[self.state_E, action[row]]
                self.state_E = torch.where(over_E, self.starts(ENVIRONMENTS), next_E)
            advantage, last = torch.zeros(shape), torch.zeros(ENVIRONMENTS)
            next_value = self.critic(self.table_NI[self.state_E])[:, 0]
            for row in reversed(range(STEPS)):
                follows = 1 - done[row]
                delta = reward[row] + GAMMA * next_value * follows - value[row]
                last = delta + GAMMA * LAMBDA * follows * last
                advantage[row], next_value = last, value[row]
        flat = (state, action, logprob, advantage, advantage + value, value)
        self.learn(*(part.flatten() for part in flat))

    def learn(
        self,
        state: Tensor,
        action: Tensor,
        logprob: Tensor,
        gain: Tensor,
        wanted: Tensor,
        old: Tensor,
    ) -> None:
        """Four passes of four minibatches."""
        for _ in range(4):
            for index in torch.randperm(len(state)).chunk(4):
                chosen = self.choice(state[index])
                ratio = (chosen.log_prob(action[index]) - logprob[index]).exp()
                norm = (gain[index] - gain[index].mean()) / (gain[index].std() + 1e-8)
                losses = -norm * ratio, -norm * ratio.clamp(1 - CLIP, 1 + CLIP)
                value = self.critic(self.table_NI[state[index]])[:, 0]
                near = old[index] + (value - old[index]).clamp(-CLIP, CLIP)
                errors = (value - wanted[index]).square(), (near - wanted[index]).square()
                loss = torch.maximum(*losses).mean() - ENTROPY * chosen.entropy().mean()
                loss = loss + VALUE * 0.5 * torch.maximum(*errors).mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.weights, NORM)
                self.optimizer.step()


LEARNERS = at_rates("PPO in CleanRL's style", (SLOW, *RATES), PlainPPO)
