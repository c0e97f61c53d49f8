"""Judging runs: from run folders and a database to a report, to a repeat, or to a live router."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hcache import replay
from hcache.config import ExperimentConfig
from hcache.engines import EngineFactory, Engines, make_engine
from hcache.errors import RunError
from hcache.evaluation import Report, evaluate
from hcache.experiment import Experiment
from hcache.features import make_encoder
from hcache.keys import canonical
from hcache.policies import AnyAlpha, Policy, at_alpha, load_policy
from hcache.policies.rollout import greedy_leaves, mean_by_query
from hcache.queries import known_split
from hcache.routing import Router, ask_engines
from hcache.runs import Run, find_run, first_difference
from hcache.statistics import bootstrap_difference, in_words, verdict
from hcache.store import Store
from hcache.training import OnMetrics, train
from hcache.tree import Tree

Beside = tuple[ExperimentConfig, Path, Sequence[Run]]
"""An experiment of another workflow on the same questions: configuration, database, runs."""


def judge(
    config: ExperimentConfig,
    db: Path,
    runs: Sequence[Run],
    split: str = "test",
    beside: Sequence[Beside] = (),
) -> Report:
    """Evaluate runs on a split; runs that differ in the seed alone stand in one row.

    The best static sequence is chosen on train and validation, less the split that is judged.
    Runs of another action set or encoder than the config's, or of another α unless they serve any,
    are left out, since their figures would not be comparable; a note says how many. Routers of the
    experiments `beside` are judged on the same questions. Each run keeps the report, and the look
    at the split is recorded.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
    """
    known_split(split)
    chosen_on = [name for name in ("train", "valid") if name != split]
    trees = {name: _tree(config, db, name) for name in [split, *chosen_on]}
    comparable = comparable_runs(runs, config)
    elsewhere = [
        (
            _tree(other, other_db, split),
            _policies(comparable_runs(other_runs, other), f" ({other.name})"),
        )
        for other, other_db, other_runs in beside
    ]
    routers = _policies(comparable)
    report = evaluate(
        trees[split],
        routers,
        alpha=config.train.alpha,
        selection=[trees[name] for name in chosen_on],
        stop=config.train.stop,
        resamples=config.evaluate.resamples,
        seed=config.evaluate.seed,
        elsewhere=elsewhere,
    )
    if any(getattr(seeds[0], "changes_replies", False) for seeds in routers.values()):
        note = "Of joint runs the high level alone is judged: what ΔW changes was never sampled."
        report = replace(report, notes=(*report.notes, note))
    if left_out := len(runs) - len(comparable):
        note = f"Runs left out, being of another α, action set, encoder or pool: {left_out}."
        report = replace(report, notes=(*report.notes, note))
    found = report.to_dict()
    for run in (*comparable, *(run for _, _, others in beside for run in others)):
        run.write_evaluation(split, found)
    return report


def compare(one: Run, two: Run, db: Path, split: str = "test") -> str:
    """The paired difference in reward between two runs on a split, in words.

    Raises:
        RunError: the runs differ in α, or were judged on other questions.
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
            f"{one.name} and {two.name} are not judged on the same questions.",
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
    alpha = run.config.train.alpha
    tree = _tree(run.config, db or Path(run.manifest["db"]), split)
    tree = tree if run.config.train.stop else tree.without_stop()
    leaf_T = greedy_leaves(at_alpha(load_policy(run.policy_folder), alpha), tree)
    reward_Q = mean_by_query(tree, tree.reward_M(alpha)[leaf_T])
    return dict(zip(tree.queries, reward_Q.tolist(), strict=True))


def _tree(config: ExperimentConfig, db: Path, split: str) -> Tree:
    with Store(db) as store:
        return replay.load(store, config, split).tree


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
        variant = canonical(run.config.train.model_dump(mode="json", exclude={"seed"}))
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


def repeat(run: Run, db: Path | None, on_metrics: OnMetrics = lambda metrics: None) -> str | None:
    """Train a run again from its manifest; None if all is identical, else the first difference."""
    manifest = run.manifest
    with tempfile.TemporaryDirectory() as folder:
        again = train(
            run.config,
            db or Path(manifest["db"]),
            init=manifest["init"],
            folder=Path(folder),
            on_metrics=on_metrics,
        )
        return _difference(run, again)


def _difference(run: Run, again: Run) -> str | None:
    for part in ("config", "data", "init"):
        if run.manifest["identity"][part] != again.manifest["identity"][part]:
            return f"the {part} is not what it was"
    place = first_difference(run.metrics(), again.metrics())
    if place is not None:
        before, after = (r.metrics()[place : place + 1] or "nothing" for r in (run, again))
        return f"metrics differ first in line {place + 1}: {before} was, {after} is"
    if run.manifest["outcome"]["weights"] != again.manifest["outcome"]["weights"]:
        return "the metrics are equal, the weights are not"
    return None


@contextmanager
def live_router(
    name: str | Path,
    experiment: Path | None = None,
    factory: EngineFactory = make_engine,
) -> Iterator[Router]:
    """The router of a run with engines behind it; models are loaded when first asked.

    Raises:
        RunError: no such run.
        ConfigError: the models are not where the experiment says.
    """
    run = find_run(name)
    source = experiment or Path(run.manifest["source"])
    loaded = Experiment(run.config, source)
    engines = Engines(factory)
    try:
        yield Router(
            run.config,
            loaded.workflow,
            loaded.pool,
            load_policy(run.policy_folder),
            make_encoder(run.config.features),
            ask_engines(engines),
        )
    finally:
        engines.close()
