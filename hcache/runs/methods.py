"""Methods: runs that differ in the seed alone, under the name that their row has in a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hcache.config.prices import MILLION
from hcache.experiment import build_workflow
from hcache.keys import canonical, digest
from hcache.policies import AnyAlpha, Policy, at_alpha
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query
from hcache.replay.tree import Tree
from hcache.runs.folder import Run

Curve = tuple[tuple[float, float, float, float], ...]  # iteration, mean, lowest, highest

Facts = dict[str, Any]
SHOWN = 3  # differences in the name of a method, at most


@dataclass(frozen=True)
class Method:
    """A row of a report with its runs, one a seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def policies(self) -> list[Policy]:
        """The trained policies, in the order of the runs."""
        return [run.policy for run in self.runs]

    @property
    def any_alpha(self) -> bool:
        """True if it serves any α, and is therefore validated on a scale of its own."""
        return all(isinstance(policy, AnyAlpha) for policy in self.policies)

    def curve(self) -> Curve:
        """Validation reward over iterations, as far as all seeds were trained."""
        seeds = [_validated(run) for run in self.runs]
        common = sorted(set.intersection(*(set(seed) for seed in seeds)))
        values = [[seed[iteration] for seed in seeds] for iteration in common]
        return tuple(
            (iteration, float(np.mean(own)), min(own), max(own))
            for iteration, own in zip(common, values, strict=True)
        )

    def reward(self, tree: Tree, alpha: float) -> float:
        """Mean reward over queries and seeds."""
        reward_M = tree.reward_M(alpha)
        with threadpool_limits(1):
            leaves = [greedy_leaves(at_alpha(policy, alpha), tree) for policy in self.policies]
        means = [float(mean_by_query(tree, reward_M[leaf_T]).mean()) for leaf_T in leaves]
        return float(np.mean(means))


def methods(runs: Sequence[Run], suffix: str = "") -> list[Method]:
    """The methods that runs make up, in the order of a report's rows; names end in `suffix`.

    Runs of one method are equal in everything but the seed: settings of the whole chain, training
    data, prices, quality, workflow, arms. Where several methods are of one algorithm, their names
    say in what they differ.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((_algorithm(run) + suffix, same_method(run)), []).append(run)
    found = [(name, facts(own[0]), own) for (name, _), own in groups.items()]
    named = []
    for name, own_facts, own in found:
        rivals = [others for other, others, _ in found if other == name]
        named.append((name + _distinction(own_facts, rivals), own))
    names = [name for name, _ in named]
    return [
        Method(name if names.count(name) == 1 else f"{name} ({own[0].name})", tuple(own))
        for name, own in named
    ]


def same_method(run: Run, data: bool = True) -> str:
    """Key of the method that a run is of; without `data`, whatever it was trained on."""
    return canonical({k: v for k, v in facts(run).items() if data or not k.endswith("data")})


def facts(run: Run) -> Facts:
    """Everything but the seed that a run depends on, under names for people."""
    config = run.config
    workflow = build_workflow(config.workflow, "workflow")
    found: Facts = {"hops": workflow.hops, "workflow": workflow.fingerprint[:8]}
    for name, arm in config.arms.items():
        input_price, output_price, _ = arm.price.rates(MILLION)
        prices = dict.fromkeys((f"{input_price:g}", f"{output_price:g}"))
        found[f"price of {name}"] = "/".join(prices)
    found |= {f"model of {name}": key[:8] for name, key in run.manifest.get("arms", {}).items()}
    found |= {f"quality of {name}": config.measure_of(name) for name in config.data}
    found["features"] = digest(config.features.model_dump(mode="json"))[:8]
    *before, last = stages(run)
    for place, stage in enumerate(before):
        found |= {f"{place}. {stage['algo']}: {key}": value for key, value in _flat(stage)}
    return found | dict(_flat(last))


def stages(run: Run) -> list[Facts]:
    """The trainings that led to a run, its own last: algorithm, settings, data, plug-in of each."""
    manifest, train = run.manifest, run.config.train
    identity = manifest["identity"]
    own = {
        "algo": train.trainer,
        "settings": train.model_dump(mode="json", exclude={"algo", "seed", "also", "settings"})
        | manifest.get("settings", train.settings),
        "data": digest(identity["data"])[:8],
        "plugin": identity.get("plugin"),
    }
    before: list[Facts] | None = manifest.get("chain")
    return [*(_stages_before(run) if before is None else before), own]


def _stages_before(run: Run) -> list[Facts]:
    """The same for a manifest that does not say it, as far as is known."""
    *before, _ = run.config.train.algo.split("+")
    found: list[Facts] = []
    if init := run.manifest["init"]:
        start = Run(Path(init))
        known = (start.folder / "manifest.json").exists()
        weights = run.manifest["identity"]["init"]
        found += stages(start) if known else [{"algo": "unknown", "weights": weights}]
    for algo in before:
        train = run.config.train.of(algo)
        settings = train.model_dump(mode="json", exclude={"algo", "seed", "also"})
        found.append({"algo": algo, "settings": settings})
    return found


def _flat(stage: Facts) -> Iterator[tuple[str, Any]]:
    for key, value in stage.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield key, value


def _distinction(own: Facts, rivals: Sequence[Facts]) -> str:
    """Facts that tell a method from others, in brackets; empty for one alone."""
    differing = [key for key in own if any(other.get(key) != own[key] for other in rivals)]
    if not differing:
        return ""
    shown = [f"{key} {own[key]}" for key in differing[:SHOWN]]
    return f" ({', '.join(shown)}{', …' if len(differing) > SHOWN else ''})"


def best_method(found: Sequence[Method], tree: Tree, alpha: float) -> Method | None:
    """The method of the highest reward on a tree, that of validation; the first of equals."""
    return max(found, key=lambda method: method.reward(tree, alpha), default=None)


def _algorithm(run: Run) -> str:
    """The algorithm, behind those that it started from."""
    return "+".join(stage["algo"] for stage in stages(run))


def _validated(run: Run) -> dict[float, float]:
    lines = run.metrics()
    return {line["iteration"]: line["valid_reward"] for line in lines if "valid_reward" in line}
