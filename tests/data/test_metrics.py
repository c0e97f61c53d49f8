"""Metrics against plain-loop references, and against every trap of formatting we know of."""

from __future__ import annotations

import json
import string
from decimal import Decimal

import pytest
from helpers.paths import SHARED
from hypothesis import assume, given
from hypothesis import strategies as st

from hcache.data.letters import choice_letter
from hcache.data.metrics import (
    CODE,
    METRICS,
    RECORDED,
    Metric,
    choice,
    em,
    f1,
    normalize,
    numeric,
    score_many,
)
from hcache.data.numbers import last_number
from hcache.errors import ConfigError, DataError

WORDS = st.lists(
    st.sampled_from(
        ["the", "The", "a", "an", "yes", "no", "Norway", "Paris", "Paris.", "U.S.", "-"]
    )
).map(" ".join)
COMPUTED = [name for name in METRICS if name not in (CODE, RECORDED)]  # from texts alone
TEXTS = st.one_of(WORDS, st.text(max_size=40))


def plain_normalize(text: str) -> str:
    kept = ""
    for char in text.lower():
        if char not in string.punctuation:
            kept += char
    words: list[str] = [""]
    for char in kept:
        in_word = char.isalnum() or char == "_"
        previous_in_word = bool(words[-1]) and (words[-1][-1].isalnum() or words[-1][-1] == "_")
        if words[-1] and in_word == previous_in_word:
            words[-1] += char
        else:
            words.append(char)
    without = ""
    for word in words:
        without += " " if word in ("a", "an", "the") else word
    return " ".join(without.split())


def plain_f1(answer: str, reference: str) -> float:
    found, wanted = plain_normalize(answer), plain_normalize(reference)
    for verdict in ("yes", "no", "noanswer"):
        if (found == verdict or wanted == verdict) and found != wanted:
            return 0.0
    left = wanted.split()
    total_wanted, total_found, shared = len(left), len(found.split()), 0
    for token in found.split():
        if token in left:
            left.remove(token)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / total_found, shared / total_wanted
    return 2 * precision * recall / (precision + recall)


@given(TEXTS)
def test_normalize_equals_the_plain_loop(text: str) -> None:
    assert normalize(text) == plain_normalize(text)


@given(TEXTS, TEXTS)
def test_f1_equals_the_plain_loop(answer: str, reference: str) -> None:
    assume(plain_normalize(reference))
    assert f1(answer, [reference]) == pytest.approx(plain_f1(answer, reference))


@given(TEXTS, TEXTS)
def test_em_equals_the_plain_loop(answer: str, reference: str) -> None:
    wanted = plain_normalize(reference)
    assume(wanted)
    assert em(answer, [reference]) == (plain_normalize(answer) == wanted)


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_and_bounded(left: str, right: str) -> None:
    score = f1(left, [right])
    assert 0 <= score <= 1
    if normalize(left) and normalize(right):
        assert score == f1(right, [left])


@given(TEXTS, TEXTS)
def test_em_is_at_most_f1(answer: str, reference: str) -> None:
    assert em(answer, [reference]) <= f1(answer, [reference])


@pytest.mark.parametrize("score", [f1, em])
@given(TEXTS)
def test_every_reference_can_be_met(score: Metric, reference: str) -> None:
    assume(reference.strip())
    assert score(reference, [reference]) == 1
    assert score(f" {reference} ", ["something else", reference]) == 1


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_the_best_reference_counts(answer: str, references: list[str]) -> None:
    for score in (f1, em):
        assert score(answer, references) == max(score(answer, [one]) for one in references)


@pytest.mark.parametrize(
    ("answer", "reference", "wanted_f1", "wanted_em"),
    [
        ("Paris", "Paris", 1, 1),
        ("The Andes!", "andes", 1, 1),
        ("Norway", "no", 0, 0),
        ("no", "no", 1, 1),
        ("No.", "no", 1, 1),
        ("no way", "no", 0, 0),
        ("yes", "yes it is", 0, 0),
        ("noanswer", "Paris", 0, 0),
        ("no answer", "noanswer", 0, 0),
        ("yes it is", "yes it was", 2 / 3, 0),
        ("New York City", "New York", 0.8, 0),
        ("York York", "York", 2 / 3, 0),
        ("U.S.", "US", 1, 1),
        ("state-of-the-art", "stateoftheart", 1, 1),
        ("the–end", "–end", 1, 1),  # an article beside a dash that is not ASCII
        ("", "Paris", 0, 0),
        (" \n", "The", 0, 0),
        ("A", "The", 0, 0),  # upstream's EM has 1: nothing is left of either
        ("A", "A", 1, 1),
        ("a", "A", 1, 1),
        ("(A)", "A", 1, 1),
        ("**A.**", "A", 1, 1),
        ("B", "A", 0, 0),
        ("A dog", "A", 0, 0),  # no partial credit for an article
        ("The The", "The The", 1, 1),
        ("The", "The The", 0, 0),
        ("!!!", "!!!", 1, 1),
        (" ! ! ", "! !", 1, 1),
        ("???", "!!!", 0, 0),
        ("", "!!!", 0, 0),
        ("Pariser", "Paris", 0, 0),
    ],
)
def test_f1_and_em(answer: str, reference: str, wanted_f1: float, wanted_em: float) -> None:
    assert f1(answer, [reference]) == pytest.approx(wanted_f1)
    assert em(answer, [reference]) == wanted_em


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("72", "72"),
        ("She has 48 clips, so the answer is 72.", "72"),
        ("**72**", "72"),
        ("3.5.", "3.5"),
        ("$1,000.50", "1000.50"),
        ("1,080", "1080"),
        ("50%", "50"),
        ("$ 5", "5"),
        (r"\$5", "5"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("x = -5", "-5"),
        ("10-5", "5"),
        ("10%-5%", "5"),
        ("(10)-5", "5"),
        ("- 5", "5"),
        ("+5", "5"),
        ("COVID-19", "19"),
        ("1e3", "1e3"),
        ("2.5E-2", "2.5E-2"),
        ("2em", "2"),
        (".5", ".5"),
        ("1/2", "1/2"),
        ("-1/2.", "-1/2"),
        ("5/0", ""),
        ("10/12/2020", ""),
        ("48/2 = 24", "24"),
        ("12,34", "34"),
        ("1,2345", "2345"),
        ("3rd", "3"),
        ("答案是5", "5"),
        ("5 kg of CO2", "5"),
        ("12 m^2", "12"),
        ("3.5.2", ""),
        ("72 of 100", "100"),
        ("none", ""),
        ("", ""),
    ],
)
def test_last_number(answer: str, number: str) -> None:
    assert last_number(answer) == number
    assert last_number(number) == number


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("3.5", "35", 0),
        ("12", "2", 0),
        ("2", "12", 0),
        ("1,000", "1000", 1),
        ("1000.00", "1,000", 1),
        ("$18", "18", 1),
        ("50%", "50", 1),
        ("50%", "0.5", 0),
        ("72.", "72", 1),
        ("-5", "5", 0),
        ("-0", "0", 1),
        ("1e3", "1000", 1),
        ("1/2", "0.5", 1),
        ("2/4", "1/2", 1),
        ("3/2", "1/2", 0),
        ("0.3333333333333333", "1/3", 0),
        ("0.1", "0.10000000000000000001", 0),
        ("72, then 73", "72", 0),
        ("seventy-two", "72", 1),
        ("", "0", 0),
        ("٣", "3", 1),
    ],
)
def test_numeric(answer: str, reference: str, score: float) -> None:
    assert numeric(answer, [reference]) == score


def test_numeric_takes_the_best_reference_that_holds_a_number() -> None:
    assert numeric("3", ["three", "2", "3"]) == 1


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9))
def test_numeric_ignores_formatting(value: Decimal) -> None:
    plain, grouped = f"{value:f}", f"{value:,f}"
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    for text in (
        plain,
        grouped,
        f"${plain}",
        f"{sign}${digits}",
        f"It is {grouped}%.",
        plain + "0",
    ):
        same = text != plain + "0" or "." in plain
        assert numeric(text, [plain]) == (1 if same or not value else 0)


@given(st.integers(), st.integers())
def test_numeric_tells_integers_apart(left: int, right: int) -> None:
    assert numeric(f"= {left:,}", [str(right)]) == (left == right)


def test_numeric_survives_a_looping_model() -> None:
    assert numeric("9" * 20_000, ["9"]) == 0
    assert numeric("1" + "0" * 20_000, ["1" + "0" * 20_000]) == 1
    assert numeric("1e" + "9" * 20_000, ["1"]) in (0, 1)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("(b)", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("A", "A"),
        ("J", "J"),
        ("K", ""),
        ("Answer: B", "B"),
        ("Answer: 'B'", "B"),
        ("Answer:\n\nB", "B"),
        ("**Answer:** B", "B"),
        ("**Answer: B**", "B"),
        ("Answer: A\nA dog is an animal.", "A"),
        ("The answer is (B).", "B"),
        ("The answer is (b).", "B"),
        ("The answer is A.", "A"),
        ("The answer is A because dogs bark.", "A"),
        ("The correct answer is option C.", "C"),
        ("The best choice would be: C", "C"),
        (r"So it is $\boxed{\text{D}}$.", "D"),
        ("Option A is wrong. The answer is B, since option A fails.", "B"),
        ("The answer is A. No, the answer is B.", "B"),
        ("B. Paris", "B"),
        ("B) Paris", "B"),
        ("b) Paris", "B"),
        ("(B) Paris", "B"),
        ("Option B is correct.", "B"),
        ("A is the right one", "A"),
        ("A is correct", "A"),
        ("Option A is wrong.", ""),
        ("A. Lyon\nB. Paris", ""),
        ("A. Lyon is not.\nB. Paris is.\n\nB", "B"),
        ("A dog is an animal.", ""),
        ("The answer is A dog.", ""),
        ("I think so.", ""),
        ("The answer is B or C.", ""),
        ("Answer: (A) and (B)", ""),
        ("Answer: A, B", ""),
        ("The answer is not B.", ""),
        ("Answer: C++", ""),
        ("Answer: A.D. 70", ""),
        ("The answer is B-cell lymphoma.", ""),
        ("Vitamin C", ""),
        ("Because", ""),
        ("", ""),
    ],
)
def test_choice_letter(answer: str, letter: str) -> None:
    assert choice_letter(answer) == letter


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"))
def test_choice_ignores_formatting(letter: str, reference: str) -> None:
    forms = [
        "{}",
        "({})",
        "{}.",
        "Answer: {}",
        "The answer is ({}).",
        "**{}**",
        "{}\n",
        "({}) Paris",
    ]
    for form in forms:
        assert choice(form.format(letter), [reference]) == (letter == reference)


@pytest.mark.parametrize("name", COMPUTED)
@given(answer=st.text())
def test_every_metric_scores_any_text(name: str, answer: str) -> None:
    reference = "B" if name == "choice" else "2"
    assert 0 <= METRICS.find(name)(answer, [reference]) <= 1
    assert METRICS.find(name)("", [reference]) == 0
    assert METRICS.find(name)(reference, [reference]) == 1


@pytest.mark.parametrize("noise", ["answer" + "-" * 50_000, "1," * 50_000, "\\boxed{" * 5_000])
@pytest.mark.parametrize("name", COMPUTED)
def test_long_noise_costs_no_more_than_its_length(name: str, noise: str) -> None:
    assert METRICS.find(name)(noise, ["B" if name == "choice" else "2"]) == 0


def test_unknown_metric() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'rouge'.*choice, em, f1, numeric"):
        METRICS.find("rouge")
    with pytest.raises(ConfigError, match="rouge"):
        score_many("rouge", [], [])


@pytest.mark.parametrize("name", COMPUTED)
def test_no_reference(name: str) -> None:
    with pytest.raises(DataError):
        METRICS.find(name)("Paris", [])


def test_a_reference_that_no_answer_could_match() -> None:
    with pytest.raises(DataError, match=r"'numeric' needs a number .*\['Paris'\]"):
        numeric("Paris", ["Paris"])
    with pytest.raises(DataError, match=r"'choice' needs a letter .*\['Paris'\]"):
        choice("Paris", ["Paris"])


def test_score_many_scores_each_distinct_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(answer: str, references: object) -> float:
        calls.append((answer, references))
        return float(len(calls))

    monkeypatch.setitem(METRICS.entries, "counted", counted)
    scores = score_many("counted", ["x", "y", "x", "x"], [["r"], ["r"], ("r",), ["s"]])
    assert scores == [1, 2, 1, 3]
    assert len(calls) == 3


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=2))))
def test_score_many_equals_one_by_one(pairs: list[tuple[str, list[str]]]) -> None:
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert score_many("f1", answers, references) == [f1(*pair) for pair in pairs]


def test_score_many_needs_as_many_answers_as_references() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_many("f1", ["x", "y"], [["r"]])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")
def test_real_answers_score_one_against_themselves() -> None:
    for line in (SHARED / "hotpotqa" / "valid.jsonl").read_text("utf-8").splitlines():
        answer = json.loads(line)["answer"]
        assert f1(f"The {answer}.", [answer]) == em(f"The {answer}.", [answer]) == 1
    for line in (SHARED / "gsm8k" / "valid.jsonl").read_text("utf-8").splitlines():
        solution = json.loads(line)["answer"]
        assert numeric(solution, [solution.split("#### ")[1]]) == 1
