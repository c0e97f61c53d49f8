"""The parameter generation network: features of a query -> A and B of ΔW, for each arm.

After the low-level router of arXiv 2601.05903: an MLP in float32 whose two heads give A [O, R]
and B [R, I]; ΔW = scale·A·B is added to `self_attn.o_proj` of the last n layers, the same in each.
What goes in is one vector per query, such as the masked mean of a language model's last hidden
states over the prompt; here it is whatever the experiment's encoder gives.

How the heads begin:
    zero     B's at zero, A's at random (as in LoRA, arXiv 2106.09685): ΔW = 0, and gradients flow
    xavier   both at random, as published: ΔW is not 0 at the start
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hcache.config.schema import Settings

Init = Literal["zero", "xavier"]
Shape = tuple[int, int]  # (O, I) of an arm's o_proj, which need not be square


class LowRankSettings(Settings):
    """Size of the generator, and where its ΔW goes."""

    rank: int = Field(8, ge=1, description="r of A [d, r] and B [r, d]")
    adapted_layers: int = Field(1, ge=1, description="last layers whose o_proj gets the ΔW")
    lora_scale: float = Field(0.1, gt=0, description="ΔW = lora_scale · A · B; published: 0.01")
    generator_hidden: int = Field(256, ge=1, description="units of a layer of the generator")
    generator_layers: int = Field(
        2, ge=1, le=100, description="layers of the generator before its heads"
    )
    init: Init = Field("zero", description="ΔW = 0 at the start, or both heads xavier")


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale·A·B of each sample of a batch."""

    a_BOR: Tensor
    b_BRI: Tensor
    scale: float

    def __call__(self, x_BTI: Tensor) -> Tensor:
        """ΔW·x at every position, [B, T, O], in the type of x; ΔW is never formed."""
        inner_BTR = x_BTI @ self.b_BRI.to(x_BTI.dtype).transpose(1, 2)
        return self.scale * (inner_BTR @ self.a_BOR.to(x_BTI.dtype).transpose(1, 2))


class ArmGenerator(nn.Module):
    """A and B of one arm."""

    def __init__(self, features: int, shape: Shape, settings: LowRankSettings) -> None:
        super().__init__()
        self.shape, self.rank, self.scale = shape, settings.rank, settings.lora_scale
        sizes = [features] + [settings.generator_hidden] * settings.generator_layers
        layers = [
            (nn.Linear(size_in, size_out), nn.ReLU()) for size_in, size_out in pairwise(sizes)
        ]
        self.trunk = nn.Sequential(*(module for layer in layers for module in layer))
        self.head_a = nn.Linear(sizes[-1], shape[0] * settings.rank)
        self.head_b = nn.Linear(sizes[-1], settings.rank * shape[1])

    def forward(self, features_BD: Tensor) -> LowRank:
        """A and B of a batch of queries."""
        hidden = self.trunk(features_BD)
        a_BOR = self.head_a(hidden).view(-1, self.shape[0], self.rank)
        b_BRI = self.head_b(hidden).view(-1, self.rank, self.shape[1])
        return LowRank(a_BOR, b_BRI, self.scale)

    def initialise(self, init: Init, generator: torch.Generator) -> None:
        """Weights from a seed; biases are 0."""
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.zeros_(linear.bias)
            if init == "zero" and linear is self.head_b:
                nn.init.zeros_(linear.weight)
            elif init == "xavier" and linear in (self.head_a, self.head_b):
                nn.init.xavier_uniform_(linear.weight, generator=generator)
            else:
                nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)


class Generator(nn.Module):
    """A generator for each arm that has weights; `shapes` are by the arm's index in the pool."""

    def __init__(
        self, features: int, shapes: Mapping[int, Shape], settings: LowRankSettings
    ) -> None:
        super().__init__()
        self.shapes, self.settings = dict(shapes), settings
        self.arms = nn.ModuleDict(
            {str(arm): ArmGenerator(features, shape, settings) for arm, shape in shapes.items()}
        )

    @classmethod
    def fresh(
        cls, features: int, shapes: Mapping[int, Shape], settings: LowRankSettings, seed: int
    ) -> Generator:
        """A generator to be trained, from a seed."""
        network = cls(features, shapes, settings)
        generator = torch.Generator().manual_seed(seed)
        for arm in shapes:
            network.arm(arm).initialise(settings.init, generator)
        return network

    def arm(self, arm: int) -> ArmGenerator:
        """The generator of one arm."""
        module = self.arms[str(arm)]
        assert isinstance(module, ArmGenerator)
        return module
