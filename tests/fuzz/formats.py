"""Files of outcomes in every format that `hcache import` reads, damaged in every way.

What is refused has to leave nothing behind, and a database that was there as it was.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from hcache.errors import HcacheError
from hcache.recorded.importing import import_files
from hcache.store import Store
from hcache.store.digest import ContentDigest, content_digest

from .harness import Case, Target
from .mutate import as_json, broken, damaged, garbled, text

Rows = list[dict[str, Any]]
SENTINEL = "was_run"  # a folder that a hostile pickle would make


@dataclass(frozen=True)
class Good:
    """Files that a format takes, as values by their names, and the options they are read with."""

    files: Mapping[str, Any]
    options: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # files that options name, and no path


CELLS: Rows = [
    {"query": f"What is {n}?", "arm": arm, "score": n % 2, "cost": 0.5, "reply": f"{n}",
     "reference": f"{n}", "sample": 0, "split": "test", "item": f"q{n}", "input_tokens": 3}
    for n in range(3) for arm in ("a", "b", "org/c")
]  # fmt: skip
CALLS: Rows = [
    {"query": f"What is {n}?", "who": who, "score": n % 2, "cost": 0.5, "reply": f"{n}"}
    for n in range(2) for who in ("a", "a>b", "a>b>a")
]  # fmt: skip
WIDE: Rows = [
    {"query": f"What is {n}?", "a": 1, "b": 0, "a_response": "1", "b_response": "2", "b_cost": 2}
    for n in "xy"
]  # fmt: skip
BENCH: Rows = [
    {"sample_id": n, "prompt": "['1?']", "eval_name": "e", "a": 1.0, "a|model_response": "x",
     "a|total_cost": 1.0}
    for n in "xy"
]  # fmt: skip
PLACE = "outcomes/model"  # of the files of a case
REQUESTS: Rows = [
    {"custom_id": f"{m}{n}", "method": "POST", "url": "/v1/chat/completions",
     "body": {"model": m, "seed": 1, "messages": [
         {"role": "system", "content": "Be short."},
         {"role": "user", "content": f"{n}?" if m == "a" else [{"type": "text", "text": f"{n}?"}]},
     ]}}
    for m in "ab" for n in (1, 2)
]  # fmt: skip
RESULTS: Rows = [
    {"id": "r", "custom_id": f"a{n}", "error": None, "response": {"status_code": 200, "body": {
        "model": "a-2024", "choices": [{"index": 0, "finish_reason": "stop",
        "logprobs": {"content": [{"token": "x", "logprob": -0.5}]},
        "message": {"role": "assistant", "content": "1"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}}}
    for n in (1, 2)
]  # fmt: skip
FAILED: Rows = [
    {"id": "r", "custom_id": "b1", "response": None,
     "error": {"code": "batch_expired", "message": "This request could not be executed."}},
    {"id": "r", "custom_id": "b2", "error": None, "response": {"status_code": 429, "body": {
        "error": {"message": "Rate limit", "code": "rate_limit_exceeded"}}}},
]  # fmt: skip
FORMATS: dict[str, tuple[Good, ...]] = {
    "openai_batch": (
        Good({"requests.jsonl": REQUESTS, "results.jsonl": RESULTS, "errors.jsonl": FAILED,
              "references.csv": [{"custom_id": row["custom_id"], "reference": "1"}
                                 for row in REQUESTS]},
             {"references": f"{PLACE}/references.csv", "metric": "numeric", "extract": "number"},
             beside=("references.csv",)),
        Good({"requests.jsonl": REQUESTS, "results.jsonl": RESULTS,
              "references.jsonl": [{"query": f"{n}?", "reference": n} for n in (1, 2)]},
             {"references": f"{PLACE}/references.jsonl", "metric": "f1"},
             beside=("references.jsonl",)),
    ),
    "long": (
        Good({"cells.jsonl": CELLS}),
        Good({"cells.csv": CELLS}, {"extract": "number", "metric": "numeric"}),
        Good({"cells.parquet": CELLS}),
        Good({"calls.tsv": CALLS}, {"sequence": "who"}),
        Good({"calls.jsonl": [row | {"who": row["who"].split(">")} for row in CALLS]},
             {"sequence": "who"}),
        Good({"cells.csv": CELLS, "test.txt": "q0\nq1\n", "train.json": ["q2"]},
             {"split.test": f"{PLACE}/test.txt", "split.train/valid": f"{PLACE}/train.json"},
             beside=("test.txt", "train.json")),
        Good({"cells.csv": CELLS, "splits.csv": [
            {"id": f"q{n}", "split": split} for n, split in enumerate(("train", "dev", "test"))]},
             {"split.file": f"{PLACE}/splits.csv"}, beside=("splits.csv",)),
        Good({"cells.csv": CELLS, "splits.json": {"train": ["q0"], "test": ["q1", "q2"]}},
             {"split.file": f"{PLACE}/splits.json"}, beside=("splits.json",)),
        Good({"cells.jsonl": CELLS}, {"split.ratio": "8/1/1", "split.seed": "3"}),
    ),
    "wide": (
        Good({"cells.jsonl": WIDE}),
        Good({"cells.csv": WIDE}, {"models": "a,b"}),
        Good({"cells.parquet": WIDE}),
    ),
    "coderouterbench": (Good({
        "ood176_results_long.csv": [
            {"task_id": f"t{n}", "model": m, "dimension": "d", "resolved": 1, "cost_usd": 0.5,
             "cost_source": "token", "in_tok": 3, "out_tok": 4} for n in (1, 2) for m in "ab"],
        "ood176_tasks.jsonl": [{"task_id": f"t{n}", "prompt": f"{n}?"} for n in (1, 2)],
        "id_test_results_long.csv": [
            {"task_id": f"t{n}", "model": m, "dimension": "d", "score": 0.5, "cost_usd": 0.5,
             "split": "id_test", "cost_source": "missing", "input_tokens": 3, "output_tokens": 4}
            for n in (1, 2) for m in "ab"],
    }),),
    "routellm": (Good({
        "mmlu_x.csv": [{"prompt": f"{n}?", "w": True, "s": "False"} for n in (1, 2)],
        "gsm8k_responses.csv": [
            {"prompt": f"{n}!", "w": True, "w_response": "1", "s": 0, "s_response": "2"}
            for n in (1, 2)],
        "test.jsonl": [{"question": "1!", "answer": "so\n#### 1"}],
        "contaminated_prompts.jsonl": [{"eval_prompt": "2?"}],
    }),),
    "anytime_gsm8k": (Good({"test.jsonl": [
        {"uid": "u", "t": t, "max_new_tokens": 9 * t, "problem": "1?", "gold": "1",
         "raw_text": "1", "correct": 1} for t in (1, 2, 3)]}),),
    "tinyrouter": (Good({"oracle_matrix_x.json": {"benchmark": "x", "k": 2, "tasks": [
        {"id": f"i{n}", "answer": "1", "per_model": {"a": [0, 1], "b": [1, 1]}}
        for n in (1, 2)]}}),),
    "llmrouter": (
        Good({f"{split}.json": [{"question": f"{n} {split}?", "scores": {"a": 0.5, "b": 1}}
                                for n in (1, 2)] for split in ("train", "test")}
             | {"default_query_x.jsonl": [
                 {"query": "1 test?", "task_name": "t", "ground_truth": "1"}]}),
        Good({"routing.jsonl": [
            {"query": "1?", "model_name": m, "response": "x", "performance": 0.5, "task_name": "t",
             "ground_truth": "1", "input_tokens": 3, "output_tokens": 4} for m in "ab"]}),
    ),
    "llmrouterbench": (Good({f"{m}.json": {
        "dataset_name": "d", "split": "test", "model_name": m,
        "records": [{"index": n, "origin_query": f"{n}?", "score": 1, "raw_output": "x",
                     "ground_truth": "x", "cost": 0.5, "prompt_tokens": 3,
                     "completion_tokens": 4} for n in (1, 2)]} for m in "ab"}),),
    "routerarena": (Good({f"{m}.jsonl": [
        {"global_index": n, "question": "1?", "generated_answer": "x", "success": True,
         "evaluation_result": {"score": 1.0, "inference_cost": 0.5},
         "token_usage": {"input_tokens": 3, "output_tokens": 4}} for n in "xy"] for m in "ab"}),),
    "embedllm": (Good({"test.csv": [
        {"prompt_id": n, "model_id": 1, "model_name": "m", "prompt": f"{n}?", "label": 1,
         "category": "c"} for n in "xy"],
        "train.csv": [{"prompt_id": n, "model_id": 1, "model_name": "m", "prompt": f"{n}?",
                       "label": 0, "category": "c"} for n in "vw"]}),),
    "assignments": (Good({"baseline.jsonl": [
        {"qid": 1, "question": "1?", "teacher": t, "student": s, "answer": "x",
         "ground_truth": "x", "f1": 0.5} for t in (0, 1) for s in (0, 1)]}),),
    "inspect_ai": (Good({"m.json": {"eval": {"model": "m", "task": "t"}, "samples": [
        {"id": n, "epoch": epoch, "input": [{"role": "user", "content": "1?"}], "target": ["x"],
         "output": {"completion": "x"}, "scores": {"match": {"value": "C"}},
         "model_usage": {"m": {"input_tokens": 3, "output_tokens": 4}}}
        for n in (1, 2) for epoch in (1, 2)]}}),),
    "lm_eval": (Good({"samples_t_1.jsonl": [
        {"doc_id": n, "target": "x", "arguments": [["1?"]], "filtered_resps": ["x"], "acc": 1}
        for n in (1, 2)],
        "samples_u_1.jsonl": [
        {"doc_id": 1, "target": "x", "arguments": {"gen_args_0": {"arg_0": "1!"}},
         "filtered_resps": [[-1.5, True]], "exact_match": 0.5}]}),),
    "routerbench": (
        Good({"routerbench_0shot.csv": BENCH}),
        Good({"routerbench_0shot.parquet": BENCH}),
        Good({"routerbench_0shot.pkl": BENCH}),
    ),
}  # fmt: skip


def imports(kind: str) -> Target:
    """The target of a format; one file that is refused leaves no database, or the old one."""

    def prepare(folder: Path) -> Callable[[Random], Case]:
        before = _filled(folder)

        def make(random: Random) -> Case:
            good = random.choice(FORMATS[kind])
            files = _files(good, random)
            options = _options(good, random)
            odd = random.choice(
                ("",) * 12 + ("whole",) * 4 + ("folder", "absent", "twice", "there")
            )
            good = replace(good, beside=good.beside if random.random() < 0.9 else ())

            def run() -> None:
                paths = [name for name in files if name not in good.beside]
                _import(kind, folder, files, options, paths, odd, before)

            return f"{kind} {odd} {options} {files!r}", run

        return make

    return prepare


def _filled(folder: Path) -> tuple[bytes, ContentDigest]:
    """A database with an import of its own, and its digest."""
    table = folder / "first.jsonl"
    table.write_text(_as_file("first.jsonl", CELLS), encoding="utf-8")
    db = folder / "filled.duckdb"
    import_files("long", [table], db, name="first", split="test")
    with Store(db) as store:
        return db.read_bytes(), content_digest(store)


def _import(
    kind: str,
    folder: Path,
    files: Mapping[str, bytes],
    options: Mapping[str, str],
    named: Sequence[str],
    odd: str,
    before: tuple[bytes, ContentDigest],
) -> None:
    """Import files one by one, or their folder; look at what a refusal has left."""
    place = folder / PLACE
    shutil.rmtree(place, ignore_errors=True)
    for old in folder.glob("imported.*"):
        old.unlink()
    place.mkdir(parents=True)
    for name, data in files.items():
        (place / name).mkdir() if odd == "folder" else (place / name).write_bytes(data)
    paths = [place / name for name in named]
    if odd == "whole":
        paths = [place]
    if odd in ("twice", "absent"):
        paths = paths * 2 if odd == "twice" else [path / "absent" for path in paths]
    db, settings = folder / "imported.duckdb", folder / "imported.yaml"
    if odd == "there":
        db.write_bytes(before[0])
    try:
        import_files(kind, paths, db, name="imported", split="test/train", options=options)
    except HcacheError as error:
        assert "\n" not in str(error), str(error)
        assert not settings.exists()
        assert db.exists() == (odd == "there")
        if odd == "there":
            with Store(db) as store:
                assert content_digest(store) == before[1]
        raise
    finally:
        assert not (folder / SENTINEL).exists(), "a pickle has run"
    with Store(db) as store:
        assert store.sql("select count(*) from outcomes where experiment = 'imported'").item() >= 0


def _options(good: Good, random: Random) -> dict[str, str]:
    options = dict(good.options)
    if options and random.random() < 0.1:
        options[random.choice(list(options))] = text(random)
    return options


def _files(good: Good, random: Random) -> dict[str, bytes]:
    """The contents of the files, at least one of them damaged more often than not."""
    bad = random.choice(list(good.files))
    return {
        name: _damaged_file(name, tree, random) if name == bad else _bytes(name, tree)
        for name, tree in good.files.items()
    }


def _damaged_file(name: str, tree: Any, random: Random) -> bytes:
    chance = random.random()
    if chance < 0.02:
        return b""
    if name.endswith(".parquet") and chance < 0.7:
        return _nested(tree, random)
    if name.endswith(".pkl"):
        return _pickled(tree, random)
    if chance < 0.7 and not isinstance(tree, str):
        data = _bytes(name, damaged(tree, random))
    elif chance < 0.9 and not name.endswith(".parquet"):
        said = garbled(_as_file(name, tree), random)
        data = said.encode("utf-8", "surrogatepass")
    else:
        data = _bytes(name, tree)
    return broken(data, random) if random.random() < 0.3 else data


def _bytes(name: str, tree: Any) -> bytes:
    if name.endswith(".parquet"):
        try:
            frame = pl.DataFrame(tree, infer_schema_length=None, strict=False)
            return _parquet(frame)
        except (Exception, pl.exceptions.PanicException):  # what polars cannot hold
            return as_json(tree).encode("utf-8", "surrogatepass")
    return _as_file(name, tree).encode("utf-8", "surrogatepass")


def _parquet(frame: pl.DataFrame) -> bytes:
    data = io.BytesIO()
    frame.write_parquet(data)
    return data.getvalue()


ODD: tuple[Any, ...] = (
    b"\xff\x00", Decimal("1.5"), date(2024, 2, 29), datetime(1, 1, 1, tzinfo=UTC), [1, None],
    [["a"], []], {"a": {"b": [1.5]}}, [{"x": "y"}], None, True, 2**63, -(2**63), float("nan"), [],
    "\0", "a>b", ["a", None], [b"\xff"], "1e400",
)  # fmt: skip


def _nested(rows: Rows, random: Random) -> bytes:
    """The rows as parquet, with a column or two of another type."""
    frame = pl.DataFrame(rows)
    for _ in range(random.choice((1, 1, 2))):
        odd, column = random.choice(ODD), random.choice(frame.columns)
        values = pl.Series(column, [odd] * len(frame), strict=False)
        if random.random() < 0.1:
            values = pl.Series(column, [str(odd)] * len(frame), pl.Categorical)
        frame = frame.with_columns(values)
    return _parquet(frame)


class _Hostile:
    """A pickle of it makes a folder where it is read."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


HOSTILE = (
    _Hostile(os.mkdir, SENTINEL),
    _Hostile(os.system, f"mkdir {SENTINEL}"),
    _Hostile(eval, f"__import__('os').mkdir({SENTINEL!r})"),
)


def _pickled(rows: Rows, random: Random) -> bytes:
    """A pickled frame where pandas is there, plain rows, or something hostile among them."""
    held: Any = rows
    try:
        held = import_module("pandas").DataFrame(rows)
        if random.random() < 0.4:
            column = random.choice(list(held.columns))
            held[column] = [random.choice((*ODD, *HOSTILE[:2])) for _ in rows]
    except ImportError:
        pass
    if random.random() < 0.2:
        held = [held, random.choice(HOSTILE)]
    data = pickle.dumps(held, protocol=random.choice((0, 2, 4, 5)))
    return broken(data, random) if random.random() < 0.7 else data


def _as_file(name: str, tree: object) -> str:
    """A value as the text of a file: JSON, JSON lines, CSV or TSV by its name."""
    if name.endswith(".txt"):
        return str(tree)
    rows = tree if isinstance(tree, list) else [tree]
    if name.endswith(".jsonl"):
        return "".join(as_json(row) + "\n" for row in rows)
    if name.endswith((".csv", ".tsv")):
        keys = list(dict.fromkeys(k for row in rows if isinstance(row, dict) for k in row))
        out = io.StringIO()
        writer = csv.writer(out, delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writerow(keys)
        said = [row for row in rows if isinstance(row, dict)]
        writer.writerows([row.get(key, "") for key in keys] for row in said)
        return out.getvalue()
    return as_json(tree)
