"""Formats of which there is no file here, on small hand-made ones after their documentation."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hcache.checking import check_database
from hcache.errors import DataError
from hcache.recorded.importing import Imported, import_files
from hcache.recorded.pickles import read_pickle
from hcache.store import Store


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def routerbench(folder: Path) -> None:
    rows = [
        {"sample_id": f"mmlu.{n}", "prompt": f"['Question {n}?']", "eval_name": "mmlu",
         "a": 1.0 * (n % 2), "a|model_response": "['A']", "a|total_cost": 0.25,
         "b": 1.0, "b|model_response": "['B']", "b|total_cost": 1.0,
         "oracle_model_to_route_to": "b"}
        for n in range(4)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(folder / "routerbench_0shot.parquet")


def llmrouterbench(folder: Path) -> None:
    for model, right in (("a", 0), ("b", 1)):
        records = [
            {"index": n, "origin_query": f"Question {n}?", "prompt": "…", "prediction": "x",
             "ground_truth": "x", "score": float(right), "prompt_tokens": 4,
             "completion_tokens": 5, "cost": 0.25 + 0.75 * right, "raw_output": "so x"}
            for n in range(4)
        ]  # fmt: skip
        records[0]["score"] = float(right)
        for date, changed in (("20250101_000000", 0.5), ("20250202_000000", float(right))):
            records[1]["score"] = changed
            result = {"dataset_name": "d", "split": "test", "model_name": model, "records": records}
            path = folder / "d" / "test" / model / f"d-test-{model}-{date}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result))


def routerarena(folder: Path) -> None:
    for model in "ab":
        lines(folder / f"{model}.jsonl", [
            {"global_index": n, "question": f"Question {n}?", "generated_answer": f"{model} says",
             "token_usage": {"input_tokens": 4, "output_tokens": 5, "total_tokens": 9},
             "success": True, "error": None,
             "evaluation_result": {"score": float(model == "b"),
                                   "inference_cost": 1.0 if model == "b" else 0.25}}
            for n in range(4)
        ])  # fmt: skip


def embedllm(folder: Path) -> None:
    rows = [{"prompt_id": n, "model_id": m, "model_name": name, "prompt": f"Question {n}?",
             "label": int(name == "b"), "category": "c"}
            for n in range(4) for m, name in enumerate("ab")]  # fmt: skip
    pl.DataFrame(rows).write_csv(folder / "test.csv")


def assignments(folder: Path) -> None:
    lines(folder / "test" / "baseline.jsonl", [
        {"qid": n, "action_index": 2 * t + s, "question": f"Question {n}?", "teacher": t,
         "student": s, "answer": f"{t}{s}", "ground_truth": "11", "f1": float(t and s)}
        for n in range(4) for t in (0, 1) for s in (0, 1)
    ])  # fmt: skip


def inspect_ai(folder: Path) -> None:
    for model in "ab":
        samples = [
            {"id": n, "epoch": 1, "input": f"Question {n}?", "target": "x",
             "output": {"completion": "x"}, "scores": {"match": {"value": "CI"[model == "a"]}},
             "model_usage": {model: {"input_tokens": 4, "output_tokens": 5}}}
            for n in range(4)
        ]  # fmt: skip
        log = {"eval": {"model": model, "task": "t"}, "samples": samples}
        (folder / f"{model}.json").write_text(json.dumps(log))


def lm_eval(folder: Path) -> None:
    for model in "ab":
        lines(folder / f"org__{model}" / "samples_gsm8k_2026-01-01.jsonl", [
            {"doc_id": n, "doc": {}, "target": "x", "arguments": [[f"Question {n}?", {}]],
             "resps": [["x"]], "filtered_resps": ["x"], "exact_match": float(model == "b")}
            for n in range(4)
        ])  # fmt: skip


def llmrouter(folder: Path) -> None:
    lines(folder / "routing.jsonl", [
        {"task_name": "t", "query": f"Question {n}?", "ground_truth": "x", "metric": "em",
         "model_name": model, "response": "x", "input_tokens": 4, "output_tokens": 5,
         "performance": float(model == "b")}
        for n in range(4) for model in "ab"
    ])  # fmt: skip


MADE: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (routerbench, llmrouterbench, routerarena, embedllm, assignments, inspect_ai,
                 lm_eval, llmrouter)
}  # fmt: skip


def bring(kind: str, folder: Path, **how: Any) -> Imported:
    return import_files(kind, [folder / "in"], folder / "db.duckdb", split="test", **how)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


@pytest.mark.parametrize("kind", MADE)
def test_format_is_read(folder: Path, kind: str) -> None:
    MADE[kind](folder / "in")
    told = bring(kind, folder)
    assert told.splits == {"test": 4} and len(told.arms) == 2
    assert not told.failures and not told.repeated
    with Store(folder / "db.duckdb") as store:
        means = dict(store.sql("select sequence, avg(quality) from outcomes group by all").rows())
    pairs = {f"model {t}>model {s}": t * s for t in (0, 1) for s in (0, 1)}
    wanted = {"routerbench": {"a": 0.5, "b": 1}, "assignments": pairs}
    assert means == wanted.get(kind, {"a": 0, "b": 1})
    assert not check_database(folder / "db.duckdb").faults


@pytest.mark.parametrize("kind", ["llmrouterbench", "routerarena", "inspect_ai"])
def test_failure_of_the_harness_is_one(folder: Path, kind: str) -> None:
    MADE[kind](folder / "in")
    file = sorted((folder / "in").rglob("*a*.json*"))[-1]
    text = file.read_text()
    for good, bad in (
        ('"raw_output": "so x"', '"raw_output": "Generation failed: timeout"'),
        ('"success": true', '"success": false'),
        ('"id": 0,', '"id": 0, "error": {"message": "timeout"},'),
    ):
        text = text.replace(good, bad, 1)
    file.write_text(text)
    assert bring(kind, folder).failures == {"a": 1}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", "\x00", '{"records": 3}', "a,b\n1,2\n"])
def test_what_is_not_the_format_is_said_in_one_line(folder: Path, kind: str, content: str) -> None:
    for name in ("routerbench_0shot.csv", "x.json", "x.jsonl", "test.csv", "baseline.jsonl",
                 "samples_t_1.jsonl", "train.json"):  # fmt: skip
        (folder / "in" / name).write_text(content)
    with pytest.raises(DataError) as caught:
        bring(kind, folder)
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / "db.duckdb").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was_run",)


def test_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"it would run (posix|nt)\.mkdir"):
        bring("routerbench", tmp_path)
    assert not (tmp_path / "was_run").exists() and not (tmp_path / "db.duckdb").exists()


def test_pickled_frame_is_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "frame.pkl"
    pandas.DataFrame({"a": [1.0, 0.5], "b": ["x", "y"]}).to_pickle(path)
    assert read_pickle(path).to_dict(as_series=False) == {"a": [1.0, 0.5], "b": ["x", "y"]}
