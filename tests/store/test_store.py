"""The store: whose files it opens, that facts stay as first written, and what its views say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import duckdb
import polars as pl
import pytest
from helpers.experiments import sample, settings, table

from hcache.data.metrics import METRICS
from hcache.errors import StoreBusyError, StoreError
from hcache.experiment import Experiment
from hcache.store import Store, connection, frames, store, wait_and_write, write
from hcache.store.schema import TABLES, UNIQUE, VERSION

TEXT = {"text_id": "1", "text": "one"}


def new(folder: Path, **tables: list[dict[str, Any]]) -> Path:
    path = folder / "new.duckdb"
    write(path, tables)
    return path


def foreign(folder: Path, sql: str) -> Path:
    path = folder / "foreign.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)
    return path


# Whose file it is


def test_missing_database_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no database .*hcache sample"):
        Store(tmp_path / "none.duckdb")
    assert not (tmp_path / "none.duckdb").exists()


@pytest.mark.parametrize("content", [b"text", b"\0" * 20_000, b"SQLite format 3\0" * 999])
def test_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is not a DuckDB database"):
        Store(path)
    with pytest.raises(StoreError, match="is not a DuckDB database"):
        write(path, {"texts": [TEXT]})
    assert path.read_bytes() == content


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a DuckDB database"):
        Store(tmp_path)


@pytest.mark.parametrize(
    "sql",
    [
        "create table mine (x int)",
        "create table meta (x int)",
        "create table meta as select 'x' as version",
        "create view meta as select content as version from read_text('/etc/hostname')",
        "create view meta as select error('no') as version",
    ],
)
def test_database_of_others_is_refused_and_left_alone(tmp_path: Path, sql: str) -> None:
    path = foreign(tmp_path, sql)
    with pytest.raises(StoreError, match="not one of hcache"):
        Store(path)
    with pytest.raises(StoreError, match="not one of hcache"):
        write(path, {"texts": [TEXT]})
    with duckdb.connect(str(path)) as connection:
        assert connection.sql("show tables").fetchall() in ([("mine",)], [("meta",)])


def test_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = new(tmp_path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("update meta set version = version + 1")
    with pytest.raises(StoreError, match=r"newer hcache .*Upgrade"):
        Store(path)
    with pytest.raises(StoreError, match="newer hcache"):
        write(path, {"texts": [TEXT]})
    with duckdb.connect(str(path)) as connection:
        assert connection.sql("from texts").fetchall() == []


# Migrations


def with_migration(patch: pytest.MonkeyPatch, sql: str) -> None:
    patch.setattr(store, "MIGRATIONS", {VERSION: sql})
    patch.setattr(store, "VERSION", VERSION + 1)


def columns(path: Path) -> list[str]:
    with duckdb.connect(str(path)) as connection:
        return connection.sql("select * from texts").columns


@pytest.mark.parametrize("by", ["writing", "reading"])
def test_older_file_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    path = new(tmp_path, texts=[TEXT])
    with_migration(monkeypatch, "alter table texts add column more integer default 7")
    if by == "writing":
        write(path, {})
    with Store(path) as opened:
        assert opened.sql("select text, more from texts").rows() == [("one", 7)]
        assert opened.sql("select version from meta").item() == VERSION + 1


def test_failed_migration_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new(tmp_path, texts=[TEXT])
    with monkeypatch.context() as patch:
        with_migration(patch, "alter table texts add column more integer; select no_such_thing")
        with pytest.raises(StoreError, match="no_such_thing"):
            write(path, {"texts": [TEXT | {"text_id": "2"}]})
        assert columns(path) == ["text_id", "text"]
    with Store(path) as opened:
        assert opened.sql("from texts").rows() == [("1", "one")]


# Writing


def test_first_commit_wins(tmp_path: Path) -> None:
    path = new(tmp_path, texts=[TEXT, TEXT | {"text": "again, in one batch"}])
    write(path, {"texts": [TEXT | {"text": "again"}, {"text_id": "2", "text": "two"}]})
    assert table(path, "texts").rows() == [("1", "one"), ("2", "two")]


def test_states_gather_the_actions_of_all_pools(tmp_path: Path) -> None:
    state = {
        "query_id": "q", "workflow": "w", "replica": 0, "decisions": ["x"], "depth": 1, "role": "",
        "context_id": "c", "context": ["t"], "actions": ["x"], "stop": True, "asks": [],
    }  # fmt: skip
    path = new(tmp_path, states=[state, state | {"replica": 1}])
    write(path, {"states": [state | {"actions": ["z", "y"]}]})
    write(path, {"states": [state | {"actions": ["y"]}]})
    with Store(path) as opened:
        actions = opened.sql("select replica, actions from states order by replica").rows()
    assert actions == [(0, ["x", "y", "z"]), (1, ["x"])]


def test_transaction_that_fails_writes_nothing(tmp_path: Path) -> None:
    path = new(tmp_path)
    with pytest.raises(StoreError, match="NOT NULL"):
        write(path, {"texts": [TEXT], "messages": [{"messages_id": "1", "messages": None}]})
    assert table(path, "texts").is_empty()


def test_rows_of_an_experiment_give_way(tmp_path: Path) -> None:
    def rows(experiment: str, *splits: str) -> list[dict[str, Any]]:
        evaluated = {"experiment": experiment, "extractor": "text", "quality": "f1"}
        return [
            {**evaluated, "query_id": str(place), "split": split}
            for place, split in enumerate(splits)
        ]

    path = new(tmp_path, splits=[*rows("e", "train", "test"), *rows("f", "valid")])
    write(path, {"splits": rows("e", "test")}, replace=["splits"], experiment="e")
    found = table(path, "splits").select("experiment", "query_id", "split").rows()
    assert found == [("e", "0", "test"), ("f", "0", "valid")]


def test_every_table_says_what_is_unique(tmp_path: Path) -> None:
    assert TABLES.count("create table") == len(UNIQUE) == len(frames.SCHEMAS)
    path = new(tmp_path)
    with Store(path) as opened:
        for name, schema in frames.SCHEMAS.items():
            assert opened.sql(f'select * from "{name}"').columns == list(schema)


# Shared with others


def test_file_locked_by_another_process_says_what_to_do(tmp_path: Path) -> None:
    path = new(tmp_path)
    code = (
        "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('open', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        who = rf"held open by process {other.pid} \(.*Try again"
        with pytest.raises(StoreBusyError, match=who):
            Store(path, patience=0)
        with pytest.raises(StoreBusyError):
            write(path, {"texts": [TEXT]})
        ends = threading.Timer(0.2, other.stdin.close)
        ends.start()
        wait_and_write(path, {"texts": [TEXT]}, 10)
        ends.join()
    assert table(path, "texts").rows() == [("1", "one")]


def test_own_reader_makes_the_writer_wait(tmp_path: Path) -> None:
    path = new(tmp_path)
    with Store(path), pytest.raises(StoreBusyError):
        wait_and_write(path, {"texts": [TEXT]}, 0)
    write(path, {"texts": [TEXT]})


def test_full_disk_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = new(tmp_path, texts=[TEXT])
    code = """
import resource, signal, sys
from pathlib import Path
from hcache.errors import StoreError
from hcache.store import write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rows = [{"text_id": str(i), "text": f"{i ** 999}"} for i in range(2, 3000)]
try:
    write(Path(sys.argv[1]), {"texts": rows})
except StoreError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "no room left on the disk" in done.stdout, done.stderr
    assert table(path, "texts").rows() == [("1", "one")]


def test_database_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    """No file may grow past so many bytes: room for a log of the changes, not for the tables."""
    path = tmp_path / "some.duckdb"
    code = """
import resource, signal, sys
from pathlib import Path
from hcache.errors import StoreError
from hcache.store import write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write(Path(sys.argv[1]), {})
except StoreError as error:
    print(error)
"""
    for size in (0, 20_000, 60_000, 150_000):
        command = [sys.executable, "-c", code, str(path), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "no room left on the disk" in done.stdout, (size, done)
        assert not path.exists(), size
    write(path, {"texts": [TEXT]})
    assert table(path, "texts").rows() == [("1", "one")]


# Reading


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select from", "syntax|Parser"),
        ("select * from nothing", "nothing"),
        ("select 1 / 'x'", "x"),
        ("delete from texts", "read-only"),
        ("create table t (x int)", "read-only"),
    ],
)
def test_wrong_query_is_said_in_the_words_of_duckdb(
    tmp_path: Path, query: str, message: str
) -> None:
    with Store(new(tmp_path)) as opened, pytest.raises(StoreError, match=f"(?i){message}"):
        opened.sql(query)


LONG = "select count(*) from range(100000000) a, range(100000000) b where a.range % 7 = b.range"


def test_ctrl_c_in_a_query_is_an_interrupt(tmp_path: Path) -> None:
    with Store(new(tmp_path)) as opened:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            opened.sql(LONG)


def test_ctrl_c_while_writing_is_an_interrupt_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new(tmp_path, texts=[TEXT])
    with monkeypatch.context() as patch:
        with_migration(patch, LONG)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            write(path, {"texts": [TEXT | {"text_id": "2"}]})
    assert table(path, "texts").rows() == [("1", "one")]


@pytest.mark.parametrize(
    ("module", "name"), [(store, "TABLES"), (connection, "_NO_BARS")], ids=["making", "opening"]
)
def test_ctrl_c_while_a_database_is_made_or_opened_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    monkeypatch.setattr(module, name, LONG)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "some.duckdb", {})
    assert not any(tmp_path.iterdir())


def test_ctrl_c_while_rows_are_read_is_an_interrupt_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new(tmp_path, texts=[TEXT])

    def interrupted(frame: pl.DataFrame, *how: object, **more: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "to_arrow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(path, {"texts": [TEXT | {"text_id": "2"}]})
    assert table(path, "texts").rows() == [("1", "one")]


@pytest.mark.parametrize(
    "step", ["reading the object {} as Arrow data", "exporting a stream from the object {}"]
)
def test_ctrl_c_is_known_by_the_words_of_duckdb_wherever_it_reads_rows(step: str) -> None:
    said = step.format("registered as 'batch'")
    with pytest.raises(KeyboardInterrupt):
        connection.raise_if_interrupted(
            duckdb.InvalidInputException(f"Invalid Input Error: {said} failed: KeyboardInterrupt:")
        )


# Views, against plain Python


Outcome = dict[str, Any]


def outcomes(experiment: Experiment) -> list[Outcome]:
    """Every trajectory with its qualities and its cost, from the raw tables."""
    db = experiment.db
    splits = {row["query_id"]: row for row in table(db, "splits").iter_rows(named=True)}
    queries = {row["query_id"]: row for row in table(db, "queries").iter_rows(named=True)}
    prices = {arm.id: arm.config.price for arm in experiment.pool}
    found = []
    for row in table(db, "trajectories").iter_rows(named=True):
        query = queries[row["query_id"]]
        costs = [
            prices[ask["arm"]].input * ask["prompt_tokens"]
            + prices[ask["arm"]].output * ask["output_tokens"]
            for ask in row["asks"]
        ]
        found.append(
            {
                "split": splits[row["query_id"]]["split"],
                "kind": query["kind"],
                "query_id": row["query_id"],
                "sequence": row["sequence"],
                "depth": row["depth"],
                "answer": row["output"].strip(),
                "f1": METRICS.find("f1")(row["output"], query["references"]),
                "em": METRICS.find("em")(row["output"], query["references"]),
                "cost": sum(costs) / 1000,
                "prompt_tokens": sum(ask["prompt_tokens"] for ask in row["asks"]),
                "output_tokens": sum(ask["output_tokens"] for ask in row["asks"]),
            }
        )
    return found


def groups(rows: list[Outcome], *keys: str) -> dict[tuple[Any, ...], list[Outcome]]:
    found: dict[tuple[Any, ...], list[Outcome]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return found


def mean(rows: list[Outcome], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def best_of_each_query(rows: list[Outcome]) -> list[Outcome]:
    by_query = groups(rows, "query_id").values()
    return [max(one, key=lambda row: (row["f1"], -row["cost"])) for one in by_query]


def test_outcomes_are_the_trajectories_with_scores_and_costs(sampled: Experiment) -> None:
    wanted = sorted(outcomes(sampled), key=lambda row: (row["query_id"], row["sequence"]))
    found = table(sampled.db, "outcomes", "query_id, sequence").to_dicts()
    assert len(found) == len(wanted) == 5 * 6
    assert len({row["f1"] for row in wanted}) > 2
    for row, other in zip(found, wanted, strict=True):
        assert {key: row[key] for key in other} == other | {"cost": pytest.approx(other["cost"])}


def test_sequences_are_means_over_queries(sampled: Experiment) -> None:
    wanted = groups(outcomes(sampled), "split", "sequence")
    with Store(sampled.db) as opened:
        found = opened.sequences().to_dicts()
        train = opened.sequences("train")
    assert len(found) == len(wanted)
    for row in found:
        rows = wanted[row["split"], row["sequence"]]
        assert row["queries"] == len(rows)
        for key in ("f1", "em", "cost", "prompt_tokens", "output_tokens"):
            assert row[key] == pytest.approx(mean(rows, key))
    ranks = list(zip(train["f1"] * -1, train["cost"], strict=True))
    assert set(train["split"]) == {"train"} and ranks == sorted(ranks)


def test_trajectories_of_a_split(sampled: Experiment) -> None:
    with Store(sampled.db) as opened:
        assert set(opened.trajectories("valid")["split"]) == {"valid"}
        assert len(opened.trajectories()) == 5 * 6


def test_oracle_is_the_best_trajectory_of_each_query(sampled: Experiment) -> None:
    wanted = groups(outcomes(sampled), "split", "kind")
    found = table(sampled.db, "oracle").to_dicts()
    assert len(found) == len(wanted)
    for row in found:
        best = best_of_each_query(wanted[row["split"], row["kind"]])
        assert row["queries"] == len(best)
        assert row["quality"] == pytest.approx(mean(best, "f1"))
        assert row["cost"] == pytest.approx(mean(best, "cost"))
        assert row["commonest_sequence"] in {one["sequence"] for one in best}


def test_leaderboard_ranks_sequences_below_the_oracle(sampled: Experiment) -> None:
    by_split = groups(outcomes(sampled), "split")
    found = table(sampled.db, "leaderboard").to_dicts()
    for (split,), rows in by_split.items():
        means = {
            name: (-mean(one, "f1"), mean(one, "cost"))
            for (name,), one in groups(rows, "sequence").items()
        }
        here = {row["sequence"]: row for row in found if row["split"] == split}
        oracle = here.pop("oracle")
        best = best_of_each_query(rows)
        assert (oracle["place"], oracle["queries"]) == (0, len(best))
        assert oracle["quality"] == pytest.approx(mean(best, "f1"))
        assert oracle["cost"] == pytest.approx(mean(best, "cost"))
        assert here.keys() == means.keys()
        for name, row in here.items():
            better = sum(other < means[name] for other in means.values())
            assert row["place"] == 1 + better, name


def test_coverage_of_a_whole_run_is_whole(sampled: Experiment) -> None:
    found = table(sampled.db, "coverage", "split, depth").to_dicts()
    sizes = {split: len(queries) for split, queries in sampled.splits.items()}
    assert len(found) == 3 * 2
    for row in found:
        count = sizes[row["split"]]
        assert row["queries"] == count
        assert row["expected"] == row["trajectories"] == count * 2 ** row["depth"]


def test_frames_are_there_for_one_query(tmp_path: Path) -> None:
    with Store(new(tmp_path, texts=[TEXT])) as opened:
        keys = pl.DataFrame({"text_id": ["1", "2"]})
        query = "select text from texts semi join here using (text_id)"
        assert opened.sql(query, here=keys).rows() == [("one",)]
        with pytest.raises(StoreError, match="nothing"):
            opened.sql("select nothing from here", here=keys)
        with pytest.raises(StoreError, match="here"):
            opened.sql(query)


def test_match_gives_the_rows_of_the_keys(sampled: Experiment) -> None:
    rows = table(sampled.db, "generations")
    keys = rows.select("generation_id")[:3]
    with Store(sampled.db) as opened:
        found = opened.match("generations", keys)
    assert sorted(found["generation_id"]) == sorted(keys["generation_id"])


def test_copy_of_a_database_is_a_database(sampled: Experiment, tmp_path: Path) -> None:
    shutil.copy(sampled.db, tmp_path / "copy.duckdb")
    assert table(tmp_path / "copy.duckdb", "scores").equals(table(sampled.db, "scores"))


def test_views_rank_by_the_quality_metric_of_the_experiment(folder: Path) -> None:
    raw = settings("ab", quality="em")
    sample(folder, raw)
    found = table(folder / raw["db"], "outcomes")
    assert found["quality"].to_list() == found["em"].to_list()


def test_ctrl_c_during_a_query_is_ctrl_c(sampled: Experiment) -> None:
    class Interrupted:
        def sql(self, query: str, params: object) -> None:
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")

    with Store(sampled.db) as store:
        connection, store.connection = store.connection, Interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            store.sql("select 1")
        store.connection = connection
