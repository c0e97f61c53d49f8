"""Evaluating runs: from run folders and a database to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from hcache.data.queries import known_split
from hcache.errors import RunError, StoreError
from hcache.evaluation.baselines import Candidate
from hcache.evaluation.evaluator import Policies, evaluate
from hcache.evaluation.report import Report, Source
from hcache.evaluation.statistics import in_words, interval_of_mean, p_value, verdict
from hcache.experiment import Experiment
from hcache.policies import ChangesReplies, at_alpha
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query
from hcache.replay.loading import Replay, load_replay
from hcache.replay.tree import Tree
from hcache.runs.comparability import (
    Conditions,
    as_in,
    changed_arms,
    changes_since,
    check_pair,
    stored_arms,
    without_others,
)
from hcache.runs.completeness import with_counts
from hcache.runs.folder import DESCRIPTION, Run
from hcache.runs.leakage import refuse_leakage, without_leakage
from hcache.runs.methods import Method, methods
from hcache.store import Store

CHANGED = " with ΔW"
"""Stands behind the name of a router that is evaluated with what it changes."""

Others = Sequence[tuple[Experiment, Sequence[Run]]]
"""Experiments of other workflows on the same questions, with their runs."""

OnRouter = Callable[[str, int, int], None]
"""Takes the name of a router that was evaluated, how many were, and how many there are."""

Elsewhere = Sequence[tuple[Tree, Policies]]


@dataclass(frozen=True)
class Evaluation:
    """A report with what it was made from."""

    report: Report
    methods: tuple[Method, ...]  # of the experiment itself
    runs: tuple[Run, ...]  # all that were evaluated, those of other experiments too
    trees: Mapping[str, Tree]  # by split, as routers may act in them
    leaves: Mapping[str, Sequence[Tensor]]  # by router, for each seed: where it ends in each tree

    def keep(self, split: str) -> None:
        """Have each run keep the report, and that the split was looked at."""
        text = self.report.to_json()
        for run in self.runs:
            run.write_evaluation(split, text)


def evaluate_runs(
    experiment: Experiment,
    runs: Sequence[Run],
    split: str = "test",
    others: Others = (),
    on_router: OnRouter = lambda name, done, total: None,
) -> Report:
    """Evaluate runs on a split; runs that differ in the seed alone stand in one row.

    The best static sequence is chosen on train and validation, less the split that is evaluated.
    Runs whose figures would not be comparable with the others are left out by name, each with the
    reason (`comparability.py`), and so are runs that were trained or selected on some of the
    questions (`leakage.py`). Routers of the `others` are evaluated on the same questions, at the
    same prices and α. A run that changes what is said is evaluated on the replies as they were,
    without its changes, and on those sampled with its ΔW, if there are any. Each run keeps the
    report, and that the split was evaluated.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
        RunError: the only run was trained or selected on the questions.
    """
    evaluation = evaluation_of(experiment, runs, split, others, on_router)
    evaluation.keep(split)
    return evaluation.report


def evaluation_of(
    experiment: Experiment,
    runs: Sequence[Run],
    split: str = "test",
    others: Others = (),
    on_router: OnRouter = lambda name, done, total: None,
) -> Evaluation:
    """`evaluate_runs`, with all that it had to load and compute; runs keep nothing of it yet."""
    known_split(split)
    splits = dict.fromkeys((split, "train", "valid"))
    replays = {name: _replay(experiment, name) for name in splits}
    trees = {name: loaded.tree for name, loaded in replays.items()}
    (mine, *theirs), notes = _admitted(experiment, runs, others, replays)
    own = methods(mine[1])
    changed, more = _with_changes(experiment, own, split)
    elsewhere = [*changed, *(_elsewhere(other, found, split) for other, found in theirs)]
    report, leaves = _evaluate(experiment, trees, own, elsewhere, on_router)
    report = replace(
        report,
        notes=(*report.notes, *notes, *more),
        warnings=(*report.warnings, *changes_since(experiment)),
        replies=experiment.replies([split]),
    )
    report = with_counts(report, experiment, replays)
    evaluated = tuple(run for _, found in (mine, *theirs) for run in found)
    report = replace(report, made_from=tuple(_sources(replays, evaluated)))
    stop = experiment.config.train.stop
    acted = trees if stop else {name: tree.without_stop() for name, tree in trees.items()}
    return Evaluation(report, tuple(own), evaluated, acted, leaves)


def _sources(replays: Mapping[str, Replay], runs: Sequence[Run]) -> Iterator[Source]:
    """The parts of a report."""
    for split, loaded in replays.items():
        yield Source("outcomes", split, loaded.fingerprint)
    for run in runs:
        yield Source("run", run.name, run.digest)
        yield Source("policy", run.name, run.files()[DESCRIPTION])


def _admitted(
    experiment: Experiment, runs: Sequence[Run], others: Others, replays: Mapping[str, Replay]
) -> tuple[list[tuple[Experiment, list[Run]]], list[str]]:
    """Runs that can stand in the report, by experiment, its own first; and what to say of all."""
    split, tested = next(iter(replays.items()))
    entries, notes = [], []
    for other, given in ((experiment, runs), *((as_in(experiment, o), own) for o, own in others)):
        loaded = replays if other is experiment else _selection(other)
        conditions = _conditions(other, loaded)
        kept, more = without_others(given, conditions)
        entries.append((other, conditions, kept))
        notes += more
    asked = [run for *_, kept in entries for run in kept]
    allowed, leaks = without_leakage(asked, experiment.db, tested.tree.queries, split)
    admitted = []
    for other, conditions, kept in entries:
        admitted.append((other, [run for run in kept if run in allowed]))
        leaks += [remark for run in admitted[-1][1] for remark in conditions.remarks(run)]
    return admitted, notes + leaks


def _selection(experiment: Experiment) -> dict[str, Replay]:
    return {name: _replay(experiment, name) for name in ("train", "valid")}


def _evaluate(
    experiment: Experiment,
    trees: Mapping[str, Tree],
    own: Sequence[Method],
    elsewhere: Elsewhere,
    on_router: OnRouter,
) -> tuple[Report, dict[str, Sequence[Tensor]]]:
    """The report on the first of the trees, and the leaves that routers end in."""
    config, (test, *selection) = experiment.config, trees.values()
    total = len(own) + sum(len(policies) for _, policies in elsewhere)
    leaves: dict[str, Sequence[Tensor]] = {}
    done: list[str] = []

    def evaluated(router: Candidate) -> None:
        leaves.setdefault(router.name, router.leaves)
        done.append(router.name)
        on_router(router.name, len(done), total)

    with threadpool_limits(1):  # networks and samples this small gain nothing from more
        report = evaluate(
            test,
            {method.name: method.policies for method in own},
            alpha=config.train.alpha,
            selection=selection,
            stop=config.train.stop,
            resamples=config.evaluate.resamples,
            seed=config.evaluate.seed,
            elsewhere=elsewhere,
            on_router=evaluated,
        )
    return report, leaves


def _elsewhere(other: Experiment, runs: Sequence[Run], split: str) -> tuple[Tree, Policies]:
    """The routers of another experiment, on its tree of the split."""
    found = methods(runs, f" ({other.name})")
    return _tree(other, split), {method.name: method.policies for method in found}


def _with_changes(
    experiment: Experiment, found: Sequence[Method], split: str
) -> tuple[list[tuple[Tree, Policies]], list[str]]:
    """Routers that change what is said, on trees sampled with these changes, and what to know."""
    changed: list[tuple[Tree, Policies]] = []
    notes = []
    for method in found:
        if not isinstance(method.policies[0], ChangesReplies):
            continue
        notes.append(f"{method.name}: the router alone, on replies as they are without its ΔW.")
        trees = [_tree_of_changes(experiment, run, split) for run in method.runs]
        sampled = [tree for tree in trees if tree is not None]
        if len(sampled) < len(trees):
            notes.append(_to_sample(method, method.runs[trees.index(None)], split))
            continue
        notes.append(f"{method.name}{CHANGED}: on replies that were sampled with its ΔW.")
        name = method.name + CHANGED
        changed += [(tree, {name: p}) for tree, p in zip(sampled, method.policies, strict=True)]
    return changed, notes


def _to_sample(method: Method, run: Run, split: str) -> str:
    command = f"hcache sample EXPERIMENT.yaml --policy {run.name} --split {split}"
    return f"To evaluate {method.name} with ΔW too, sample what it makes of them: {command}"


def _tree_of_changes(experiment: Experiment, run: Run, split: str) -> Tree | None:
    """A split as it was sampled with a run's ΔW, or None if it was not, or not to the end."""
    if not run.replies.exists():
        return None
    try:
        with Store(run.replies) as store:
            loaded = load_replay(store, experiment.config, split)
    except StoreError:
        return None
    return None if loaded.incomplete else loaded.tree


def _conditions(experiment: Experiment, replays: Mapping[str, Replay]) -> Conditions:
    return Conditions(experiment, {s: replays[s].fingerprint for s in ("train", "valid")})


def _replay(experiment: Experiment, split: str) -> Replay:
    with Store(experiment.db) as store:
        return load_replay(store, experiment.config, split)


def _tree(experiment: Experiment, split: str) -> Tree:
    return _replay(experiment, split).tree


def compare(one: Run, two: Run, split: str = "test", db: Path | None = None) -> str:
    """The paired difference in reward between two runs on a split, in words.

    `db` is in place of the first run's database. Both are scored at the prices of the first. A run
    that changes what is said counts with what was sampled with its ΔW, where that is there.

    Raises:
        RunError: a run is damaged or its models have changed; the runs differ in α, quality or
            arms, were evaluated on other questions, or were trained on some of these.
    """
    known_split(split)
    check_pair(one, two)
    here = one.experiment(db)
    there = as_in(here, two.experiment())
    for run, experiment in ((one, here), (two, there)):
        if reason := changed_arms(run, stored_arms(experiment)):
            raise RunError(f"{run.name}: {reason}.", "Train it again.")
    first, second = _rewards(one, here, split), _rewards(two, there, split)
    if first.keys() != second.keys():
        raise RunError(
            f"{one.name} and {two.name} are not evaluated on the same questions.",
            "Sample both experiments to the end, on the same data.",
        )
    refuse_leakage((one, two), here.db, first, split)
    for run in (one, two):
        run.record_look(split)
    difference_SQ = np.array([[first[query] - second[query] for query in first]])
    answer = verdict(difference_SQ, p_value(difference_SQ))
    said = in_words(answer, interval_of_mean(difference_SQ))
    line = f"{one.name} against {two.name}: {said}, {len(first)} queries of {split}."
    if there.config.arms == two.config.arms:
        return line
    return f"{line} Both at the prices of {one.name}; {two.name} was trained at others."


def _rewards(run: Run, experiment: Experiment, split: str) -> dict[str, float]:
    """The reward of a run on each query of a split, by query id."""
    alpha, policy = run.config.train.alpha, run.policy
    changes = isinstance(policy, ChangesReplies)
    tree = _tree_of_changes(experiment, run, split) if changes else None
    if tree is None:
        tree = _tree(experiment, split)
    tree = tree if run.config.train.stop else tree.without_stop()
    leaf_T = greedy_leaves(at_alpha(policy, alpha), tree)
    reward_Q = mean_by_query(tree, tree.reward_M(alpha)[leaf_T])
    return dict(zip(tree.queries, reward_Q.tolist(), strict=True))
