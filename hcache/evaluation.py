"""Routers judged on stored trees, beside all that they have to beat; no model is loaded.

What comes in: the test trees, the routers, and the trees that choices may be made on (train and
validation). What goes out: a `Report` with one row per single model, static sequence, router,
chance and the oracle, over all queries and per data set and kind. Everything is chosen on the
selection trees; the one row that is chosen on test says so in its name.

A query's value is the mean over its replicas. Routers act greedily. Intervals are bootstrapped
over queries, paired with the best static sequence (see `hcache.statistics`). The share of the gap
closed is mean(R − R_static) / mean(R_oracle − R_static).

Axes in names: T trees, Q queries, S static sequences, M leaves, B resamples, V quantities;
leading `seeds` axis where a router comes in several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hcache.errors import ConfigError, DataError
from hcache.policies import Policy
from hcache.policies.rollout import (
    TIE,
    greedy_leaves,
    hops_of,
    mean_by_query,
    oracle_leaves,
    random_means,
    static_leaves,
)
from hcache.statistics import (
    Array,
    Interval,
    in_words,
    interval_of_mean,
    interval_of_ratio,
    resampled_means,
    verdict,
)
from hcache.tree import NONE, Tree, path_name, sequences

if TYPE_CHECKING:
    from rich.table import Table

Path = tuple[int, ...]  # actions of a static sequence, STOP left out

BEST_STATIC = "best static sequence"
BEST_ON_TEST = "best static, chosen on test (not attainable)"
PER_KIND = "best static sequence per kind"
RANDOM, ORACLE = "random", "oracle"
LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One line of a report; differences are in reward, against the best static sequence."""

    name: str
    role: str  # single, static, static per kind, static on test, random, router, oracle
    sequence: str  # of a static row; empty otherwise
    seeds: int
    quality: Interval
    cost: Interval
    reward: Interval
    hops: float
    difference: Interval
    gap_closed: Interval
    verdict: str  # of a router: better than the best static sequence?


@dataclass(frozen=True)
class Group:
    """The rows over some queries: all, those of a data set, or those of a kind."""

    by: str  # all, dataset, kind
    name: str
    queries: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Report:
    """What an evaluation found, and under which conditions."""

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
    groups: tuple[Group, ...]  # the first is over all queries

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat dict per group and row, for CSV; None where there is no number."""
        return [_flat(group, row) for group in self.groups for row in group.rows]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-safe values, with `rows`; NaN becomes None."""
        plain: dict[str, Any] = _jsonable({**asdict(self), "rows": self.rows})
        return plain


@dataclass(frozen=True)
class _Candidate:
    """A row before its statistics: per-query values, [seeds, Q]."""

    name: str
    role: str
    quality: Array
    cost: Array
    reward: Array
    hops: Array
    sequence: str = ""


def evaluate(
    test: Tree,
    policies: Mapping[str, Policy | Sequence[Policy]],
    *,
    alpha: float,
    selection: Tree | Sequence[Tree],
    stop: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
) -> Report:
    """Judge routers on `test`; a router given as a list is one router in several seeds.

    With `stop` False nobody may STOP: router, static sequences, chance and oracle all run to the
    last hop. Single models are always judged after one hop, where the trees have that outcome.
    Ties among static sequences go to the cheapest, then to the shortest.

    Raises:
        ConfigError: for no selection trees, other arms, or an empty list of policies.
        DataError: if test and selection share a query, or lack a static sequence.
        RunError: if a policy does not fit the trees.
    """
    chosen_on = [selection] if isinstance(selection, Tree) else list(selection)
    _check(test, chosen_on, policies)
    judge = _Judge(test if stop else test.without_stop(), alpha)
    allowed = chosen_on if stop else [tree.without_stop() for tree in chosen_on]
    static = best_static(allowed, alpha)
    candidates = [
        *_singles(_Judge(test, alpha)),
        judge.static(BEST_STATIC, "static", static),
        *judge.per_kind(allowed, alpha),
        judge.static(BEST_ON_TEST, "static on test", best_static([judge.tree], alpha)),
        judge.random(),
        *(judge.router(name, _as_list(given)) for name, given in policies.items()),
        judge.oracle(),
    ]
    groups = tuple(
        Group(by, name, int(mask_Q.sum()), _rows(candidates, mask_Q, resamples, seed))
        for by, name, mask_Q in _groups(test)
    )
    best_single = _best_single(chosen_on, alpha)
    return Report(
        alpha=alpha,
        stop=stop,
        level=LEVEL,
        resamples=resamples,
        seed=seed,
        queries=len(test.queries),
        trees=len(test),
        replicas=len(test.replica_T.unique()),
        selection_queries=sum(len(tree.queries) for tree in chosen_on),
        seeds={name: len(_as_list(given)) for name, given in policies.items()},
        best_static=path_name(static, test.arms),
        best_single=test.arms[best_single] if best_single is not None else "",
        verdicts={row.name: _sentence(row) for row in groups[0].rows if row.role == "router"},
        notes=_notes(test, candidates),
        groups=groups,
    )


def best_static(trees: Sequence[Tree], alpha: float, kind: str | None = None) -> Path:
    """The static sequence with the highest mean reward over the queries of all trees.

    With `kind`, over the queries of that kind alone. Of equals the cheapest, then the shortest,
    then the first in the order of the arms.

    Raises:
        DataError: if no sequence is possible in every tree.
    """
    paths = _common_paths(trees)
    if not paths:
        raise DataError(
            "no static sequence is possible in every selection tree.",
            "Sample the missing trajectories, or leave their queries out.",
        )
    leaves = [static_leaves(tree, paths) for tree in trees]
    rewards = [mean_by_query(t, t.reward_M(alpha)[at]) for t, at in zip(trees, leaves, strict=True)]
    costs = [mean_by_query(t, t.cost_M[at]) for t, at in zip(trees, leaves, strict=True)]
    kinds = [kind is None or kind == own for tree in trees for own in tree.kinds]
    reward_S = torch.cat(rewards)[kinds].mean(dim=0)
    cost_S = torch.cat(costs)[kinds].mean(dim=0)
    tied = (reward_S >= reward_S.max() - TIE).nonzero()[:, 0].tolist()
    best: int = min(tied, key=lambda s: (round(float(cost_S[s]), 9), s))
    return paths[best]


def table(report: Report, group: int = 0) -> Table:
    """A group of a report as a table for the terminal."""
    from rich.table import Table

    shown = report.groups[group]
    title = "all queries" if shown.by == "all" else f"{shown.by} {shown.name or '(none)'}"
    out = Table(title=f"{title}: {shown.queries} queries, α = {report.alpha:g}")
    out.add_column("who")
    for column in ("quality", "cost", "reward", "hops", "against best static", "gap closed"):
        out.add_column(column, justify="right")
    for row in shown.rows:
        name = f"{row.name}: {row.sequence}" if row.sequence else row.name
        name = f"{name} ({row.seeds} seeds)" if row.seeds > 1 else name
        cells = (row.quality, row.cost, row.reward)
        out.add_row(
            name,
            *(_cell(interval) for interval in cells),
            f"{row.hops:.2f}",
            _cell(row.difference),
            _cell(row.gap_closed),
        )
    return out


class _Judge:
    """Turns whatever ends in leaves of the test trees into a candidate row."""

    def __init__(self, tree: Tree, alpha: float) -> None:
        self.tree = tree
        self.reward_M = tree.reward_M(alpha)

    def static(self, name: str, role: str, path: Path) -> _Candidate:
        leaf_T = static_leaves(self.tree, [path])[:, 0]
        sequence = path_name(path, self.tree.arms)
        if bool((leaf_T == NONE).any()):
            raise DataError(
                f"{int((leaf_T == NONE).sum())} test trees lack the sequence {sequence}.",
                "Sample the missing trajectories, or leave their queries out.",
            )
        return self._of_leaves(name, role, [leaf_T], "" if role == "single" else sequence)

    def per_kind(self, selection: Sequence[Tree], alpha: float) -> Iterator[_Candidate]:
        """The rule that knows each query's kind, and takes the best sequence of that kind.

        Nothing where there is one kind only, or one that selection has not seen.
        """
        kinds = sorted(set(self.tree.kinds))
        if len(kinds) < 2 or not all(any(k in t.kinds for t in selection) for k in kinds):
            return
        paths = [best_static(selection, alpha, kind) for kind in kinds]
        leaf_TK = static_leaves(self.tree, paths)
        kind_T = torch.tensor([kinds.index(kind) for kind in self.tree.kinds])[self.tree.query_T]
        leaf_T = leaf_TK.gather(1, kind_T[:, None])[:, 0]
        yield self._of_leaves(PER_KIND, "static per kind", [leaf_T])

    def router(self, name: str, policies: Sequence[Policy]) -> _Candidate:
        return self._of_leaves(name, "router", [greedy_leaves(p, self.tree) for p in policies])

    def oracle(self) -> _Candidate:
        leaf_T = oracle_leaves(self.tree, self.reward_M)
        return self._of_leaves(ORACLE, "oracle", [leaf_T])

    def random(self) -> _Candidate:
        return self._candidate(RANDOM, "random", lambda value_M: [random_means(self.tree, value_M)])

    def _of_leaves(
        self, name: str, role: str, leaves: Sequence[Tensor], sequence: str = ""
    ) -> _Candidate:
        return self._candidate(name, role, lambda value_M: [value_M[at] for at in leaves], sequence)

    def _candidate(
        self, name: str, role: str, per_tree: Callable[[Tensor], list[Tensor]], sequence: str = ""
    ) -> _Candidate:
        """`per_tree` takes a value of the leaves to its value in each tree, for each seed."""

        def by_query(value_M: Tensor) -> Array:
            values = [mean_by_query(self.tree, value_T) for value_T in per_tree(value_M)]
            return np.stack([value_Q.numpy() for value_Q in values])

        return _Candidate(
            name=name,
            role=role,
            quality=by_query(self.tree.quality_M),
            cost=by_query(self.tree.cost_M),
            reward=by_query(self.reward_M),
            hops=by_query(hops_of(self.tree).double()),
            sequence=sequence,
        )


def _singles(judge: _Judge) -> Iterator[_Candidate]:
    """One row per arm alone, where every tree has that outcome."""
    for arm in _single_arms([judge.tree]):
        yield judge.static(judge.tree.arms[arm], "single", (arm,))


def _single_arms(trees: Sequence[Tree]) -> list[int]:
    paths = [(arm,) for arm in range(len(trees[0].arms))]
    possible = torch.stack([(static_leaves(t, paths) != NONE).all(dim=0) for t in trees])
    return [int(arm) for arm in possible.all(dim=0).nonzero()[:, 0]]


def _best_single(trees: Sequence[Tree], alpha: float) -> int | None:
    """The arm that is best alone on the selection trees; of equals the cheapest."""
    scores = []
    for arm in _single_arms(trees):
        leaves = [static_leaves(tree, [(arm,)])[:, 0] for tree in trees]
        reward = _mean([t.reward_M(alpha) for t in trees], trees, leaves)
        cost = _mean([t.cost_M for t in trees], trees, leaves)
        scores.append((-round(reward, 12), round(cost, 9), arm))
    return min(scores)[2] if scores else None


def _mean(values: Sequence[Tensor], trees: Sequence[Tree], leaves: Sequence[Tensor]) -> float:
    parts = [mean_by_query(t, v[at]) for t, v, at in zip(trees, values, leaves, strict=True)]
    return float(torch.cat(parts).mean())


def _common_paths(trees: Sequence[Tree]) -> list[Path]:
    """The static sequences that are possible in every tree, shortest first."""
    found = {
        tuple(action for action in path if action >= 0)
        for tree in trees
        for path in sequences(tree).path_SL.tolist()
    }
    paths = sorted((path for path in found if path), key=lambda path: (len(path), path))
    possible = torch.stack([(static_leaves(t, paths) != NONE).all(dim=0) for t in trees])
    return [path for path, ok in zip(paths, possible.all(dim=0).tolist(), strict=True) if ok]


def _groups(tree: Tree) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(by, name, mask over queries): all, then each data set and kind where there are several."""
    yield "all", "all", np.ones(len(tree.queries), dtype=bool)
    for by, labels in (("dataset", tree.datasets), ("kind", tree.kinds)):
        distinct = sorted(set(labels))
        for label in distinct if len(distinct) > 1 else ():
            yield by, label, np.array([own == label for own in labels])


def _rows(
    candidates: Sequence[_Candidate], mask_Q: NDArray[np.bool_], resamples: int, seed: int
) -> tuple[Row, ...]:
    """Statistics of all candidates over the same resamples of the queries."""
    static = next(c for c in candidates if c.role == "static").reward[:, mask_Q]
    gap_Q = next(c for c in candidates if c.role == "oracle").reward[0, mask_Q] - static[0]
    values = [
        {
            "quality": c.quality[:, mask_Q],
            "cost": c.cost[:, mask_Q],
            "reward": c.reward[:, mask_Q],
            "difference": c.reward[:, mask_Q] - static,
        }
        for c in candidates
    ]
    columns = [value.mean(axis=0) for row in values for value in row.values()]
    draws_BV = resampled_means(np.stack([*columns, gap_Q], axis=1), resamples, seed)
    rows = []
    for index, (candidate, own) in enumerate(zip(candidates, values, strict=True)):
        draws = draws_BV[:, 4 * index : 4 * index + 4].T
        intervals = {
            key: interval_of_mean(value, drawn, LEVEL)
            for (key, value), drawn in zip(own.items(), draws, strict=True)
        }
        rows.append(
            Row(
                name=candidate.name,
                role=candidate.role,
                sequence=candidate.sequence,
                seeds=len(candidate.reward),
                hops=float(candidate.hops[:, mask_Q].mean()),
                **intervals,
                gap_closed=interval_of_ratio(
                    own["difference"], gap_Q, draws[3], draws_BV[:, -1], LEVEL
                ),
                verdict=_verdict(candidate.role, intervals["difference"], len(gap_Q)),
            )
        )
    return tuple(rows)


def _verdict(role: str, difference: Interval, queries: int) -> str:
    return verdict(difference, queries) if role == "router" else ""


def _sentence(row: Row) -> str:
    found = in_words(row.verdict, row.difference)
    return f"{row.name}: better than the best static sequence: {found}."


def _notes(test: Tree, candidates: Sequence[_Candidate]) -> tuple[str, ...]:
    notes = []
    if len(test.replica_T.unique()) > 1:
        notes.append(
            "The oracle and its gap are per replica, so part of them is luck in the samples."
        )
    missing = [arm for arm in test.arms if arm not in {c.name for c in candidates}]
    if missing:
        notes.append(f"No row for {', '.join(missing)} alone: the trees lack that outcome.")
    return tuple(notes)


def _check(
    test: Tree, selection: Sequence[Tree], policies: Mapping[str, Policy | Sequence[Policy]]
) -> None:
    if not selection:
        raise ConfigError("there are no selection trees.", "Give the train and validation trees.")
    for tree in selection:
        if tree.arms != test.arms:
            raise ConfigError(
                f"selection has the arms {', '.join(tree.arms)}, test {', '.join(test.arms)}.",
                "Load all splits with one pool.",
            )
        shared = sorted(set(tree.queries) & set(test.queries))
        if shared:
            raise DataError(
                f"{len(shared)} queries are in test and in selection, {shared[0]} among them.",
                "Choose on train and validation queries only.",
            )
    empty = [name for name, given in policies.items() if not _as_list(given)]
    if empty:
        raise ConfigError(f"the router {empty[0]!r} has no policy.", "Give one policy or more.")


def _as_list(given: Policy | Sequence[Policy]) -> list[Policy]:
    return list(given) if isinstance(given, Sequence) else [given]


def _flat(group: Group, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"by": group.by, "group": group.name, "queries": group.queries}
    for name, value in vars(row).items():
        if isinstance(value, Interval):
            flat |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
            flat[f"{name}_spread"] = value.spread
        else:
            flat[name] = value
    safe: dict[str, Any] = _jsonable(flat)
    return safe


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(interval: Interval) -> str:
    if math.isnan(interval.estimate):
        return "-"
    if math.isnan(interval.low):
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
