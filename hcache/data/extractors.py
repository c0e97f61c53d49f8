"""Extractors: from the raw output of a model to the answer that a metric scores.

In comes the text as generated, reasoning included; out comes the answer, "" where there is none.
Every extractor first drops what stands in known reasoning tags, and none raises on any text.

To add an extractor: write a function of a text and register it in `EXTRACTORS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hcache.data.metrics import METRICS, choice_letter, last_number
from hcache.data.thoughts import drop_thought
from hcache.keys import digest
from hcache.plugins import Registry

Extractor = Callable[[str], str]
EXTRACTORS: Registry[Extractor] = Registry("extractor", "hcache.extractors")
"""Extractors by name, for texts whose thought has been dropped."""
EXTRACTORS.register("number")(last_number)
EXTRACTORS.register("choice")(choice_letter)

_MARKER = re.compile(
    r"\b(?:(?:final\s+)?answer[*_]*\s*:|the\s+(?:(?:final|correct)\s+)?answer\s+is\b\s*:?)",
    re.IGNORECASE,
)
_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_HASHES = re.compile(r"####[ \t]*(\S.*)")
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_QUOTES = ('""', "''", "``", "“”", "‘’")


def extractor(name: str) -> Extractor:
    """The extractor of that name.

    Raises:
        ConfigError: for an unknown name, listing the known ones.
    """
    extract = EXTRACTORS.find(name)
    return lambda text: extract(drop_thought(text))


def version_of(extract: str, metric: str) -> str:
    """Version of the scores that an extractor and a metric make; "" where both are of the package.

    Raises:
        ConfigError: for an unknown name.
    """
    sources = (EXTRACTORS.source(extract), METRICS.source(metric))
    digests = ["" if source is None else source.digest for source in sources]
    return digest(digests)[:12] if any(digests) else ""


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
    markers = list(_MARKER.finditer(text))
    if not markers:
        return _bare(_last_line(text))
    # "**Answer:** Paris" leaves asterisks, which may stand on a line of their own.
    return _bare(_line(text[markers[-1].end() :].lstrip(" \t\r\n*_")))


@EXTRACTORS.register("boxed")
def _boxed(text: str) -> str:
    boxes = _boxes(text)
    if boxes:
        start, end = max(boxes)
        return text[start:end].strip()
    hashes = _HASHES.findall(text)
    return _bare(hashes[-1]) if hashes else _short(text)


@EXTRACTORS.register("code")
def _code(text: str) -> str:
    fenced = _FENCED.search(text)
    # Indentation stays: the answer may be the body of a function.
    return (fenced[1] if fenced else text).strip("\r\n").rstrip()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _bare(text: str) -> str:
    """The text without the markdown, the enclosing quotes and the trailing period around it."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("*").removesuffix(".")
        if _is_quoted(text):
            text = text[1:-1]
    return text


def _is_quoted(text: str) -> bool:
    if len(text) < 2 or text[0] + text[-1] not in _QUOTES:
        return False
    inner = text[1:-1]  # `"A" and "B"` is two quotations, not one
    return text[0] not in inner and text[-1] not in inner


def _boxes(text: str) -> list[tuple[int, int]]:
    r"""Start and end of the content of each \boxed{…} whose braces balance."""
    boxes: list[tuple[int, int]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{" or brace[0].startswith("\\boxed"):
            opened.append(brace)
        elif brace[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{":
                boxes.append((opening.end(), brace.start()))
    return boxes
