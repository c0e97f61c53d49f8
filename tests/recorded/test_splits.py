"""Splits as published, by options that every format takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hcache.errors import HcacheError
from hcache.recorded.importing import Imported, import_files
from hcache.store import Store

COUNT = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"query": f"Question {n}?", "arm": arm, "score": 1, "item": f"q{n}", "split": "train"}
        for n in range(COUNT) for arm in "ab"
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "table.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def bring(
    folder: Path, given: Mapping[str, Any], kind: str = "long", file: str = "table.jsonl"
) -> Imported:
    options = {f"split.{name}": str(value) for name, value in given.items()}
    return import_files(kind, [folder / file], folder / "db.duckdb", name="mine", options=options)


def splits(folder: Path) -> dict[str, list[str]]:
    sql = """select split, list(item order by item) from splits join queries using (query_id)
             where experiment = 'mine' group by split"""
    with Store(folder / "db.duckdb") as store:
        return dict(store.sql(sql).rows())


def write(folder: Path, **contents: str) -> dict[str, Path]:
    """Files by split, named with their endings as in test_json."""
    files = {}
    for name, content in contents.items():
        split, _, ending = name.partition("_")
        files[split] = folder / f"{split}.{ending}"
        files[split].write_text(content, encoding="utf-8")
    return files


FORMS = [
    {"train_txt": "q1\n\nq2\n", "test_txt": "\ufeffq3\n"},
    {"train_json": '["q1", "q2"]', "test_json": '["q3"]'},
    {"train_csv": "name\nq1\nq2\n", "test_csv": "name,other\nq3,x\n"},
    {"train_txt": "Question 1?\nQuestion 2?", "test_jsonl": '{"key": "q3"}\n'},
]


@pytest.mark.parametrize("form", FORMS)
def test_files_of_ids_say_which_question_is_where(folder: Path, form: dict[str, str]) -> None:
    told = bring(folder, write(folder, **form))
    assert splits(folder) == {"train": ["q1", "q2"], "test": ["q3"]}
    assert told.notes == (f"questions that stand in no split and are left out: {COUNT - 3}",)
    assert told.outcomes == 6


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("s.json", '{"train": ["q1", "q2"], "val": ["q4"], "test": ["q3"]}', {}),
        ("s.csv", "id,split\nq1,train\nq2,Train\nq3,test\nq4,dev\n", {}),
        ("s.csv", "x,part,task\n,train,q1\n,train,q2\n,test,q3\n,validation,q4\n",
         {"id": "task", "column": "part"}),
    ],
)  # fmt: skip
def test_one_file_says_it_for_all_splits(
    folder: Path, name: str, content: str, more: dict[str, str]
) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    bring(folder, {"file": folder / name} | more)
    assert splits(folder) == {"train": ["q1", "q2"], "valid": ["q4"], "test": ["q3"]}


def test_a_ratio_draws_exact_sizes_by_its_seed(folder: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        told = bring(folder, {"ratio": "0.5/0.25/0.25", "seed": seed})
        assert told.splits == {"train": COUNT // 2, "valid": COUNT // 4, "test": COUNT // 4}
        found.append(splits(folder))
    assert found[0] == found[1] != found[2]


def test_part_of_a_list_may_be_dealt_further(folder: Path) -> None:
    ids = folder / "ids.txt"
    ids.write_text("\n".join(f"q{n}" for n in range(COUNT)), encoding="utf-8")
    told = bring(folder, {"train/valid": ids})
    assert set(told.splits) == {"train", "valid"} and sum(told.splits.values()) == COUNT


def test_leakage_of_published_splits_is_said(folder: Path) -> None:
    rows = [{"query": q, "arm": "a", "score": 1, "item": i}
            for q, i in (("Who?", "x"), ("who", "y"), ("When?", "z"))]  # fmt: skip
    (folder / "two.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = bring(folder, write(folder, train_txt="x\nz", test_txt="y"), file="two.jsonl")
    assert sum(told.dropped.values()) == 1 and told.splits == {"train": 1, "test": 1}


def test_formats_without_an_option_for_splits_take_them_too(folder: Path) -> None:
    tasks = [{"id": f"t{n}", "answer": "1", "per_model": {"a": [1], "b": [0]}} for n in range(3)]
    matrix = {"benchmark": "x", "k": 1, "tasks": tasks}
    (folder / "oracle_matrix_x.json").write_text(json.dumps(matrix), encoding="utf-8")
    files = write(folder, train_txt="t0", valid_txt="t1", test_txt="t2")
    told = bring(folder, files, "tinyrouter", "oracle_matrix_x.json")
    assert told.splits == {"train": 1, "valid": 1, "test": 1}


BAD: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({"train_txt": "q1\nq99\nq98"}, {}, r"train.txt, row 2: there is no question 'q99' \(2 ids"),
    ({"train_txt": "q1", "test_txt": "q2\nq1"}, {},
     r"test.txt, row 2: 'q1' stands in train too \(.*train.txt, row 1\)"),
    ({"train_txt": "q1", "test_json": '["Question 1?"]'}, {}, "test.json, entry 1: .*train too"),
    ({"train_json": '{"a": 1}'}, {}, "train.json: is no list of ids"),
    ({"train_json": "[1.5]"}, {}, "train.json, entry 1: is no id"),
    ({"train_json": "["}, {}, "train.json: cannot be read"),
    ({"train_csv": "a\nq1\n"}, {"id": "b"}, "train.csv: has no column 'b'; it has a"),
    ({"file_csv": "id,split\nq1,rest\n"}, {}, "file.csv, row 2: 'rest' is no split"),
    ({"file_json": "[]"}, {}, "file.json: is no object of lists"),
    ({}, {"train": "absent.txt"}, "absent.txt: cannot be read"),
    ({}, {"tran": "x"}, "unknown split 'tran'; did you mean 'train'"),
    ({}, {"seed": "1"}, "split.seed names no split"),
    ({}, {"ratio": "8/2"}, "split.ratio is '8/2'"),
    ({}, {"ratio": "nan/1/1"}, "split.ratio is 'nan/1/1'"),
    ({}, {"ratio": "1/1/1", "seed": "x"}, "split.seed is 'x'"),
    ({"train_txt": "q1"}, {"ratio": "8/1/1"}, "split.ratio beside split.train"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "more", "said"), BAD)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    folder: Path, files: dict[str, str], more: dict[str, str], said: str
) -> None:
    with pytest.raises(HcacheError, match=said) as caught:
        bring(folder, write(folder, **files) | more)
    assert "\n" not in str(caught.value) and not (folder / "db.duckdb").exists()
