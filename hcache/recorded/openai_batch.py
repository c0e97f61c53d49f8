"""Results of OpenAI's batch API, or of `vllm run-batch`, with the requests that they answer.

Requests hold models and messages; results hold replies and tokens, and errors, which may be in a
file of their own. Nobody is scored there: scores are made with answers that a table gives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from hcache.data.extractors import extractor
from hcache.data.metrics import score_many, unmet
from hcache.data.source import Row, Source
from hcache.data.thoughts import drop_thought
from hcache.engines.batch_results import BatchLine, agreed, custom_id, line_of
from hcache.engines.chat import ENDS, Completion
from hcache.errors import ConfigError, DataError
from hcache.keys import well_formed
from hcache.recorded.files import defect, find_files, need, read_table, texts
from hcache.recorded.recording import IMPORTERS, Evaluation, Recording
from hcache.recorded.tables import recording_of

UNSET = ("seed", "user", "metadata")  # of a request: what is another in each of several calls


@dataclass(frozen=True)
class _Request:
    """A line of a file of requests."""

    place: str
    key: str
    model: str
    question: str
    settings: str  # all that was asked, but for `UNSET`
    body: str


@IMPORTERS.register("openai_batch")
def openai_batch(
    paths: Sequence[Path],
    *,
    references: str = "",
    metric: str = "",
    extract: str = "text",
    source: str = "openai_batch",
) -> Recording:
    """Files of requests and of results in any order; several calls on one question are samples.

    `references` is a table of answers: `reference`, beside `custom_id` or `query`; `metric` and
    `extract` make the scores.
    """
    if not references or not metric:
        raise ConfigError(
            "format 'openai_batch': results of a batch hold no scores.",
            "Give answers and how they are compared: -o references=FILE -o metric=f1",
        )
    table = Path(references)
    files = [file for file in find_files(paths, "*.jsonl") if file.resolve() != table.resolve()]
    asked, said = _read(files)
    if not asked or not said:
        what = "results" if asked else "requests"
        raise DataError(
            f"{paths[0]}: has no {what} of a batch.", "Give the files of requests and of results."
        )
    rows = pl.DataFrame(list(_rows(asked, said)), infer_schema_length=None)
    rows = _scored(_with_references(rows, table), extract, metric)
    made = recording_of(rows, source, source, evaluation=Evaluation(extract, metric))
    return replace(made, notes=(*_notes(asked, said), f"scores are {metric} of the replies"))


Said = Mapping[_Request, tuple[BatchLine, Path, int]]  # with file and row


def _read(files: Sequence[Path]) -> tuple[list[_Request], Said]:
    """Requests, each once however often it was sent, and what was said to each."""
    asked: dict[str, dict[str, _Request]] = defaultdict(dict)  # by id and body
    beside: dict[tuple[str, Path], dict[str, _Request]] = defaultdict(dict)  # and in each folder
    results: list[tuple[str, BatchLine, Path, int]] = []
    for file in files:
        for row in Source(file).json_rows():
            key = custom_id(row)
            if "body" in row.fields:
                request = _request(key, row)
                first = asked[key].setdefault(request.body, request)
                beside[key, file.parent][request.body] = first
            else:
                results.append((key, line_of(row), file, row.source.line))
    said: dict[_Request, tuple[BatchLine, Path, int]] = {}
    for key, line, file, number in results:
        candidates = asked[key] if len(asked[key]) <= 1 else beside[key, file.parent]
        request = _only([*candidates.values()], key, line)
        first_line = said[request][0] if request in said else None
        if agreed(first_line, line) is line:
            said[request] = line, file, number
    return [request for requests in asked.values() for request in requests.values()], said


def _request(key: str, row: Row) -> _Request:
    body = row.get("body")
    try:
        assert isinstance(body, dict)
        model, messages = body["model"], body["messages"]
        asked = [m for m in messages if m.get("role") not in ("system", "developer")] or messages
        question = well_formed("\n\n".join(_text(message["content"]) for message in asked))
        if not isinstance(model, str):
            raise TypeError("model is no text")
    except (AssertionError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{row.source.place}: asks no model with messages.",
            "Give requests of /v1/chat/completions.",
        ) from error
    settings = {name: value for name, value in body.items() if name not in UNSET}
    said, whole = (json.dumps(part, sort_keys=True, default=str) for part in (settings, body))
    return _Request(row.source.place, key, well_formed(model), question, said, whole)


def _text(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _only(requests: Sequence[_Request], key: str, line: BatchLine) -> _Request:
    """The one request that a line can be the result of."""
    if not requests:
        raise DataError(
            f"{line.place}: no request has custom_id {key[:100]!r}.",
            "Give the file of requests too; where ids repeat, beside that of results.",
        )
    if len(requests) > 1:
        raise DataError(
            f"{line.place}: custom_id {key[:100]!r} is that of several requests.",
            "Put each batch, requests and results, in a folder of its own.",
        )
    return requests[0]


def _rows(asked: Sequence[_Request], said: Said) -> Iterator[dict[str, Any]]:
    """A row for each result, in the order of the requests."""
    first: dict[tuple[str, str], _Request] = {}
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for request in asked:
        if request not in said:
            continue
        cell = request.model, request.question
        if first.setdefault(cell, request).settings != request.settings:
            raise DataError(
                f"{request.place}: asks {request.model} the question of {first[cell].place} with "
                "other settings or another system message.",
                "Import each way of asking by itself, with a --name and -o source of its own.",
            )
        line, file, number = said[request]
        yield {
            "file": str(file), "row": number, "custom_id": well_formed(request.key),
            "query": request.question, "sequence": [request.model], "sample": calls[cell],
            **_outcome(line),
        }  # fmt: skip
        calls[cell] += 1


def _outcome(line: BatchLine) -> dict[str, Any]:
    """Content of a line: reply and tokens, or why there is none."""
    if (completion := line.completion) is None:
        return _outcome_of(None, None, line.words or "error")
    (choice,) = completion.choices
    withheld = choice.finish_reason not in ENDS
    if withheld or choice.message.content is None:
        return _outcome_of(completion, None, f"no reply: {choice.finish_reason}")
    return _outcome_of(completion, choice.message.content, None)


def _outcome_of(
    completion: Completion | None, reply: str | None, failure: str | None
) -> dict[str, Any]:
    usage = completion.usage if completion else None
    return {
        "reply": reply,
        "failure": failure and well_formed(failure[:200]),
        "input_tokens": usage and usage.prompt_tokens,
        "output_tokens": usage and usage.completion_tokens,
    }


def _with_references(rows: pl.DataFrame, file: Path) -> pl.DataFrame:
    """Rows with the answers to their questions, as `reference`."""
    table = read_table(file)
    key = "custom_id" if "custom_id" in table.columns else "query"
    need(table, [key, "reference"], file)
    given = table.select(
        "file", "row", key=texts(table, key).str.strip_chars(), reference=texts(table, "reference")
    )
    given = given.drop_nulls()
    differ = given.filter(pl.col("reference").n_unique().over("key") > 1)
    if len(differ):
        raise defect(differ, f"{key} {differ['key'][0][:60]!r} has another answer elsewhere")
    answers = given.unique("key").select("key", "reference")
    rows = rows.with_columns(key=pl.col(key).str.strip_chars())
    found = rows.join(answers, "key", "left", maintain_order="left").drop("key")
    without = found.filter(pl.col("reference").is_null())
    if len(without):
        raise defect(without, f"{file} has no answer to it", f"Add a row with its {key}.")
    return found


def _scored(rows: pl.DataFrame, extract: str, metric: str) -> pl.DataFrame:
    """Rows with the scores of their replies; those without a reply have none."""
    take = extractor(extract)
    references = [[text] for text in rows["reference"]]
    for place, texts_ in enumerate(references):
        if what := unmet(metric, texts_):
            raise defect(rows[place:], f"metric {metric!r} needs {what} as reference")
    replied = [place for place, reply in enumerate(rows["reply"]) if reply is not None]
    answers = [take(drop_thought(rows["reply"][place])) for place in replied]
    made = score_many(metric, answers, [references[place] for place in replied])
    scores: dict[int, float] = dict(zip(replied, made, strict=True))
    values = [scores.get(place) for place in range(len(rows))]
    return rows.with_columns(pl.Series("score", values, pl.Float64))


def _notes(asked: Sequence[_Request], said: Said) -> Iterator[str]:
    silent = sum(request not in said for request in asked)
    if silent:
        yield f"requests without a result: {silent:,}"
    replied = {
        (request.model, line.completion.model)
        for request, (line, *_) in said.items()
        if line.completion
    }
    for model, other in sorted(replied):
        if model != other:
            yield f"{model} was asked, {other} has replied"
