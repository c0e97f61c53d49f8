"""Logs of evaluation harnesses: inspect_ai (JSON logs), lm-eval (`samples_*.jsonl`).

Written after the formats' documentation; tested on hand-made files alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import find_files, read_json
from hcache.recorded.recording import IMPORTERS, Recording
from hcache.recorded.tables import recording_of

GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
METRICS = ("exact_match", "acc", "f1", "acc_norm")
SHAPELESS = (KeyError, TypeError, ValueError, AttributeError, IndexError)


@IMPORTERS.register("inspect_ai")
def inspect_ai(paths: Sequence[Path], *, scorer: str = "") -> Recording:
    """Logs of inspect_ai in JSON, one a model and task; epochs are samples, errors are failures."""
    rows: list[dict[str, Any]] = []
    for file in find_files(paths, "*.json"):
        log = read_json(file)
        try:
            rows += _of_inspect(file, log, scorer)
        except SHAPELESS as error:
            raise _shapeless(file, error, "a log of inspect_ai") from error
    return _recording(rows, paths, "inspect_ai")


def _of_inspect(file: Path, log: dict[str, Any], scorer: str) -> Iterator[dict[str, Any]]:
    model, task = str(log["eval"]["model"]), str(log["eval"]["task"])
    for number, sample in enumerate(log["samples"], 1):
        scores = sample.get("scores") or {}
        score = scores.get(scorer) if scorer else next(iter(scores.values()), None)
        usage = sample.get("model_usage", {}).get(model) or {}
        target = sample.get("target")
        failed = sample.get("error")
        yield {
            "file": str(file), "row": number, "item": f"{task}/{sample['id']}", "kind": task,
            "query": _said(sample["input"]), "sequence": [model],
            "reply": None if failed else str(sample["output"]["completion"]),
            "score": None if score is None else _grade(score["value"]),
            "input_tokens": usage.get("input_tokens"),
            "output_tokens": usage.get("output_tokens"),
            "reference": target if isinstance(target, list) else [str(target)],
            "sample": int(sample.get("epoch", 1)) - 1,
            "failure": str(failed.get("message", "error"))[:200] if failed else None,
        }  # fmt: skip


def _grade(value: Any) -> float:
    return GRADES[value] if value in GRADES else float(value)


def _said(given: Any) -> str:
    """A text, or the contents of the messages of a chat."""
    if isinstance(given, str):
        return given
    return "\n\n".join(str(message["content"]) for message in given)


@IMPORTERS.register("lm_eval")
def lm_eval(paths: Sequence[Path], *, metric: str = "") -> Recording:
    """Samples of lm-eval; the model is the name of the folder that a file lies in."""
    rows: list[dict[str, Any]] = []
    for file in find_files(paths, "samples_*.jsonl"):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            rows += _of_lm_eval(file, [json.loads(line) for line in lines if line.strip()], metric)
        except (OSError, *SHAPELESS) as error:
            raise _shapeless(file, error, "samples of lm-eval") from error
    return _recording(rows, paths, "lm_eval")


def _of_lm_eval(
    file: Path, samples: Sequence[dict[str, Any]], metric: str
) -> Iterator[dict[str, Any]]:
    task = file.stem.removeprefix("samples_").rsplit("_", 1)[0]
    for number, sample in enumerate(samples, 1):
        name = metric or next((name for name in METRICS if name in sample), METRICS[0])
        response = sample["filtered_resps"][0]
        choice = not isinstance(response, str)  # log-likelihoods of given choices: no reply
        yield {
            "file": str(file), "row": number, "item": f"{task}/{sample['doc_id']}", "kind": task,
            "query": str(sample["arguments"]["gen_args_0"]["arg_0"]
                         if isinstance(sample["arguments"], dict) else sample["arguments"][0][0]),
            "sequence": [file.parent.name.replace("__", "/")],
            "reply": None if choice else response, "score": float(sample[name]),
            "reference": [str(sample["target"])],
        }  # fmt: skip


def _recording(rows: list[dict[str, Any]], paths: Sequence[Path], source: str) -> Recording:
    if not rows:
        raise DataError(f"{paths[0]}: holds no samples.", "Correct the path.")
    return recording_of(pl.DataFrame(rows, infer_schema_length=None), source, source)


def _shapeless(file: Path, error: BaseException, what: str) -> DataError:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return DataError(f"{file}: is no {what} ({text}).", "Check the file, or name another format.")
