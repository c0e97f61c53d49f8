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
