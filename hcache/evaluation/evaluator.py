"""Routers evaluated on stored trees, beside all that they have to beat; no model is loaded.

What comes in: the test trees, the routers, and the trees that choices may be made on (train and
validation). What goes out: a `Report` with one row per single model, static sequence, router,
chance and oracle, over all queries and per data set and kind. Everything is chosen on the
selection trees; the one row that is chosen on test says so in its name.

A query's value is the mean over its replicas. Routers act greedily. Intervals are bootstrapped
over queries, paired with the best static sequence (see `statistics`). The share of the gap
closed is mean(R − R_static) / mean(R_oracle − R_static); regret is mean(R_oracle − R). AIQ is that
of RouterBench (arXiv 2403.12031) over the points that a router has: several where it serves any α,
else one; its reference cost is that of the most expensive static sequence on the same queries, so
that it does not depend on who else is evaluated.

Axes in names: T trees, Q queries, S static sequences, L hops, A actions, F points of a front,
B resamples, V quantities; leading `seeds` axis where a router comes in several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hcache.errors import ConfigError, DataError
from hcache.evaluation.baselines import (
    BEST_ON_TEST,
    BEST_STATIC,
    STOP,
    Candidate,
    Evaluator,
    cheapest_and_most_expensive,
    in_seeds,
    role_assignments,
    singles,
)
from hcache.evaluation.fronts import TwoModels, aiq, aiq_draws, apgr_cpt, area, pareto
from hcache.evaluation.report import Group, Plane, Point, Report, Row
from hcache.evaluation.static import best_single, best_static, common_paths, single_paths
from hcache.evaluation.statistics import (
    Array,
    Interval,
    in_words,
    interval_of_draws,
    interval_of_mean,
    interval_of_ratio,
    resampled_means,
    smallest_effect,
    verdict,
)
from hcache.policies import Policy
from hcache.replay.tree import Tree, path_name

LEVEL = 0.95
PAIRED = ("quality", "cost", "reward", "difference", "regret")  # means with draws of their own

Policies = Mapping[str, Policy | Sequence[Policy]]


def evaluate(
    test: Tree,
    policies: Policies,
    *,
    alpha: float,
    selection: Tree | Sequence[Tree],
    stop: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
    elsewhere: Sequence[tuple[Tree, Policies]] = (),
) -> Report:
    """Evaluate routers on `test`; a router given as a list is one router in several seeds.

    With `stop` False nobody may STOP: router, static sequences, chance and oracle all run to the
    last hop. Single models are always evaluated after one hop, where the trees have that outcome.
    Ties among static sequences go to the cheapest, then to the shortest. `elsewhere` holds routers
    of other trees of the same test queries, as of other workflows; one that stands there more than
    once, with trees of its own each time, is one router in several seeds.

    Raises:
        ConfigError: for no selection trees, other arms, or an empty list of policies.
        DataError: if test and selection share a query, or lack a static sequence.
        RunError: if a policy does not fit the trees.
    """
    chosen_on = [selection] if isinstance(selection, Tree) else list(selection)
    _check(test, chosen_on, [policies, *(own for _, own in elsewhere)])
    open_evaluator = Evaluator(test, alpha)
    evaluator = open_evaluator if stop else Evaluator(test.without_stop(), alpha)
    allowed = chosen_on if stop else [tree.without_stop() for tree in chosen_on]
    static = best_static(allowed, alpha)
    candidates = [
        *singles(open_evaluator),
        *role_assignments(open_evaluator),
        *cheapest_and_most_expensive(open_evaluator, chosen_on),
        evaluator.static(BEST_STATIC, "static", static),
        *evaluator.per_kind(allowed),
        evaluator.static(BEST_ON_TEST, "static on test", best_static([evaluator.tree], alpha)),
        evaluator.random(),
        *(evaluator.router(name, _as_list(given)) for name, given in policies.items()),
        *_elsewhere(elsewhere, alpha, stop, test.queries),
        *evaluator.halves(),
        evaluator.best_quality(),
        evaluator.oracle(),
    ]
    paths = common_paths([evaluator.tree])
    statics = evaluator.statics(paths)
    groups = tuple(
        _group(by, name, mask_Q, candidates, statics, resamples, seed)
        for by, name, mask_Q in _groups(test)
    )
    single = best_single(chosen_on, alpha)
    rows = groups[0].rows
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
        seeds={row.name: row.seeds for row in rows if row.role == "router"},
        best_static=path_name(static, test.arms),
        best_single=path_name(single, test.arms) if single is not None else "",
        verdicts={row.name: _sentence(row) for row in rows if row.role == "router"},
        notes=_notes(test, candidates),
        plane=_plane([path_name(path, test.arms) for path in paths], statics, groups[0]),
        two_models=_two_models(test, chosen_on, policies),
        groups=groups,
    )


def _elsewhere(
    given: Sequence[tuple[Tree, Policies]], alpha: float, stop: bool, queries: Sequence[str]
) -> Iterator[Candidate]:
    found: dict[str, list[Candidate]] = {}
    for tree, policies in given:
        evaluator = Evaluator(tree if stop else tree.without_stop(), alpha, queries)
        for name, own in policies.items():
            found.setdefault(name, []).append(evaluator.router(name, _as_list(own)))
    yield from (in_seeds(seeds) for seeds in found.values())


def _groups(tree: Tree) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(by, name, mask over queries): all, then each data set and kind where there are several."""
    yield "all", "all", np.ones(len(tree.queries), dtype=bool)
    for by, labels in (("dataset", tree.datasets), ("kind", tree.kinds)):
        distinct = sorted(set(labels))
        for label in distinct if len(distinct) > 1 else ():
            yield by, label, np.array([own == label for own in labels])


def _group(
    by: str,
    name: str,
    mask_Q: NDArray[np.bool_],
    candidates: Sequence[Candidate],
    statics: tuple[Array, Array],
    resamples: int,
    seed: int,
) -> Group:
    """Statistics of all candidates over the same resamples of some queries."""
    reference_cost = float(statics[1][mask_Q].mean(axis=0).max())
    static = next(c for c in candidates if c.role == "static").reward[:, mask_Q]
    oracle = next(c for c in candidates if c.role == "oracle").reward[:, mask_Q]
    gap_Q = (oracle - static)[0]
    values = [
        {
            "quality": c.quality[:, mask_Q],
            "cost": c.cost[:, mask_Q],
            "reward": c.reward[:, mask_Q],
            "difference": c.reward[:, mask_Q] - static,
            "regret": oracle - c.reward[:, mask_Q],
        }
        for c in candidates
    ]
    fronts = [_points(c, mask_Q) for c in candidates]
    columns = [value.mean(axis=0)[:, None] for row in values for value in row.values()]
    points = [array_QF for front in fronts for array_QF in front]
    draws = _Draws(resampled_means(np.hstack([gap_Q[:, None], *columns, *points]), resamples, seed))
    gap_B = draws.take(1)[:, 0]
    drawn = [dict(zip(row, draws.take(len(row)).T, strict=True)) for row in values]
    rows = []
    for candidate, own, own_draws, (cost_QF, quality_QF) in zip(
        candidates, values, drawn, fronts, strict=True
    ):
        intervals = {key: interval_of_mean(own[key], own_draws[key], LEVEL) for key in PAIRED}
        cost_BF, quality_BF = draws.take(cost_QF.shape[1]), draws.take(cost_QF.shape[1])
        flow = _flow(candidate, mask_Q)
        rows.append(
            Row(
                name=candidate.name,
                role=candidate.role,
                sequence=candidate.sequence,
                seeds=len(candidate.reward),
                quality=intervals["quality"],
                cost=intervals["cost"],
                reward=intervals["reward"],
                hops=float(candidate.hops[:, mask_Q].mean()),
                stops=sum(share[STOP] for share in flow) if flow else math.nan,
                difference=intervals["difference"],
                regret=intervals["regret"],
                gap_closed=interval_of_ratio(
                    own["difference"], gap_Q, own_draws["difference"], gap_B, LEVEL
                ),
                aiq=_aiq(cost_QF, quality_QF, cost_BF, quality_BF, reference_cost),
                smallest_effect=smallest_effect(own["difference"]),
                verdict=_verdict(candidate.role, intervals["difference"], len(gap_Q)),
                flow=flow,
                front=_front(candidate, mask_Q),
            )
        )
    return Group(by, name, int(mask_Q.sum()), reference_cost, tuple(rows))


class _Draws:
    """Resampled means [B, V], handed out in the order in which their columns were put together."""

    def __init__(self, means_BV: Array) -> None:
        self.means_BV = means_BV
        self.index = 0

    def take(self, columns: int) -> Array:
        """The next columns."""
        self.index += columns
        return self.means_BV[:, self.index - columns : self.index]


def _points(candidate: Candidate, mask_Q: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Cost and quality per query of the points that a candidate has, [Q, F] each."""
    if candidate.front is not None:
        return candidate.front.cost_QF[mask_Q], candidate.front.quality_QF[mask_Q]
    own = (candidate.cost, candidate.quality)
    cost_QF, quality_QF = (value[:, mask_Q].mean(axis=0)[:, None] for value in own)
    return cost_QF, quality_QF


def _aiq(
    cost_QF: Array, quality_QF: Array, cost_BF: Array, quality_BF: Array, reference: float
) -> Interval:
    if reference <= 0:
        return Interval(math.nan, note="every sequence is free")
    estimate = aiq(cost_QF.mean(axis=0), quality_QF.mean(axis=0), reference)
    draws_B = aiq_draws(cost_BF, quality_BF, reference)
    return interval_of_draws(estimate, draws_B, len(cost_QF), LEVEL)


def _flow(candidate: Candidate, mask_Q: NDArray[np.bool_]) -> tuple[dict[str, float], ...]:
    """The share of the trees that take each action, hop by hop; nothing for chance."""
    if candidate.flow_QLA is None:
        return ()
    share_LA = candidate.flow_QLA[mask_Q].mean(axis=0)
    return tuple(dict(zip(candidate.actions, share, strict=True)) for share in share_LA.tolist())


def _front(candidate: Candidate, mask_Q: NDArray[np.bool_]) -> tuple[Point, ...]:
    if candidate.front is None:
        return ()
    costs, qualities = (array_QF.mean(axis=0).tolist() for array_QF in _points(candidate, mask_Q))
    triples = zip(costs, qualities, candidate.front.alphas, strict=True)
    return tuple(Point(candidate.name, *triple) for triple in triples)


def _plane(names: Sequence[str], statics: tuple[Array, Array], group: Group) -> Plane:
    """Means over all queries, and what no other point dominates."""
    quality_S, cost_S = (array_QS.mean(axis=0) for array_QS in statics)
    points = [Point(*each) for each in zip(names, cost_S.tolist(), quality_S.tolist(), strict=True)]
    routers = [
        point
        for row in group.rows
        if row.role == "router"
        for point in row.front or (Point(row.name, row.cost.estimate, row.quality.estimate),)
    ]
    every = points + routers
    cost_P = np.array([point.cost for point in every])
    quality_P = np.array([point.quality for point in every])
    kept = [every[i] for i in np.flatnonzero(pareto(cost_P, quality_P))]
    names_kept = [point.name for point in sorted(kept, key=lambda point: point.cost)]
    reference = group.reference_cost
    if reference <= 0:  # every sequence is free
        return Plane(tuple(points), tuple(dict.fromkeys(names_kept)), *[math.nan] * 3)
    return Plane(
        statics=tuple(points),
        pareto=tuple(dict.fromkeys(names_kept)),
        static_aiq=aiq(cost_S, quality_S, reference),
        static_area=area(cost_S, quality_S, reference),
        area=area(cost_P, quality_P, reference),
    )


def _two_models(test: Tree, selection: Sequence[Tree], policies: Policies) -> dict[str, TwoModels]:
    """RouteLLM's metrics of each router's first decision, where there are two arms alone.

    The strong arm is the one of higher quality on the selection trees; the score of a query is the
    router's probability of it.
    """
    paths = single_paths([test, *selection])
    if len(test.arms) != 2 or paths != [(0,), (1,)]:
        return {}
    evaluator = Evaluator(test, 0.0)
    strong = (best_single(selection, 0.0) or (1,))[0]
    quality_QS, _ = evaluator.statics(paths)
    roots = test.states[test.root_T]
    found = {}
    for name, given in policies.items():
        score_T = torch.stack([p.probs(roots)[:, strong] for p in _as_list(given)]).mean(dim=0)
        score_Q = evaluator.by_query(score_T)
        found[name] = apgr_cpt(score_Q, quality_QS[:, 1 - strong], quality_QS[:, strong])
    return found


def _verdict(role: str, difference: Interval, queries: int) -> str:
    return verdict(difference, queries) if role == "router" else ""


def _sentence(row: Row) -> str:
    found = in_words(row.verdict, row.difference)
    sentence = f"{row.name}: better than the best static sequence: {found}"
    if math.isnan(row.smallest_effect):
        return f"{sentence}."
    return f"{sentence}; so many queries show differences from {row.smallest_effect:.4f} up."


def _notes(test: Tree, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    notes = []
    if len(test.replica_T.unique()) > 1:
        notes.append(
            "The oracle and its gap are per replica, so part of them is luck in the samples."
        )
    evaluated = {
        candidate.name.split(">")[0] for candidate in candidates if candidate.role == "single"
    }
    missing = [arm for arm in test.arms if arm not in evaluated]
    if missing:
        notes.append(f"No row for {', '.join(missing)} alone: the trees lack that outcome.")
    return tuple(notes)


def _check(test: Tree, selection: Sequence[Tree], policies: Sequence[Policies]) -> None:
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
    first, *others = policies
    names = [*first, *{name for own in others for name in own}]
    empty = [name for own in policies for name, given in own.items() if not _as_list(given)]
    if empty:
        raise ConfigError(f"the router {empty[0]!r} has no policy.", "Give one policy or more.")
    if len(set(names)) < len(names):
        raise ConfigError("two routers have one name.", "Give each a name of its own.")


def _as_list(given: Policy | Sequence[Policy]) -> list[Policy]:
    return list(given) if isinstance(given, Sequence) else [given]
