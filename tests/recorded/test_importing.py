"""Imports from small files: the same rows as sampling would have written, and all or nothing."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from helpers.experiments import load, sample, settings

from hcache.checking import check_database
from hcache.errors import ConfigError, DataError, HcacheError, StoreError
from hcache.experiment import Experiment
from hcache.recorded.files import read_table
from hcache.recorded.importing import Imported, import_files
from hcache.replay.exact import oracle_leaves
from hcache.replay.loading import Replay, load_replay
from hcache.sampling import Sampler
from hcache.sampling.plan import make_plan
from hcache.sampling.scoring import rescore
from hcache.store import Store
from hcache.store.digest import content_digest
from hcache.store.merging import merge
from hcache.store.queries import STORED

Rows = list[dict[str, Any]]
SCORES = {"q1": (1.0, 0.0), "q2": (0.0, 1.0), "q3": (0.5, 1.0), "q4": (0.0, 0.0)}


def cell(query: str, arm: str, score: object, **more: object) -> dict[str, Any]:
    return {"query": query, "arm": arm, "score": score, **more}


def rows(**more: object) -> Rows:
    """A weak and a strong arm on four questions."""
    costs = {"weak": 0.25, "strong": 1.0}
    return [
        cell(query, arm, score, cost=costs[arm], reply=f"{arm} on {query}", **more)
        for query, scores in SCORES.items()
        for arm, score in zip(costs, scores, strict=True)
    ]


def write(path: Path, table: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
        return path
    frame = pl.DataFrame(table, infer_schema_length=None)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def bring(folder: Path, table: Rows, kind: str = "long", **how: Any) -> Imported:
    """Import a table as CSV into `folder/db.duckdb`, all questions as test."""
    file = write(folder / how.pop("file", "table.csv"), table)
    how = {"split": "test", "name": "mine", **how}
    return import_files(kind, [file], folder / "db.duckdb", **how)


def replay(folder: Path, name: str = "mine", **settings: str) -> Replay:
    overrides = [f"{key}={value}" for key, value in settings.items()]
    experiment = Experiment.load(folder / f"{name}.yaml", overrides)
    with Store(experiment.db) as store:
        return load_replay(store, experiment.config, "test")


def outcomes(folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Score and cost by question and sequence, as SQL sees them."""
    sql = """select question, sequence, recorded, cost
             from outcomes join queries using (query_id) where experiment = 'mine'"""
    with Store(folder / "db.duckdb") as store:
        return {(q, s): (r, c) for q, s, r, c in store.sql(sql).iter_rows()}


@pytest.mark.parametrize("file", ["t.csv", "t.jsonl", "t.parquet"])
def test_long_table_becomes_a_tree(tmp_path: Path, file: str) -> None:
    told = bring(tmp_path, rows(), file=file)
    assert told.outcomes == 8 and told.splits == {"test": 4} and not told.holes
    tree = replay(tmp_path).tree
    assert tree.arms == ("weak", "strong") and tree.hops == 1
    best = oracle_leaves(tree, tree.reward_M(0.1))
    assert float(tree.quality_M[best].mean()) == pytest.approx(3 / 4)
    assert float(tree.cost_M[best].mean()) == pytest.approx((0.25 + 1 + 1 + 0.25) / 4)
    found = outcomes(tmp_path)
    assert found == {(row["query"], row["arm"]): (row["score"], row["cost"]) for row in rows()}
    faults = check_database(tmp_path / "db.duckdb", Experiment.load(tmp_path / "mine.yaml")).faults
    assert not faults


def test_wide_table_says_the_same(tmp_path: Path) -> None:
    wide = [
        {"query": q, "weak": a, "strong": b, "weak_cost": 0.25, "strong_cost": 1.0,
         "weak_response": f"weak on {q}", "strong_response": f"strong on {q}"}
        for q, (a, b) in SCORES.items()
    ]  # fmt: skip
    for name, kind, table in (("long", "long", rows()), ("wide", "wide", wide)):
        (tmp_path / name).mkdir()
        bring(tmp_path / name, table, kind, options={"source": "s", "dataset": "d"})
    with (
        Store(tmp_path / "long" / "db.duckdb") as one,
        Store(tmp_path / "wide" / "db.duckdb") as two,
    ):
        assert content_digest(one) == content_digest(two)


def calls(**missing: object) -> Rows:
    """Up to three calls of one arm, a budget of 10 tokens more each."""
    table = [
        {"query": query, "who": ">".join(["m"] * n), "score": float(n == best), "cost": 10.0 * n,
         "reply": f"{query} {n}"}
        for query, best in (("q1", 1), ("q2", 3))
        for n in (1, 2, 3)
    ]  # fmt: skip
    return [row for row in table if (row["query"], row["who"]) not in missing.values()]


def test_calls_after_one_another_become_a_tree_with_stop(tmp_path: Path) -> None:
    bring(tmp_path, calls(), options={"sequence": "who", "unit": "tokens"})
    tree = replay(tmp_path).tree
    assert tree.hops == 3 and bool((tree.leaf_NA[tree.hop_N > 0, tree.stop] >= 0).all())
    assert not bool((tree.leaf_NA[tree.hop_N == 0, tree.stop] >= 0).any())
    best = oracle_leaves(tree, tree.reward_M(0.001))
    assert sorted(tree.cost_M[best].tolist()) == [10, 60]  # 10, and 10 + 20 + 30
    assert torch.equal(tree.cost_N.sort().values, torch.tensor([0, 0, 10, 10, 30, 30]).double())
    database = tmp_path / "db.duckdb"
    assert not check_database(database, Experiment.load(tmp_path / "mine.yaml")).faults
    with Store(database) as store:
        assert store.sql("select distinct unit from trajectories").item() == "tokens"


def test_people_see_the_cost_that_was_recorded(tmp_path: Path) -> None:
    bring(tmp_path, calls(), options={"sequence": "who"})
    with Store(tmp_path / "db.duckdb") as store:
        sql = "select trajectory_id from outcomes where depth = 3 order by all limit 1"
        found = store.calls(store.sql(sql).item(), "mine")
        assert found["cost"].to_list() == [10, 20, 30]
        roles = store.sql("select sequence, cost from roles order by all").rows()
    assert roles == [("m", 10), ("m>m", 30), ("m>m>m", 60)]


def test_call_without_the_one_before_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table.csv, row 2: m>m is there, but no row of m"):
        bring(tmp_path, calls(gap=("q1", "m")), options={"sequence": "who"})
    assert not (tmp_path / "db.duckdb").exists()


def test_hole_leaves_its_question_out_and_is_counted(tmp_path: Path) -> None:
    table = [row for row in rows() if (row["query"], row["arm"]) != ("q3", "strong")]
    assert bring(tmp_path, table).holes == {"strong": 1}
    loaded = replay(tmp_path)
    assert len(loaded.tree.queries) == 3 and loaded.incomplete == 1
    alone = replay(tmp_path, arms="{weak: {model: weak}}")
    assert len(alone.tree.queries) == 4


@pytest.mark.parametrize(
    "more",
    [{"reply": "API Error: 429 Too Many Requests"}, {"failure": "timeout"},
     {"reply": "Error code: 500 - overloaded"}],
)  # fmt: skip
def test_failure_is_no_outcome(tmp_path: Path, more: dict[str, str]) -> None:
    table = [{"failure": None, **row} for row in rows()]
    table[0] |= more | {"score": 0.0}
    told = bring(tmp_path, table)
    assert told.failures == {"weak": 1} and told.outcomes == 7
    assert replay(tmp_path).incomplete == 1


def test_replicas(tmp_path: Path) -> None:
    table = [{**row, "sample": sample} for sample in (0, 1) for row in rows()]
    for row in table[8:]:
        row["reply"] = "another"
    bring(tmp_path, table)
    tree = replay(tmp_path).tree
    assert len(tree) == 8 and sorted(tree.replica_T.tolist()) == [0] * 4 + [1] * 4
    assert not check_database(tmp_path / "db.duckdb").faults


def test_samples_may_count_from_one_and_have_gaps(tmp_path: Path) -> None:
    table = [row | {"sample": sample} for row in rows() for sample in (1, 2, 5)]
    assert not bring(tmp_path, table).holes
    assert len(replay(tmp_path).tree) == len(SCORES) * 3


def test_replies_are_scored_again(tmp_path: Path) -> None:
    table = [
        cell("2 + 2?", "a", 1, reply="It is 4.", reference="4"),
        cell("2 + 3?", "a", 1, reply="It is 6.", reference="5"),
    ]
    told = bring(tmp_path, table, options={"extract": "number", "metric": "numeric"})
    assert told.recomputed == {"numeric": (2, 1)}
    with Store(tmp_path / "db.duckdb") as store:
        found = store.sql("select recorded, numeric from outcomes order by all").rows()
    assert found == [(1, 0), (1, 1)]


def test_unrecorded_reply_is_never_scored(tmp_path: Path) -> None:
    table = [cell("2 + 2?", arm, 1, reference="4") for arm in "ab"]
    told = bring(tmp_path, table, options={"extract": "number", "metric": "numeric"})
    assert told.recomputed == {}
    assert told.notes == ("table: not scored anew, since a reply or a reference is missing",)
    with Store(tmp_path / "db.duckdb") as store:
        reasons = store.sql("select distinct finish_reason from generations").to_series().to_list()
    assert reasons == ["unrecorded"]
    overrides = ["data.table.metrics=[f1]", "quality=f1"]
    with pytest.raises(DataError, match="replies of table were not recorded, 'f1' cannot score"):
        rescore(Experiment.load(tmp_path / "mine.yaml", overrides), 1)


def test_unknown_cost_is_a_hole_where_costs_count(tmp_path: Path) -> None:
    table = rows()
    table[0]["cost"] = None
    bring(tmp_path, table)
    assert replay(tmp_path).incomplete == 1
    assert replay(tmp_path, cost="tokens").incomplete == 0


def test_leak_between_published_splits_is_taken_from_training(tmp_path: Path) -> None:
    table = [{**row, "split": "test" if row["query"] == "q1" else "train"} for row in rows()]
    table += [cell("Q1?", arm, 0, cost=0.0, reply="x", split="train") for arm in ("weak", "strong")]
    table = [{**row, "query": row["query"] + " asks"} if row["query"] != "Q1?" else
             {**row, "query": "Q1 asks?"} for row in table]  # fmt: skip
    told = bring(tmp_path, table)
    assert sum(told.dropped.values()) == 1 and told.splits == {"train": 3, "test": 1}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"score": 1.5}, r"row 2: score 1.5 is not between 0 and 1.*scale"),
    ({"score": -0.1}, r"row 2: score -0.1 is not between 0 and 1\. Correct"),
    ({"score": float("nan")}, r"row 2: score nan is no number"),
    ({"score": "good"}, r"row 2: score is 'good', no number"),
    ({"cost": -1.0}, r"row 2: cost -1 is no cost"),
    ({"cost": float("inf")}, r"row 2: cost inf is no cost"),
    ({"query": "q2"}, r"weak has another outcome on the question of .*, row 2"),
    ({"arm": "Strong"}, r"the arm '[Ss]trong' is called '[Ss]trong' elsewhere"),
    ({"arm": ""}, r"row 2: the arm is empty"),
    ({"arm": "STOP"}, r"row 2: an arm cannot be called STOP"),
    ({"query": " "}, r"row 2: the question is empty"),
    ({"split": "train"}, r"row 2: the split of its question is another in another row"),
    ({"kind": "odd"}, r"row 2: the kind of its question is another in another row"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    table = rows(split="test", kind="even")
    if isinstance(change.get("score"), str):
        table = [{**row, "score": str(row["score"])} for row in table]
    table[0] |= change
    with pytest.raises(DataError, match=said) as caught:
        bring(tmp_path, table)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "db.duckdb").exists() and not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize("tokens", [2**31, -1])
def test_number_of_tokens_that_is_none_is_refused(tmp_path: Path, tokens: int) -> None:
    table = [
        {"task_id": "t", "model": model, "dimension": "d", "resolved": 1, "cost_usd": 0.5,
         "cost_source": "token", "in_tok": 3, "out_tok": tokens if model == "b" else 4}
        for model in "ab"
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"row 3: output_tokens .* is no number of tokens"):
        bring(tmp_path, table, "coderouterbench", file="ood176_results_long.csv")
    assert not (tmp_path / "db.duckdb").exists()


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"arm": None}, {"sequence": "arm"}, "row 1: the arm is empty"),
        ({"sample": None}, {}, "row 1: sample is empty"),
        ({"query": ["q1"]}, {}, "row 1: query is no text"),
        ({"reference": [["4"]]}, {}, "row 1: reference is no list of texts"),
        ({"score": [1]}, {}, "row 1: score is no number"),
    ],
)
def test_cells_of_another_type_are_refused_in_our_words(
    tmp_path: Path, change: dict[str, Any], options: dict[str, str], said: str
) -> None:
    arm = ["a"] if options else "a"
    table = [{"query": q, "arm": arm, "score": 1, "sample": 0, "reference": ["4"]} for q in "xy"]
    nested = [key for key, value in change.items() if isinstance(value, list)]
    for row in table if nested else table[:1]:
        row |= change
    with pytest.raises(DataError, match=said):
        bring(tmp_path, table, file="table.parquet", options=options)
    assert not (tmp_path / "db.duckdb").exists()


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv.gz", ",")])
def test_row_with_more_cells_than_the_header_is_named(tmp_path: Path, name: str, mark: str) -> None:
    lines = ["query,arm,score", '"a, or\nb?",weak,1', "c?,weak,1,2", "d?,weak,1,2"]
    data = "\n".join(lines).replace(",", mark).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError) as caught:
        import_files("long", [tmp_path / name], tmp_path / "db.duckdb")
    assert f"{name}, row 3: has 4 cells, the header 3" in str(caught.value)
    assert "truncate" not in str(caught.value) and "double quotes" in caught.value.hint


def test_damaged_parquet_is_refused_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of damage to every part of the file, some makes polars' own reader panic, loudly."""
    good = write(tmp_path / "t.parquet", rows()).read_bytes()
    for place in range(4, len(good), 7):
        (tmp_path / "t.parquet").write_bytes(good[:place] + b"\xff" + good[place + 1 :])
        with suppress(DataError):
            read_table(tmp_path / "t.parquet")
    assert capfd.readouterr().err == ""


def test_question_whose_reference_is_missing_in_a_row_is_imported(tmp_path: Path) -> None:
    table = [{"uid": "u", "t": t, "max_new_tokens": 9, "problem": "1?", "gold": gold,
              "raw_text": "1", "correct": 1} for t, gold in ((1, None), (2, "1"))]  # fmt: skip
    told = bring(tmp_path, table, "anytime_gsm8k", file="test.jsonl")
    assert told.outcomes == 2 and not told.recomputed


def test_model_that_two_files_name_differently_is_refused(tmp_path: Path) -> None:
    for name, strong in (("one", "strong"), ("two", "Strong")):
        write(tmp_path / f"{name}.csv", [cell(name, "weak", 1), cell(name, strong, 1)])
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    with pytest.raises(DataError, match=r"two.csv, row 3: the arm 'Strong' is called 'strong'"):
        import_files("long", files, tmp_path / "db.duckdb")
    assert not (tmp_path / "db.duckdb").exists()


def test_scale_makes_scores_of_points(tmp_path: Path) -> None:
    table = [{**row, "score": row["score"] * 10} for row in rows()]
    bring(tmp_path, table, options={"scale": "10"})
    assert float(replay(tmp_path).tree.quality_M.max()) == 1


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("long", {"query": "prompt"}, r"has no column 'prompt'; it has query, arm, score"),
        ("long", {"colour": "red"}, r"format 'long' has no option 'colour'"),
        ("long", {"scale": "much"}, r"option 'scale' is 'much'"),
        ("lnog", {}, r"unknown format 'lnog'; did you mean 'long'"),
        ("wide", {}, r"has no column .*|no column is named like"),
        ("routellm", {}, r"has neither gsm8k_responses.csv nor"),
        ("coderouterbench", {}, r"has no column 'task_id'"),
        ("llmrouter", {}, r"has neither train.json"),
        ("tinyrouter", {}, r"cannot be read|is no oracle matrix"),
    ],
)
def test_wrong_format_or_option_is_said(
    tmp_path: Path, kind: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises((DataError, ConfigError), match=said):
        bring(tmp_path, rows(), kind, options=options)
    assert not (tmp_path / "db.duckdb").exists()


def test_importing_again_changes_nothing_and_other_facts_are_refused(tmp_path: Path) -> None:
    bring(tmp_path, rows())
    with Store(tmp_path / "db.duckdb") as store:
        before = content_digest(store)
    assert not bring(tmp_path, rows()).wrote_file
    changed = rows()
    changed[0]["reply"] = "something else"
    with pytest.raises(StoreError, match="say otherwise"):
        bring(tmp_path, changed)
    bring(tmp_path, rows(), file="table.jsonl")
    assert not check_database(tmp_path / "db.duckdb").faults
    with Store(tmp_path / "db.duckdb") as store:
        assert content_digest(store) == before


@pytest.mark.parametrize("name", ["../mine", "a/b", "[red]"])
def test_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(ConfigError, match="name: "):
        bring(folder, rows(), name=name)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["table.csv"]


def test_database_that_is_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = write(tmp_path / "table.csv", rows())
    with pytest.raises(HcacheError):
        import_files("long", [table], Path())
    assert list(tmp_path.iterdir()) == [table]


def test_experiment_file_of_another_database_is_refused(tmp_path: Path) -> None:
    bring(tmp_path, rows())
    with pytest.raises(
        ConfigError, match=r"mine\.yaml: is there, and is of another database, .*db"
    ):
        import_files("long", [tmp_path / "table.csv"], tmp_path / "other.duckdb", name="mine")
    assert not (tmp_path / "other.duckdb").exists()
    with Store(tmp_path / "db.duckdb") as store:
        before = content_digest(store)
    with pytest.raises(ConfigError, match=r"mine\.yaml: is there, and is of other models"):
        bring(tmp_path, rows(), file="other.csv")
    with Store(tmp_path / "db.duckdb") as store:
        assert content_digest(store) == before


def test_sampled_experiment_keeps_its_name(folder: Path) -> None:
    sample(folder, settings("ab"))
    with Store(folder / "small.duckdb") as store:
        before = content_digest(store)
    file = write(folder / "table.csv", rows())
    with pytest.raises(StoreError, match="has an experiment small of its own, which was sampled"):
        import_files("long", [file], folder / "small.duckdb", name="small")
    with Store(folder / "small.duckdb") as store:
        assert content_digest(store) == before
    assert not (folder / "small.yaml").exists()
    import_files("long", [file], folder / "small.duckdb", name="other", split="test")
    assert not check_database(folder / "small.duckdb").faults


def test_folder_of_tables_may_hold_the_database_too(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    bring(folder, rows())
    again = import_files("long", [folder], folder / "db.duckdb", name="mine", split="test")
    assert again.outcomes == len(rows())


def test_rows_without_any_outcome_are_refused(tmp_path: Path) -> None:
    for table in ([row | {"score": None} for row in rows()], rows(failure="timeout")):
        with pytest.raises(DataError, match="no row has an outcome"):
            bring(tmp_path, table)
    assert not (tmp_path / "db.duckdb").exists()


def test_rows_that_say_the_same_count_once(tmp_path: Path) -> None:
    assert bring(tmp_path, [*rows(), *rows()[:3]]).repeated == 3


def test_imports_merge(tmp_path: Path) -> None:
    for name, part in (("one", rows()[:4]), ("two", rows()[4:])):
        (tmp_path / name).mkdir()
        bring(tmp_path / name, part, name=name)
    merge(tmp_path / "all.duckdb", [tmp_path / name / "db.duckdb" for name in ("one", "two")])
    with Store(tmp_path / "all.duckdb") as store:
        assert store.sql("select sum(cost) from outcomes").item() == pytest.approx(5)
    assert not check_database(tmp_path / "all.duckdb").faults


def test_sampling_what_is_missing_is_refused(tmp_path: Path) -> None:
    bring(tmp_path, rows()[:-1])
    experiment = Experiment.load(tmp_path / "mine.yaml")
    with pytest.raises(HcacheError, match="recorded by others"):
        Sampler(experiment).run()
    plan = make_plan(experiment)
    assert plan.missing == 1
    assert ["strong: its outcomes were recorded" in str(error) for error in plan.errors] == [True]


def test_arm_that_recorded_scores_cannot_judge_is_refused_before_it_is_asked(folder: Path) -> None:
    bring(folder, rows())
    raw = yaml.safe_load((folder / "mine.yaml").read_text(encoding="utf-8"))
    raw["models"]["a"] = {"path": "a.json", "engine": "scripted"}
    raw["arms"]["a"] = {"model": "a"}
    experiment = load(folder, raw | {"db": "db.duckdb"})
    with Store(experiment.db) as store:
        before = content_digest(store)
    for start in (make_plan, Sampler):
        with pytest.raises(ConfigError, match="'recorded' scores no reply of a, whose outcomes"):
            start(experiment)
    with Store(experiment.db) as store:
        assert content_digest(store) == before


def test_recorded_outcomes_were_not_paid_for(tmp_path: Path) -> None:
    bring(tmp_path, rows())
    with Store(tmp_path / "db.duckdb") as store:
        assert store.sql(STORED)["spent"].to_list() == [None, None]
