"""A language model fine-tuned to route: SFT of its choices, as the warm-up of HAPS's router.

The model of `hcache.policies.language` learns, by cross-entropy, the best actions of the training
trees (arXiv 2601.05903), the same that `hcache.trainers.sft` learns, with the same weights. All
weights are trained, or LoRA alone. Weights are held in float32: at such learning rates most steps
are too small for bfloat16 to notice. One seed repeats to the bit on a CPU; a GPU may add up
gradients in another order.

Validation is cut in two, by turns in the order of the query ids. `reward` and the other metrics,
by which `fit` keeps the best weights, are of the first half. `over_static` is the reward on the
second half less that of the static sequence that is best on the first, so neither was chosen on
what they are compared on; `beats_static` is 1 where it is positive. Weights are kept either way:
where it is 0 in the line of the best iteration, the router is not worth having.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from hcache.models.causal_lm import by_length
from hcache.policies import Policy
from hcache.policies.language import LanguagePolicy, ReadingSettings
from hcache.policies.mlp import MASKED
from hcache.replay.exact import mean_by_query, sequences, static_leaves
from hcache.replay.tree import NONE, Tree
from hcache.trainers.base import TRAINERS, greedy_metrics
from hcache.trainers.network import GradientTrainer, OptimiserSettings
from hcache.trainers.sft import TargetSettings, targets_of


class LanguageSettings(ReadingSettings, TargetSettings, OptimiserSettings):
    """Settings of a language model as router; an iteration is one step of the optimizer."""

    path: str = Field(description="folder of the checkpoint to start from")
    lr: float = Field(1e-5, gt=0, description="highest learning rate of Adam")
    batch_size: int = Field(8, ge=1, description="states that are read at once")
    accumulation: int = Field(8, ge=1, description="batches of a step")
    decay_steps: int = Field(
        400, ge=0, description="steps in which the rate falls to 0 by a cosine; 0: it stays"
    )
    warmup_ratio: float = Field(
        0.03, ge=0, lt=1, description="share of these in which the rate first rises"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")


@TRAINERS.register("language")
class Language(GradientTrainer):
    """Cross-entropy of a language model's choices to the best actions of the training trees."""

    Settings = LanguageSettings
    settings: LanguageSettings
    policy: LanguagePolicy

    def prepare(self, train: Tree) -> None:
        """See `Trainer`."""
        super().prepare(train)
        self.targets = targets_of(self.tree, self.reward_M, self.settings, self.generator)
        self.queue = self.permutation(0)  # states that come next
        self.steps = 0

    @classmethod
    def unfit(cls, train: Tree) -> str:
        """See `Trainer`."""
        return "" if train.texts is not None else "its states have no text to read."

    def make_policy(self, train: Tree, init: Policy | None) -> LanguagePolicy:
        """See `Trainer`."""
        settings = self.settings
        return LanguagePolicy.for_training(
            train, settings.path, settings, seed=self.seed, init=init
        )

    def step(self) -> dict[str, float]:
        """One step of the optimizer, on the next states in random order."""
        part_B = self._next(self.settings.batch_size * self.settings.accumulation)
        rate = self.rate(self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        total, right = torch.zeros(2, dtype=torch.float64, device=self.device)
        states = self.tree.states[self.targets.kept_K[part_B]]
        rows = self.policy.prompts(states)
        for batch in by_length(rows, self.settings.batch_size):
            logits_BA = self.policy.logits([rows[row] for row in batch])
            logits_BA = logits_BA.masked_fill(~states.valid_NA[batch], MASKED)
            loss, hits = self.targets.score(part_B[batch], logits_BA)
            (loss / len(rows)).backward()
            total += loss.detach()
            right += hits
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.steps += 1
        return {
            "loss": float(total) / len(rows),
            "accuracy": float(right) / len(rows),
            "lr": rate,
        }

    def rate(self, step: int) -> float:
        """The learning rate of a step; the first step is number 0."""
        last = self.settings.decay_steps
        if not last:
            return self.settings.lr
        warm = math.ceil(self.settings.warmup_ratio * last)
        if step < warm:
            return self.settings.lr * (step + 1) / warm
        done = min(1.0, (step - warm) / (last - warm)) if last > warm else 1.0
        return self.settings.lr * (1 + math.cos(math.pi * done)) / 2

    def validate(self, valid: Tree) -> dict[str, float]:
        """Metrics on one half of the validation queries; on the other, by how much it is better."""
        first, second = (half_of(valid, number) for number in (0, 1))
        metrics = greedy_metrics(self.policy, first, self.alpha)
        reward = greedy_metrics(self.policy, second, self.alpha)["reward"]
        over = reward - static_reward(valid, first, second, self.alpha)
        if not math.isfinite(over):  # one query, or no sequence that all trees have
            return metrics
        return {**metrics, "over_static": over, "beats_static": float(over > 0)}

    def state(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        progress = {"queue": self.queue.cpu().clone(), "steps": torch.tensor(self.steps)}
        return super().state() | progress

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        super().load_state(state)
        self.queue = state["queue"].to(self.device, copy=True)
        self.steps = int(state["steps"])

    def _next(self, count: int) -> Tensor:
        """The next of the states with weight; every pass over them is in an order of its own."""
        while len(self.queue) < count:
            self.queue = torch.cat([self.queue, self.permutation(len(self.targets))])
        part, self.queue = self.queue[:count], self.queue[count:]
        return part


def half_of(tree: Tree, number: int) -> Tree:
    """Every other query of a tree, from the first or from the second; all states stay."""
    mine_T = tree.query_T % 2 == number
    return replace(
        tree,
        queries=tree.queries[number::2],
        datasets=tree.datasets[number::2],
        kinds=tree.kinds[number::2],
        query_T=tree.query_T[mine_T] // 2,
        replica_T=tree.replica_T[mine_T],
        root_T=tree.root_T[mine_T],
    )


def static_reward(valid: Tree, first: Tree, second: Tree, alpha: float) -> float:
    """Mean reward on the second half of the static sequence of `valid` that is best on the first.

    −inf where no sequence is whole in every tree, NaN where a half is empty.
    """
    paths = sequences(valid)
    best = int(_static_rewards(first, paths, alpha).argmax())
    return float(_static_rewards(second, paths, alpha)[best])


def _static_rewards(tree: Tree, paths: Sequence[Sequence[int]], alpha: float) -> Tensor:
    leaf_TS = static_leaves(tree, paths)
    reward_S = mean_by_query(tree, tree.reward_M(alpha)[leaf_TS]).mean(dim=0)
    return reward_S.masked_fill((leaf_TS == NONE).any(dim=0).cpu(), -torch.inf)
