"""Extractors: from the raw output of a model to the answer that a metric scores.

In comes the last output of a workflow; out comes the answer, "" where there is none.
Thoughts are no part of that text: they are dropped by the tags of the model that said it, where
its reply enters a workflow. No extractor raises on any text.

To add an extractor: write a function of a text and register it in `EXTRACTORS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hcache.data import metrics
from hcache.data.containers import contained, markers, said_lines
from hcache.data.letters import choice_letter
from hcache.data.metrics import METRICS
from hcache.data.number_words import with_points
from hcache.data.numbers import find_number, first_clause
from hcache.keys import digest, well_formed
from hcache.plugins import Registry

Extractor = Callable[[str], str]
EXTRACTORS: Registry[Extractor] = Registry("extractor", "hcache.extractors")
"""Extractors by name."""
EXTRACTORS.register("number")(find_number)
EXTRACTORS.register("choice")(choice_letter)

VERSIONS = {
    "text": 3,
    "line": 3,
    "last_line": 3,
    "short": 3,
    "boxed": 3,
    "number": 3,
    "choice": 3,
    "code": 3,
}
"""Versions of the extractors of the package that are not 1; raised whenever an answer changes."""

_HASHES = re.compile(r"####[ \t]*(\S.*)")
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_QUOTES = ('""', "''", "``", "“”", "„“", "„”", "‚‘", "‘’", "「」", "『』", "«»", "»«", "《》")
_ENDED = re.compile(r"(?:<\|[A-Za-z_]{1,30}\|>|</s>|。|です。?|입니다\.?)\s*\Z")
_LISTED = re.compile(r"(?:1[.)]|[-*•])[ \t]+(?=\S)")
_VERDICT = re.compile(r"^([Yy]es|[Nn]o),\s+(?=[a-z]).*")  # no title, as "Yes, Prime Minister" is


def extractor(name: str) -> Extractor:
    """The extractor of that name.

    Raises:
        ConfigError: for an unknown name, listing the known ones.
    """
    extract = EXTRACTORS.find(name)
    return lambda text: well_formed(extract(text))


def version_of(extract: str, metric: str) -> str:
    """Version of the scores that an extractor and a metric make; "" where both are the first ones.

    Ours have numbers, as in "number-2/numeric-2"; the digest of what is from outside follows.

    Raises:
        ConfigError: for an unknown name.
    """
    sources = (EXTRACTORS.source(extract), METRICS.source(metric))
    numbers = (VERSIONS.get(extract, 1), metrics.VERSIONS.get(metric, 1))
    ours = [
        f"{name}-{number}"
        for name, number, source in zip((extract, metric), numbers, sources, strict=True)
        if source is None
    ]
    raised = any(number > 1 for number, source in zip(numbers, sources, strict=True) if not source)
    digests = ["" if source is None else source.digest for source in sources]
    outside = digest(digests)[:12] if any(digests) else ""
    return "/".join([*(ours if raised else []), *([outside] if outside else [])])


@EXTRACTORS.register("text")
def _text(text: str) -> str:
    return text.strip()


@EXTRACTORS.register("line")
def _line(text: str) -> str:
    return next(iter(_lines(text)), "")


@EXTRACTORS.register("last_line")
def _last_line(text: str) -> str:
    return next(reversed(_lines(text)), "")


@EXTRACTORS.register("short")
def _short(text: str) -> str:
    content = contained(text)
    if content is None:
        return _said(text)
    return _said(content) if markers(content) else _bare(content)


@EXTRACTORS.register("boxed")
def _boxed(text: str) -> str:
    text = with_points(text)
    hashes = _HASHES.findall(text)
    if hashes and contained(text) is None:
        return _bare(first_clause(hashes[-1]))
    return _short(text)


@EXTRACTORS.register("code")
def _code(text: str) -> str:
    fenced = _FENCED.search(text)
    # Indentation stays: the answer may be the body of a function.
    return (fenced[1] if fenced else text).strip("\r\n").rstrip()


def _said(text: str) -> str:
    """The answer after the last marker, or else the last line."""
    ends = markers(text)
    if not ends:
        return _bare(next(reversed(said_lines(text)), ""))
    # "**Answer:** Paris" leaves asterisks, which may stand on a line of their own.
    said = text[ends[-1] :].lstrip(" \t*_")
    line = next(iter(said_lines(said)), "")
    if said.startswith(("\n", "\r")):
        line = _LISTED.sub("", line, count=1)
    return _bare(_VERDICT.sub(r"\1", first_clause(line)))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bare(text: str) -> str:
    """The text without the markdown, the enclosing quotes and the trailing period around it."""
    before = None
    while text != before:
        before = text
        text = _ENDED.sub("", text.strip()).strip("*")
        text = text if text.endswith("..") else text.removesuffix(".")
        if _is_quoted(text):
            text = text[1:-1]
    return text


def _is_quoted(text: str) -> bool:
    if len(text) < 2 or text[0] + text[-1] not in _QUOTES:
        return False
    inner = text[1:-1]  # `"A" and "B"` is two quotations, not one
    return text[0] not in inner and text[-1] not in inner
