"""Experiments, arms and queries of a database, read back and held against its keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from hcache.checking.findings import Findings
from hcache.config.schema import ArmConfig, ExperimentConfig, ModelConfig
from hcache.config.stored import stored_arm, stored_config
from hcache.data.queries import Query
from hcache.data.readers import stored_query
from hcache.engines.pool import reply_settings
from hcache.engines.recorded import NAME as RECORDED_ENGINE
from hcache.errors import ConfigError, HcacheError
from hcache.experiment import Experiment, build_workflow
from hcache.keys import canonical
from hcache.models.arms import Arm, Pool
from hcache.store import Store
from hcache.store.checks import IDS_OF_EXPERIMENT, PASSAGES, QUERY_IDS, ROWS
from hcache.workflows import Workflow

Row = dict[str, Any]
PAGE = 4096  # queries read at once


@dataclass(frozen=True)
class Recorded:
    """An experiment as the database has it."""

    name: str
    config: ExperimentConfig
    workflow: Workflow
    pool: Pool
    hops: int
    replicas: int

    @cached_property
    def arms(self) -> frozenset[str]:
        """Ids of the pool."""
        return frozenset(arm.id for arm in self.pool)


def read_arms(store: Store, findings: Findings) -> dict[str, Arm]:
    """The arms by id, as they were stored."""
    arms = {}
    rows = store.sql(ROWS["arms"]).to_dicts()
    for row in rows:
        settings = _json("arms", "settings", row["arm_id"], row["settings"], findings)
        try:
            model = ModelConfig.model_validate(_fields(settings, ModelConfig))
            config = stored_arm(_fields(settings, ArmConfig))
        except ValidationError:
            findings.add("arms", "settings are not those of an arm", row["arm_id"])
            continue
        arm = Arm(row["name"], config.model, Path(model.path), row["fingerprint"], model, config)
        if arm.id != row["arm_id"]:
            findings.add("arms", "arm_id is not the key of its content", row["arm_id"])
        arms[row["arm_id"]] = arm
    findings.count("arms", len(rows))
    return arms


def fingerprints(arms: Mapping[str, Arm]) -> pl.DataFrame:
    """Limits of the replies of each fingerprint, for the rules of `store/checks.py`."""
    schema = {"fingerprint": pl.String, "max_tokens": pl.Int64, "context": pl.Int64,
              "tool": pl.Boolean, "by_question": pl.Boolean, "remote": pl.Boolean,
              "recorded": pl.Boolean}  # fmt: skip
    rows = [
        (arm.fingerprint, arm.config.max_tokens, _window(arm.model_config),
         arm.model_config.engine == "search", arm.by_question, arm.model_config.remote,
         arm.model_config.engine == RECORDED_ENGINE)
        for arm in arms.values()
    ]  # fmt: skip
    return pl.DataFrame(rows, schema, orient="row").unique("fingerprint")


def _window(model: ModelConfig) -> int:
    """Tokens that prompt and reply may have; that of a server is not known."""
    return 1 << 31 if model.remote else model.max_model_len


def read_experiments(store: Store, arms: Mapping[str, Arm], findings: Findings) -> list[Recorded]:
    """The experiments whose workflows can be run again; the others are noted."""
    pools = store.sql(ROWS["pools"])
    splits = store.sql(ROWS["splits"])
    found = []
    rows = store.sql(ROWS["experiments"]).to_dicts()
    for row in rows:
        name = row["experiment"]
        settings = _json("experiments", "config", name, row["config"], findings)
        try:
            config = stored_config(settings)
        except ValidationError:
            findings.add("experiments", "config is not that of an experiment", name)
            continue
        try:
            workflow = build_workflow(config.workflow, "workflow")
        except ConfigError as error:
            findings.notes.append(f"{name} was not run again: {error.message}")
            continue
        pool = pools.filter(experiment=name).to_dicts()
        recorded = Recorded(
            name, config, workflow,
            tuple(arms[one["arm_id"]] for one in pool if one["arm_id"] in arms),
            row["hops"], row["replicas"],
        )  # fmt: skip
        _check_experiment(recorded, row, findings)
        _check_pool(recorded, pool, findings)
        _check_splits(store, recorded, splits.filter(experiment=name), findings)
        found.append(recorded)
    findings.count("experiments", len(rows))
    return found


def _check_experiment(recorded: Recorded, row: Row, findings: Findings) -> None:
    config, workflow = recorded.config, recorded.workflow
    if (config.name, workflow.hops, config.sampling.replicas) != (
        row["experiment"], row["hops"], row["replicas"]
    ):  # fmt: skip
        findings.add("experiments", "name, hops or replicas are not those of config", recorded.name)
    if workflow.fingerprint != row["workflow"]:
        findings.add(
            "experiments", "workflow is not the key of that in config", recorded.name,
            hint="`hcache sample` brings it up to date, if the workflow has a new version",
        )  # fmt: skip


def _check_pool(recorded: Recorded, rows: list[Row], findings: Findings) -> None:
    config = recorded.config
    wanted = {(name, *arm.price.per_1000) for name, arm in config.arms.items()}
    names = {arm.id: arm.name for arm in recorded.pool}
    stored = {(names.get(row["arm_id"]), row["input_price"], row["output_price"]) for row in rows}
    if wanted != stored:
        findings.add("pools", "arms or prices are not those of config", recorded.name)
    if [row["position"] for row in rows] != list(range(len(config.arms))):
        findings.add("pools", "positions are not those of the arms of config", recorded.name)
    for arm in recorded.pool:
        if arm.name in config.arms and _identity(arm) != _identity(_configured(config, arm)):
            findings.add("arms", "settings are not those of the experiment", arm.id)


def _configured(config: ExperimentConfig, arm: Arm) -> Arm:
    """The same arm, with the settings of the experiment's configuration."""
    own = config.arms[arm.name]
    return Arm(arm.name, own.model, arm.path, arm.fingerprint, config.models[own.model], own)


def _identity(arm: Arm) -> Row:
    """The settings of an arm that cannot change under its id."""
    settings = reply_settings(arm.name, arm.model_config, arm.config)
    return {**settings, "instruction": arm.instruction, "system": arm.system}


def _check_splits(
    store: Store, recorded: Recorded, splits: pl.DataFrame, findings: Findings
) -> None:
    config = recorded.config
    known = store.match("queries", splits.select("query_id")).select("query_id", "dataset")
    for row in splits.join(known, "query_id").iter_rows(named=True):
        data = config.data.get(row["dataset"])
        if data is None:
            findings.add("queries", "dataset is none of its experiment", row["query_id"])
            continue
        if (row["extractor"], row["quality"]) != (data.extract, config.quality_of(row["dataset"])):
            findings.add("splits", "extractor or quality is not that of config", row["query_id"])
        if row["split"] not in {split for key in data.sources for split in key.split("/")}:
            findings.add("splits", "split is none of its data set", row["query_id"])


def check_queries(
    store: Store,
    limits: pl.DataFrame,
    known: Mapping[str, Query],
    findings: Findings,
    on_page: Callable[[int, int], None],
) -> None:
    """Hold the ids of queries against their content; `known` are those of an experiment's files.

    Passages are in the key of a query, but not in its row: they are taken from the searches.
    """
    unsure: dict[str, list[str]] = {}
    sure: set[str] = set()
    ids = store.sql(QUERY_IDS)
    for place, chosen in enumerate(ids.iter_slices(PAGE)):
        for query in read_queries(store, limits, chosen, known):
            stored, key = query.id, replace(query).id
            if stored in known and known[stored] != query:
                findings.add("queries", "is not as the experiment's files have it", stored)
            elif key == stored:
                sure |= set() if query.passages else {query.dataset}
            elif query.passages:
                findings.add("queries", "query_id is not the key of its content", stored)
            else:
                unsure.setdefault(query.dataset, []).append(stored)
        on_page(min(len(ids), (place + 1) * PAGE), len(ids))
    for dataset, queries in unsure.items():
        if dataset in sure:
            findings.add_all("queries", "query_id is not the key of its content", queries)
        else:
            findings.notes.append(
                f"{len(queries):,} queries of {dataset}: their ids were not checked, since they "
                "may have passages that nothing has searched; give the experiment's file."
            )
    findings.count("queries", len(ids))


def read_queries(
    store: Store, limits: pl.DataFrame, chosen: pl.DataFrame, known: Mapping[str, Query]
) -> list[Query]:
    """Queries as they are stored, under the ids that they are stored with."""
    searched = store.sql(PASSAGES, chosen=chosen, fingerprints=limits)
    passages = {
        key: tuple(part["content"] for part in json.loads(text) if part["role"] == "passage")
        for key, text in searched.iter_rows()
    }
    queries = []
    for row in store.match("queries", chosen).iter_rows(named=True):
        key = row["query_id"]
        own = known[key].passages if key in known else passages.get(key, ())
        queries.append(replace(stored_query(row), passages=own).under(key))
    return queries


def queries_of(store: Store, experiment: str) -> pl.DataFrame:
    """Ids of the queries of an experiment."""
    return store.sql(IDS_OF_EXPERIMENT, [experiment])


def file_queries(
    store: Store, experiment: Experiment | None, recorded: list[Recorded], findings: Findings
) -> dict[str, Query]:
    """The queries of an experiment's files, after a look at how they are split; by id."""
    if experiment is None:
        findings.notes.append(
            "Without the experiment's file, kinds and splits of queries were not checked."
        )
        return {}
    try:
        splits = experiment.splits
    except (HcacheError, OSError) as error:
        findings.notes.append(f"Kinds and splits of queries were not checked: {error}")
        return {}
    own = next((one for one in recorded if one.name == experiment.name), None)
    names = list(experiment.config.arms)
    same_arms = own is not None and own.config.arms == experiment.config.arms
    if own is not None and same_arms and [arm.name for arm in own.pool] != names:
        findings.add("pools", "the order is not that of the experiment's file", own.name)
    if own is None or own.config.data != experiment.config.data:
        findings.notes.append(
            f"The splits of {experiment.name} were not checked: its data are set otherwise than "
            "when it was sampled."
        )
    else:
        wanted = {(query.id, split) for split, part in splits.items() for query in part}
        rows = store.rows_of("splits", experiment.name)
        stored = set(rows.select("query_id", "split").iter_rows())
        odd = sorted({key for key, _ in wanted ^ stored})
        findings.add_all("splits", "queries are not split as the experiment's files are", odd)
    return {query.id: query for queries in splits.values() for query in queries}


def _fields(settings: Row, kind: type[ModelConfig | ArmConfig]) -> Row:
    return {name: value for name, value in settings.items() if name in kind.model_fields}


def _json(table: str, column: str, key: str, text: str, findings: Findings) -> Row:
    """An object from its JSON; an empty one, and a fault, where the text is not canonical JSON."""
    try:
        value = json.loads(text)
        if isinstance(value, dict) and canonical(value) == text:
            return value
    except ValueError:
        pass
    findings.add(table, f"{column} is no canonical JSON", key)
    return {}
