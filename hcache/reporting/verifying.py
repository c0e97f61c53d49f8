"""Verification of a report: are its files, figures and sources those that its recipe makes?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcache.artefacts import refuse_endless, unreadable
from hcache.evaluation.report import Report, Source
from hcache.keys import digest_bytes, digest_file
from hcache.packages import installed_version
from hcache.reporting.recipe import AGAIN, Kept

SHOWN = 5  # differences that are told, of each kind


@dataclass(frozen=True)
class Verified:
    """Result of a comparison: how much was compared, and all that differs."""

    figures: int  # all numbers, names and sentences of report.json
    files: int
    edited: tuple[str, ...]  # files that are not as they were written
    changed: tuple[str, ...]  # what it was made from, where that holds other things now
    different: tuple[str, ...]  # figures: where, then, now
    otherwise: tuple[str, ...]  # files that come out otherwise although their figures are equal
    versions: tuple[str, ...]  # of packages, then and now

    @property
    def holds(self) -> bool:
        """True if every file is as it was written, and every figure comes out the same."""
        return not (self.edited or self.different or self.otherwise)

    def lines(self) -> Iterator[str]:
        """The findings, in sentences."""
        yield from _few("not as it was written", self.edited)
        yield from _few("not what it was when the report was made", self.changed)
        yield from _few("comes out otherwise", self.otherwise)
        yield from _few("the figure comes out otherwise", self.different)
        if not self.holds and self.versions:
            yield f"made by other versions: {', '.join(self.versions)}"
        equal = self.figures - len(self.different)
        yield f"{equal:,} of {self.figures:,} figures are equal, in {self.files} files"


def read_figures(folder: Path) -> dict[str, Any]:
    """The figures of a report, as report.json has them.

    Raises:
        RunError: it cannot be read.
    """
    file = folder / "report.json"
    try:
        refuse_endless(file)
        figures = json.loads(file.read_bytes().decode())
        sources_of(figures)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable(file, error, AGAIN) from error
    return dict(figures)


def sources_of(figures: Mapping[str, Any]) -> tuple[Source, ...]:
    """Sources that a report says it was made from."""
    return tuple(Source(**source) for source in figures["made_from"])


def compared(
    folder: Path, kept: Kept, then: Mapping[str, Any], now: Report, files: Mapping[str, bytes]
) -> Verified:
    """A report as it was written against one that was made again, and the files of that."""
    known, again = dict(_leaves(then)), dict(_leaves(json.loads(now.to_json())))
    places = sorted(known.keys() | again.keys())
    different = [
        at for at in places if (at in known, known.get(at)) != (at in again, again.get(at))
    ]
    digests = {name: digest_bytes(content) for name, content in files.items()}
    otherwise = [name for name, digest in kept.files.items() if digests.get(name) != digest]
    return Verified(
        figures=len(places),
        files=len(kept.files),
        edited=tuple(name for name, known in kept.files.items() if _digest(folder / name) != known),
        changed=tuple(_changed(sources_of(then), now.made_from)),
        different=tuple(
            f"{at}: {known.get(at, 'nothing')}, now {again.get(at, 'nothing')}" for at in different
        ),
        otherwise=() if different else tuple(otherwise),
        versions=tuple(_versions(kept.made_by)),
    )


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever is neither object nor list, under its place; sources are compared apart."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if place or key != "made_from":
                yield from _leaves(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{number}]")
    else:
        yield place, value


def _changed(then: Sequence[Source], now: Sequence[Source]) -> Iterator[str]:
    known = {(source.kind, source.name): source.digest for source in then}
    found = {(source.kind, source.name): source.digest for source in now}
    for kind, name in dict.fromkeys([*known, *found]):
        if known.get((kind, name)) != found.get((kind, name)):
            yield f"{kind} {name}"


def _versions(made_by: Mapping[str, str]) -> Iterator[str]:
    for name, then in made_by.items():
        if (now := installed_version(name)) != then:
            yield f"{name} {then}, now {now or 'not installed'}"


def _digest(file: Path) -> str:
    try:
        return digest_file(file)
    except OSError:
        return ""


def _few(what: str, names: Sequence[str]) -> Iterator[str]:
    """A line for each of the first, and one for the rest."""
    yield from (f"{name}: {what}" for name in names[:SHOWN])
    if len(names) > SHOWN:
        yield f"{len(names) - SHOWN:,} more: {what}"
