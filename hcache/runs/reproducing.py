"""Published tables made again from what their authors recorded: an import, and figures of its tree.

In: a file that says which import, and what was published of which choice. Out: a line for each
figure: published, ours, and whether they are equal to the digits that were published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from hcache.config.file import read_yaml, refused
from hcache.config.section import Section
from hcache.errors import ConfigError, DataError
from hcache.evaluation.fronts import apgr_cpt
from hcache.experiment import Experiment
from hcache.recorded.importing import import_files
from hcache.replay.exact import mean_by_query, oracle_leaves, static_leaves
from hcache.replay.loading import load_replay
from hcache.replay.tree import NONE, Tree
from hcache.store import Store
from hcache.store.queries import ITEMS

Array = NDArray[np.float64]
SEEDS = 20  # of random scores
HINT = "examples/reproduce has some to start from."
Rule = Literal[
    "oracle", "best quality", "first right", "random", "best of means", "any", "cross-fit"
]


class ImportSection(Section):
    """An import from below the folder that the command names."""

    name: str = Field(description="of the experiment")
    format: str = Field(description="as `hcache import` knows it")
    path: str = Field(".", description="below that folder")
    options: dict[str, str] = Field({}, description="of the format")


class RowSection(Section):
    """A choice for every question, and what was published of it."""

    name: str
    arm: str | None = None
    sequence: tuple[str, ...] | None = None
    rule: Rule | None = None
    decisions: str | None = Field(None, description="JSON lines of task_id and chosen_model")
    published: dict[str, float | tuple[float, ...]] = Field(
        {}, description="by figure; of several imports, one each"
    )
    mean: dict[str, float] = Field({}, description="over the imports")
    std: dict[str, float] = Field({}, description="over the imports, of a sample")
    within: dict[str, float] = Field({}, description="difference that is none, by figure")
    also: tuple[str, ...] = Field((), description="figures to show of which none was published")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        given = [self.arm, self.sequence, self.rule, self.decisions]
        if sum(value is not None for value in given) != 1:
            raise ValueError(f"{self.name}: needs one of arm, sequence, rule, decisions")
        return self


class Reproduction(Section):
    """A published table."""

    source: str = Field(description="where it was published")
    imports: tuple[ImportSection, ...] = Field(min_length=1)
    alpha: float = Field(0.1, ge=0, description="weight of cost in the reward")
    cost: Literal["recorded", "tokens"] = "recorded"
    digits: dict[str, int] = Field(description="that were published, by figure")
    rows: tuple[RowSection, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Line:
    """One figure, published and made again."""

    row: str
    figure: str
    published: float | None
    ours: float
    equal: bool | None  # to the digits that were published, or within what is said

    @property
    def difference(self) -> float | None:
        """Ours less theirs."""
        return None if self.published is None else self.ours - self.published


def read_reproduction(file: Path) -> Reproduction:
    """A table's file.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return Reproduction.model_validate(read_yaml(file, HINT))
    except ValidationError as error:
        raise refused(error, Reproduction, str(file)) from error


def reproduce(file: Path, folder: Path, work: Path) -> list[Line]:
    """Import what a table was made of from `folder`, and make it again; databases go to `work`.

    Raises:
        ConfigError: the file does not hold.
        DataError: the folder lacks what it names, or a decision is missing.
    """
    table = read_reproduction(file)
    worlds = [_world(table, one, folder, work) for one in table.imports]
    return [line for row in table.rows for line in _lines(table, row, worlds)]


def _world(table: Reproduction, one: ImportSection, folder: Path, work: Path) -> _World:
    db = work / f"{one.name}.duckdb"
    import_files(
        one.format, [folder / one.path], db, name=one.name, split="test", options=one.options
    )
    experiment = Experiment.load(work / f"{one.name}.yaml", [f"cost={table.cost}"])
    with Store(db) as store:
        tree = load_replay(store, experiment.config, "test").tree
        items = dict(store.sql(ITEMS).iter_rows())
    return _World(tree, tuple(items.get(key) or "" for key in tree.queries), table.alpha, folder)


@dataclass(frozen=True)
class _World:
    """A tree to choose in."""

    tree: Tree
    items: tuple[str, ...]  # names of its queries in their source
    alpha: float
    folder: Path

    @cached_property
    def best(self) -> Array:
        """Reward of the oracle on each query."""
        reward_M = self.tree.reward_M(self.alpha)
        return self.mean(reward_M[oracle_leaves(self.tree, reward_M)])

    @cached_property
    def by_arm(self) -> Array:
        """Quality of each arm alone in each replica, [Q, replicas, A]."""
        paths = [(arm,) for arm in range(len(self.tree.arms))]
        leaf_TS = static_leaves(self.tree, paths)
        tree = self.tree
        order_T = (tree.query_T * (1 + tree.replica_T.max()) + tree.replica_T).argsort()
        quality_TS = tree.quality_M[leaf_TS[order_T]]
        return np.asarray(quality_TS.reshape(len(tree.queries), -1, len(paths)), np.float64)

    def mean(self, value_T: torch.Tensor) -> Array:
        """Mean over the replicas of each query, [Q]."""
        return np.asarray(mean_by_query(self.tree, value_T), np.float64)

    def leaves(self, row: RowSection) -> torch.Tensor:
        """The leaf of each tree under a row's choice."""
        if row.rule == "oracle":
            return oracle_leaves(self.tree, self.tree.reward_M(self.alpha))
        if row.rule == "best quality":
            return oracle_leaves(self.tree, self.tree.quality_M)
        if row.rule == "first right":
            return self._first_right()
        if row.decisions is not None:
            return self._decided(row.decisions)
        names = row.sequence or (str(row.arm),)
        unknown = [name for name in names if name not in self.tree.arms]
        if unknown:
            raise ConfigError(f"{row.name}: there is no arm {unknown[0]!r}.", HINT)
        return static_leaves(self.tree, [[self.tree.arms.index(name) for name in names]])[:, 0]

    def _first_right(self) -> torch.Tensor:
        """The first call of one arm again and again that is right, or else the last."""
        paths = [(0,) * hop for hop in range(1, self.tree.hops + 1)]
        leaf_TS = static_leaves(self.tree, paths)
        right_TS = self.tree.quality_M[leaf_TS] == 1
        right_TS[:, -1] = True
        return leaf_TS.gather(1, right_TS.int().argmax(dim=1)[:, None])[:, 0]

    def _decided(self, name: str) -> torch.Tensor:
        """Choices of a published router, by the names of the questions in their source."""
        file = self.folder / name
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            chosen = {row["task_id"]: self.tree.arms.index(row["chosen_model"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}: holds no decisions ({error}).", "Correct its path."
            ) from error
        missing = [item for item in self.items if item not in chosen]
        if missing:
            raise DataError(
                f"{file}: has no decision for {missing[0]} ({len(missing):,} are missing).",
                "Take the whole file.",
            )
        paths = [(arm,) for arm in range(len(self.tree.arms))]
        arm_Q = torch.tensor([chosen[item] for item in self.items])
        return static_leaves(self.tree, paths).gather(1, arm_Q[self.tree.query_T][:, None])[:, 0]


def _lines(table: Reproduction, row: RowSection, worlds: list[_World]) -> list[Line]:
    ours = [_figures(row, world) for world in worlds]

    def line(name: str, figure: str, published: float, value: float) -> Line:
        if figure in row.within:
            equal = abs(value - published) <= row.within[figure]
        else:
            digits = table.digits.get(figure, 4)
            equal = abs(round(value, digits) - published) < 0.51 * 10.0**-digits
        return Line(name, figure, published, value, bool(equal))

    found = []
    for figure, published in row.published.items():
        each = published if isinstance(published, tuple) else (published,)
        for one, value, mine in zip(table.imports, each, ours, strict=False):
            name = f"{row.name} ({one.name})" if len(table.imports) > 1 else row.name
            found.append(line(name, figure, value, _figure(mine, figure, row)))
    for kind, wanted, of in (("mean", row.mean, np.mean), ("std", row.std, _std)):
        for figure, published in wanted.items():
            values = [_figure(mine, figure, row) for mine in ours]
            found.append(line(f"{row.name}, {kind}", figure, published, float(of(values))))
    for figure in row.also:
        found += [Line(row.name, figure, None, _figure(mine, figure, row), None) for mine in ours]
    return found


def _std(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


def _figure(figures: Mapping[str, float], name: str, row: RowSection) -> float:
    if name not in figures:
        raise ConfigError(f"{row.name}: has no figure {name!r}.", f"It has: {', '.join(figures)}.")
    return figures[name]


def _figures(row: RowSection, world: _World) -> dict[str, float]:
    if row.rule in SPECIAL:
        return SPECIAL[row.rule](world)
    leaf_T = world.leaves(row)
    if bool((leaf_T == NONE).any()):
        raise DataError(f"{row.name}: some questions lack this choice.", "Choose another row.")
    tree = world.tree
    quality_Q, cost_Q = world.mean(tree.quality_M[leaf_T]), world.mean(tree.cost_M[leaf_T])
    regret_Q = world.best - (quality_Q - world.alpha * cost_Q)
    return {
        "questions": len(quality_Q),
        "quality": float(quality_Q.mean()),
        "quality_percent": 100 * float(quality_Q.mean()),
        "cost": float(cost_Q.mean()),
        "total_cost": float(cost_Q.sum()),
        "regret": float(regret_Q.sum()),
    }


def _random(world: _World) -> dict[str, float]:
    """RouteLLM's metrics of random scores between two arms, means over seeds."""
    weak_Q, strong_Q = world.by_arm.mean(axis=1).T
    found = [
        apgr_cpt(np.random.default_rng(seed).random(len(weak_Q)), weak_Q, strong_Q)
        for seed in range(SEEDS)
    ]
    names = ("apgr", "cpt50", "cpt80")
    return {name: float(np.mean([getattr(one, name) for one in found])) for name in names}


def _best_of_means(world: _World) -> dict[str, float]:
    """The arm that is best on each question by its mean over replicas, which luck helps."""
    return {"quality": float(world.by_arm.mean(axis=1).max(axis=1).mean())}


def _any(world: _World) -> dict[str, float]:
    """Probability that one of the arms is right, each asked once and for itself."""
    wrong_QA = 1 - world.by_arm.mean(axis=1)
    return {"quality": float((1 - wrong_QA.prod(axis=1)).mean())}


def _cross_fit(world: _World) -> dict[str, float]:
    """The arm chosen on one half of the replicas, by its quality on the other half.

    All ways of halving count alike; of an odd number of replicas the smaller part chooses. Our
    rule for ties is to share the question evenly among the arms that tie; `lowest` and `highest`
    are over all orders in which the first of the arms that tie could be taken.
    """
    quality_QRA = world.by_arm
    replicas, arms = quality_QRA.shape[1:]
    halves = list(combinations(range(replicas), replicas // 2)) if replicas > 1 else []
    if not halves:
        raise DataError("one replica has no halves.", "Leave out the row of rule cross-fit.")
    orders = list(permutations(range(arms))) if arms <= 5 else [tuple(range(arms))]
    shared, ordered = [], np.zeros((len(halves), len(orders)))
    for at, chosen in enumerate(halves):
        rest = [replica for replica in range(replicas) if replica not in chosen]
        first_QA = quality_QRA[:, list(chosen)].mean(axis=1)
        other_QA = quality_QRA[:, rest].mean(axis=1)
        tied_QA = first_QA >= first_QA.max(axis=1, keepdims=True) - 1e-12
        shared.append(float(((other_QA * tied_QA).sum(axis=1) / tied_QA.sum(axis=1)).mean()))
        for place, order in enumerate(orders):
            pick_Q = tied_QA[:, order].argmax(axis=1)
            ordered[at, place] = other_QA[:, order][np.arange(len(other_QA)), pick_Q].mean()
    means = ordered.mean(axis=0)
    return {
        "quality": float(np.mean(shared)),
        "lowest": float(means.min()),
        "highest": float(means.max()),
    }


SPECIAL: Mapping[str | None, Callable[[_World], dict[str, Any]]] = {
    "random": _random,
    "best of means": _best_of_means,
    "any": _any,
    "cross-fit": _cross_fit,
}
"""Rows that choose no one leaf of each tree."""
