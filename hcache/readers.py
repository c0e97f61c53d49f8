"""Readers: from a data file, as published, to queries.

In comes a file (plain or gzip, UTF-8), the name of a reader and its options; out come the
queries, in file order. A row that cannot be used is an error that names file and line, never a
row left out.

Formats: HotpotQA (hotpotqa.github.io), GSM8K (github.com/openai/grade-school-math), MMLU
(github.com/hendrycks/test), HumanEval (github.com/openai/human-eval), and `jsonl` for JSON
objects with fields of any name. Where a format is JSON, the file holds one object per line or is
one array of objects. Rows as the Hugging Face hub has them (`hub.py`) are read as well.

To add a reader: write a function from a `Source` to queries, which yields the query of a row
before it reads the next row, and mark it `@reader`. Its options are its keyword-only parameters.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn, TypeGuard, TypeVar

from hcache.errors import ConfigError, DataError, lookup
from hcache.metrics import last_number
from hcache.queries import Query

Reader = Callable[..., Iterator[Query]]
READERS: dict[str, Reader] = {}

T = TypeVar("T")

PASSAGES = ("supporting", "all", "none")
_OTHER_PASSAGES = "Read the file with the option passages: all, or none."

_LETTERS = "ABCD"
_JSON_NAME = re.compile(r"\.jsonl?(\.gz)?$")

_OPENING = re.compile(r"\s*\[\s*")
_MARK = re.compile(r"\s*([,\]])\s*")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers keep their digits: 3.50 stays 3.50 as a reference.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)


def reader(function: Reader) -> Reader:
    """Register a reader under the name of its function."""
    READERS[function.__name__] = function
    return function


def read(
    reader: str,
    path: Path,
    *,
    dataset: str,
    options: Mapping[str, object] | None = None,
    limit: int | None = None,
) -> list[Query]:
    """Read the queries of a file, or of all files of a folder in the order of their names.

    With `limit`, those of the first rows of each file only.

    Raises:
        ConfigError: for an unknown reader or option, or a value that an option does not take.
        DataError: if the file cannot be read, is empty, or has a row that cannot be used.
    """
    function = lookup(READERS, reader, "reader")
    options = dict(options or {})
    _check_options(reader, function, options)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}.", "Give the number of rows to read, at least 1.")
    queries: list[Query] = []
    first_places: dict[str, str] = {}
    for source in map(Source, _files(path)):
        for query in islice(function(source, **options), limit):
            _check_unicode(source, query)
            if query.question in first_places:
                raise source.defect(
                    f"the same question as at {first_places[query.question]}",
                    "Remove one of the two rows.",
                )
            first_places[query.question] = source.place
            queries.append(replace(query, dataset=dataset))
    if not queries:
        raise DataError(f"{path}: holds no rows.", "Check that the file was written in full.")
    return queries


@reader
def jsonl(
    source: Source,
    *,
    question: str = "question",
    answer: str = "answer",
    context: str = "context",
    kind: str = "kind",
    passages: str = "passages",
) -> Iterator[Query]:
    """JSON objects; each option names the field to take.

    The answer is a string, a number or a list of these; `answers` is read where the options
    leave `answer` as it is and a row lacks it. The context is a string or a list of strings and
    is put before the question. Passages, a string or a list as well, stand beside it, where a
    search tool finds them. Rows may lack context, kind and passages unless an option names them.
    """
    for row in source.json_rows():
        plural = answer == "answer" and row.get("answer") is None
        yield Query(
            _prompt(row.texts(context, required=context != "context"), row.text(question)),
            row.references("answers" if plural and "answers" in row.fields else answer),
            kind=row.text(kind, required=kind != "kind"),
            passages=tuple(row.texts(passages, required=passages != "passages")),
        )


@reader
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
            f"reader 'hotpotqa': passages is {passages!r}.", f"Known: {', '.join(PASSAGES)}."
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


@reader
def gsm8k(source: Source) -> Iterator[Query]:
    """GSM8K rows; the reference is the number after ####, as written."""
    for row in source.json_rows():
        _, marker, reference = row.text("answer").rpartition("####")
        if not marker or not last_number(reference):
            raise source.defect("'answer' does not end in #### and a number")
        yield Query(row.text("question"), (reference.strip(),))


@reader
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


@reader
def humaneval(source: Source) -> Iterator[Query]:
    """HumanEval problems: the prompt and its canonical solution, as written; nothing is run."""
    for row in source.json_rows():
        solution = row.text("canonical_solution", strip=False)
        yield Query(row.text("prompt", strip=False), (solution,))


class Source:
    """A data file that knows where it is being read, so that every defect has a place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.item = 0  # position in a JSON array, 0 outside one

    @property
    def place(self) -> str:
        """`file:line`, and the item where the file is one JSON array."""
        return f"{self.path}:{self.line}" + (f" (item {self.item})" if self.item else "")

    def defect(self, message: str, hint: str = "") -> DataError:
        """The error of the row that is being read."""
        return DataError(f"{self.place}: {message}.", hint)

    def lines(self) -> Iterator[str]:
        """The lines of the file, decoded; `line` counts along."""
        try:
            with _open(self.path) as file:
                for data in file:
                    self.line += 1
                    yield data.decode("utf-8-sig" if self.line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise self.defect("is not UTF-8", "Convert the file to UTF-8.") from error
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self.path}: cannot be read after line {self.line}: {error}.",
                "Check the path and the permissions, or download the file again.",
            ) from error

    def json_rows(self) -> Iterator[Row]:
        """The objects of the file: one per line, or the items of one array."""
        lines = self.lines()
        first = next((line for line in lines if line.strip()), "")
        if first.lstrip().startswith("["):
            start = self.line
            yield from self._array_rows(first + "".join(lines), start)
            return
        for line in chain([first], lines):
            if line.strip():
                value, end = self._value(line.rstrip(), len(line) - len(line.lstrip()))
                if line[end:].strip():
                    raise self.defect("malformed JSON: text after the end of the object")
                yield self._row(value)

    def csv_rows(self) -> Iterator[list[str]]:
        """The rows of a CSV file, cells stripped; the place of a row is its first line."""
        rows = csv.reader(self.lines(), strict=True)
        while True:
            start = rows.line_num + 1
            try:
                cells = next(rows, None)
            except csv.Error as error:
                self.line = start
                raise self.defect(f"malformed CSV: {error}") from error
            if cells is None:
                return
            if cells:
                end, self.line = self.line, start
                yield [cell.strip() for cell in cells]
                self.line = end

    def _array_rows(self, text: str, line: int) -> Iterator[Row]:
        opening = _OPENING.match(text)
        at = opening.end() if opening else 0
        self.line = line + text.count("\n", 0, at)
        closed = text.startswith("]", at)
        at += closed
        while not closed:
            self.item += 1
            value, end = self._value(text, at)
            yield self._row(value)
            mark = _MARK.match(text, end)
            if not mark:
                raise self.defect("malformed JSON: no ',' or ']' after this item")
            self.line += text.count("\n", at, mark.end())
            at, closed = mark.end(), mark[1] == "]"
        if text[at:].strip():
            raise self.defect("malformed JSON: text after the end of the array")

    def _value(self, text: str, at: int) -> tuple[object, int]:
        """The JSON value at an offset of the text, and where it ends."""
        try:
            return _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            self.line += text.count("\n", at, error.pos)
            raise self.defect(
                f"malformed JSON: {error.msg} at column {error.colno}",
                "Rows are one JSON object per line, or one array of objects.",
            ) from error
        except (ValueError, RecursionError) as error:
            raise self.defect(f"malformed JSON: {error}") from error

    def _row(self, value: object) -> Row:
        if not isinstance(value, dict):
            raise self.defect(f"{_type_name(value)} where an object is needed")
        return Row(self, value)


@dataclass(frozen=True)
class Row:
    """A JSON object of a data file; its fields are taken with their types checked."""

    source: Source
    fields: dict[str, object]

    def get(self, field: str) -> object:
        """A field as it stands; null counts as missing."""
        return self.fields.get(field)

    def text(self, field: str, *, required: bool = True, strip: bool = True) -> str:
        """A string field; "" only where it is not required."""
        value = self.get(field)
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            raise self.unfit(field, "a string")
        if required and not value.strip():
            raise self.source.defect(f"{field!r} is empty")
        return value.strip() if strip else value

    def texts(self, field: str, *, required: bool) -> list[str]:
        """A field that is a string or a list of strings; blank strings are left out."""
        value = self.get(field)
        if value is None and not required:
            return []
        values = [value] if isinstance(value, str) else value
        if not _is_list_of_str(values):
            raise self.unfit(field, "a string or a list of strings")
        return [text.strip() for text in values if text.strip()]

    def references(self, field: str) -> tuple[str, ...]:
        """A field with one or several answers, as strings or numbers."""
        value = self.get(field)
        values = value if isinstance(value, list) else [value]
        if not all(_is_answer(item) for item in values):
            raise self.unfit(field, "a string, a number or a list of these")
        answers = tuple(str(item).strip() for item in values)
        if not answers or "" in answers:
            raise self.source.defect(f"{field!r} is empty")
        return answers

    def unfit(self, field: str, wanted: str) -> DataError:
        """The error of a field that is missing or of another type."""
        if field in self.fields:
            found = _type_name(self.fields[field])
            return self.source.defect(f"{field!r} is {found}; need {wanted}")
        names = ", ".join(self.fields) or "none"
        return self.source.defect(f"{field!r} is missing", f"Fields here: {names}.")


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
                f"Known: {', '.join(known) or 'none'}.",
            )
        wanted = type(known[option])
        if type(value) is not wanted:
            raise ConfigError(
                f"reader {name!r}: option {option!r} is {value!r}.",
                f"Give a {wanted.__name__}, such as {known[option]!r}.",
            )


def _check_unicode(source: Source, query: Query) -> None:
    try:
        "".join([query.question, *query.references, query.kind, *query.passages]).encode()
    except UnicodeEncodeError as error:
        raise source.defect(r"holds half a surrogate pair (\ud800 to \udfff)") from error


def _open(path: Path) -> BufferedIOBase:
    if not path.exists():
        raise DataError(f"{path}: no such file.", f"Looked for {path.absolute()}.")
    if not path.is_file():
        raise DataError(f"{path}: not a file.", "Give the path of one data file.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def _prompt(paragraphs: Sequence[str], question: str) -> str:
    if not paragraphs:
        return question
    return "\n\n".join([*paragraphs, f"Question: {question}"])


def _choice(question: str, options: Sequence[str], letter: str, subject: str) -> Query:
    lines = [f"{name}. {option}" for name, option in zip(_LETTERS, options, strict=True)]
    return Query("\n".join([question, *lines]), (letter,), kind=subject)


def _options(row: Row) -> list[str]:
    options = row.get("choices")
    if not _is_list_of_str(options) or len(options) != len(_LETTERS):
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
        if not _is_list_of_str(sentences):
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


def _is_list_of_str(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_answer(value: object) -> bool:
    return isinstance(value, str | int | Decimal) and not isinstance(value, bool)


def _type_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "a number"
