"""Comparability: which runs can stand in one report, and what has changed since they were made.

A run is left out by name, with the reason, where its figures would mean something else than those
of the others: it is damaged, was trained for another reward or decision process, or for models that
are not those whose replies are stored. One that was trained on other data, at other prices or on
another quality is evaluated, as a method of its own and with a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hcache.config.schema import ExperimentConfig
from hcache.data.hub import is_hub_name
from hcache.engines import build_pool
from hcache.errors import HcacheError, RunError, StoreError
from hcache.experiment import Experiment, build_workflow
from hcache.files import find
from hcache.keys import canonical
from hcache.policies import AnyAlpha
from hcache.replay.loading import load_replay
from hcache.runs.folder import Run, all_runs
from hcache.runs.methods import facts, same_method
from hcache.runs.prices import price_remarks
from hcache.store import Store


@dataclass
class Conditions:
    """An experiment as it is stored now, for runs to be held against."""

    experiment: Experiment
    data: Mapping[str, str]  # fingerprints of its training and validation trees
    arms: dict[str, str] = field(init=False)  # fingerprints by name
    _data: dict[str, Mapping[str, str]] = field(init=False)  # by prices and quality

    def __post_init__(self) -> None:
        self.arms = stored_arms(self.experiment)
        self._data = {canonical(_reward(self.experiment.config)): self.data}

    def against(self, run: Run) -> str:
        """Reason why a run cannot stand in a report of the experiment; empty where it can."""
        return damage(run) or _mismatch(run, self.experiment) or changed_arms(run, self.arms)

    def data_changed(self, run: Run) -> bool:
        """True if the trees that a run was trained and selected on are not those of now."""
        key = canonical(_reward(run.config))
        if key not in self._data:
            self._data[key] = self._at(run.config)
        return bool(run.manifest["identity"]["data"] != self._data[key])

    def remarks(self, run: Run) -> list[str]:
        """Differences between a run that is evaluated and the report that it stands in."""
        found = []
        if self.data_changed(run):
            found.append("it was trained on other training data than the database now holds")
        if _reward(run.config) != _reward(self.experiment.config):
            found.append("it was trained at other prices or on another quality than this report's")
        return [f"{run.name}: {remark}." for remark in found]

    def _at(self, config: ExperimentConfig) -> Mapping[str, str]:
        try:
            with Store(self.experiment.db) as store:
                return {s: load_replay(store, config, s).fingerprint for s in self.data}
        except StoreError:  # it is not sampled like that any more
            return {}


def without_others(runs: Sequence[Run], conditions: Conditions) -> tuple[list[Run], list[str]]:
    """Runs that can stand in one report, one a seed of each method, and who was left out why.

    Of two runs of one method and seed, the newer stays.
    """
    kept, notes = [], []
    for run in dict.fromkeys(runs):
        if reason := conditions.against(run):
            notes.append(left_out(run, reason))
        else:
            kept.append(run)
    keys = {run: (same_method(run), run.manifest["seed"]) for run in kept}
    newest: dict[tuple[str, int], Run] = {}
    for run in sorted(kept, key=lambda run: (str(run.manifest.get("created")), run.name)):
        newest[keys[run]] = run
    for run, key in keys.items():
        other = newest[key]
        if other != run:
            notes.append(left_out(run, f"{other.name} is the same method and seed, and newer"))
            kept.remove(run)
    return kept, notes


def left_out(run: Run, reason: str) -> str:
    """The line about a run that is left out."""
    return f"Left out: {run.name}: {reason.rstrip('.')}."


def damage(run: Run) -> str:
    """Reason why a run cannot be read; empty where it can."""
    try:
        if not run.finished:
            return "it is not finished"
        _ = run.config, run.policy, run.metrics(), facts(run)
    except HcacheError as error:
        return error.message
    return ""


def changed_arms(run: Run, arms: Mapping[str, str]) -> str:
    """Reason why a run was trained for other models than those whose replies are stored, or ""."""
    known: Mapping[str, str] = run.manifest.get("arms", {})
    changed = [name for name in run.config.arms if known.get(name, "") != arms.get(name)]
    if not known or not changed:
        return ""
    return f"the model behind {', '.join(changed)} has changed since it was trained"


def changes_since(experiment: Experiment) -> list[str]:
    """Warnings where model files, questions or the unit of prices are not those that were sampled.

    What is not on this machine is not looked at: evaluation takes the database alone.
    """
    warnings, stored = price_remarks(experiment), stored_arms(experiment)
    found = {name: _fingerprint(experiment, name) for name in stored}
    if changed := [name for name, own in found.items() if own and own != stored[name]]:
        warnings.append(
            f"The model files of {', '.join(changed)} have changed since sampling: the figures "
            "are those of the models as they were. Sample again."
        )
    if changed := _changed_splits(experiment):
        warnings.append(
            f"The questions of {', '.join(changed)} have changed since sampling: the figures are "
            "those of the questions as they were. Sample again."
        )
    return warnings


def outdated_by(run: Run) -> list[str]:
    """Names of runs in the same folder that differ from a run in the training data alone."""
    wanted = same_method(run, data=False), run.manifest["seed"]
    others = (other for other in all_runs(run.folder.parent) if other != run and not damage(other))
    return [
        other.name
        for other in others
        if (same_method(other, data=False), other.manifest["seed"]) == wanted
        and other.manifest["experiment"] == run.manifest["experiment"]
        and other.manifest["identity"]["data"] != run.manifest["identity"]["data"]
    ]


def stored_arms(experiment: Experiment) -> dict[str, str]:
    """Fingerprints by name of the arms whose replies an experiment's database holds."""
    with Store(experiment.db) as store:
        return dict(store.pool(experiment.name).select("name", "fingerprint").iter_rows())


def check_pair(one: Run, two: Run) -> None:
    """Refuse two runs whose rewards cannot be compared.

    Raises:
        RunError: naming what they differ in.
    """
    for run in (one, two):
        if reason := damage(run):
            raise RunError(f"{run.name}: {reason.rstrip('.')}.", "Train it again.")
    first, second = one.config, two.config
    if first.train.alpha != second.train.alpha:
        raise RunError(
            f"{one.name} and {two.name} were trained for different rewards.",
            "Compare runs of one α.",
        )
    if unknown := [name for name in second.arms if name not in first.arms]:
        raise RunError(
            f"{two.name} has the arm {unknown[0]}, for which {one.name} has no price.",
            f"Name {two.name} first.",
        )


def as_in(experiment: Experiment, other: Experiment) -> Experiment:
    """Another experiment at the prices and the α of an experiment; arms of its own keep theirs.

    Raises:
        RunError: it measures another quality.
    """
    here, config = experiment.config, other.config
    for name in config.data.keys() & here.data.keys():
        own, asked = config.measure_of(name), here.measure_of(name)
        if own != asked:
            raise RunError(
                f"{config.name} measures {own} on {name}, {here.name} measures {asked}.",
                "Compare on one quality: the same metric of what the same extractor finds.",
            )
    arms = {
        name: arm.model_copy(update={"price": here.arms[name].price}) if name in here.arms else arm
        for name, arm in config.arms.items()
    }
    train = config.train.model_copy(update={"alpha": here.train.alpha})
    config = config.model_copy(update={"arms": arms, "train": train})
    return Experiment(config, other.source, other.db)


def _mismatch(run: Run, experiment: Experiment) -> str:
    own, asked = run.config, experiment.config
    if own.name != asked.name:
        return f"it is of the experiment {own.name}"
    workflow = build_workflow(own.workflow, "workflow")
    if workflow.fingerprint != experiment.workflow.fingerprint:
        return "it was trained in another workflow"
    if workflow.hops != experiment.workflow.hops:
        return f"it was trained for {workflow.hops} hops, not {experiment.workflow.hops}"
    if list(own.arms) != list(asked.arms):
        return f"it chooses among the arms {', '.join(own.arms)}"
    if own.train.stop != asked.train.stop:
        return f"it was trained with train.stop={str(own.train.stop).lower()}"
    if own.features != asked.features:
        return "it reads the features of another encoder"
    if own.train.alpha != asked.train.alpha and not isinstance(run.policy, AnyAlpha):
        return f"it was trained for α = {own.train.alpha:g}"
    return ""


def _reward(config: ExperimentConfig) -> list[object]:
    """Prices or recorded costs, metrics and extractors: what rewards are made of besides α."""
    prices = {name: arm.price.per_1000 for name, arm in config.arms.items()}
    return [prices, config.cost, {name: config.measure_of(name) for name in config.data}]


def _fingerprint(experiment: Experiment, name: str) -> str:
    """Fingerprint of an arm by its files; empty where they are not here."""
    if (arm := experiment.config.arms.get(name)) is None:
        return ""
    models = {arm.model: experiment.config.models[arm.model]}
    try:
        return build_pool(models, {name: arm}, experiment.folder)[0].fingerprint
    except HcacheError:
        return ""


def _changed_splits(experiment: Experiment) -> list[str]:
    """Splits whose files do not hold the questions that are stored; none without the files."""
    sources = [s for data in experiment.config.data.values() for s in data.sources.values()]
    if any(is_hub_name(source.path) or not _is_here(experiment, source.path) for source in sources):
        return []
    try:
        asked = {split: {q.id for q in queries} for split, queries in experiment.splits.items()}
    except HcacheError:
        return list(dict.fromkeys(s for d in experiment.config.data.values() for s in d.sources))
    with Store(experiment.db) as store:
        rows = store.rows_of("splits", experiment.name).select("split", "query_id").iter_rows()
        stored: dict[str, set[str]] = {}
        for split, query in rows:
            stored.setdefault(split, set()).add(query)
    return [split for split, ids in asked.items() if stored.get(split) != ids]


def _is_here(experiment: Experiment, path: str) -> bool:
    return find(path, experiment.folder, Path()) is not None
