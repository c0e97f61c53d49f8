"""RouteLLM's evaluations (arXiv 2406.18665): a weak and a strong model on MMLU and GSM8K.

Files `gsm8k_responses.csv` and `mmlu_SUBJECT.csv`: prompt, right or wrong of the weak and of the
strong model, for GSM8K also their responses. Questions of `contaminated_prompts.jsonl` beside them
are left out, as in the paper. A cost is a call of the strong model, which is what the paper counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from hcache.errors import DataError
from hcache.recorded.files import need, number, read_table
from hcache.recorded.recording import IMPORTERS, TEXT, Evaluation, Recording

PLACE = ("file", "row", "prompt")


@IMPORTERS.register("routellm")
def routellm(paths: Sequence[Path], *, dataset: str = "") -> Recording:
    """Both data sets, or the one that is named: mmlu or gsm8k."""
    files = [
        file
        for pattern in ("gsm8k_responses.csv", "mmlu_*.csv")
        for folder in paths
        for file in (folder.rglob(pattern) if folder.is_dir() else [folder])
        if file.match(pattern) and file.name.startswith(dataset)
    ]
    if not files:
        raise DataError(
            f"{paths[0]}: has neither gsm8k_responses.csv nor mmlu_*.csv.", "Correct the path."
        )
    left_out: dict[str, int] = {}
    cells = pl.concat([_cells(file, left_out) for file in sorted(files)], how="diagonal_relaxed")
    notes = [f"{name}: {count:,} contaminated questions are left out"
             for name, count in sorted(left_out.items())]  # fmt: skip
    return Recording(
        "routellm", cells, cells, "strong calls", {"gsm8k": Evaluation("number", "numeric")},
        tuple(notes),
    )  # fmt: skip


def _cells(file: Path, left_out: dict[str, int]) -> pl.DataFrame:
    dataset, _, subject = file.stem.partition("_")
    subject = "" if dataset == "gsm8k" else subject
    table = read_table(file)
    need(table, ["prompt"], file)
    models = [n for n in table.columns if n not in PLACE and not n.endswith("_response")]
    if len(models) != 2:
        raise DataError(
            f"{file}: has {len(models)} models.", "A weak and a strong one, in this order."
        )
    table = table.with_columns(_references(file, table))
    clean = table.filter(~pl.col("prompt").is_in(_contaminated(file)))
    left_out[dataset] = left_out.get(dataset, 0) + len(table) - len(clean)
    # Questions repeat within and across subjects: their place in the files tells them apart.
    place = pl.concat_str(pl.lit(f"{subject}/"), pl.col("row").cast(TEXT))
    calls = [
        clean.with_columns(
            sequence=pl.lit([model], pl.List(TEXT)),
            score=number(clean, model),
            reply=pl.col(f"{model}_response") if f"{model}_response" in clean.columns else None,
            cost=pl.lit(float(strong)),
        )
        for strong, model in enumerate(models)
    ]
    return (
        pl.concat(calls)
        .with_columns(
            id=pl.concat_str(pl.lit(f"{file.name}/"), pl.col("row").cast(TEXT)),
            dataset=pl.lit(dataset),
            question=pl.col("prompt").str.strip_chars(),
            kind=pl.lit(subject),
            item=place if subject else None,
            sample=0,
        )
        .drop(models)
    )


def _contaminated(file: Path) -> list[str]:
    for folder in (file.parent, file.parent.parent):
        listed = folder / "contaminated_prompts.jsonl"
        if listed.is_file():
            table = read_table(listed)
            need(table, ["eval_prompt"], listed)
            return table["eval_prompt"].to_list()
    return []


def _references(file: Path, table: pl.DataFrame) -> pl.Series:
    """Answers of GSM8K's own test file, where it stands beside the responses."""
    none = pl.Series("references", [[]] * len(table), pl.List(TEXT))
    tests = file.with_name("test.jsonl")
    if not file.name.startswith("gsm8k") or not tests.is_file():
        return none
    test = read_table(tests)
    need(test, ["question", "answer"], tests)
    answers = test.select(
        prompt="question", answer=pl.col("answer").str.split("####").list.last().str.strip_chars()
    ).unique("prompt", keep="first")
    found = table.join(answers, "prompt", "left", maintain_order="left")["answer"]
    return pl.Series("references", [[] if a is None else [a] for a in found], pl.List(TEXT))
