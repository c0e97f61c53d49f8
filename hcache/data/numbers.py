r"""Numbers: the one that a reply gives as its answer.

In comes a reply, or an answer that an extractor found in one; out comes a number in plain notation,
"" where there is none. Containers and markers are those of `containers`, numerals those of
`numerals`. A container, the text behind a marker and a line that opens with a number are read as
one number and nothing else: pairs, sets, matrices, relations and expressions that were not worked
out have none. Of a line of prose the last number counts.
"""

from __future__ import annotations

import re

from hcache.data.containers import contained, half_width, markers, said_lines
from hcache.data.number_words import in_figures, spelled_out, with_points
from hcache.data.numerals import DIGIT, UNIT, Numerals, numerals, plain, value, whole_number

_HASHES = re.compile(r"#{4,}")
_REASON = r",?\s(?:because|since|as|so(?!.*=)|if|not|when|where)\b"
_CJK = "[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"
_AFTERWARDS = re.compile(
    rf"{_REASON}|[.;](?=\s+[A-Za-z\\$(])|(?<!i\.e)\.(?=\s+\d)|\s\(|\s\[\d+\]\s*\Z|,(?={_CJK})|。"
)
_ASIDE = re.compile(r",\s(?:an?|in|by|or|who|which(?! is| equals| makes| gives))\s")
_OF_PROSE = re.compile(r",?\s(?:because|since|not)\b|\s\([^()\n]*\)\W*\Z")
_NEXT = re.compile(
    r"[,;](?=\s+(?!(?:or|and|then)\b)[A-Za-z$(])|\s(?:and|or)\s+(?=[A-Za-z])"
    r"|\s(?:[A-Za-z]+\s+)?(?:out\s+)?of\s+(?:the\s+)?(?=[$\d])"
)
_NOT_BUT = re.compile(r"^\s*not\b.{1,60}?\bbut\b(?:\s+rather\b)?", re.IGNORECASE)
_MEANWHILE = re.compile(
    r"^\W*(?:in|after|for|over|on|within|every|each|per)\s+\$?[\d./-]+\s+[a-z]+,?\s+(?=\D*\d)",
    re.IGNORECASE,
)
_EXACT = re.compile(
    r"≈|\\approx|,?\s(?:i\.e\.|that\sis|which\s(?:is|equals|makes|gives))(?=[\s,])"
    r"|\sor\s(?:about|approximately|roughly|around|nearly)\s"
)
_EQUALS = re.compile(r"=|\s(?:is|are|equals?|makes?|gives?|leaves?)\s")
_SHOUTED = re.compile(r"(?<=\d)!+(?=[*_\s]*$)", re.MULTILINE)
_ITEM = re.compile(r"^\d{1,2}[.)]\s+(?=[A-Za-z].*\d)")
_SPACED_MINUS = re.compile(r"^\s*-\s+(?=[\d.\\])")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # of GSM8K: the sum before its result
_ROW_END = re.compile(r"(\\begin\{\w{0,9}matrix\}|\\\\)[ \t]*\n")
_UNKNOWN = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s*=")
_PROSE = re.compile(r"[^\w\\]*[^\W\d_]{2,}|.*\b(?:was|were|has|have|had|for a total of)\s")
_CHOICE = re.compile(r"\b(?:either|between)\s+\$?[\d.]+\s+(?:and|or)\b", re.IGNORECASE)
# What makes more than a number of a number, which stands as # here.
_MATH = re.compile(
    r"""
    [≤≥≠±∓√∞π…⌊⌋⌈⌉∪∩∈₀-₉] | \\[{}|] | <= | >= | \.\.\. | \|\{*\#\}*\|
    | \\(?! (?:quad|qquad|mathdollar|pounds|euro|num|SI|si|unit|meters?|approx|therefore|implies
        |[Rr]ightarrow|framebox|Omega) (?![A-Za-z]) ) [A-Za-z]++
    | \# [\s}]* ! | \# [\s}]* [_^] | \# [ ]?\*?[ ]? [n-qt-z] (?![A-Za-z\'’])
    | \# \*? [a-jln-z] (?![A-Za-z\'’])
    | [A-Za-z] \( \#
    | (?<![A-Za-z]) [A-Za-z] \s*+ [-+*/^<>] (?!\*) | [-+*/^<>] \s*+ [A-Za-z] (?![A-Za-z'’.])
    | \# \s*+ (?: \+ | [/*] \s*+ [\d(\\] ) | [\w)}#] \s*+ [+/] \s*+ \#
    | \bof\s[b-z](?![A-Za-z])
    """,
    re.VERBOSE,
)


def find_number(text: str) -> str:
    """The number that a reply gives as its answer, or "".

    That of a container, if there is one; else that behind the last marker that a number follows;
    else that of the last line that holds one. What is no single number counts, and gives "".
    """
    text = with_points(_CALCULATOR.sub("", text))
    if "matrix}" in text:
        text = _ROW_END.sub(r"\1 ", text)
    content = contained(text)
    if content is not None:
        return _of_content(content)
    end = len(text)
    for start in reversed(announced(text)):
        if (number := _first(_SHOUTED.sub("", text[start:end]))) is not None:
            return number
        end = start
    return _last(text)


def announced(text: str) -> list[int]:
    """Ends of the markers, with #### as one."""
    return sorted([*markers(text), *(match.end() for match in _HASHES.finditer(text))])


def last_number(text: str) -> str:
    """The last number of a text, or "" where there is none or an expression is last."""
    for line in reversed(text.splitlines()):
        if DIGIT.search(line) and (found := numerals(in_figures(plain(line)))):
            return found[-1][2] or ""
    return ""


def first_clause(line: str) -> str:
    """The line; cut after its first clause where that is a number and others follow.

    "5, since 3 + 2 = 5" is "5": what follows explains the answer.
    """
    line = _SHOUTED.sub("", line)
    number = re.match(r"[\s$\\(*]*[-−–]?[\s$\\]*\d", line)
    clause = _AFTERWARDS.search(line, number.end()) if number else None
    if not clause or not whole_number(line[: clause.start()].strip("* ")):
        clause = _ASIDE.search(line, number.end()) if number else None
    return line[: clause.start()] if clause and DIGIT.search(line, clause.end()) else line


def _of_content(content: str) -> str:
    if starts := announced(content):
        number = _first(content[starts[-1] :])
        if number is not None:
            return number
    return _first(content) or ""


def _first(text: str) -> str | None:
    """The number of the first line that has any, "" if it has more than one; None without one."""
    for line in text.splitlines():
        if (number := _of_span(line)) is not None:
            return number
    return None


def _last(text: str) -> str:
    """The number of the last line that has any, or of a first line that is a number alone."""
    opening = re.match(r"\s*(\S[^\n]*)\n[ \t]*\n", text)
    if opening and (number := whole_number(opening[1].strip("* "))) and opening[1][-1] != ".":
        return number
    lines = said_lines(text)
    for line in reversed(lines):
        if DIGIT.search(line) and numerals(plain(line)):
            return _of_span(_ITEM.sub("", line)) or ""
    return whole_number(spelled_out(lines[-1])) if lines else ""


def _of_span(line: str) -> str | None:
    """The number that a line is, "" where it is not one; None where there is none."""
    if not DIGIT.search(line):
        return whole_number(spelled_out(half_width(line))) or None
    line = _MEANWHILE.sub("", _NOT_BUT.sub("", in_figures(plain(line).strip(" \t*&+"))))
    line = re.sub(r"^\$\s*(?:\+|(-)\s+)", r"$\1", line)  # $- 5$ and $+5$
    found = numerals(line)
    if not found:
        return None
    if _CHOICE.search(line):
        return ""
    if _PROSE.match(line):
        return _of_prose(line, found)
    if len(set(_UNKNOWN.findall(line))) > 1:
        return ""
    reason = _AFTERWARDS.search(line, found[0][1])
    head = line[: reason.start()] if reason else line
    return next(filter(None, map(_worked_out, _EXACT.split(head))), "")


def _of_prose(line: str, found: Numerals) -> str:
    """The last number before a reason, or that of the last equation."""
    reason = _OF_PROSE.search(line, found[0][1])
    head = line[: reason.start()] if reason else line
    exact = next(filter(None, map(_worked_out, _EXACT.split(head))), "")
    return exact if exact and _EQUALS.search(head, found[0][1]) else numerals(head)[-1][2] or ""


def _worked_out(line: str) -> str:
    """The number on the right of the last equals sign, or else on the left."""
    left, *right = _EQUALS.split(line)
    sides = [left, *(_SPACED_MINUS.sub("-", side) for side in right)]
    return next(filter(None, map(_alone, reversed(sides))), "")


def _alone(side: str) -> str:
    """The number that one side of an equation is, before the words that follow; "" for others."""
    found = numerals(side)
    if not found:
        return ""
    if following := _NEXT.search(side, found[0][1]):
        side = side[: following.start()]
        found = numerals(side)
        if any(side.count(left) > side.count(right) for left, right in ("()", "[]")):
            return ""  # the first of a pair
    if " or " in side:
        return _alike(side.split(" or "))
    if len(found) > 1 or _MATH.search(_marked(side, found)):
        return ""
    return found[0][2] or ""


def _alike(ways: list[str]) -> str:
    """The number that several ways of writing it have in common; sums and products are none."""
    numbers = [number for way in ways if (number := _alone(way)) or re.search(r"[A-Za-z\\]", way)]
    same = all(numbers) and len({value(number) for number in numbers}) == 1
    return numbers[0] if same else ""


def _marked(side: str, found: Numerals) -> str:
    """The side with # for each number and its unit."""
    parts, at = [], 0
    for start, end, _ in found:
        unit = UNIT.match(side, end)
        parts += [side[at:start], "#"]
        at = unit.end() if unit else end
    return "".join([*parts, side[at:]])
