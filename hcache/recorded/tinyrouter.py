"""TinyRouter's oracle matrices: each model asked k times, right or wrong each time.

Files `oracle_matrix_BENCHMARK.json` hold ids of tasks and reference answers; neither questions nor
replies, tokens or costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import find_files, read_json
from hcache.recorded.recording import CELLS, IMPORTERS, QUESTIONS, Recording


@IMPORTERS.register("tinyrouter")
def tinyrouter(paths: Sequence[Path], *, benchmark: str = "") -> Recording:
    """Matrices of one number of calls each model; `benchmark` names one of several."""
    questions: list[tuple[object, ...]] = []
    cells: list[tuple[object, ...]] = []
    counts = set()
    for file in find_files(paths, f"oracle_matrix_{benchmark or '*'}.json"):
        matrix = read_json(file)
        try:
            name = str(matrix["benchmark"])
            counts.add(int(matrix["k"]))
            for row, task in enumerate(matrix["tasks"], 1):
                key = f"{name}/{task['id']}"
                answer = [str(task["answer"])]
                questions.append((key, name, str(task["id"]), answer, "", str(task["id"]), None))
                cells += [
                    (key, [str(model)], sample, float(score), str(file), row)
                    for model, scores in task["per_model"].items()
                    for sample, score in enumerate(scores)
                ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{file}: is no oracle matrix ({type(error).__name__}: {error}).",
                "It has benchmark, k and tasks of id, answer and per_model.",
            ) from error
    if len(counts) > 1:
        raise DataError(
            f"{paths[0]}: models were asked {' and '.join(map(str, sorted(counts)))} times.",
            "Name one benchmark: --option benchmark=math500",
        )
    names = ("id", "sequence", "sample", "score", "file", "row")
    return Recording(
        "tinyrouter",
        pl.DataFrame(questions, QUESTIONS, orient="row"),
        pl.DataFrame(cells, {name: CELLS[name] for name in names}, orient="row"),
        notes=("questions are given by id alone: their id stands for their text",),
    )
