"""The report of an evaluation: rows with intervals, groups, the cost-quality plane."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hcache.evaluation.fronts import TwoModels
from hcache.evaluation.statistics import Interval
from hcache.files import finite, json_text
from hcache.models.replies import ReplyCount


@dataclass(frozen=True)
class Point:
    """A place on the cost-quality plane; `alpha` where it belongs to a front."""

    name: str
    cost: float
    quality: float
    alpha: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of a report; differences are in reward, against the best static sequence."""

    name: str
    role: str  # single, role assignment, static, static per kind, random, router, oracle, …
    sequence: str  # of a static row; empty otherwise
    seeds: int
    quality: Interval
    cost: Interval
    reward: Interval
    hops: float
    stops: float  # share of the trees in which it takes STOP
    difference: Interval
    regret: Interval
    gap_closed: Interval
    aiq: Interval
    smallest_effect: float  # in reward, that as many queries and seeds would have shown
    p_value: float  # of a router's difference, by Holm over the routers of the group; else NaN
    verdict: str  # of a router, by that p-value, see `statistics.verdict`
    flow: tuple[dict[str, float], ...]  # share of all trees that take each action, by hop
    front: tuple[Point, ...]  # of a router that serves any α, and of the oracle


@dataclass(frozen=True)
class Group:
    """The rows over some queries: all, those of a data set, or those of a kind."""

    by: str  # all, dataset, kind
    name: str
    queries: int
    reference_cost: float  # of AIQ and areas
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Plane:
    """Static sequences and routers by mean cost and quality over all queries."""

    statics: tuple[Point, ...]
    pareto: tuple[str, ...]  # names of the points that no other dominates, cheapest first
    static_aiq: float  # of mixtures of static sequences, all of them
    static_area: float  # under the static sequences that are not dominated
    area: float  # the same with the routers


@dataclass(frozen=True)
class LeftOut:
    """Queries of a split that no figure holds, and why."""

    split: str
    reason: str
    queries: int
    of: int  # all queries of the split, these among them

    def __str__(self) -> str:
        return f"{self.queries:,} of {self.of:,} of {self.split} ({self.reason})"


@dataclass(frozen=True)
class Source:
    """Something that a report was made from, with the digest of its content."""

    kind: str  # database, outcomes (of a split, as they are loaded), run, policy
    name: str
    digest: str


@dataclass(frozen=True)
class Report:
    """Findings of an evaluation, and its conditions."""

    alpha: float
    stop: bool
    level: float
    resamples: int
    seed: int
    queries: int
    trees: int
    replicas: int
    selection_queries: int
    seeds: dict[str, int]  # of each router
    best_static: str  # chosen on selection
    best_single: str  # chosen on selection; empty if the trees hold no single models
    verdicts: dict[str, str]  # a sentence per router
    notes: tuple[str, ...]
    plane: Plane
    two_models: dict[str, TwoModels]  # of each router, where the pool has two arms
    groups: tuple[Group, ...]  # the first is over all queries
    replies: tuple[ReplyCount, ...] = ()  # stored for the split that is evaluated, by arm
    left_out: tuple[LeftOut, ...] = ()  # of the evaluated split, training and validation
    warnings: tuple[str, ...] = ()  # what must be known before any figure is believed
    made_from: tuple[Source, ...] = ()
    share: float = 1.0  # of the trajectories of whole trees that the evaluated ones hold

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat dict per group and row, for CSV; None where there is no number."""
        return [_flat(group, row) for group in self.groups for row in group.rows]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-safe values, with `rows`; NaN becomes None."""
        plain: dict[str, Any] = finite({**asdict(self), "rows": self.rows})
        return plain

    def to_json(self) -> str:
        """The report as text, a file's content."""
        return json_text(self.to_dict()) + "\n"


def _flat(group: Group, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"by": group.by, "group": group.name, "queries": group.queries}
    for name, value in vars(row).items():
        if isinstance(value, Interval):
            flat |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
            flat |= {f"{name}_spread": value.spread, f"{name}_note": value.note}
        elif not isinstance(value, tuple):
            flat[name] = value
    safe: dict[str, Any] = finite(flat)
    return safe
