"""Judging runs: from run folders and a database to a report, to a repeat, or to a live router."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hcache import replay
from hcache.config import ExperimentConfig
from hcache.engines import EngineFactory, Engines, make_engine
from hcache.errors import RunError
from hcache.evaluation import Report, evaluate
from hcache.experiment import Experiment
from hcache.features import make_encoder
from hcache.keys import canonical
from hcache.policies import Policy, load_policy
from hcache.policies.rollout import greedy_leaves, mean_by_query
from hcache.queries import known_split
from hcache.routing import Router, ask_engines
from hcache.runs import Run, find_run, first_difference
from hcache.statistics import bootstrap_difference, in_words, verdict
from hcache.store import Store
from hcache.training import OnMetrics, train


def judge(config: ExperimentConfig, db: Path, runs: Sequence[Run], split: str = "test") -> Report:
    """Evaluate runs on a split; runs that differ in the seed alone stand in one row.

    The best static sequence is chosen on train and validation, less the split that is judged.
    Runs of another α, action set or encoder than the config's are left out: their figures
    would not be comparable. Each run keeps the report, and the look at the split is recorded.

    Raises:
        ConfigError: no such split.
        StoreError: the experiment was not sampled, or the split has no queries.
    """
    known_split(split)
    chosen_on = [name for name in ("train", "valid") if name != split]
    with Store(db) as store:
        trees = {name: replay.load(store, config, name).tree for name in [split, *chosen_on]}
    comparable = [run for run in runs if _comparable(run.config, config)]
    report = evaluate(
        trees[split],
        _policies(comparable),
        alpha=config.train.alpha,
        selection=[trees[name] for name in chosen_on],
        stop=config.train.stop,
        resamples=config.evaluate.resamples,
        seed=config.evaluate.seed,
    )
    found = report.to_dict()
    for run in comparable:
        run.write_evaluation(split, found)
    return report


def compare(one: Run, two: Run, db: Path, split: str = "test") -> str:
    """The paired difference in reward between two runs on a split, in words.

    Raises:
        RunError: the runs differ in α, action set, encoder or arms.
    """
    known_split(split)
    config = one.config
    if not _comparable(config, two.config):
        raise RunError(
            f"{one.name} and {two.name} were trained for different rewards or states.",
            "Compare runs of one α, action set, encoder and pool.",
        )
    with Store(db) as store:
        tree = replay.load(store, config, split).tree
    tree = tree if config.train.stop else tree.without_stop()
    reward_M = tree.reward_M(config.train.alpha)
    rewards = []
    for run in (one, two):
        leaf_T = greedy_leaves(load_policy(run.policy_folder), tree)
        rewards.append(mean_by_query(tree, reward_M[leaf_T]).numpy())
        run.record_look(split)
    settings = config.evaluate
    found = bootstrap_difference(*rewards, resamples=settings.resamples, seed=settings.seed)
    count = len(tree.queries)
    said = in_words(verdict(found, count), found)
    return f"{one.name} better than {two.name}: {said}, {count} queries of {split}."


def _comparable(one: ExperimentConfig, two: ExperimentConfig) -> bool:
    return (
        one.train.alpha == two.train.alpha
        and one.train.stop == two.train.stop
        and one.features == two.features
        and list(one.arms) == list(two.arms)
    )


def _policies(runs: Sequence[Run]) -> dict[str, list[Policy]]:
    """Policies by label; the label says more than the algorithm only where it has to."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        manifest = run.manifest
        start = Run(Path(manifest["init"])).manifest["algo"] if manifest["init"] else ""
        label = f"{start}>{manifest['algo']}" if start else str(manifest["algo"])
        variant = canonical(run.config.train.model_dump(mode="json", exclude={"seed"}))
        groups.setdefault((label, variant), []).append(run)
    labels = [label for label, _ in groups]
    return {
        label if labels.count(label) == 1 else f"{label} ({members[0].name})": [
            load_policy(run.policy_folder) for run in members
        ]
        for (label, _), members in groups.items()
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
