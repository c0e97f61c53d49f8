"""Metrics: how well an answer agrees with the reference answers, in [0, 1].

In comes an answer (as an extractor found it, see `extractors`) with the references of its
query; out comes the best score over the references. `f1` and `em` follow HotpotQA's evaluation
script, hotpot_evaluate_v1.py at github.com/hotpotqa/hotpot, except for references of which its
normal form leaves nothing, such as "A": there no answer could be right under F1, and under EM every
answer that also normalises to nothing would be.

To add a metric: write a function of (answer, references) and register it in `METRICS`; where only
some references can be met, say which with `requires`. `VERSIONS` holds the version of each metric
of the package, to be raised whenever a score changes.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hcache.data.letters import choice_letter
from hcache.data.numbers import find_number
from hcache.data.numerals import value, whole_number
from hcache.errors import DataError
from hcache.plugins import Registry

Metric = Callable[[str, Sequence[str]], float]
METRICS: Registry[Metric] = Registry("metric", "hcache.metrics")
VERSIONS = {"f1": 2, "em": 2, "numeric": 3, "choice": 3}
RECORDED = "recorded"
"""Scores as others have stated them: facts, which no answer and no reference makes again."""
VERDICTS = frozenset({"yes", "no", "noanswer"})

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """HotpotQA's normal form: lower case; no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@dataclass(frozen=True)
class Requirement:
    """Demand of a metric on a reference, for one that no answer could meet is a defect."""

    what: str  # in the words of a message: "a whole number"
    met: Callable[[str], object]  # true where an answer can meet the reference


_requirements: dict[Metric, Requirement] = {}


def requires(what: str, met: Callable[[str], object]) -> Callable[[Metric], Metric]:
    """A decorator of a metric that only some references fit; a data set without them is refused."""

    def add(metric: Metric) -> Metric:
        _requirements[metric] = Requirement(what, met)
        return metric

    return add


def unmet(name: str, references: Sequence[str]) -> str:
    """Demand of a metric that no reference meets, else "".

    Raises:
        ConfigError: for an unknown metric.
    """
    requirement = _requirements.get(METRICS.find(name))
    if requirement is None or any(requirement.met(reference) for reference in references):
        return ""
    return requirement.what


@METRICS.register("f1")
def f1(answer: str, references: Sequence[str]) -> float:
    """Token F1; 0 where one side is yes, no or noanswer and the other is not the same."""
    return _best(_f1, answer, references)


@METRICS.register("em")
def em(answer: str, references: Sequence[str]) -> float:
    """1 where the normal forms are equal, else 0."""
    return _best(_em, answer, references)


@METRICS.register("numeric")
@requires("a number and nothing else", whole_number)
def numeric(answer: str, references: Sequence[str]) -> float:
    """1 where the number of the answer equals a reference that is a number, exactly.

    Raises:
        DataError: if no reference is a number as a whole, since no answer could then be right.
    """
    _check("numeric", references)
    wanted = {value(number) for number in map(whole_number, references) if number}
    found = find_number(answer)
    return float(bool(found) and value(found) in wanted)


@METRICS.register("choice")
@requires("a letter from A to J", choice_letter)
def choice(answer: str, references: Sequence[str]) -> float:
    """1 where the answer chooses the letter of a reference, else 0.

    Raises:
        DataError: if no reference is a letter from A to J.
    """
    _check("choice", references)
    wanted = {letter for letter in map(choice_letter, references) if letter}
    return float(choice_letter(answer) in wanted)


@METRICS.register(RECORDED)
def recorded(answer: str, references: Sequence[str]) -> float:
    """A score that was stated along with an outcome; there is no making it anew.

    Raises:
        DataError: whatever is asked.
    """
    raise DataError(
        f"scores {RECORDED!r} are stated along with outcomes, no answer makes them.",
        "Bring outcomes in with `hcache import`; for those sampled here, choose another metric.",
    )


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
    if not wanted:
        return _equal(answer, reference)
    if found != wanted and (found in VERDICTS or wanted in VERDICTS):
        return 0.0
    found_tokens, wanted_tokens = found.split(), wanted.split()
    shared = (Counter(found_tokens) & Counter(wanted_tokens)).total()
    if not shared:
        return 0.0
    return 2 * shared / (len(found_tokens) + len(wanted_tokens))


def _em(answer: str, reference: str) -> float:
    wanted = normalize(reference)
    return float(normalize(answer) == wanted) if wanted else _equal(answer, reference)


def _equal(answer: str, reference: str) -> float:
    """1 for a reference of articles and punctuation alone, if the answer is the same.

    Articles are kept; where nothing but punctuation is left, that is kept too. There is no partial
    credit, since an article of any sentence would earn it.
    """
    for kept in (lambda text: text.lower().translate(_PUNCTUATION), str.casefold):
        found, wanted = (" ".join(kept(text).split()) for text in (answer, reference))
        if wanted:
            return float(found == wanted)
    return 0.0


def _check(name: str, references: Sequence[str]) -> None:
    if what := unmet(name, references):
        raise DataError(
            f"metric {name!r} needs {what} as reference, not {list(references)!r}.",
            "Choose a metric that fits the data set.",
        )
