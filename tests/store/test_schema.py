"""The schema: views that follow the metrics of the scores, and files of other versions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from helpers.experiments import load, sample, settings, table

from hcache.data.metrics import METRICS
from hcache.errors import StoreError
from hcache.experiment import Experiment
from hcache.store import Store, write
from hcache.store.exporting import exported
from hcache.store.schema import RESERVED, VERSION

VIEWS = ("outcomes", "sequences", "leaderboard", "oracle", "roles", "coverage")
ODD = ["t", "v", "a", "value", "metric", "extractor", "asks", "place", "metric_0", "select", "x y",
       "it's", 'so "called"', "a.b", "%s{}"]  # fmt: skip


@pytest.fixture
def brevity(monkeypatch: pytest.MonkeyPatch) -> str:
    """A metric from outside the package, unlike all of the package's."""

    def short(answer: str, references: Sequence[str]) -> float:
        return 1 / (1 + len(answer))

    monkeypatch.setitem(METRICS.entries, "brevity", short)
    return "brevity"


@pytest.fixture
def copy(sampled: Experiment, tmp_path: Path) -> Path:
    """A copy of the sampled database."""
    return Path(shutil.copy(sampled.db, tmp_path / "copy.duckdb"))


def scores(db: Path, metric: str, version: str = "", value: float | None = None) -> None:
    """Give each trajectory a score, by default one that tells trajectories apart."""
    ids = table(db, "trajectories")["trajectory_id"].sort()
    rows = [
        {"trajectory_id": key, "extractor": "text", "metric": metric, "answer": metric,
         "value": 1 / (2 + place) if value is None else value, "version": version}
        for place, key in enumerate(ids)
    ]  # fmt: skip
    write(db, {"scores": rows})


def values(db: Path, metric: str) -> dict[str, float]:
    rows = table(db, "scores")
    return dict(rows.filter(rows["metric"] == metric)["trajectory_id", "value"].iter_rows())


def column(db: Path, name: str) -> dict[str, float]:
    return dict(table(db, "outcomes")["trajectory_id", name].iter_rows())


def alter(db: Path, sql: str) -> None:
    with duckdb.connect(str(db)) as connection:
        connection.execute(sql)


# Views


def test_quality_is_the_metric_that_the_split_names(folder: Path, brevity: str) -> None:
    raw = settings("ab", quality=brevity)
    raw["data"]["made"]["metrics"] = ["f1", brevity]
    sample(folder, raw)
    db = folder / raw["db"]
    wanted = values(db, brevity)
    assert len(set(wanted.values())) > 2
    assert column(db, "quality") == column(db, brevity) == wanted
    means = {row["sequence"]: row[brevity] for row in table(db, "sequences").to_dicts()
             if row["split"] == "test"}  # fmt: skip
    ranked = {row["sequence"]: row["quality"] for row in table(db, "leaderboard").to_dicts()
              if row["split"] == "test" and row["place"]}  # fmt: skip
    assert ranked == means
    with Store(db) as store:
        best = store.sequences("test")
    assert best["quality"].to_list() == sorted(means.values(), reverse=True)


def test_quality_that_was_not_scored_is_no_other(copy: Path) -> None:
    alter(copy, "update splits set quality = 'brevity'")
    for view in ("outcomes", "sequences", "leaderboard", "oracle"):
        assert table(copy, view)["quality"].is_null().all()
    assert not table(copy, "outcomes")["f1"].is_null().any()


def test_new_file_has_no_metrics(tmp_path: Path) -> None:
    write(tmp_path / "new.duckdb", {})
    with Store(tmp_path / "new.duckdb") as store:
        assert store.metrics() == []
        for view in VIEWS:
            assert store.sql(f"from {view}").is_empty()


def test_the_quality_that_is_asked_for_has_a_column_before_any_score(tmp_path: Path) -> None:
    split = {"experiment": "e", "query_id": "q", "split": "test", "extractor": "text"}
    write(tmp_path / "new.duckdb", {"splits": [split | {"quality": "brevity"}]})
    with Store(tmp_path / "new.duckdb") as store:
        assert store.metrics() == ["brevity"]
        assert store.sql("select brevity, quality from sequences").is_empty()


def test_metrics_have_columns_in_one_order(copy: Path) -> None:
    order = ["f1", "em", "choice", "alpha", "zeta"]
    for metric in ("zeta", "choice", "alpha"):
        scores(copy, metric)
    with Store(copy) as store:
        assert store.metrics() == order
    for view in ("outcomes", "sequences"):
        with duckdb.connect(str(copy), read_only=True) as connection:  # as any client sees it
            found = connection.sql(f"from {view}").columns
        assert [name for name in found if name not in RESERVED] == order
    assert column(copy, "zeta") == values(copy, "zeta")


def test_views_are_made_anew_only_for_a_metric_that_they_lack(copy: Path) -> None:
    alter(copy, "create or replace view coverage as select 1 as mine")
    scores(copy, "f1")
    assert table(copy, "coverage").columns == ["mine"]
    scores(copy, "new")
    assert "expected" in table(copy, "coverage").columns


def test_metrics_may_have_any_name_that_is_not_reserved(copy: Path) -> None:
    alter(copy, f"update splits set quality = '{ODD[0]}'")
    before = {view: len(table(copy, view)) for view in VIEWS}
    for metric in ODD:
        scores(copy, metric)
    for metric in ODD:
        assert column(copy, metric) == values(copy, metric)
    assert column(copy, "quality") == values(copy, ODD[0])
    assert {view: len(table(copy, view)) for view in VIEWS} == before
    with Store(copy) as store:
        assert store.metrics() == ["f1", "em", *sorted(ODD)]
        rows = store.sql(exported(store.metrics()), ["small"])
    assert dict(rows["trajectory_id", "it's"].iter_rows()) == values(copy, "it's")


def test_names_that_differ_in_case_are_not_mixed_up(copy: Path) -> None:
    scores(copy, "F1")
    with Store(copy) as store:
        assert store.metrics() == ["f1", "em"]
    assert column(copy, "f1") == column(copy, "quality") == values(copy, "f1")


def test_reserved_names_are_the_columns_beside_metrics(copy: Path) -> None:
    with Store(copy) as store:
        metrics = store.metrics()
        found = {*store.sql(exported(metrics), ["small"]).columns}
    found |= {*table(copy, "outcomes").columns, *table(copy, "sequences").columns}
    assert found - {*metrics} == RESERVED
    scores(copy, "Cost")
    assert "Cost" not in table(copy, "outcomes").columns


def test_oracle_passes_over_trajectories_without_score(copy: Path) -> None:
    scores(copy, "numeric", value=0.5)
    alter(copy, "update splits set quality = 'numeric'")
    best = table(copy, "oracle", "all")
    alter(copy, "delete from scores where metric = 'numeric' and trajectory_id in "
                "(select trajectory_id from trajectories where depth = 2)")  # fmt: skip
    assert table(copy, "oracle", "all").equals(best)  # where all are as good, the cheapest


# Versions of scores


def test_score_gives_way_to_one_by_another_version(copy: Path) -> None:
    scores(copy, "new", "1", value=0.25)
    scores(copy, "new", "1", value=0.5)
    assert set(values(copy, "new").values()) == {0.25}  # the first of a version stays
    scores(copy, "new", "2", value=0.75)
    rows = table(copy, "scores")
    rows = rows.filter(rows["metric"] == "new")
    assert len(rows) == len(table(copy, "trajectories"))
    assert set(rows["value"]) == {0.75} and set(rows["version"]) == {"2"}


# Files of other versions


UNDO = {
    2: "alter table scores drop column version;",
    3: "alter table generations drop column thinking;"
       "alter table generations drop column prompt_key;",
    4: "alter table generations drop column reasoning_tokens; drop table conflicts;",
    5: "alter table queries drop column item; alter table states drop column costs;"
       "alter table trajectories drop column costs; alter table trajectories drop column unit;",
    6: "alter table queries drop column instruction; alter table queries drop column examples;"
       "alter table queries drop column tests;",
}  # fmt: skip
"""SQL that takes from a file what the migration of this version adds."""


def lower(db: Path, version: int) -> None:
    """Make a file one of an older version, views included."""
    undo = [UNDO[step] for step in range(version, VERSION)]
    views = [f"create or replace view {view} as select 1 as old;" for view in VIEWS]
    alter(db, "".join([*undo, *views, f"update meta set version = {version};"]))


@pytest.mark.parametrize("version", UNDO)
def test_file_of_an_older_version_is_lifted(copy: Path, version: int) -> None:
    before = {name: table(copy, name) for name in ("scores", *VIEWS)}
    lower(copy, version)
    with Store(copy) as store:
        assert store.sql("select version from meta").item() == VERSION
    after = {name: table(copy, name) for name in before}
    if version == 2:  # not known, so they are made anew when they are asked for
        before["scores"] = before["scores"].with_columns(version=pl.lit(""))
    for name, rows in before.items():
        assert after[name].equals(rows), name
    said = table(copy, "generations")
    if version < 4:
        assert set(said["thinking"]) == {False} and set(said["prompt_key"]) == {""}  # not known
    assert set(said["reasoning_tokens"]) == {0}
    scores(copy, "new", "1")
    assert column(copy, "new") == values(copy, "new")


@pytest.mark.parametrize("version", UNDO)
def test_lifted_file_has_the_tables_of_a_new_one(copy: Path, tmp_path: Path, version: int) -> None:
    write(tmp_path / "new.duckdb", {})
    lower(copy, version)
    shape = "select table_name, column_name, column_index, data_type, is_nullable, " \
            "column_default from duckdb_columns() semi join duckdb_tables() using (table_name) " \
            "order by all"  # fmt: skip
    found = []
    for path in (copy, tmp_path / "new.duckdb"):
        with Store(path) as store:
            found.append(store.sql(shape).rows())
    assert found[0] == found[1]


@pytest.mark.parametrize("sql", ["update meta set version = 1", "delete from meta"])
def test_file_from_before_the_first_release_is_refused(copy: Path, sql: str) -> None:
    alter(copy, sql)
    before = copy.read_bytes()
    actions: list[Any] = [lambda: Store(copy), lambda: write(copy, {})]
    for action in actions:
        with pytest.raises(StoreError, match=r"before the first release .*Sample again"):
            action()
    assert copy.read_bytes() == before


# What the commands ask


def test_experiments_and_pools_in_their_order(copy: Path, folder: Path) -> None:
    made = load(folder, settings("ba", name="other"))
    other = Experiment(made.config, made.source, copy)
    other.record(1)
    with Store(copy) as store:
        assert store.experiments() == ["other", "small"]
        assert store.pool("other")["name"].to_list() == ["b", "a"]
        assert store.pool("small")["arm_id"].to_list() == [arm.id for arm in other.pool[::-1]]
        assert store.rows_of("experiments", "other")["experiment"].to_list() == ["other"]
        assert store.rows_of("pools", "none").is_empty()
