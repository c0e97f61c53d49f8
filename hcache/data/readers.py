"""Readers: from a data file, as published, to queries.

In comes a file (plain or gzip, UTF-8), the name of a reader and its options; out come the
queries, in file order. A row that cannot be used is an error that names file and line, never a
row left out.

Formats: HotpotQA (hotpotqa.github.io), GSM8K (github.com/openai/grade-school-math), MMLU
(github.com/hendrycks/test), HumanEval (github.com/openai/human-eval), and `jsonl` for JSON
objects with fields of any name. Where a format is JSON, the file holds one object per line or is
one array of objects. Rows as the Hugging Face hub has them (`hub.py`) are read as well.

To add a reader: write a function from a `Source` to queries, which yields the query of a row
before it reads the next row, and register it in
`READERS`. Its options are its keyword-only parameters.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hcache.data.metrics import PLACE, references_of, unmet
from hcache.data.numerals import whole_number
from hcache.data.queries import OPTIONAL, Query
from hcache.data.source import Row, Source, is_list_of_str
from hcache.errors import ConfigError, DataError, StoreBusyError, StoreError
from hcache.plugins import Registry
from hcache.store import Store
from hcache.store.queries import QUESTIONS_IN

Reader = Callable[..., Iterator[Query]]
READERS: Registry[Reader] = Registry("reader", "hcache.readers")

T = TypeVar("T")

PASSAGES = ("supporting", "all", "none")
_OTHER_PASSAGES = "Read the file with the option passages: all, or none."

_LETTERS = "ABCD"
_JSON_NAME = re.compile(r"\.jsonl?(\.gz)?$")


def read(
    reader: str,
    path: Path,
    *,
    dataset: str,
    options: Mapping[str, object] | None = None,
    limit: int | None = None,
    metrics: Sequence[str] = (),
    split: str = "",
) -> list[Query]:
    """Read the queries of a file, or of all files of a folder in the order of their names.

    `split` is what the file is for, which a reader of files with several splits may ask.

    With `limit`, those of the first rows of each file only. Each says the place of its row; rows
    that repeat a question are left to `without_duplicates`. `metrics` will score the answers.

    Raises:
        ConfigError: for an unknown reader or option, or a value that an option does not take.
        DataError: if the file cannot be read, is empty, or has a row that cannot be used, or
            whose references a metric cannot meet.
    """
    function = READERS.find(reader)
    options = dict(options or {})
    _check_options(reader, function, options)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}.", "Give the number of rows to read, at least 1.")
    most = None if limit is None else min(limit, sys.maxsize)  # more than islice can count is all
    queries: list[Query] = []
    for source in (Source(file, dataset, split) for file in _files(path)):
        for query in islice(function(source, **options), most):
            _check_unicode(source, query)
            queries.append(replace(query, dataset=dataset, place=source.place))
    if not queries:
        raise DataError(f"{path}: holds no rows.", "Check that the file was written in full.")
    for metric in metrics:
        _check_references(metric, queries)
    return queries


@READERS.register("jsonl")
def jsonl(
    source: Source,
    *,
    question: str = "question",
    answer: str = "answer",
    context: str = "context",
    kind: str = "kind",
    passages: str = "passages",
    tests: str = "tests",
) -> Iterator[Query]:
    """JSON objects; each option names the field to take.

    The answer is a string, a number or a list of these; `answers` is read where the options
    leave `answer` as it is and a row lacks it. The context is a string or a list of strings and
    is put before the question. Passages, a string or a list as well, stand beside it, where a
    search tool finds them. Tests are a program for the metric pass@1, with a line {answer} that the
    answer stands in place of. Rows may lack context, kind, passages and tests unless an option
    names them.
    """
    for row in source.json_rows():
        plural = answer == "answer" and row.get("answer") is None
        yield Query(
            _prompt(row.texts(context, required=context != "context"), row.text(question)),
            row.references("answers" if plural and "answers" in row.fields else answer),
            kind=row.text(kind, required=kind != "kind"),
            passages=tuple(row.texts(passages, required=passages != "passages")),
            tests=row.text(tests, required=tests != "tests", strip=False),
        )


@READERS.register("hotpotqa")
def hotpotqa(
    source: Source, *, passages: str = "supporting", apart: bool = False
) -> Iterator[Query]:
    """HotpotQA rows, with whole paragraphs in the order of the row's context.

    Context and supporting facts are lists of pairs, or objects of two lists as on the hub.

    `passages` is "supporting" (the paragraphs that supporting_facts names), "all" or "none". They
    stand before the question, or with `apart` beside it, where a search tool finds them.
    """
    if passages not in PASSAGES:
        raise ConfigError(
            f"reader 'hotpotqa': passages is {passages!r}.",
            f"Set it to one of: {', '.join(PASSAGES)}.",
        )
    for row in source.json_rows():
        question, references = row.text("question"), row.references("answer")
        paragraphs = [] if passages == "none" else _paragraphs(row)
        if passages == "supporting":
            paragraphs = _supporting(row, paragraphs)
        texts = tuple(f"{title}: {text}" for title, text in paragraphs)
        kind = row.text("type", required=False)
        if apart:
            yield Query(question, references, kind=kind, passages=texts)
        else:
            yield Query(_prompt(texts, question), references, kind=kind)


@READERS.register("gsm8k")
def gsm8k(source: Source) -> Iterator[Query]:
    """GSM8K rows; the reference is the number after ####, as written."""
    for row in source.json_rows():
        _, marker, reference = row.text("answer").rpartition("####")
        if not marker or not whole_number(reference):
            raise source.defect("'answer' does not end in #### and a number")
        yield Query(row.text("question"), (reference.strip(),))


@READERS.register("mmlu")
def mmlu(source: Source) -> Iterator[Query]:
    """MMLU rows: CSV (question, four options, letter), or JSON where the file's name says so.

    JSON rows have question, choices, answer (0 to 3) and subject. The kind is the subject, which
    for CSV stands in the file's name.
    """
    if _JSON_NAME.search(source.path.name):
        for row in source.json_rows():
            question, options, letter = row.text("question"), _options(row), _letter(row)
            yield _choice(question, options, letter, row.text("subject", required=False))
        return
    subject = re.sub(r"(_(dev|val|test))?(\.csv)?(\.gz)?$", "", source.path.name)
    for cells in source.csv_rows():
        if len(cells) != 6:
            raise source.defect(f"{len(cells)} columns; need question, four options and letter")
        if "" in cells:
            raise source.defect(f"column {cells.index('') + 1} is empty")
        question, *options, letter = cells
        if letter not in tuple(_LETTERS):
            raise source.defect(f"the answer is {letter!r}, not a letter from A to D")
        yield _choice(question, options, letter, subject)


@READERS.register("humaneval")
def humaneval(source: Source) -> Iterator[Query]:
    """HumanEval problems: prompt, canonical solution and tests, as written; nothing is run here.

    The answer to a problem may be the whole function or its body: the prompt stands before it.
    """
    for row in source.json_rows():
        prompt, solution = (row.text(f, strip=False) for f in ("prompt", "canonical_solution"))
        test, name = row.text("test", required=False), row.text("entry_point", required=False)
        lines = [prompt, PLACE, "", test, "", f"check({name})", ""] if test and name else []
        yield Query(prompt, (solution,), tests="\n".join(lines))


@READERS.register("recorded")
def recorded(source: Source, *, experiment: str = "") -> Iterator[Query]:
    """Questions of a database that `hcache import` has filled, in the splits of an experiment."""
    try:
        with Store(source.path) as store:
            rows = store.sql(QUESTIONS_IN, [experiment, source.dataset, source.split])
    except StoreBusyError:
        raise
    except StoreError as error:
        raise DataError(
            error.message, "Name the database that `hcache import` has filled."
        ) from error
    for row in rows.iter_rows(named=True):
        yield stored_query(row)


def stored_query(row: Mapping[str, Any]) -> Query:
    """The query of a row of `queries`; its passages stand in no column."""
    references = tuple(row["references"])
    others: dict[str, Any] = {name: row[name] or "" for name in OPTIONAL}
    return Query(row["question"], references, row["dataset"], row["kind"], **others)


def _files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder; hidden ones are not data."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")


def _check_options(name: str, function: Reader, options: Mapping[str, object]) -> None:
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"reader {name!r} has no option {option!r}.",
                f"Remove it; its options: {', '.join(known) or 'none'}.",
            )
        wanted = type(known[option])
        if type(value) is not wanted:
            raise ConfigError(
                f"reader {name!r}: option {option!r} is {value!r}.",
                f"Give a {wanted.__name__}, such as {known[option]!r}.",
            )


def _check_unicode(source: Source, query: Query) -> None:
    try:
        own = (query.question, query.kind, query.item, query.tests)
        "".join([*own, *query.references, *query.passages]).encode()
    except UnicodeEncodeError as error:
        raise source.defect(r"holds half a surrogate pair (\ud800 to \udfff)") from error


def _check_references(metric: str, queries: Sequence[Query]) -> None:
    """Refuse rows that no answer could get right, all in one error, before any model runs."""
    lacking = [
        (query, what) for query in queries if (what := unmet(metric, references_of(metric, query)))
    ]
    if not lacking:
        return
    query, what = lacking[0]
    shown = ", ".join(repr(reference) for reference in references_of(metric, query)[:3])
    raise DataError(
        f"{query.place}: the metric {metric!r} needs {what} as reference, not {shown} "
        f"({len(lacking):,} of {len(queries):,} rows have none).",
        "Give these rows such a reference, leave them out, or choose another metric, such as em.",
    )


def _prompt(paragraphs: Sequence[str], question: str) -> str:
    if not paragraphs:
        return question
    return "\n\n".join([*paragraphs, f"Question: {question}"])


def _choice(question: str, options: Sequence[str], letter: str, subject: str) -> Query:
    lines = [f"{name}. {option}" for name, option in zip(_LETTERS, options, strict=True)]
    return Query("\n".join([question, *lines]), (letter,), kind=subject)


def _options(row: Row) -> list[str]:
    options = row.get("choices")
    if not is_list_of_str(options) or len(options) != len(_LETTERS):
        raise row.unfit("choices", "a list of four strings")
    options = [option.strip() for option in options]
    if "" in options:
        raise row.source.defect(f"item {options.index('') + 1} of 'choices' is empty")
    return options


def _letter(row: Row) -> str:
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise row.unfit("answer", "a whole number from 0 to 3")
    if answer not in range(len(_LETTERS)):
        raise row.source.defect(f"'answer' is {answer}, not a whole number from 0 to 3")
    return _LETTERS[answer]


def _paragraphs(row: Row) -> list[tuple[str, str]]:
    """Title and text of each paragraph; sentences carry their own spaces."""
    context = _pairs(row, "context", "sentences", list, "[title, [sentences]]")
    for _, sentences in context:
        if not is_list_of_str(sentences):
            raise row.source.defect("'context' has a sentence that is not a string")
    return [(title, "".join(sentences).strip()) for title, sentences in context]


def _supporting(row: Row, paragraphs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    facts = _pairs(row, "supporting_facts", "sent_id", int, "[title, sentence index]")
    if not facts:
        raise row.source.defect("'supporting_facts' is empty", _OTHER_PASSAGES)
    present = {title for title, _ in paragraphs}
    for title, _ in facts:
        if title not in present:
            message = f"'context' lacks the supporting paragraph {title!r}"
            raise row.source.defect(message, _OTHER_PASSAGES)
    wanted = {title for title, _ in facts}
    return [paragraph for paragraph in paragraphs if paragraph[0] in wanted]


def _pairs(row: Row, field: str, column: str, second: type[T], shape: str) -> list[tuple[str, T]]:
    """A list of pairs, or an object of two lists of equal length: `title` and `column`."""
    value = row.get(field)
    if isinstance(value, dict):
        titles, others = value.get("title"), value.get(column)
        if isinstance(titles, list) and isinstance(others, list) and len(titles) == len(others):
            value = [list(pair) for pair in zip(titles, others, strict=True)]
    if not isinstance(value, list):
        columns = f"equally many items in 'title' and {column!r}"
        raise row.unfit(field, f"a list of {shape}, or an object with {columns}")
    pairs: list[tuple[str, T]] = []
    for item in value:
        match item:
            case [str() as title, other] if isinstance(other, second):
                pairs.append((title, other))
            case _:
                raise row.source.defect(f"{field!r} has an item that is not {shape}")
    return pairs
