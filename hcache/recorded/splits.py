"""Splits as published, for every format: by files of ids, by a column, or by a ratio with a seed.

Options that begin with `split.`:

    split.train=a.txt split.test=b.json    ids: a line each, a JSON list, or a column of a table
    split.train/train/valid=a.txt          the same, dealt further by the hash of the question
    split.file=splits.json                 a JSON object of such lists, or a table with a column
    split.id=task_id split.column=part     whose columns are named so, if not `id` and `split`
    split.ratio=8/1/1 split.seed=0         drawn: so many parts of train, valid and test

An id is the name that a source gives a question, or the text of the question.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import polars as pl

from hcache.data.queries import SPLITS, known_split, wording_key
from hcache.errors import ConfigError, DataError
from hcache.recorded.files import need, read_json, read_table, texts
from hcache.recorded.recording import TEXT, Recording
from hcache.recorded.tables import SPLIT_NAMES

PREFIX = "split."
SETTINGS = ("file", "id", "column", "ratio", "seed")


class _Listed(NamedTuple):
    """An id, the split that it is listed for, and where."""

    id: str
    split: str
    place: str


def split_options(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Options of the format, and those of the splits without their prefix."""
    own = {name: text for name, text in options.items() if name.startswith(PREFIX)}
    rest = {name: text for name, text in options.items() if name not in own}
    return rest, {name.removeprefix(PREFIX): text for name, text in own.items()}


def with_splits(recording: Recording, options: Mapping[str, str]) -> Recording:
    """The recording with its questions in the splits that options give; others are left out.

    Raises:
        ConfigError: no such option or split, or a ratio beside lists.
        DataError: an id is unknown, or is listed for two splits.
    """
    if not options:
        return recording
    if "ratio" in options:
        splits = _drawn(recording.questions, options)
    else:
        splits = _resolved(recording.questions, list(_listed(options)))
    ids = recording.questions["id"]
    chosen = pl.Series("split", [splits.get(key) for key in ids], TEXT)
    questions = recording.questions.with_columns(chosen).drop_nulls("split")
    left = len(ids) - len(questions)
    note = (f"questions that stand in no split and are left out: {left:,}",) if left else ()
    cells = recording.cells.join(questions, "id", "semi", maintain_order="left")
    return replace(recording, questions=questions, cells=cells, notes=(*recording.notes, *note))


def _drawn(questions: pl.DataFrame, options: Mapping[str, str]) -> dict[str, str]:
    """Splits of exact sizes by chance; questions that differ in punctuation only stay together."""
    if extra := options.keys() - {"ratio", "seed"}:
        raise ConfigError(
            f"option split.ratio beside split.{min(extra)}.", "Give a ratio, or files."
        )
    shares, seed = _shares(options["ratio"]), _seed(options.get("seed", "0"))
    wording = dict(zip(questions["id"], map(wording_key, questions["question"]), strict=True))
    drawn = sorted(set(wording.values()))
    random.Random(seed).shuffle(drawn)
    ends = [round(part / sum(shares) * len(drawn)) for part in accumulate(shares)]
    place = {key: number for number, key in enumerate(drawn)}
    return {
        key: next(split for split, end in zip(SPLITS, ends, strict=True) if place[own] < end)
        for key, own in wording.items()
    }


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    good = len(shares) == len(SPLITS) and all(0 <= s < math.inf for s in shares)
    if not good or not 0 < sum(shares) < math.inf:
        raise ConfigError(
            f"option split.ratio is {text[:60]!r}.", "Give parts of train, valid and test: 8/1/1"
        )
    return shares


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"option split.seed is {text[:60]!r}.", "Give a whole number.") from error


def _listed(options: Mapping[str, str]) -> Iterator[_Listed]:
    """Every id of every file that options name."""
    column = options.get("id", "")
    specs = {spec: Path(file) for spec, file in options.items() if spec not in SETTINGS}
    if not specs and "file" not in options:
        raise ConfigError(
            f"option split.{min(options)} names no split.",
            "Give split.train=FILE and so on, split.file=FILE, or split.ratio=8/1/1",
        )
    for spec, file in specs.items():
        split = "/".join(known_split(name) for name in spec.split("/"))
        yield from _ids(file, split, column)
    if "file" in options:
        yield from _of_file(Path(options["file"]), column or "id", options.get("column", "split"))


def _ids(file: Path, split: str, column: str) -> Iterator[_Listed]:
    """Ids of one split: a line each, a JSON list, or a column of a table, the first if not said."""
    if file.suffix.lower() == ".json":
        yield from _of_list(file, read_json(file), split)
    elif file.suffix.lower() in ("", ".txt"):
        for number, line in enumerate(_lines(file), 1):
            if line.strip():
                yield _Listed(line.strip(), split, f"{file}, row {number}")
    else:
        table = read_table(file)
        name = column or next(n for n in (*table.columns, "") if n not in ("file", "row"))
        need(table, [name], file)
        for row, key in zip(table["row"], texts(table, name), strict=True):
            yield _Listed((key or "").strip(), split, f"{file}, row {row}")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}).", "Check the path.") from error


def _of_list(file: Path, value: object, split: str) -> Iterator[_Listed]:
    if not isinstance(value, list):
        raise DataError(f"{file}: is no list of ids.", "Give a list of them, or a line each.")
    for number, key in enumerate(value, 1):
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise DataError(f"{file}, entry {number}: is no id.", "Give a text or whole number.")
        yield _Listed(str(key).strip(), split, f"{file}, entry {number}")


def _of_file(file: Path, column: str, by: str) -> Iterator[_Listed]:
    """Ids of all splits: a JSON object of lists, or a table with a column of splits."""
    if file.suffix.lower() == ".json":
        value = read_json(file)
        if not isinstance(value, dict):
            raise DataError(f"{file}: is no object of lists.", 'As in {"train": [1], "test": [2]}')
        for name, keys in value.items():
            yield from _of_list(file, keys, _split_named(name, str(file)))
        return
    table = read_table(file)
    need(table, [column, by], file)
    rows = zip(table["row"], texts(table, column), texts(table, by), strict=True)
    for row, key, name in rows:
        place = f"{file}, row {row}"
        yield _Listed((key or "").strip(), _split_named(name or "", place), place)


def _split_named(name: str, place: str) -> str:
    plain = name.strip().lower()
    split = SPLIT_NAMES.get(plain, plain)
    if split not in SPLITS:
        raise DataError(f"{place}: {name[:60]!r} is no split.", f"There are {', '.join(SPLITS)}.")
    return split


def _resolved(questions: pl.DataFrame, listed: list[_Listed]) -> dict[str, str]:
    """Splits by question, each named by its item or its text."""
    known: dict[str, list[str]] = defaultdict(list)
    for name in ("item", "question"):
        first = set(known)
        for text, key in questions.select(name, "id").drop_nulls().iter_rows():
            if text.strip() not in first:
                known[text.strip()].append(key)
    unknown = [each for each in listed if each.id not in known]
    if unknown:
        more = f" ({len(unknown):,} ids are like that)" if len(unknown) > 1 else ""
        raise DataError(
            f"{unknown[0].place}: there is no question {unknown[0].id[:100]!r}{more}.",
            f"A question is called as in the source, such as {next(iter(known), '')[:60]!r}.",
        )
    found: dict[str, _Listed] = {}
    for each in listed:
        for key in known[each.id]:
            other = found.setdefault(key, each)
            if other.split != each.split:
                raise DataError(
                    f"{each.place}: {each.id[:100]!r} stands in {other.split} too ({other.place}).",
                    "Keep it in one of them.",
                )
    return {key: each.split for key, each in found.items()}
