"""The actor-critic of HierRouter (arXiv 2511.09873): two small MLPs over (c_t, hop, C_t).

What goes in: features of the text c_t, a learned embedding of the hop (the paper's stage), and
the cost so far C_t. Text features and cost are brought to a common scale by constants taken once
from the training tree and saved with the weights; text features through the weights of the first
layer, so that no scaled copy of them is made, nor a gradient with respect to them. Orthogonal
initialisation and tanh as in CleanRL (github.com/vwxyzjn/cleanrl) and Huang et al., "The 37
Implementation Details of PPO".

Axes in names: n states asked about, D text features, R other inputs, H hidden units, A actions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from hcache.config.schema import Settings
from hcache.errors import RunError
from hcache.policies.base import POLICIES, Policy, with_weights, write_policy
from hcache.policies.inputs import check_states, text_scale
from hcache.replay.tree import States, Tree

TEXT_NORM = 8.0  # typical length of the text features as the networks see them
SPAN = 4.0  # range of the input that stands for u, of the order of the other inputs
MASKED = -1e9  # logit of an action that is not valid: its probability is exactly 0 in float32


class Inputs(NamedTuple):
    """Inputs of the networks for n states."""

    text_ND: Tensor  # text features as they come, float32
    rest_NR: Tensor  # embedding of the hop, scaled cost, and what a kind of policy adds, float32


class MLPSettings(Settings):
    """Size of the two networks."""

    hidden: int = Field(64, ge=1, description="units of a hidden layer")
    layers: int = Field(2, ge=1, le=100, description="hidden layers of the actor and of the critic")
    embedding: int = Field(8, ge=1, description="size of the learned hop embedding")


@POLICIES.register("mlp")
class MLPPolicy(nn.Module):
    """π(a | s) and V(s), two MLPs with the same inputs."""

    Settings = MLPSettings
    name: ClassVar[str] = "mlp"  # as registered
    extra_inputs: ClassVar[int] = 0  # of a kind of policy that sees more

    def __init__(
        self, arms: Sequence[str], features: int, hops: int, settings: MLPSettings
    ) -> None:
        super().__init__()
        self.arms = tuple(arms)
        self.features, self.hops, self.settings = features, hops, settings
        inputs = features + settings.embedding + 1 + self.extra_inputs
        self.embedding = nn.Parameter(torch.zeros(hops, settings.embedding))
        self.actor = _mlp(inputs, len(self.arms) + 1, settings)
        self.critic = _mlp(inputs, 1, settings)
        self.mean_D: Tensor
        self.text_scale: Tensor
        self.cost_scale: Tensor
        self.register_buffer("mean_D", torch.zeros(features))
        self.register_buffer("text_scale", torch.ones(()))
        self.register_buffer("cost_scale", torch.ones((), dtype=torch.float64))

    @classmethod
    def for_tree(cls, train: Tree, settings: MLPSettings | None = None, *, seed: int) -> Self:
        """A fresh policy for the arms, hops and features of a training tree, scaled by it."""
        policy = cls(train.arms, train.features_ND.shape[1], train.hops, settings or MLPSettings())
        policy._initialise(torch.Generator().manual_seed(seed))
        policy._fit_scale(train)
        return policy

    @classmethod
    def for_training(
        cls, train: Tree, settings: MLPSettings, *, seed: int, init: Policy | None
    ) -> Self:
        """A copy of `init`, to be trained further, or a fresh policy where there is none.

        Raises:
            RunError: if `init` is of another kind, or was made for other arms.
        """
        if init is None:
            return cls.for_tree(train, settings, seed=seed)
        if type(init) is not cls:
            raise RunError(
                f"training cannot start from a {type(init).__name__}: it is no {cls.__name__}.",
                "Start from a run of ppo, sft or soft, or of the same algorithm.",
            )
        if init.arms != train.arms:
            raise RunError(
                f"the policy to start from routes among {', '.join(init.arms)}, "
                f"the training tree among {', '.join(train.arms)}.",
                "Start from a run on the same pool.",
            )
        check_states(train.states, init.features, init.hops)
        return copy.deepcopy(init)

    def inputs(self, states: States) -> Inputs:
        """Inputs of both networks, on the device of the weights.

        Raises:
            RunError: if the states have other features or more hops than the policy knows.
        """
        check_states(states, self.features, self.hops)
        device = self.embedding.device
        # One-hot times matrix: unlike an index, its gradient is deterministic on a GPU.
        stage = nn.functional.one_hot(states.hop_N.to(device), self.hops).float() @ self.embedding
        cost_N = (states.cost_N.to(device) / self.cost_scale).float()
        rest_NR = torch.cat([stage, cost_N[:, None]], dim=1)
        return Inputs(states.features_ND.to(device).float(), rest_NR)

    def logits(self, states: States, gain_D: Tensor | None = None) -> Tensor:
        """Scores of the actions, float32 [n, A]; MASKED where an action is not valid.

        `gain_D` multiplies the text features, as dropout does.
        """
        return self._logits(self.inputs(states), states, gain_D)

    def values(self, states: States) -> Tensor:
        """V(s), the critic's estimate of the return, float32 [n]."""
        return self._values(self.inputs(states))

    def logits_and_values(self, states: States) -> tuple[Tensor, Tensor]:
        """Both at once; the inputs are made only once."""
        inputs = self.inputs(states)
        return self._logits(inputs, states), self._values(inputs)

    @torch.no_grad()
    def probs(self, states: States) -> Tensor:
        """π(a | s), float64 [n, A], on the device of the states."""
        logits = self.logits(states).to(states.valid_NA.device).double()
        return logits.masked_fill(~states.valid_NA, -torch.inf).softmax(dim=1)

    @property
    def shape(self) -> dict[str, Any]:
        """All that `of_shape` needs to make the networks again, without their weights."""
        return {
            "arms": self.arms,
            "features": self.features,
            "hops": self.hops,
            **{name: getattr(self.settings, name) for name in MLPSettings.model_fields},
        }

    @classmethod
    def of_shape(cls, shape: Mapping[str, Any]) -> Self:
        """Networks of that shape, whose weights are yet to be loaded."""
        sizes = dict(shape)
        arms, features, hops = (sizes.pop(name) for name in ("arms", "features", "hops"))
        return cls(arms, features, hops, MLPSettings(**sizes))

    def save(self, folder: Path) -> None:
        """Write weights, scales and settings."""
        write_policy(folder, self.name, self.shape, self.state_dict())

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote."""
        return with_weights(lambda: cls.of_shape(settings), tensors)

    def _logits(self, inputs: Inputs, states: States, gain_D: Tensor | None = None) -> Tensor:
        scores = self._run(self.actor, inputs, gain_D)
        return scores.masked_fill(~states.valid_NA.to(scores.device), MASKED)

    def _values(self, inputs: Inputs) -> Tensor:
        return self._run(self.critic, inputs)[:, 0]

    def _run(self, network: nn.Sequential, inputs: Inputs, gain_D: Tensor | None = None) -> Tensor:
        """The outputs of a network, whose first layer takes text features x as (W/s)(x − μ)."""
        first = network[0]
        assert isinstance(first, nn.Linear)
        text_HD = first.weight[:, : self.features] / self.text_scale
        text_HD = text_HD if gain_D is None else text_HD * gain_D
        bias_H = first.bias - text_HD @ self.mean_D
        hidden_NH = nn.functional.linear(inputs.text_ND, text_HD, bias_H)
        hidden_NH += nn.functional.linear(inputs.rest_NR, first.weight[:, self.features :])
        output: Tensor = network[1:](hidden_NH)
        return output

    def _initialise(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.embedding, generator=generator)
        for network, last_gain in ((self.actor, 0.01), (self.critic, 1.0)):
            linears = [layer for layer in network if isinstance(layer, nn.Linear)]
            for linear in linears:
                gain = last_gain if linear is linears[-1] else math.sqrt(2)
                nn.init.orthogonal_(linear.weight, gain, generator=generator)
                nn.init.zeros_(linear.bias)

    def _fit_scale(self, train: Tree) -> None:
        mean_D, scale = text_scale(train.features_ND, TEXT_NORM)
        self.mean_D.copy_(mean_D)
        self.text_scale.fill_(scale)
        cost = float(train.cost_M.mean())
        self.cost_scale.fill_(cost if cost > 0 else 1.0)


def _mlp(inputs: int, outputs: int, settings: MLPSettings) -> nn.Sequential:
    sizes = [inputs] + [settings.hidden] * settings.layers
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


@POLICIES.register("conditioned")
class ConditionedPolicy(MLPPolicy):
    """π(a | s, α) and V(s, α): α is an input, so one training serves the whole front.

    α enters as u = α / (α + α₀) in [0, 1), where α₀ is the experiment's α, so that every weight of
    cost from 0 (quality alone) to infinity (cost alone) has its place, as in preference-conditioned
    policies (Abels et al., arXiv 1809.07803). `at` gives the same policy at another α; both share
    the weights.
    """

    name = "conditioned"
    extra_inputs = 1

    def __init__(
        self, arms: tuple[str, ...], features: int, hops: int, settings: MLPSettings
    ) -> None:
        super().__init__(arms, features, hops, settings)
        self.alpha_0: Tensor
        self.register_buffer("alpha_0", torch.ones((), dtype=torch.float64))
        self._alpha: Tensor | None = None

    def centred_at(self, alpha: float) -> Self:
        """The same policy with α₀ = `alpha`, or 1 where that is 0."""
        self.alpha_0.fill_(alpha if alpha > 0 else 1.0)
        return self

    def at(self, alpha: float | Tensor) -> Self:
        """The same weights at another α; a tensor [n] gives each of n states its own."""
        view = copy.copy(self)
        view._alpha = torch.as_tensor(alpha, dtype=torch.float64, device=self.alpha_0.device)
        return view

    def inputs(self, states: States) -> Inputs:
        """Inputs of both networks: as without α, and u."""
        inputs = super().inputs(states)
        alpha = self.alpha_0 if self._alpha is None else self._alpha
        u = (SPAN * (alpha / (alpha + self.alpha_0) - 0.5)).float()
        u_N1 = u.expand(len(states))[:, None]
        return Inputs(inputs.text_ND, torch.cat([inputs.rest_NR, u_N1], dim=1))
