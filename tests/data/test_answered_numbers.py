r"""The number that a reply answers with: alike for every extractor, none where it is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.extractors import extractor
from hcache.data.metrics import numeric
from hcache.data.numerals import whole_number

BOTH = pytest.mark.parametrize("name", ["number", "boxed"])


def score(name: str, reply: str, reference: str) -> float:
    return numeric(extractor(name)(reply), [reference])


@BOTH
@pytest.mark.parametrize(
    ("content", "references"),
    [
        ("3, 4", "3 4"),
        ("(3,4)", "3 4"),
        ("(5, 5)", "5"),
        ("(2, x)", "2"),
        ("[1, 5)", "1 5"),
        (r"[2, \infty)", "2"),
        (r"\{1,2\}", "1 2"),
        (r"(0,5)", "0.5 0 5"),
        (r"\{0,5\}", "0.5 0 5"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "1 2"),
        ("\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}", "1 2"),
        (r"18 \text{ or } 20", "18 20"),
        (r"18 \text{ and } 20", "18 20"),
        (r"2^5 \cdot 3", "2 5 3 32"),
        (r"5 \cdot 3", "5 3"),
        ("3+4i", "3 4"),
        ("3m+1", "3 1"),
        ("5x", "5"),
        ("5 x", "5"),
        ("2a", "2"),
        ("3k", "3"),
        ("5i", "5"),
        ("k+5", "5"),
        ("5-x", "5"),
        ("x/5", "5"),
        ("f(5)", "5"),
        (r"x \le 5", "5"),
        ("x > 5", "5"),
        (r"\pm 5", "5"),
        (r"\lfloor 5.5 \rfloor", "5.5"),
        (r"|{-5}|", "5 -5"),
        ("5!", "5"),
        ("101_2", "101"),
        ("10_{8}", "10"),
        (r"0.333\ldots", "0.333"),
        ("0.333...", "0.333"),
        (r"0.\overline{3}", "0 3"),
        (r"1.0\overline{6}", "1 6"),
        (r"\sqrt[3]{27}", "27 3"),
        ("x = 5, y = 3", "5 3"),
    ],
)
def test_box_that_is_no_number(name: str, content: str, references: str) -> None:
    for reference in references.split():
        assert score(name, rf"So it is $\boxed{{{content}}}$.", reference) == 0
        if "\n" not in content and "(" not in content:
            assert score(name, f"<answer>{content}</answer>", reference) == 0


@BOTH
@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        # Behind sums and beside remarks
        ("The answer is 2 * 9, which is 18.", "18"),
        ("The answer is 9+9, i.e. 18", "18"),
        ("The answer is 2 × 9 or 18", "18"),
        (r"So the answer is $16-7=9$ and $9\cdot2=18$", "18"),
        ("The answer is 3 hours and 20 minutes = 200 minutes.", "200"),
        ("The answer is not 5 but 7.", "7"),
        ("Answer: In 2 days she makes 36 dollars", "36"),
        ("The answer is 1/6 ≈ 0.167", "1/6"),
        (r"\boxed{1/6 \approx 0.167}", "1/6"),
        (r"The area is $25\pi \approx 78.54$.", "78.54"),
        ("18\n\nConfidence: 95%", "18"),
        ("**18**\n\n(9 eggs × $2 each)", "18"),
        ("She has 5 apples left.\n\nNote: this assumes that the 3 apples were not eaten.", "5"),
        ("The answer is 5 out of 10.", "5"),
        ("5 out of 10", "5"),
        ("Answer: 7 people out of the 10", "7"),
        ("The answer is 18!", "18"),
        ("3 times 6 is 18", "18"),
        ("9 eggs were sold at $2 each, for a total of $18.", "18"),
        (r"\boxed{3/4 \text{ or } 0.75}", "0.75"),
        (r"\boxed{\binom{5}{2} = 10}", "10"),
        (r"\boxed{5 = x}", "5"),
        (r"\boxed{\text{Five: } 5}", "5"),
        (r"\boxed{+5}", "5"),
        (r"The answer is $- 5$.", "-5"),
        # In boxes and fences
        (r"$\boxed5$", "5"),
        (r"\boxed 5", "5"),
        (r"\boxed{\textstyle\frac34}", "3/4"),
        (r"\boxed{7 \pmod{10}}", "7"),
        ("```\n18\n```", "18"),
        ("\\[\n\\begin{aligned}\nx &= 10/2 \\\\\n&= 5\n\\end{aligned}\n\\]", "5"),
        # Decimal commas
        ("Antwort: 3,14", "3.14"),
        (r"\boxed{0,5}", "0.5"),
        ("Das Ergebnis ist 18,5.", "18.5"),
        ("Le résultat est 18,5 €.", "18.5"),
        ("Итого: 18,5 рублей", "18.5"),
        ("Das sind insgesamt 12.500 Euro.", "12500"),
        ("Respuesta: 1.234 euros", "1234"),
        ("The answer is 12.500 euros.", "12.5"),  # no other language, so a point
        # Words
        ("Answer: 1.2 million", "1200000"),
        ("Answer: $1.5 billion", "1500000000"),
        ("Answer: 15 thousand", "15000"),
        ("Answer: 3k", "3000"),
        ("Answer: 2 dozen", "24"),
        ("Answer: 1万", "10000"),
        ("Answer: minus 12", "-12"),
        ("The answer is negative 12.", "-12"),
        ("The answer is eighteen.", "18"),
        ("The answer is twenty-five.", "25"),
        ("Answer: one hundred and five dollars", "105"),
        ("答案：十八", "18"),
        ("答案：二百五十", "250"),
        ("Answer: three million", "3000000"),
    ],
)
def test_number_that_a_reply_answers_with(name: str, reply: str, reference: str) -> None:
    assert score(name, reply, reference) == 1


@BOTH
@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        ("Answer: 1.2 million", "1.2"),
        ("Answer: 5 or 6", "6"),
        ("Answer: 5 to 6", "6"),
        ("The answer is between 3 and 4.", "4"),
        ("The answer is 5-3.", "5"),
        ("Answer: 2,5", "5"),  # a pair, or a decimal of an unknown language
        ("Answer: one of the two", "1"),
        ("Answer: Twenty One Pilots", "21"),
        (r"\boxed{12.500}", "12500"),
    ],
)
def test_number_that_a_reply_does_not_answer_with(name: str, reply: str, reference: str) -> None:
    assert score(name, reply, reference) == 0


numbers = st.integers(-(10**6), 10**6)


@given(numbers, numbers, st.sampled_from(["({}, {})", "[{}, {})", r"\{{{}, {}\}}", "{}; {}"]))
def test_several_numbers_are_none(left: int, right: int, form: str) -> None:
    reply = rf"\boxed{{{form.format(left, right)}}}"
    for name in ("number", "boxed", "short"):
        assert score(name, reply, str(left)) == score(name, reply, str(right)) == 0


@given(st.integers(1, 10**6), st.sampled_from(["{}x", "x+{}", "{}!", r"x \le {}", "{}_2", "f({})"]))
def test_expressions_are_no_numbers(number: int, form: str) -> None:
    for name in ("number", "boxed", "short"):
        assert score(name, rf"\boxed{{{form.replace('{}', str(number))}}}", str(number)) == 0


@given(st.integers(-(10**9), 10**9), st.sampled_from([r"\boxed{{{}}}", "The answer is {}.", "{}"]))
def test_extractors_agree_on_one_number(number: int, form: str) -> None:
    for name in ("number", "boxed", "short"):
        assert score(name, form.format(number), str(number)) == 1


CONTENTS = st.lists(
    st.sampled_from(["1", "2", "3.5", "x", "+", "-", "=", "!", "(", ")", ",", " ", r"\cdot ", "^"]),
    min_size=1,
    max_size=8,
).map("".join)


@given(CONTENTS)
def test_number_and_boxed_agree(content: str) -> None:
    reply = rf"\boxed{{{content}}}"
    for reference in ("1", "2", "3.5", "-1"):
        assert score("number", reply, reference) == score("boxed", reply, reference)


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("+5", "5"),
        ("- 5", "-5"),
        ("5€", "5"),
        (r"15\mbox{ cm}^2", "15"),
        ("~5", ""),
        ("1_000", ""),
        ("≈5", ""),
    ],
)
def test_references(reference: str, number: str) -> None:
    assert whole_number(reference) == number


@pytest.mark.parametrize("noise", ["either ", 'the answer "a" ', "1 or ", "not 1 but ", "0,", "=1"])
def test_time_grows_with_length_alone(noise: str) -> None:
    for name in ("number", "boxed", "short"):
        assert isinstance(extractor(name)(noise * (50_000 // len(noise))), str)
