"""Evaluating runs: from run folders and a database to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hcache.config.schema import ExperimentConfig
from hcache.data.queries import known_split
from hcache.errors import RunError, StoreError
from hcache.evaluation.evaluator import evaluate
from hcache.evaluation.report import Report
from hcache.evaluation.statistics import bootstrap_difference, in_words, verdict
from hcache.keys import canonical
from hcache.policies import AnyAlpha, Policy, at_alpha, load_policy
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import mean_by_query
from hcache.replay.loading import load_replay
from hcache.replay.tree import Tree
from hcache.runs.folder import Run
from hcache.store import Store

CHANGED = " with ΔW"
"""Stands behind the label of a router that is evaluated with what it changes."""

Beside = tuple[ExperimentConfig, Path, Sequence[Run]]
"""An experiment of another workflow on the same questions: configuration, database, runs."""


def evaluate_runs(
    config: ExperimentConfig,
    db: Path,
    runs: Sequence[Run],
    split: str = "test",
    beside: Sequence[Beside] = (),
) -> Report:
    """Evaluate runs on a split; runs that differ in the seed alone stand in one row.

    The best static sequence is chosen on train and validation, less the split that is evaluated.
    Runs of another action set or encoder than the config's, or of another α unless they serve any,
    are left out, since their figures would not be comparable; a note says how many. Routers of the
    experiments `beside` are evaluated on the same questions. A run that changes what is said is
    evaluated on the replies as they were, without its changes, and on those sampled with its ΔW, if
    there are any. Each run keeps the report, and that the split was evaluated.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
    """
    known_split(split)
    chosen_on = [name for name in ("train", "valid") if name != split]
    trees = {name: _tree(config, db, name) for name in [split, *chosen_on]}
    comparable = comparable_runs(runs, config)
    others = [(other, db, comparable_runs(runs, other)) for other, db, runs in beside]
    elsewhere = [
        (_tree(other, other_db, split), _policies(other_runs, f" ({other.name})"))
        for other, other_db, other_runs in others
    ]
    routers = _policies(comparable)
    changed, notes = _with_changes(config, comparable, routers, split)
    report = evaluate(
        trees[split],
        routers,
        alpha=config.train.alpha,
        selection=[trees[name] for name in chosen_on],
        stop=config.train.stop,
        resamples=config.evaluate.resamples,
        seed=config.evaluate.seed,
        elsewhere=[*changed, *elsewhere],
    )
    if left_out := len(runs) - len(comparable):
        notes.append(f"Runs left out, being of another α, action set, encoder or pool: {left_out}.")
    report = replace(report, notes=(*report.notes, *notes))
    found = report.to_dict()
    for run in (*comparable, *(run for _, _, other_runs in others for run in other_runs)):
        run.write_evaluation(split, found)
    return report


def _with_changes(
    config: ExperimentConfig, runs: Sequence[Run], routers: dict[str, list[Policy]], split: str
) -> tuple[list[tuple[Tree, dict[str, list[Policy]]]], list[str]]:
    """Routers that change what is said, on trees sampled with these changes, and what to know."""
    found: list[tuple[Tree, dict[str, list[Policy]]]] = []
    notes = []
    for label, members in labelled(runs).items():
        if not getattr(routers[label][0], "changes_replies", False):
            continue
        notes.append(f"{label}: the router alone, on replies as they are without its ΔW.")
        trees = [_tree_of_changes(run, config, split) for run in members]
        if None in trees:
            run = members[trees.index(None)]
            command = f"hcache sample EXPERIMENT.yaml --policy {run.name} --split {split}"
            notes.append(
                f"To evaluate {label} with ΔW too, sample what it makes of them: {command}"
            )
            continue
        notes.append(f"{label}{CHANGED}: on replies that were sampled with its ΔW.")
        found += [
            (tree, {label + CHANGED: [policy]})
            for tree, policy in zip(trees, routers[label], strict=True)
            if tree is not None
        ]
    return found, notes


def _tree_of_changes(run: Run, config: ExperimentConfig, split: str) -> Tree | None:
    """A split as it was sampled with a run's ΔW, or None if it was not, or not to the end."""
    if not run.replies.exists():
        return None
    try:
        with Store(run.replies) as store:
            loaded = load_replay(store, config, split)
    except StoreError:
        return None
    return None if loaded.incomplete else loaded.tree


def compare(one: Run, two: Run, db: Path, split: str = "test") -> str:
    """The paired difference in reward between two runs on a split, in words.

    A run that changes what is said counts with what was sampled with its ΔW, where that is there.

    Raises:
        RunError: the runs differ in α, or were evaluated on other questions.
    """
    known_split(split)
    alpha = one.config.train.alpha
    if two.config.train.alpha != alpha:
        raise RunError(
            f"{one.name} and {two.name} were trained for different rewards.",
            "Compare runs of one α.",
        )
    rewards = [_rewards(run, db if run is one else None, split) for run in (one, two)]
    if rewards[0].keys() != rewards[1].keys():
        raise RunError(
            f"{one.name} and {two.name} are not evaluated on the same questions.",
            "Sample both experiments to the end, on the same data.",
        )
    for run in (one, two):
        run.record_look(split)
    settings = one.config.evaluate
    found = bootstrap_difference(
        list(rewards[0].values()),
        [rewards[1][query] for query in rewards[0]],
        resamples=settings.resamples,
        seed=settings.seed,
    )
    said = in_words(verdict(found, len(rewards[0])), found)
    return f"{one.name} better than {two.name}: {said}, {len(rewards[0])} queries of {split}."


def _rewards(run: Run, db: Path | None, split: str) -> dict[str, float]:
    """The reward of a run on each query of a split, by query id."""
    alpha, policy = run.config.train.alpha, load_policy(run.policy_folder)
    changes = getattr(policy, "changes_replies", False)
    tree = _tree_of_changes(run, run.config, split) if changes else None
    if tree is None:
        tree = _tree(run.config, db or Path(run.manifest["db"]), split)
    tree = tree if run.config.train.stop else tree.without_stop()
    leaf_T = greedy_leaves(at_alpha(policy, alpha), tree)
    reward_Q = mean_by_query(tree, tree.reward_M(alpha)[leaf_T])
    return dict(zip(tree.queries, reward_Q.tolist(), strict=True))


def _tree(config: ExperimentConfig, db: Path, split: str) -> Tree:
    with Store(db) as store:
        return load_replay(store, config, split).tree


def comparable_runs(runs: Sequence[Run], config: ExperimentConfig) -> list[Run]:
    """The runs whose figures can stand in one table with the config's α."""
    return [
        run
        for run in runs
        if run.config.train.stop == config.train.stop
        and run.config.features == config.features
        and list(run.config.arms) == list(config.arms)
        and _serves(run, config.train.alpha)
    ]


def _serves(run: Run, alpha: float) -> bool:
    return run.config.train.alpha == alpha or isinstance(load_policy(run.policy_folder), AnyAlpha)


def labelled(runs: Sequence[Run], suffix: str = "") -> dict[str, list[Run]]:
    """Runs by the label of their row, those that differ in the seed alone together.

    The label says more than the algorithm only where it has to.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        manifest = run.manifest
        start = Run(Path(manifest["init"])).manifest["algo"] if manifest["init"] else ""
        label = f"{start}+{manifest['algo']}" if start else str(manifest["algo"])
        variant = canonical(run.config.train.model_dump(mode="json", exclude={"seed", "also"}))
        groups.setdefault((label + suffix, variant), []).append(run)
    labels = [label for label, _ in groups]
    return {
        label if labels.count(label) == 1 else f"{label} ({members[0].name})": members
        for (label, _), members in groups.items()
    }


def _policies(runs: Sequence[Run], suffix: str = "") -> dict[str, list[Policy]]:
    return {
        label: [load_policy(run.policy_folder) for run in members]
        for label, members in labelled(runs, suffix).items()
    }
