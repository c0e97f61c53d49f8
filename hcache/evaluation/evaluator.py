"""Routers evaluated on stored trees, with the baselines they have to beat; no model is loaded.

What comes in: the test trees, the routers, and the trees that choices may be made on (train and
validation). What goes out: a `Report` with one row per single model, static sequence, router,
chance and oracle, over all queries and per data set and kind. Everything is chosen on the
selection trees; the one row that is chosen on test says so in its name.

A query's value is the mean over its replicas. Routers act greedily. Intervals are over seeds and
queries, paired with the best static sequence (see `statistics`). The share of the gap
closed is mean(R − R_static) / mean(R_oracle − R_static); regret is mean(R_oracle − R). AIQ is that
of RouterBench (arXiv 2403.12031) over the points that a router has: several where it serves any α,
else one; its reference cost is that of the most expensive static sequence on the same queries, so
that it does not depend on who else is evaluated.

Axes in names: T trees, Q queries, S static sequences, L hops, A actions, F points of a front,
B resamples; leading `seeds` axis where a router comes in several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hcache.errors import ConfigError, DataError
from hcache.evaluation.baselines import (
    BEST_ON_TEST,
    BEST_STATIC,
    Candidate,
    Evaluator,
    cheapest_and_most_expensive,
    in_seeds,
    role_assignments,
    singles,
)
from hcache.evaluation.fronts import TwoModels, aiq, apgr_cpt, area, no_gap, pareto
from hcache.evaluation.groups import group_of, groups_left_out, masks
from hcache.evaluation.partial import remarks
from hcache.evaluation.report import Group, Plane, Point, Report, Row
from hcache.evaluation.statistics import LEVEL, VANISHES, Array, in_words, interval_of_mean
from hcache.policies import Policy
from hcache.policies.planning import PlanningPolicy
from hcache.replay.static import Path, best_single, best_static, common_paths, single_paths
from hcache.replay.tree import States, Tree, path_name

Policies = Mapping[str, Policy | Sequence[Policy]]


@dataclass(frozen=True)
class _Setup:
    """Trees of an evaluation and the reward; all but single models may be kept from STOP."""

    test: Tree
    selection: tuple[Tree, ...]
    alpha: float
    stop: bool

    @cached_property
    def open(self) -> Evaluator:
        """The evaluated trees with STOP."""
        return Evaluator(self.test, self.alpha)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluated trees as routers may act in them."""
        return self.open if self.stop else Evaluator(self.test.without_stop(), self.alpha)

    @cached_property
    def allowed(self) -> tuple[Tree, ...]:
        """The selection trees as routers may act in them."""
        return self.selection if self.stop else tuple(t.without_stop() for t in self.selection)

    @cached_property
    def static(self) -> Path:
        """The static sequence that is best on the selection trees."""
        return best_static(self.allowed, self.alpha, within=[self.evaluator.tree])

    @property
    def static_on_test(self) -> Path:
        """The one that is best on the evaluated trees, which nobody could have known."""
        trees = [self.evaluator.tree]
        return best_static(trees, self.alpha, within=trees)


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
    on_router: Callable[[Candidate], None] = lambda router: None,
) -> Report:
    """Evaluate routers on `test`; a router given as a list is one router in several seeds.

    With `stop` False nobody may STOP: router, static sequences, chance and oracle all run to the
    last hop. Single models are always evaluated after one hop, where the trees have that outcome.
    Ties among static sequences go to the cheapest, then to the shortest. `elsewhere` holds routers
    of other trees of the same test queries, as of other workflows; one that stands there more than
    once, with trees of its own each time, is one router in several seeds. `on_router` gets each
    router once it has acted.

    Raises:
        ConfigError: for no selection trees, other arms, or an empty list of policies.
        DataError: if test and selection share a query, or lack a static sequence.
        RunError: if a policy does not fit the trees.
    """
    chosen_on = (selection,) if isinstance(selection, Tree) else tuple(selection)
    _check(test, chosen_on, [policies, *(own for _, own in elsewhere)])
    setup = _Setup(test, chosen_on, alpha, stop)
    paths = _paths(setup.evaluator.tree)
    routers = [*_routers(setup.evaluator, policies, on_router)]
    routers += _elsewhere(setup, elsewhere, on_router)
    candidates = _candidates(setup, routers)
    statics = setup.evaluator.statics(paths)
    groups = tuple(
        group_of(named, candidates, statics[1], resamples, seed) for named in masks(test)
    )
    rows = [row for row in groups[0].rows if row.role == "router"]
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
        seeds={row.name: row.seeds for row in rows},
        best_static=path_name(setup.static, test.arms),
        best_single=path_name(best_single(chosen_on, alpha) or (), test.arms),
        verdicts={row.name: _sentence(row) for row in rows},
        notes=_notes(test, candidates),
        warnings=tuple(remarks(test, chosen_on, alpha)),
        share=1.0 if test.partial is None else test.partial.share,
        plane=_plane([path_name(path, test.arms) for path in paths], statics, groups[0]),
        two_models=_two_models(test, chosen_on, policies),
        groups=groups,
    )


def _paths(tree: Tree) -> list[Path]:
    """The static sequences that every tree has.

    Raises:
        DataError: partial trees that have none in common.
    """
    paths = common_paths([tree])
    if not paths and tree.partial is not None:
        raise DataError(
            "the evaluated trees are partial and have no static sequence in common.",
            "Sample that split in full: hcache sample EXPERIMENT.yaml --split SPLIT "
            "--set sampling.width=null --set sampling.bound=false",
        )
    return paths


def _candidates(setup: _Setup, routers: Sequence[Candidate]) -> list[Candidate]:
    """All candidates in the order of their rows."""
    evaluator = setup.evaluator
    return [
        *singles(setup.open),
        *role_assignments(setup.open),
        *cheapest_and_most_expensive(setup.open, setup.selection),
        evaluator.static(BEST_STATIC, "static", setup.static),
        *evaluator.per_kind(setup.allowed),
        evaluator.static(BEST_ON_TEST, "static on test", setup.static_on_test),
        evaluator.random(),
        *routers,
        *evaluator.halves(),
        evaluator.best_quality(),
        evaluator.oracle(),
    ]


def _routers(
    evaluator: Evaluator, policies: Policies, on_router: Callable[[Candidate], None]
) -> Iterator[Candidate]:
    for name, given in policies.items():
        router = evaluator.router(name, _as_list(given))
        on_router(router)
        yield router


def _elsewhere(
    setup: _Setup,
    given: Sequence[tuple[Tree, Policies]],
    on_router: Callable[[Candidate], None],
) -> Iterator[Candidate]:
    found: dict[str, list[Candidate]] = {}
    for tree, policies in given:
        allowed = tree if setup.stop else tree.without_stop()
        evaluator = Evaluator(allowed, setup.alpha, setup.test.queries)
        for router in _routers(evaluator, policies, on_router):
            found.setdefault(router.name, []).append(router)
    yield from (in_seeds(seeds) for seeds in found.values())


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
    router's preference for it. All NaN where the gap between the two may be 0.
    """
    paths = single_paths([test, *selection])
    if len(test.arms) != 2 or paths != [(0,), (1,)]:
        return {}
    evaluator = Evaluator(test, 0.0)
    strong = (best_single(selection, 0.0) or (1,))[0]
    quality_QS, _ = evaluator.statics(paths)
    weak_Q, strong_Q = quality_QS[:, 1 - strong], quality_QS[:, strong]
    if not interval_of_mean(strong_Q - weak_Q).excludes_zero:
        return dict.fromkeys(policies, no_gap(VANISHES))
    roots = test.states[test.root_T]
    found = {}
    for name, given in policies.items():
        score_T = torch.stack([_preference(p, roots, strong) for p in _as_list(given)]).mean(dim=0)
        score_Q = evaluator.by_query(score_T)
        found[name] = apgr_cpt(score_Q, weak_Q, strong_Q)
    return found


def _preference(policy: Policy, states: States, arm: int) -> Tensor:
    """By how much a router is for an arm: a planner's lead of its best plan, else a probability."""
    if isinstance(policy, PlanningPolicy):
        return policy.margin(states, arm)
    return policy.probs(states)[:, arm]


def _sentence(row: Row) -> str:
    found = in_words(row.verdict, row.difference)
    sentence = f"{row.name} against the best static sequence: {found}"
    if not row.smallest_effect > 0:
        return f"{sentence}."
    over = "queries and seeds" if row.seeds > 1 else "queries"
    return f"{sentence}; so many {over} show differences from {row.smallest_effect:.4f} up."


def _notes(test: Tree, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    notes = []
    evaluated = {
        candidate.name.split(">")[0] for candidate in candidates if candidate.role == "single"
    }
    missing = [arm for arm in test.arms if arm not in evaluated]
    if missing:
        notes.append(f"No row for {', '.join(missing)} alone: the trees lack that outcome.")
    return (*notes, *groups_left_out(test))


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
