"""Metrics: how well an answer agrees with the reference answers, in [0, 1].

In comes an answer (as an extractor found it, see `extractors`) with the references of its
query; out comes the best score over the references. `f1` and `em` follow HotpotQA's evaluation
script, hotpot_evaluate_v1.py at github.com/hotpotqa/hotpot. This module also holds the one
parser of numbers and the one parser of multiple-choice letters.

To add a metric: write a function of (answer, references) and register it in `METRICS`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from hcache.errors import DataError
from hcache.plugins import Registry

Metric = Callable[[str, Sequence[str]], float]
METRICS: Registry[Metric] = Registry("metric", "hcache.metrics")
VERDICTS = frozenset({"yes", "no", "noanswer"})

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")

_NUMBER = re.compile(
    r"""
    (?: (?<! [A-Za-z0-9_)\]}%] ) (?P<sign> [-−] ) )?     # after these, "-" joins or subtracts
    \\? \$?
    (?<! [A-Za-z_\d] ) (?<! [A-Za-z]\^ ) (?<! \d\. )     # not inside H2O, m^2, 3.5.2
    (?:
        (?<! [/.,] ) (?P<over> \d+ ) / (?P<under> 0*[1-9]\d* ) (?! [\d/] | [.,]\d )
      | (?P<plain>
            (?: \d{1,3} (?: ,\d{3} )+ (?!\d) | \d+ ) (?: \.\d+ )?
          | \.\d+
        )
        (?P<exponent> [eE] [-+]? \d{1,3} (?! [A-Za-z_\d] ) )?
    )
    """,
    re.VERBOSE,
)

# A letter that answers, rather than one that belongs to a word, to initials or to a hedge.
_LETTER = r"""
    (?: \( ([A-Ja-j]) \)
      | ([A-J])
        (?! [A-Za-z0-9_+\#] | ['’-][A-Za-z0-9] | \.\s?[A-Za-z]\. )
        # "A dog", "I think": an article and a pronoun, unless a reason follows the letter
        (?: (?<! [AI] ) | (?! [ \t]+ (?! (?:because|since|as|due|for|is)\b ) [A-Za-z] ) )
    )
    (?! \)? \s* (?: [,/&] | or\b | and\b ) \s* \(? [A-HJ]\b )
"""
_MARKED = re.compile(
    rf"""
    (?i: \b (?: answer | (?:correct|right|best) \s (?:option|choice) ) \b | \\boxed )
    \W{{0,8}}
    (?i: (?: is | was | would\sbe | should\sbe | must\sbe ) \W{{1,8}} )?
    (?i: (?: option | choice | letter ) \W{{1,8}} )?
    (?: (?:boxed|text) \W{{1,8}} ){{0,2}}
    {_LETTER}
    """,
    re.VERBOSE,
)
_AROUND = r"""[\s"'`*_()\[\]{}.:,$\\]*"""
_ALONE = re.compile(
    rf"{_AROUND} (?: (?:boxed|text) [\s{{\\]+ ){{0,2}} ([A-Ja-j]) {_AROUND}", re.VERBOSE
)
_LEADING = re.compile(
    rf"""
    ["'`*_\[\s]* (?i: (?:option|choice) \s+ )?
    (?: {_LETTER} | ([a-j]) (?=\)) )
    (?: (?<=\)) | [)\].:*] | \s+ is \s+ (?:the\s+)? (?:correct|right|best|answer)\b )
    """,
    re.VERBOSE,
)


def normalize(text: str) -> str:
    """HotpotQA's normal form: lower case; no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def last_number(text: str) -> str:
    """The last number of a text in plain notation ("-1080", "3.5", "1/2", "1e3"), or ""."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return ""
    last = numbers[-1]
    sign = "-" if last["sign"] else ""
    if last["over"]:
        return f"{sign}{last['over']}/{last['under']}"
    return sign + last["plain"].replace(",", "") + (last["exponent"] or "")


def choice_letter(text: str) -> str:
    """The letter A to J that a text chooses, or "" where it chooses none or several.

    In order: the letter after the last "answer is", "Answer:" or the like; a last line that is
    nothing but a letter; the one letter that opens lines, as in "(B) Paris" or "B. Paris".
    """
    marked = [_captured(match) for match in _MARKED.finditer(text)]
    if marked:
        return marked[-1]
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (alone := _ALONE.fullmatch(lines[-1])):
        return _captured(alone)
    openings = (_ALONE.fullmatch(line) or _LEADING.match(line) for line in lines)
    letters = {_captured(match) for match in openings if match}
    return letters.pop() if len(letters) == 1 else ""


@METRICS.register("f1")
def f1(answer: str, references: Sequence[str]) -> float:
    """Token F1; 0 where one side is yes, no or noanswer and the other is not the same."""
    return _best(_f1, answer, references)


@METRICS.register("em")
def em(answer: str, references: Sequence[str]) -> float:
    """1 where the normal forms are equal, else 0."""
    return _best(_em, answer, references)


@METRICS.register("numeric")
def numeric(answer: str, references: Sequence[str]) -> float:
    """1 where the last number of the answer equals the last number of a reference, exactly.

    Raises:
        DataError: if no reference holds a number, since no answer could then be right.
    """
    wanted = {_value(number) for number in map(last_number, references) if number}
    if not wanted:
        raise _unfit("numeric", "a number", references)
    found = last_number(answer)
    return float(bool(found) and _value(found) in wanted)


@METRICS.register("choice")
def choice(answer: str, references: Sequence[str]) -> float:
    """1 where the answer chooses the letter of a reference, else 0.

    Raises:
        DataError: if no reference is a letter from A to J.
    """
    wanted = {letter for letter in map(choice_letter, references) if letter}
    if not wanted:
        raise _unfit("choice", "a letter from A to J", references)
    return float(choice_letter(answer) in wanted)


def score_many(
    metric: str, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Score answers against their references, each distinct pair once.

    Raises:
        ConfigError: for an unknown metric.
        DataError: as the metric does.
        ValueError: if there are not as many answers as reference lists.
    """
    score = METRICS.find(metric)
    known: dict[tuple[str, tuple[str, ...]], float] = {}
    out = []
    for answer, texts in zip(answers, references, strict=True):
        pair = (answer, tuple(texts))
        if pair not in known:
            known[pair] = score(*pair)
        out.append(known[pair])
    return out


def _best(score: Callable[[str, str], float], answer: str, references: Sequence[str]) -> float:
    if not references:
        raise DataError("no reference to score an answer against.", "Give each query at least one.")
    if not answer.strip():
        return 0.0
    return max(score(answer, reference) for reference in references)


def _f1(answer: str, reference: str) -> float:
    found, wanted = normalize(answer), normalize(reference)
    if found != wanted and (found in VERDICTS or wanted in VERDICTS):
        return 0.0
    found_tokens, wanted_tokens = found.split(), wanted.split()
    shared = (Counter(found_tokens) & Counter(wanted_tokens)).total()
    if not shared:
        return 0.0
    return 2 * shared / (len(found_tokens) + len(wanted_tokens))


def _em(answer: str, reference: str) -> float:
    return float(normalize(answer) == normalize(reference))


def _value(number: str) -> Fraction:
    over, _, under = number.partition("/")
    # By way of Decimal: int() refuses the thousands of digits that a looping model may write.
    return Fraction(Decimal(over)) / Fraction(Decimal(under or "1"))


def _captured(match: re.Match[str]) -> str:
    return next(letter for letter in match.groups() if letter).upper()


def _unfit(name: str, what: str, references: Sequence[str]) -> DataError:
    return DataError(
        f"metric {name!r} needs {what} as reference, not {list(references)!r}.",
        "Choose a metric that fits the data set.",
    )
