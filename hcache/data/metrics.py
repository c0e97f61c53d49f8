"""Metrics: how well an answer agrees with the reference answers, in [0, 1].

In comes an answer (as an extractor found it, see `extractors`) with the references of its
query (`references_of`); out comes the best score over the references. `f1` and `em` follow
HotpotQA's evaluation script, hotpot_evaluate_v1.py at github.com/hotpotqa/hotpot, except for
references of which its normal form leaves nothing, such as "A": there no answer could be right
under F1, and under EM every answer that also normalises to nothing would be.

`pass@1` (Chen et al., arXiv 2107.03374, with k = 1) runs what a model wrote against the tests of
the query: only where that was allowed (`allow_code_execution`), each program in a sandbox.

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
from typing import Protocol

from hcache.data.letters import choice_letter
from hcache.data.numbers import find_number
from hcache.data.numerals import value, whole_number
from hcache.errors import ConfigError, DataError
from hcache.plugins import Registry

Metric = Callable[[str, Sequence[str]], float]
METRICS: Registry[Metric] = Registry("metric", "hcache.metrics")
VERSIONS = {"f1": 2, "em": 2, "numeric": 3, "choice": 3, "pass@1": 2}
CODE = "pass@1"
PLACE = "{answer}"
"""The line of a query's tests that the answer stands in place of."""
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


@METRICS.register(CODE)
@requires(f"tests with a line {PLACE}", lambda tests: PLACE in tests.split("\n"))
def pass_at_1(answer: str, references: Sequence[str]) -> float:
    """1 where the tests run to their end with the answer in its place, else 0.

    Raises:
        ConfigError: nobody has allowed it.
        DataError: the query has no tests.
    """
    return _pass_at_1([(answer, tuple(references))])[0]


class Graded(Protocol):
    """A query as metrics read it."""

    @property
    def references(self) -> Sequence[str]:
        """The reference answers."""

    @property
    def tests(self) -> str:
        """A program with a line for the answer; empty where there is none."""


def references_of(metric: str, query: Graded) -> tuple[str, ...]:
    """Texts that a metric holds answers to a query against: its tests, or its references."""
    return (query.tests,) if metric == CODE else tuple(query.references)


_allowed = False


def allow_code_execution() -> None:
    """Let this process run what models wrote; nothing in an experiment file can do that."""
    global _allowed
    _allowed = True


def may_score(metric: str) -> bool:
    """False for a metric that runs code while nobody has allowed it."""
    return _allowed or metric != CODE


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
    pairs = [(answer, tuple(texts)) for answer, texts in zip(answers, references, strict=True)]
    distinct = list(dict.fromkeys(pairs))
    made = _pass_at_1(distinct) if metric == CODE else [score(*pair) for pair in distinct]
    known = dict(zip(distinct, made, strict=True))
    return [known[pair] for pair in pairs]


def _pass_at_1(pairs: Sequence[tuple[str, tuple[str, ...]]]) -> list[float]:
    if not may_score(CODE):
        raise ConfigError(
            f"the metric {CODE!r} runs code that models wrote.",
            "If you want that, score again: hcache rescore EXPERIMENT.yaml --allow-code-execution",
        )
    from hcache.processes.sandbox import Outcome, run_programs

    for _, tests in pairs:
        _check(CODE, tests)
    outcomes = run_programs([program_of(answer, tests) for answer, (tests,) in pairs])
    return [float(outcome is Outcome.PASSED) for outcome in outcomes]


def program_of(answer: str, tests: str) -> str:
    """The tests of a query with an answer in its place."""
    lines = tests.split("\n")
    lines[lines.index(PLACE)] = answer
    return "\n".join(lines)


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
