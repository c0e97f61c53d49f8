r"""Numbers in every notation that models write, and texts that only seem to hold one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.extractors import EXTRACTORS, extractor
from hcache.data.metrics import numeric
from hcache.errors import DataError


@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        (r"So it is \boxed{9500}.", "9500"),
        (r"So it is \boxed{9\,500}.", "9500"),
        (r"So it is \boxed{9{,}500}.", "9500"),
        (r"So it is \boxed{9{\,}500}.", "9500"),
        (r"So it is \boxed{9,\!500}.", "9500"),
        (r"So it is \boxed{9~500}.", "9500"),
        ("So it is 9 500.", "9500"),
        ("So it is 9\u202f500.", "9500"),
        ("So it is 9\u2009500,25.", "9500.25"),
        ("So it is 9\xa0500.", "9500"),
        ("So it is 1 234 567.5.", "1234567.5"),
        ("So it is 1,00,000.", "100000"),
        ("So it is 12,34,567.", "1234567"),
        ("So it is 1'234'567.", "1234567"),
        ("So it is 1’234.50.", "1234.5"),
        ("So it is 1.234.567.", "1234567"),
        ("So it is 9.500,25.", "9500.25"),
        ("So it is ９，５００.", "9500"),
        ("So it is １２３．５", "123.5"),
        (r"So it is $3{,}5$.", "3.5"),
        (r"So it is \boxed{\frac{1}{2}}.", "1/2"),
        (r"So it is $\dfrac{3}{4}$.", "0.75"),
        (r"So it is $\tfrac34$.", "0.75"),
        (r"So it is $\cfrac{ 3 }{ 4 }$.", "0.75"),
        (r"So it is $\frac3{4}$.", "0.75"),
        (r"So it is $-\frac{3}{4}$.", "-0.75"),
        (r"So it is $\frac{-3}{4}$.", "-0.75"),
        (r"So it is $\frac{1.5}{2}$.", "0.75"),
        (r"So it is $\frac{1{,}000}{4}$.", "250"),
        ("She needs 1 1/2 cups.", "1.5"),
        ("It is -1 1/2 degrees.", "-1.5"),
        (r"She needs $1\frac{1}{2}$ cups.", "1.5"),
        (r"She needs $1\,\tfrac12$ cups.", "1.5"),
        ("She needs 2½ cups.", "2.5"),
        ("She needs 2 ½ cups.", "2.5"),
        ("She needs ¾ of it.", "0.75"),
        ("She needs ⅓ of it.", "1/3"),
        ("She needs 1⁄3 of it.", "1/3"),
        ("The area is 18 m^{2}.", "18"),
        ("The area is 18 m^2.", "18"),
        ("The area is 18m^2.", "18"),
        ("The area is 18 m².", "18"),
        ("The volume is 18 cm³.", "18"),
        ("The speed is 9.8 m/s^2.", "9.8"),
        (r"The area is $18\text{ m}^2$.", "18"),
        (r"The area is $18\,\mathrm{cm}^{2}$.", "18"),
        ("The area is 18 units^2.", "18"),
        ("That is 10^3.", "1000"),
        ("That is 10^{3}.", "1000"),
        ("That is 10³.", "1000"),
        ("That is 10⁻³.", "0.001"),
        ("That is 2^{10}.", "1024"),
        ("That is 3 × 10^8.", "300000000"),
        (r"That is $1.5\times10^{3}$.", "1500"),
        (r"That is $1.5 \cdot 10^{-3}$.", "0.0015"),
        ("That is 1.5 × 10⁻³.", "0.0015"),
        ("That is 1.5e-3.", "0.0015"),
        *[(f"The change is {minus}5.", "-5") for minus in "-−–—‐‑﹣－"],
        *[(f"The change is 10{joined}5.", "5") for joined in "-−–—‐‑﹣－"],
        ("x = - 5", "-5"),
        (r"It is \boxed{- 5}.", "-5"),
        (r"It costs \$18.", "18"),
        ("It costs €18.", "18"),
        (r"It is 20\%.", "20"),
        (r"The angle is $90^\circ$.", "90"),
        (r"The angle is $90^{\circ}$.", "90"),
        ("The angle is 90°.", "90"),
        ("The answer is 20%.", "20"),
        ("(42)!", "42"),
        # Behind a marker, the first one
        ("The answer is 5, since 3 + 2 = 5 and not 7.", "5"),
        ("The answer is 5 apples. We add 3 and 2.", "5"),
        ("The answer is 5 out of 10.", "5"),
        ("The final answer to this question is 5, not 7.", "5"),
        ("Answer: 5 (3 more than 2)", "5"),
        ("Answer：5 (3 more than 2)", "5"),
        ("答案：5，因为 3 + 2", "5"),
        ("La respuesta es 5, no 7.", "5"),
        ("3 + 2\n#### 5, that is 3 and 2", "5"),
        (r"\boxed{5 \text{ of } 10}", "5"),
        (r"\boxed{x = 5}", "5"),
        ("Answer: 48 + 24 = 72.", "72"),
        ("Answer: 48 apples + 24 apples = 72 apples, by adding 48 and 24.", "72"),
        ("<answer>5</answer> and not 7", "5"),
        ('{"answer": 5, "confidence": 0.9}', "5"),
        # None behind it
        ("It is 72. I hope the answer is right.", "72"),
    ],
)
def test_number_of_a_reply(reply: str, reference: str) -> None:
    assert numeric(reply, [reference]) == 1
    number = extractor("number")(reply)
    assert numeric(number, [reference]) == 1
    assert extractor("number")(number) == number


@pytest.mark.parametrize(
    ("reply", "reference"),
    [
        ("So it is 10^3.", "3"),
        (r"So it is $9{,}500$.", "500"),
        ("So it is 9 500.", "500"),
        ("18 m^2", "2"),
        ("18 m²", "2"),
        ("2½", "1/2"),
        (r"10\sqrt{2}", "2"),
        (r"10\sqrt{2}", "10"),
        (r"10 \sqrt 2", "10"),
        ("10√2", "10"),
        ("10 sqrt(2)", "10"),
        (r"$\frac{\pi}{6}$", "6"),
        (r"$\frac{x}{6}$", "6"),
        (r"$\frac{\sqrt{3}}{2}$", "2"),
        ("2π", "2"),
        (r"$2 - \sqrt{3}$", "2"),
        (r"The answer is $2 + \sqrt{3}$.", "2"),
        ("x^2+1", "1"),
        ("x^2 + 1", "1"),
        ("2x + 3", "3"),
        ("x-5", "5"),
        ("2(3)", "3"),
        ("(-2)^2", "2"),
        (r"$2^x$", "2"),
        ("2^0.5", "5"),
        ("v2.0", "0"),
        ("1/0", "0"),
        ("3:45", "45"),
        ("10/12/2020", "2020"),
        ("2020-10-12", "12"),
        ("3.5.2", "2"),
        ("H2O", "2"),
        ("x_2", "2"),
        (r"\boxed{\text{none of the 3}, \pi}", "7"),
    ],
)
def test_number_inside_something_else(reply: str, reference: str) -> None:
    assert numeric(reply, [reference]) == 0
    assert numeric(extractor("boxed")(reply), [reference]) == 0


@pytest.mark.parametrize(
    "reply",
    [
        "The answer is 5, since 3 + 2.",
        "#### 5, since 3 + 2",
        "Answer: 5 (3 more than 2)",
        "The answer is 5. We add 3 and 2.",
    ],
)
@pytest.mark.parametrize("name", ["boxed", "short", "number"])
def test_explanation_behind_the_number_is_cut(name: str, reply: str) -> None:
    if (name, reply[0]) != ("short", "#"):
        assert extractor(name)(reply) == "5"


@pytest.mark.parametrize(
    "answer", ["10 Downing Street, London", "7 December, 1941", "2 Fast 2 Furious", "9 to 5"]
)
def test_answers_that_open_with_a_number_are_whole(answer: str) -> None:
    assert extractor("short")(f"The answer is {answer}.") == answer


@pytest.mark.parametrize(
    "reference",
    [
        r"10\sqrt{2}", "3:45", r"\frac{\pi}{6}", "x^2+1", "1/0", r"\sqrt{16}", "2 or 3", "12,34",
        "about 5", "5, 6", "(1, 2)", "2x", "3.5.2", "1,000,23", "three", "72 clips", "3 million",
        "10-5", "2 + 3", "x = 5", "48/2 = 24", "2020-10-12", "5!", "", "-", "9^9^9", "1 3/2",
    ],
)  # fmt: skip
def test_reference_that_is_no_number_as_a_whole(reference: str) -> None:
    with pytest.raises(DataError, match="'numeric' needs a number"):
        numeric("2", [reference])


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1{,}000", "1000"),
        ("$18", "18"),
        ("$18$", "18"),
        (r"\$18", "18"),
        ("€18.50", "18.5"),
        ("72%", "72"),
        (r"72\%", "72"),
        ("90°", "90"),
        (r"90^\circ", "90"),
        ("18 m^2", "18"),
        ("18 dollars", "18"),
        (r"18\text{ cm}", "18"),
        (" -1,080. ", "-1080"),
        ("−5", "-5"),
        (r"1\frac{1}{2}", "1.5"),
        ("10^3", "1000"),
    ],
)
def test_reference_that_is_a_number_as_a_whole(reference: str, answer: str) -> None:
    assert numeric(answer, [reference]) == 1
    assert numeric("0", [reference]) == 0


SEPARATORS = [",", "{,}", r"\,", " ", "\u202f", "'"]


@given(st.integers(-(10**15), 10**15), st.sampled_from(SEPARATORS), st.sampled_from("-−–"))
def test_thousands(number: int, separator: str, minus: str) -> None:
    text = f"{number:,}".replace(",", separator).replace("-", minus)
    assert numeric(f"So it is ${text}$.", [str(number)]) == 1
    assert numeric(str(number), [text]) == 1


@given(st.integers(-99, 99), st.integers(1, 999), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}"]))
def test_fractions(over: int, under: int, form: str) -> None:
    answer, exact = form.format(over, under), Fraction(over, under)
    assert numeric(f"It is {answer}.", [str(exact)]) == 1
    assert numeric(str(exact + 1), [answer]) == 0


@given(st.integers(1, 99), st.integers(1, 9), st.integers(1, 9))
def test_mixed_numbers(whole: int, over: int, more: int) -> None:
    under = over + more
    exact = str(whole + Fraction(over, under))
    for form in ("{} {}/{}", r"{}\frac{{{}}}{{{}}}", r"{}\,\dfrac{{{}}}{{{}}}"):
        assert numeric(form.format(whole, over, under), [exact]) == 1


@given(st.integers(1, 999), st.integers(-9, 20))
def test_powers_of_ten(number: int, exponent: int) -> None:
    exact = str(number * Fraction(10) ** exponent)
    for form in ("{}e{}", "{} × 10^{}", r"{}\times 10^{{{}}}", r"{}\cdot10^{{{}}}"):
        assert numeric(form.format(number, exponent), [exact]) == 1


PIECES = [
    "1", "12", "123", "1234", "0", ",", ".", " ", "/", "-", "–", "^", "{", "}", "(", ")", "$", "%",
    "\\", "\\frac", "\\sqrt", "{,}", "\\,", "½", "²", "×", "10", "x", "m", "e", "pi", "=", ":",
    "answer", "answer is ", "the ", "\\boxed{", "<answer>", '"answer": ', "\n", "#### ", "٣", "_",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


@given(TEXTS)
def test_extracting_twice_changes_nothing(text: str) -> None:
    number = extractor("number")(text)
    assert extractor("number")(number) == number
    if number:
        assert numeric(number, [number]) == numeric(text, [number]) == 1


HUGE = ["9^9", "9^{9999}", "9" * 500 + "^9", "1/" + "9" * 5000, "1 1/" + "9" * 5000, "1e-999"]


@pytest.mark.parametrize("text", HUGE)
def test_huge_numbers_are_taken_or_left(text: str) -> None:
    assert numeric(text, ["2"]) == 0


@pytest.mark.parametrize(
    "noise",
    ["1,", "123 ", "12,", "1.234", "9^", "½", "1/", "1 1/", "\\frac{1}", "{", "(1", "x+", "2(",
     "<answer>", '"answer": {', '"answer": "', "'answer': '", "the answer ", "答案", "\\boxed{",
     "Answer: A or ", "B is ", "A, ", "the the ", "__", "<b "],
)  # fmt: skip
@pytest.mark.parametrize("name", EXTRACTORS)
def test_time_grows_with_length_alone(name: str, noise: str) -> None:
    # Fractions of a second; anything quadratic takes minutes.
    assert isinstance(extractor(name)(noise * (50_000 // len(noise))), str)
