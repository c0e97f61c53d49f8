"""Data files that know where they are being read, so that every defect has a place."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeGuard

from hcache.errors import DataError

_OPENING = re.compile(r"\s*\[\s*")
_MARK = re.compile(r"\s*([,\]])\s*")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


ROWS = "Rows are one JSON object per line, or one array of objects: correct the file."

# Numbers keep their digits: 3.50 stays 3.50 as a reference.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)


def json_value(text: str) -> object:
    """The value of a whole JSON text; numbers with a point are decimals.

    Raises:
        ValueError: it is none; NaN, infinity and numbers beyond all measure are none.
    """
    try:
        return _DECODER.decode(text)
    except (ArithmeticError, RecursionError) as error:
        raise ValueError(f"malformed JSON: {error}") from error


class Source:
    """A data file that knows where it is being read, so that every defect has a place."""

    def __init__(self, path: Path, dataset: str = "", split: str = "") -> None:
        self.path = path
        self.dataset, self.split = dataset, split  # whose queries it holds, where that is known
        self.line = 0
        self.item = 0  # position in a JSON array, 0 outside one

    @property
    def place(self) -> str:
        """`file:line`, and the item where the file is one JSON array."""
        return f"{self.path}:{self.line}" + (f" (item {self.item})" if self.item else "")

    def defect(self, message: str, hint: str = "Correct this row, or take it out.") -> DataError:
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
                    raise self.defect("malformed JSON: text after the end of the object", ROWS)
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
                raise self.defect("malformed JSON: no ',' or ']' after this item", ROWS)
            self.line += text.count("\n", at, mark.end())
            at, closed = mark.end(), mark[1] == "]"
        if text[at:].strip():
            raise self.defect("malformed JSON: text after the end of the array", ROWS)

    def _value(self, text: str, at: int) -> tuple[object, int]:
        """The JSON value at an offset of the text, and where it ends."""
        try:
            return _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            self.line += text.count("\n", at, error.pos)
            raise self.defect(
                f"malformed JSON: {error.msg} at column {error.colno}", ROWS
            ) from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise self.defect(f"malformed JSON: {error}") from error

    def _row(self, value: object) -> Row:
        if not isinstance(value, dict):
            raise self.defect(f"{type_name(value)} where an object is needed", ROWS)
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
        if not is_list_of_str(values):
            raise self.unfit(field, "a string or a list of strings")
        return [text.strip() for text in values if text.strip()]

    def references(self, field: str) -> tuple[str, ...]:
        """A field with one or several answers, as strings or numbers."""
        value = self.get(field)
        values = value if isinstance(value, list) else [value]
        if not all(is_answer(item) for item in values):
            raise self.unfit(field, "a string, a number or a list of these")
        answers = tuple(str(item).strip() for item in values)
        if not answers or "" in answers:
            raise self.source.defect(f"{field!r} is empty")
        return answers

    def unfit(self, field: str, wanted: str) -> DataError:
        """The error of a field that is missing or of another type."""
        if field in self.fields:
            found = type_name(self.fields[field])
            return self.source.defect(f"{field!r} is {found}; need {wanted}")
        names = ", ".join(self.fields) or "none"
        return self.source.defect(
            f"{field!r} is missing",
            f"Fields here: {names}. Add it, or choose a reader and `options` that fit these.",
        )


def _open(path: Path) -> BufferedIOBase:
    if not path.exists():
        raise DataError(
            f"{path}: no such file.",
            f"Looked for {path.absolute()}; correct `path` under `sources`.",
        )
    if not path.is_file():
        raise DataError(f"{path}: not a file.", "Give the path of one data file.")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def is_list_of_str(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_answer(value: object) -> bool:
    return isinstance(value, str | int | Decimal) and not isinstance(value, bool)


def type_name(value: object) -> str:
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
