"""An experiment: its file resolved into queries, arms and a workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hcache.config.file import read_config, refused
from hcache.config.schema import DatasetConfig, ExperimentConfig
from hcache.data.extractors import EXTRACTORS
from hcache.data.hub import fetch, is_hub_name
from hcache.data.metrics import METRICS
from hcache.data.queries import OPTIONAL, SPLITS, Dropped, Query, split_by_hash, without_duplicates
from hcache.data.readers import read
from hcache.engines import ENGINES, build_pool
from hcache.errors import ConfigError, DataError
from hcache.keys import canonical
from hcache.models.arms import Arm, Pool
from hcache.models.files import locate
from hcache.models.replies import ReplyCount
from hcache.plugins import load_file
from hcache.store import Store, exists, wait_and_write
from hcache.store.queries import REPLIES
from hcache.store.schema import RESERVED
from hcache.workflows import WORKFLOWS, Workflow

Row = dict[str, Any]

RECORDED = ("experiments", "pools", "splits")
"""Tables of which an experiment's own rows are replaced when it is recorded."""


class Experiment:
    """An experiment file, validated; what it names is read when it is first needed."""

    def __init__(
        self,
        config: ExperimentConfig,
        source: Path = Path("experiment.yaml"),
        db: Path | None = None,
    ) -> None:
        """`source` is the file; relative paths are looked up in its folder first."""
        self.source = source
        self.folder = source.resolve().parent
        self.db = db if db is not None else Path(config.db)
        for number, file in enumerate(config.plugins):
            load_file(locate(file, self.folder, f"plugins.{number}", "plugins=[PATH]"))
        self.config = _with_files(config, self.folder, f"{source}: workflow")
        self.workflow = build_workflow(self.config.workflow, f"{source}: workflow")
        _check_free(self.workflow, self.config, str(source))
        for name, model in config.models.items():
            ENGINES.find(model.engine, f"{source}: models.{name}.engine")
        for name, dataset in config.data.items():
            _check_names(dataset, f"{source}: data.{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew in another process, which so loads the plug-ins too."""
        return type(self), (self.config, self.source, self.db)

    @classmethod
    def load(
        cls,
        path: str | Path,
        overrides: Sequence[str] = (),
        db: str | Path | None = None,
        algo: str | None = None,
        plugins: Sequence[str | Path] = (),
    ) -> Experiment:
        """Read an experiment file; see `read_config`. `plugins` are files besides those it names.

        Raises:
            ConfigError: naming the place in the file and the fix.
        """
        source = Path(path)
        config = read_config(source, overrides, algo)
        if plugins:
            files = (*config.plugins, *(str(Path(file).resolve()) for file in plugins))
            config = config.model_copy(update={"plugins": files})
        return cls(config, source, None if db is None else Path(db))

    @property
    def name(self) -> str:
        """Name under which the store knows it."""
        return self.config.name

    @cached_property
    def pool(self) -> Pool:
        """The arms, with fingerprints; reads the files of the models, loads none."""
        return build_pool(self.config.models, self.config.arms, self.folder)

    @cached_property
    def all_arms(self) -> Pool:
        """Every arm that may be asked: the pool, then the tools of the workflow."""
        return (*self.pool, *self.workflow.tools())

    @property
    def splits(self) -> dict[str, list[Query]]:
        """The queries of each split, by data set and id; no question stands in two.

        Raises:
            DataError: naming file, line and what is wrong.
        """
        return self._dealt[0]

    @property
    def dropped(self) -> Counter[Dropped]:
        """Numbers of questions that were dropped as duplicates, by data set, split and reason.

        Raises:
            DataError: see `splits`.
        """
        return self._dealt[1]

    @cached_property
    def _dealt(self) -> tuple[dict[str, list[Query]], Counter[Dropped]]:
        read: dict[str, list[Query]] = {}
        for name, dataset in self.config.data.items():
            for split, queries in self._read(name, dataset).items():
                read.setdefault(split, []).extend(queries)
        drop = [name for name, data in self.config.data.items() if data.on_duplicate == "drop"]
        kept, dropped = without_duplicates(read, drop)
        for split, queries in kept.items():
            if not queries:
                raise DataError(
                    f"{self.source}: every question of {split} stands in another split too.",
                    f"Give {split} a file of other questions.",
                )
        return {split: self._in_order(queries) for split, queries in kept.items()}, dropped

    def _in_order(self, queries: Sequence[Query]) -> list[Query]:
        datasets = list(self.config.data)
        return sorted(queries, key=lambda query: (datasets.index(query.dataset), query.id))

    def queries(self) -> list[Query]:
        """All queries of all splits."""
        return [query for queries in self.splits.values() for query in queries]

    def _read(self, name: str, dataset: DatasetConfig) -> dict[str, list[Query]]:
        out: dict[str, list[Query]] = {}
        for key, source in dataset.sources.items():
            place = f"data.{name}.sources.{key}.path"
            if is_hub_name(source.path):
                path = fetch(source.path, place)
            else:
                path = locate(source.path, self.folder, place)
            queries = read(
                dataset.reader,
                path,
                dataset=name,
                options=dataset.options,
                limit=source.limit,
                metrics=dataset.metrics,
                split=key,
            )
            queries = [replace(query, **dataset.asked) for query in queries]
            parts = split_by_hash(queries, key.split("/"))
            for split, part in parts.items():
                if not part:
                    raise DataError(
                        f"{place}: split {split} of {name} has no queries.",
                        "Raise the limit, or give it a file of its own.",
                    )
            out |= parts
        return out

    def replies(self, splits: Sequence[str] = SPLITS) -> tuple[ReplyCount, ...]:
        """Ends of the stored calls of each arm in some splits, in the order of the arms."""
        arms, workflow = list(self.config.arms), self.workflow
        scope = [workflow.fingerprint, workflow.hops, self.config.sampling.replicas]
        with Store(self.db) as store:
            found = store.sql(REPLIES, [self.name, arms, list(splits), *scope])
        counts = {name: ReplyCount(name, *rest) for name, *rest in found.iter_rows()}
        return tuple(counts.get(name, ReplyCount(name, 0, 0, 0)) for name in arms)

    def record(self, patience: float) -> int:
        """Bring the experiment, its arms and its queries into the store, if they changed.

        Returns the number of queries that are now in another split than was recorded before.
        """
        tables = self.tables(self.splits)
        stored = self._recorded() if exists(self.db) else {}
        if all(_same_rows(stored.get(table, []), tables[table]) for table in RECORDED):
            return 0
        wait_and_write(self.db, tables, patience, RECORDED, self.name)
        before = {row["query_id"]: row["split"] for row in stored.get("splits", [])}
        now = {row["query_id"]: row["split"] for row in tables["splits"]}
        return sum(before[query] != now[query] for query in before.keys() & now.keys())

    def _recorded(self) -> dict[str, list[Row]]:
        with Store(self.db) as store:
            return {table: store.rows_of(table, self.name).to_dicts() for table in RECORDED}

    def tables(self, splits: Mapping[str, Sequence[Query]]) -> dict[str, list[Row]]:
        """Rows of the experiment itself, its arms, and the queries of some splits."""
        config = self.config
        experiment = {
            "experiment": self.name,
            "workflow": self.workflow.fingerprint,
            "hops": self.workflow.hops,
            "replicas": config.sampling.replicas,
            "config": canonical(config.model_dump(mode="json")),
        }
        return {
            "queries": [_query_row(query) for part in splits.values() for query in part],
            "arms": [_arm_row(arm) for arm in self.all_arms],
            "experiments": [experiment],
            "pools": [self._pool_row(place, arm) for place, arm in enumerate(self.pool)],
            "splits": [
                self._split_row(split, query)
                for split, queries in splits.items()
                for query in queries
            ],
        }

    def _pool_row(self, position: int, arm: Arm) -> Row:
        input_price, output_price = arm.config.price.per_1000
        return {
            "experiment": self.name,
            "position": position,
            "arm_id": arm.id,
            "input_price": input_price,
            "output_price": output_price,
        }

    def _split_row(self, split: str, query: Query) -> Row:
        return {
            "experiment": self.name,
            "query_id": query.id,
            "split": split,
            "extractor": self.config.data[query.dataset].extract,
            "quality": self.config.quality_of(query.dataset),
        }


def _same_rows(one: Sequence[Row], two: Sequence[Row]) -> bool:
    return set(map(canonical, one)) == set(map(canonical, two))


def _query_row(query: Query) -> Row:
    return {
        "query_id": query.id,
        "dataset": query.dataset,
        "kind": query.kind,
        "question": query.question,
        "references": list(query.references),
        **{name: getattr(query, name) or None for name in OPTIONAL},
    }


def _arm_row(arm: Arm) -> Row:
    settings = arm.model_config.model_dump(mode="json") | arm.config.model_dump(mode="json")
    return {
        "arm_id": arm.id,
        "name": arm.name,
        "fingerprint": arm.fingerprint,
        "settings": canonical(settings),
    }


def build_workflow(settings: dict[str, Any], place: str) -> Workflow:
    """A workflow from its settings.

    Raises:
        ConfigError: an unknown workflow or setting.
    """
    workflow = _kind_of(settings, place)
    try:
        return workflow.model_validate(settings)
    except ValidationError as error:
        raise refused(error, workflow, place) from error


def _kind_of(settings: dict[str, Any], place: str) -> type[Workflow]:
    return WORKFLOWS.find(settings.get("name"), f"{place}.name")


def _with_files(config: ExperimentConfig, folder: Path, place: str) -> ExperimentConfig:
    """The configuration with what the files of its workflow say, so that it is whole by itself."""
    settings = _kind_of(config.workflow, place).with_files(config.workflow, folder)
    return config.model_copy(update={"workflow": settings})


def _check_free(workflow: Workflow, config: ExperimentConfig, place: str) -> None:
    for tool in workflow.tools():
        if tool.name in config.arms:
            raise ConfigError(
                f"{place}: arms.{tool.name}: a tool of the workflow has that name.",
                "Rename the arm.",
            )


def _check_names(dataset: DatasetConfig, place: str) -> None:
    """Refuse unknown extractors and metrics before anything is read or run."""
    try:
        EXTRACTORS.find(dataset.extract)
        for name in dataset.metrics:
            METRICS.find(name)
            if name.lower() in RESERVED:
                raise ConfigError(
                    f"the metric {name!r} has the name of a column of the view `outcomes`.",
                    "Register it under another name.",
                )
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", error.hint) from error
