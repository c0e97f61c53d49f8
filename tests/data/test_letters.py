r"""The letter of multiple choice, in every dress and language that models answer in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.extractors import extractor
from hcache.data.metrics import choice


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is (B).", "B"),
        ("**Answer:** d", "D"),
        ("Final answer: c.", "C"),
        ("Answer: a", "A"),
        ("The answer is a.", "A"),
        ("the correct answer is (d) Paris", "D"),
        (r"\boxed{\text{E}}", "E"),
        (r"\boxed{\textbf{(B)}}", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{\mathrm{B}}", "B"),
        (r"\boxed{B. \text{ Paris}}", "B"),
        (r"\boxed{(B)\ \text{Paris}}", "B"),
        (r"The answer is \textbf{(B)}.", "B"),
        (r"The answer is $\mathbf{B}$.", "B"),
        ("Answer: __B__", "B"),
        ("Answer: **B**", "B"),
        ("The answer is **(B)** Paris.", "B"),
        ("Answer: `B`", "B"),
        ("<b>B</b>", "B"),
        ("Answer: <strong>B</strong>", "B"),
        ('Answer: <span class="x">B</span>', "B"),
        ("<answer>B</answer>", "B"),
        ("<Answer>\nb\n</Answer>", "B"),
        ('{"answer": "b"}', "B"),
        ('```json\n{"reasoning": "A is wrong.", "answer": "C"}\n```', "C"),
        ("Therefore, B is the correct answer.", "B"),
        ("So option B is correct, as we saw.", "B"),
        ("Hence (B) is the right choice.", "B"),
        ("A and B are wrong. C is correct.", "C"),
        ("We find that B must be the best option.", "B"),
        ("The answer to this question is C.", "C"),
        ("The answer seems to be A.", "A"),
        ("The answer, therefore, is D.", "D"),
        ("The answer must be C.", "C"),
        ("The answer is most likely C.", "C"),
        ("The best answer here would be the letter C.", "C"),
        ("The correct option is (d).", "D"),
        ("The answer is B, C is wrong.", "B"),
        ("The answer is B, and C is incorrect.", "B"),
        ("Answer: D, not B", "D"),
        ("The answer is B. C is not.", "B"),
        (r"so \boxed{\langle H\rangle \ll \Delta E} **Answer: D**", "D"),
        ("Answer：B", "B"),
        ("Ｂ", "B"),
        ("（Ｂ）", "B"),
        ("答案：B", "B"),
        ("答案是B。", "B"),
        ("正确答案为（B）", "B"),
        ("答案：选项B", "B"),
        ("答え：B", "B"),
        ("正解はBです", "B"),
        ("정답: B", "B"),
        ("정답은 B입니다", "B"),
        ("Antwort: B", "B"),
        ("Die richtige Antwort lautet B.", "B"),
        ("Réponse : B", "B"),
        ("La bonne réponse est la B.", "B"),
        ("La respuesta correcta es la B", "B"),
        ("A resposta correta é a letra B", "B"),
        ("A resposta é B", "B"),
        ("La risposta corretta è B", "B"),
        ("Правильный ответ: B", "B"),
        ("Ответ — B", "B"),
        ("الجواب: B", "B"),
        ("الإجابة الصحيحة هي B", "B"),
        ("Answer is B", "B"),
        ("Answer B", "B"),
        ("Answer - B", "B"),
        ("Answer → B", "B"),
        # Several, or none
        ("I do not know the answer. A dog is not one.", ""),
        ("The answer is B or C.", ""),
        ("The answer is either B or C.", ""),
        ("The answer is B, or possibly C.", ""),
        ("The answer is **B** or **C**.", ""),
        ("The answer is A. No, it is hard: the answer is B or C.", ""),
        ("答案是B或C", ""),
        ("Antwort: B oder C", ""),
        (r"\boxed{A, B}", ""),
        ("<answer>A and B</answer>", ""),
        ("B is correct. But C is correct, too.", ""),
        ("If B is correct, the sum is even.", ""),
        ("The answer cannot be B.", ""),
        ("The answer isn't B.", ""),
        ("The answer could be B.", ""),
        ("The answer is a dog.", ""),
        ("Answer: e.g. a dog", ""),
        ("I hope the answer is a good one.", ""),
        ("Answer: i think so", ""),
    ],
)
def test_letter_of_a_reply(reply: str, letter: str) -> None:
    assert extractor("choice")(reply) == letter
    for reference in "ABCDEFGHIJ":
        assert choice(reply, [reference]) == (letter == reference)


FORMS = ["Answer: {}", "The answer is {}.", "Final answer: ({})", "答案：{}", "\\boxed{{{}}}"]
WRAPPERS = ["{}", "**{}**", "__{}__", "({})", r"\text{{{}}}", r"\textbf{{({})}}", "<b>{}</b>"]


@given(st.sampled_from("ABCDEFGHIJabcdefghij"), st.sampled_from(FORMS), st.sampled_from(WRAPPERS))
def test_letter_in_any_dress(letter: str, form: str, wrapper: str) -> None:
    assert extractor("choice")(form.format(wrapper.format(letter))) == letter.upper()


def letter_of(reply: str) -> str:
    return extractor("choice")(reply)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        # What is said of wrong options afterwards
        ("The answer is B; A and C are wrong.", "B"),
        ("The answer is C, and D is irrelevant.", "C"),
        ("The answer is C, A being too small.", "C"),
        ("The answer is D, both A and B.", "D"),
        ("The answer is B, E. coli.", "B"),
        ("The answer is B, a mammal.", "B"),
        ("The answer is B or, in other words, a mammal.", "B"),
        ("Answer: B (not A or C)", "B"),
        ("Answer: C and D are wrong, so B", "B"),
        ("Answer: C and D are wrong.", ""),
        ("The answer is B and C are correct.", ""),
        ("The answer is B, and C is correct, too.", ""),
        ("Answer C is correct. Answer A is incorrect.", "C"),
        # Two that both stand
        ("The answer is C or else D", ""),
        ("The answer is B (or C).", ""),
        ("The answer is B or the closest, C.", ""),
        ("The answer is (B) Paris or (C) Lyon.", ""),
        ("The answer is (D) both (A) and (B).", "D"),
        ("Correct: B or C", ""),
        ("I would choose B or C.", ""),
        (r"\boxed{A} and \boxed{C}", ""),
        (r"$\boxed{A}$, $\boxed{C}$", ""),
        (r"$\boxed{A}$ and $\boxed{A}$", "A"),
        (r"\boxed{A}. Wait, no: \boxed{C}", "C"),
        ("<answer>A</answer> or <answer>B</answer>", ""),
        ("The answer is A. <answer>A or B</answer>", ""),
        ("<answer>Paris (B) or Lyon (C)</answer>", ""),
        # Denied
        ("The answer is B. Wait, the answer is not B.", ""),
        ("The answer is C. The answer is not A.", "C"),
        ("The answer is not A but C.", "C"),
        ("I don't think B is correct.", ""),
        ("I don't think it's B.", ""),
        ("Could the answer be B?", ""),
        ("The wrong answer is B.", ""),
        ("Hence A and B are wrong.", ""),
        ("Hence A, the gene, is dominant.", ""),
        # Languages
        ("Doğru cevap B'dir.", "B"),
        ("Cevap B değil.", ""),
        ("Đáp án đúng là B.", "B"),
        ("Đáp án là Dương.", ""),
        ("सही उत्तर B है।", "B"),
        ("उत्तर B नहीं है", ""),
        ("Poprawna odpowiedź to B.", "B"),
        ("Richtig ist Antwort B.", "B"),
        ("Die Antwort ist nicht B.", ""),
        ("Die richtige Antwort ist C. Antwort A und B sind falsch.", "C"),
        ("Antwort B ist richtig, Antwort A ist falsch.", "B"),
        ("La opción correcta es la B.", "B"),
        ("La respuesta no es B.", ""),
        ("A alternativa correta é a B.", "B"),
        ("Die Lösung ist B.", "B"),
        ("Jawaban yang benar adalah B.", "B"),
        ("故选：B", "B"),
        ("选B。", "B"),
        ("不选B。", ""),
        ("选B，因为A错误。", "B"),
        ("因此，选项B是正确的。", "B"),
        ("选项B正确，选项A错误。", "B"),
        ("正确答案是C。选项A、B错误。", "C"),
        ("答案不是B。", ""),
        ("答えはBではない。", ""),
        ("정답은 B가 아닙니다", ""),
        # The letter that opens
        ("B) Paris\n\nExplanation:\nA) Lyon is not it.\nC) Nice is not.", "B"),
        ("A) Lyon\nThis is not it.\nB) Paris\nThis is.", ""),
        ("A) Lyon\nAnalysis:\nno\nB) Paris\nAnalysis:\nyes", ""),
        ("A. Incorrect.\nB. Correct.\nC. Incorrect.", "B"),
        ("A. Left\nB. Right\nC. Up", ""),
        ("B because Paris is the capital.", "B"),
        ("B, because Paris is the capital.", "B"),
        ("B - Paris", "B"),
        ("A - Lyon\nB - Paris", ""),
        # Conclusions
        ("Hence B.", "B"),
        ("Thus, (B).", "B"),
        ("It's B.", "B"),
        ("It's a dog.", ""),
        ("I would go with B.", "B"),
        ("Answer: it is B", "B"),
        ("Correct: B", "B"),
        ("Solution: B", "B"),
        ("Final choice: B", "B"),
        ("Selected option: B", "B"),
        ("Option: A\nOption: B\nWhich one?", ""),
        ("B is my answer", "B"),
        ("I choose B", "B"),
        ("I choose A dog.", ""),
        # Containers
        ("<answer>Paris (B)</answer>", "B"),
        ("<choice>B</choice>", "B"),
        ('{"choice": "B", "reason": "A is wrong"}', "B"),
        ('{"correct_option": "B"}', "B"),
        ('{"answer": "B", "choice": "Paris"}', "B"),
        ('[{"option": "A"}, {"option": "B"}]', ""),
        ("[ANSWER]B[/ANSWER]", "B"),
        (r"\boxed B", "B"),
        (r"\boxed Buh", ""),
    ],
)
def test_letter_that_alone_stands_as_the_answer(reply: str, letter: str) -> None:
    assert letter_of(reply) == letter


LETTERS = "ABCDEFGH"
ANNOUNCED = ["Answer: {}", "The answer is {}", "So the correct option is {}", "Die Antwort ist {}"]
JOINED = [" or ", ", or ", "/", " or else ", " or maybe ", " and ", ", ", " oder ", "、", " (or "]
AGAINST = ["{} are wrong.", "{} are too small.", "{} were ruled out.", "{} are not correct."]


@given(st.permutations(LETTERS), st.sampled_from(ANNOUNCED), st.sampled_from(JOINED), st.booleans())
def test_two_letters_that_are_joined_choose_none(
    letters: list[str], form: str, joined: str, bracketed: bool
) -> None:
    first, second = (f"({letter})" if bracketed else letter for letter in letters[:2])
    assert letter_of(form.format(first + joined + second)) == ""


@given(
    st.permutations(LETTERS),
    st.integers(2, 4),
    st.sampled_from(ANNOUNCED),
    st.sampled_from(["; ", ". ", "\n\n", ", ", ", and "]),
    st.sampled_from(AGAINST),
)
def test_wrong_options_afterwards_change_nothing(
    letters: list[str], count: int, form: str, split: str, against: str
) -> None:
    right, *wrong = letters[: count + 1]
    listed = ", ".join(wrong[:-1]) + f" and {wrong[-1]}"
    assert letter_of(form.format(right) + split + against.format(listed)) == right


@given(st.permutations(LETTERS), st.sampled_from(AGAINST), st.sampled_from(ANNOUNCED))
def test_letters_that_are_only_denied_choose_none(
    letters: list[str], against: str, form: str
) -> None:
    pair = f"{letters[0]} and {letters[1]}"
    assert letter_of(form.format(against.format(pair))) == ""
    assert letter_of(f"Answer: {against.format(pair)[:-1]}, so {letters[2]}.") == letters[2]


@given(st.sampled_from(LETTERS), st.sampled_from(["Hence {}.", "It's {}.", "I choose {}."]))
def test_conclusion_is_taken_back_by_a_denial(letter: str, form: str) -> None:
    concluded = form.format(letter)
    assert letter_of(concluded) == letter
    assert letter_of(f"I do not think {concluded[0].lower()}{concluded[1:]}") == ""
    assert letter_of(concluded.replace(".", " is what I would not say.")) == ""


@pytest.mark.parametrize(
    "unit", ["Answer: B or a ", "Antwort ", "A, ", "(A) or ", "so ", " \n", "}"]
)
def test_time_grows_with_length(unit: str) -> None:
    assert letter_of(unit * 20_000) in {"", *LETTERS}
