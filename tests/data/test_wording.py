"""Wordings: what makes no other question, and what does."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hcache.data import wording
from hcache.data.wording import normalised

ONE_QUESTION = [
    ("What is 10³ + 1?", "What is 10^3 + 1?"),
    ("What is two plus two?", "what is  TWO\tplus two ?!"),
    ("Don't they go?", "dont they go"),
    ("What is 3 + 4?", "What is 3+4"),
    ("the state-of-the-art model", "The state of the art model."),
    ("an e-mail", "an email"),
    ("The U.S. capital", "the US capital"),
    ("The capital of France (in Europe)?", "The capital of France, in Europe"),
    ("Paris – the city", "Paris the city"),
    ("What is −5?", "What is -5?"),
    ("1,000 men", "1000 men"),
    ("What is “red”?", 'What is "red"?'),
    ("Ｗｈａｔ？", "what"),
    ("No. 5", "No 5"),
    ("これは何ですか？", "これは何ですか"),
    ("¿Qué es?", "Qué es"),
    ("a\u200bb", "ab"),
    ("Is 1, 2 a pair", "Is 1,2 a pair"),
    ("STRASSE", "straße"),
    ("café", "cafe\u0301"),
    ("Which is red?\nA. sky\nB. blood", "Which is red?  A) sky  B) blood".replace(")", ".")),
]
TWO_QUESTIONS = [
    ("What is 10³ + 1?", "What is 103 + 1?"),
    ("What is 10⁻³?", "What is 10-3?"),
    ("What is x₂ + 1?", "What is x2 + 1?"),
    ("What is 3.5?", "What is 35?"),
    ("What is .5?", "What is 5?"),
    ("Is -5 even?", "Is 5 even?"),
    ("3+4", "3-4"),
    ("x<y", "x>y"),
    ("1 2", "12"),
    ("1, 2", "12"),
    ("2*(3+4)", "2*3+4"),
    ("What is 5!?", "What is 5?"),
    ("What is n! for n = 3?", "What is n for n = 3?"),
    ("a != b", "a = b"),
    ("What is f'(x)?", "What is f(x)?"),
    ("What is x-y?", "What is xy?"),
    ("Solve for -x", "Solve for x"),
    ("1/2", "12"),
    ("50% of it", "50 of it"),
    ("$5", "5"),
    ("At 3:45", "At 345"),
    ("[0,1)", "(0,1)"),
    ("x^2", "x2"),
    ("a_b", "ab"),
    ("⌊x⌋", "x"),
    ("if !x", "if x"),
    ("C#", "C"),
    ("C++", "C"),
    ("√2", "2"),
    ("10^-5", "10^5"),
    ("x·y", "xy"),
    ("5°", "5"),
    ("?", "!"),
    ("Which?\nA. 1\nB. -2", "Which?\nA. 1\nB. 2"),
]


@pytest.mark.parametrize(("one", "other"), ONE_QUESTION)
def test_case_spacing_and_punctuation_make_no_other_question(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), TWO_QUESTIONS)
def test_what_carries_meaning_makes_another(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


WORDS = st.lists(st.text("abcdefghäß", min_size=2, max_size=8), min_size=1, max_size=8)
MARKS = st.sampled_from([" ", "  ", "\n", ", ", "; ", "! ", " – ", "—", "-", "… ", "? ", ": "])


@given(WORDS, st.data())
def test_words_may_stand_in_any_dress(words: list[str], data: st.DataObject) -> None:
    first, *more = words
    dressed = first + "".join(data.draw(MARKS) + word for word in more)
    assert normalised(f"“{dressed.upper()}”?!") == normalised(" ".join(words))


@given(st.lists(st.integers(0, 999), min_size=2, max_size=4), st.data())
def test_operators_and_numbers_are_kept(numbers: list[int], data: st.DataObject) -> None:
    def formula() -> str:
        signs = data.draw(st.lists(st.sampled_from("+-*/<>=^"), min_size=3, max_size=3))
        text = "".join(f"{n}{s}" for n, s in zip(numbers, signs, strict=False))
        return f"{text}{numbers[-1]}"

    one, other = formula(), formula()
    assert (normalised(f"What is {one}?") == normalised(f"what is {other}")) == (one == other)


@given(st.text(max_size=30))
def test_any_text_has_a_wording(text: str) -> None:
    assert normalised(text) == normalised(f"  {text}\n")
    assert bool(normalised(text)) or not normalised(text.strip())


# The same patterns with the context before the character, as one would write them first.
LETTER = r"[^\W\d_]"
PLAIN = {
    "_THOUSANDS": re.compile(r"(?<=\d),(?=\d{3}(?!\d))"),
    "_HYPHEN": re.compile(
        rf"(?<={LETTER}{LETTER})-+(?={LETTER})|(?<={LETTER})-+(?={LETTER}{LETTER})"
        rf"|(?<={LETTER}{LETTER}) -+ (?={LETTER}{LETTER})"
    ),
    "_PUNCTUATION": re.compile(
        rf"[,;?]|\.(?!\d)|(?<={LETTER})\.|:(?!\d)|(?<!\d):|'(?!\()|(?<!\w)'"
        r"|(?<![\d)\]])(?<!\b\w)!(?![=\w(])"
    ),
    "_SPACE": re.compile(r"(?<!\d) | (?!\d)"),
}


@pytest.mark.parametrize("name", PLAIN)
@given(text=st.text("aé1_ -,;.:'!?=()[]", max_size=12))
@settings(max_examples=400)
def test_a_quick_pattern_finds_what_the_plain_one_does(name: str, text: str) -> None:
    quick: re.Pattern[str] = getattr(wording, name)
    assert quick.sub("·", text) == PLAIN[name].sub("·", text)


@given(text=st.text(st.characters(max_codepoint=127)))
def test_ascii_is_folded_as_any_text_is(text: str) -> None:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assert text.lower() == folded
