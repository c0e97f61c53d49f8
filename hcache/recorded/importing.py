"""An import from end to end: files, a recording, checked cells, rows, one transaction, a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

import hcache
from hcache.config.file import parse_config, read_config
from hcache.data.metrics import RECORDED, references_of, unmet
from hcache.data.queries import (
    SPLITS,
    Dropped,
    Query,
    known_split,
    split_by_hash,
    without_duplicates,
)
from hcache.data.visible import one_line
from hcache.errors import ConfigError, DataError, HcacheError
from hcache.experiment import Experiment
from hcache.keys import digest_file
from hcache.plugins import options_of
from hcache.recorded.cells import check
from hcache.recorded.files import defect
from hcache.recorded.recording import IMPORTERS, Evaluation, Recording
from hcache.recorded.rows import tables
from hcache.recorded.settings import settings_of, write_settings
from hcache.recorded.splits import split_options, with_splits
from hcache.store.frames import frame_of
from hcache.store.importing import bring

OTHER_FILE = "Give the import another --name, or move that file away."


@dataclass(frozen=True)
class Imported:
    """Result of an import: what it has brought, and what it could not."""

    experiment: str
    file: Path
    wrote_file: bool
    splits: dict[str, int]  # questions
    arms: tuple[str, ...]
    outcomes: int
    repeated: int
    failures: dict[str, int]  # by arm in the source
    holes: dict[str, int]  # by sequence
    dropped: Counter[Dropped]
    recomputed: dict[str, tuple[int, int]]  # by metric: scores made anew, of them other values
    notes: tuple[str, ...]


def import_files(
    kind: str,
    paths: Sequence[Path],
    db: Path,
    *,
    name: str = "",
    split: str = "",
    options: Mapping[str, str] | None = None,
    patience: float = 10.0,
) -> Imported:
    """Bring what some files of a format say into a database, all or nothing.

    `split` deals questions whose source names no split by their hash, as in "train/valid/test"; one
    split may stand there several times, which makes it larger. Options that begin with `split.`
    are of no format: they say which questions are in which split, see `splits.py`.

    Raises:
        ConfigError: an unknown format, option or split.
        DataError: the files do not say what the format does, in one line with file and row.
        StoreError: the database says otherwise, or cannot be written.
    """
    prepared = _prepare(kind, paths, db, name or kind, split, options or {})
    imported = prepared.imported
    bring(db, prepared.rows, imported.experiment, patience)
    wrote = write_settings(imported.file, prepared.settings, prepared.unit)
    return replace(imported, wrote_file=wrote)


@dataclass(frozen=True)
class _Prepared:
    """An import before it is written; whatever else it was made from can be forgotten."""

    rows: dict[str, pl.DataFrame]
    settings: dict[str, Any]
    unit: str
    imported: Imported


def _prepare(
    kind: str,
    paths: Sequence[Path],
    db: Path,
    name: str,
    split: str,
    options: Mapping[str, str],
) -> _Prepared:
    """Read files, check what they say, and make rows of it."""
    importer = IMPORTERS.find(kind)
    given, published = split_options(options)
    chosen = options_of(importer, given, f"format {kind!r}")
    with _foreign(kind, paths):
        recording, known = _by_content(importer(list(paths), **chosen))
        checked = check(with_splits(recording, published))
    recording = checked.recording
    kept, dropped = _split(recording, known, split)
    queries = {query.id: query for part in kept.values() for query in part}
    fitting = _fitting(recording, queries)
    notes = (
        *recording.notes,
        *(
            f"{dataset}: not scored anew, since a reply or a reference is missing"
            for dataset in recording.evaluations
            if dataset not in fitting
        ),
    )
    recording = replace(recording, evaluations=fitting, notes=notes)
    checked = replace(checked, recording=recording)
    used = {name: sorted({q.dataset for q in part}) for name, part in kept.items()}
    datasets = list(dict.fromkeys(query.dataset for query in known.values()))
    splits = {d: [s for s in SPLITS if d in used.get(s, ())] for d in datasets}
    raw = settings_of(checked, name, db, {d: own for d, own in splits.items() if own})
    file = db.parent / f"{name}.yaml"
    experiment = Experiment(parse_config(raw, str(file)), file, db)
    _check_file(file, experiment)
    facts = _facts(kind, recording, paths)
    rows = tables(checked, experiment, queries, facts)
    own = experiment.tables(kept)
    rows |= {table: frame_of(table, items) for table, items in own.items()}
    imported = Imported(
        name,
        file,
        False,
        {split: len(part) for split, part in kept.items()},
        tuple(checked.arms.values()),
        len(rows["trajectories"]),
        checked.repeated,
        checked.failures,
        checked.holes,
        dropped,
        _differences(rows["scores"]),
        recording.notes,
    )
    return _Prepared(rows, raw, recording.unit, imported)


@contextmanager
def _foreign(kind: str, paths: Sequence[Path]) -> Iterator[None]:
    """Turn whatever foreign content raises on its way into frames into an error of ours.

    Raises:
        DataError: in one line.
    """
    try:
        yield
    except DataError as error:
        raise DataError(one_line(error.message), error.hint) from error
    except HcacheError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # polars raises many types
        said = one_line(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        raise DataError(
            f"{paths[0]}: is not what format {kind!r} has ({said.rstrip('.')}).",
            "Check the file, or name another format.",
        ) from error


def _by_content(recording: Recording) -> tuple[Recording, dict[str, Query]]:
    """The same with questions and cells by the keys of the queries; and the queries."""
    _check_alike(recording)
    rows = recording.questions.unique("id", keep="first", maintain_order=True)
    made = [
        Query(row["question"] or "",
              tuple(text for text in row["references"] or () if text is not None),
              row["dataset"], row["kind"] or "", item=row["item"] or "")
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    ids = pl.Series([query.id for query in made], dtype=pl.String)
    cells = recording.cells.with_columns(
        id=pl.col("id").replace_strict(rows["id"], ids, default=pl.col("id"))
    )
    questions = rows.with_columns(id=ids).unique("id", keep="first", maintain_order=True)
    return replace(recording, questions=questions, cells=cells), {q.id: q for q in made}


def _check_alike(recording: Recording) -> None:
    """Refuse a question of which rows say different things.

    Raises:
        DataError: naming the first of these rows.
    """
    for name in ("split", "kind"):
        values = pl.col(name).drop_nulls().n_unique().over("id")
        differ = recording.questions.filter(values > 1)
        if len(differ):
            rows = recording.cells.join(differ, "id", "semi")
            raise defect(rows, f"the {name} of its question is another in another row")


def _split(
    recording: Recording, queries: Mapping[str, Query], spec: str
) -> tuple[dict[str, list[Query]], Counter[Dropped]]:
    """Queries by split, as published or dealt; a question of test is none of training."""
    names = [known_split(name) for name in (spec or "/".join(SPLITS)).split("/")]
    found: dict[str, list[Query]] = {}
    unknown = []
    for key, split in recording.questions.select("id", "split").iter_rows():
        if split is None:
            unknown.append(queries[key])
        else:
            for part, own in split_by_hash([queries[key]], split.split("/")).items():
                found.setdefault(known_split(part), []).extend(own)
    for part, own in split_by_hash(unknown, names).items():
        found.setdefault(part, []).extend(own)
    datasets = {query.dataset for query in queries.values()}
    kept, dropped = without_duplicates({s: q for s, q in found.items() if q}, datasets)
    if not any(kept.values()):
        raise DataError("there are no questions.", "Check the paths and the format.")
    return {split: kept[split] for split in SPLITS if kept.get(split)}, dropped


def _check_file(file: Path, experiment: Experiment) -> None:
    """Refuse an experiment file that stays as it is, but is of something else.

    Raises:
        ConfigError: it is of other models, or of another database.
    """
    if not file.exists():
        return
    there = read_config(file)
    if Path(there.db).resolve() != experiment.db.resolve():
        raise ConfigError(f"{file}: is there, and is of another database, {there.db}.", OTHER_FILE)
    models = experiment.config.models.items()
    if not any(there.models.get(name) == model for name, model in models):
        raise ConfigError(
            f"{file}: is there, and is of other models, or of the same of another source.",
            OTHER_FILE,
        )


def _fitting(recording: Recording, queries: Mapping[str, Query]) -> dict[str, Evaluation]:
    """Evaluations of the data sets in which every reply was recorded and has a reference."""
    silent = recording.cells.filter(pl.col("reply").is_null())["id"].unique()
    without = {queries[key].dataset for key in silent if key in queries}
    return {
        dataset: evaluation
        for dataset, evaluation in recording.evaluations.items()
        if dataset not in without
        and not any(
            unmet(evaluation.metric, references_of(evaluation.metric, query))
            or not query.references
            for query in queries.values()
            if query.dataset == dataset
        )
    }


def _facts(kind: str, recording: Recording, paths: Sequence[Path]) -> dict[str, Any]:
    """Provenance of the outcomes: source, commit, digests of the files."""
    files = sorted({*recording.cells["file"].drop_nulls().unique()})
    return {
        "engine": RECORDED,
        "format": kind,
        "source": recording.source,
        "commit": next(filter(None, map(_commit, paths)), ""),
        "files": {
            Path(file).name if len(files) == 1 else file: digest_file(Path(file)) for file in files
        },
        "hcache": hcache.__version__,
    }


def _commit(path: Path) -> str:
    """Text of the file COMMIT that a copy of a repository has beside or above its files."""
    for folder in (path, *path.resolve().parents):
        file = folder / "COMMIT"
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace").strip()[:500]
    return ""


def _differences(scores: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """By metric, how many scores were made anew, and how many are not as recorded."""
    keys = ["trajectory_id", "extractor"]
    stated = scores.filter(metric=RECORDED).select(*keys, stated="value")
    pairs = scores.filter(pl.col("metric") != RECORDED).join(stated, keys)
    differ = (pl.col("value") - pl.col("stated")).abs() > 1e-6
    counts = pairs.group_by("metric").agg(pl.len(), differ.sum().alias("differ")).sort("metric")
    return {metric: (count, other) for metric, count, other in counts.iter_rows()}
