"""Extractors on the shapes that models write, and on any text at all."""

from __future__ import annotations

import gzip
import json

import pytest
from helpers.paths import SHARED
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.extractors import EXTRACTORS, extractor
from hcache.data.thoughts import drop_thought
from hcache.errors import ConfigError

PIECES = [
    "<think>", "</think>", "```python\n", "```", "\n", "\\boxed{", "{", "}", "\\", "####",
    "Answer:",
    "The answer is", "**", '"', ".", " ", "B", "(", ")", "-", "1,000", "1/2", "e", "word",
    "é", "\x00",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


WHOLE = [
    "4 May 1979 and 28 November 1990", "7 and 8", "10 Downing Street, London SW1A 2AA",
    "12 July 1863 (age 45)", "9 to 5 (film of 1980)", "24, Season 8", "7 Up and Pepsi 1893",
    "1600 Pennsylvania Avenue, Washington, DC 20500", "575 acres (2.08 km²)", "4 July, 1776",
    "3 Doors Down and 30 Seconds to Mars", "2001: A Space Odyssey",
]  # fmt: skip
PARIS = [
    "答案是Paris。", "答えはParisです。", "정답은 Paris입니다.",
    "Die richtige Antwort ist „Paris“.",
    "Answer:\n1. Paris", "Answer:\n- Paris", "Answer - Paris", "Ans: Paris", "**Answer** - Paris",
    'The answer to the question "What is the capital? Or was?" is Paris.', "[ANSWER]Paris[/ANSWER]",
    "<ans>Paris</ans>", "<solution>Paris</solution>", "<response>Paris</response>",
    '{"short_answer": "Paris"}', "Answer: Paris</s>", "Answer: Paris<|im_end|>",
    "Answer: Paris.<|eot_id|>", "```\nParis\n```", "```text\nParis\n```", "\\[\nParis\n\\]",
    "Paris\n\nNote: the passages name others.", "Paris\n\n(Not Lyon.)",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Paris", "Paris"),
        ("<think>Lyon?</think>Paris", "Paris"),
        ("Par<think>x</think>is<think>\ny\n</think>", "Paris"),
        ("<think>Lyon? The answer is Lyon", ""),
        ("Paris <think>or Lyon", "Paris "),
        ("Lyon?</think>Paris", "Paris"),
        ("<think>a<think>b</think>c</think>Paris", "Paris"),
        ("<think></think>", ""),
        ("", ""),
    ],
)
def test_drop_thought(text: str, kept: str) -> None:
    assert drop_thought(text) == kept


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("text", "  Paris,\nFrance \n", "Paris,\nFrance"),
        ("line", "\n \n Paris \nLyon", "Paris"),
        ("last_line", "Paris\n Lyon \n\n", "Lyon"),
        ("short", "The answer is Paris.", "Paris"),
        ("short", "the answer is: Paris", "Paris"),
        ("short", "Answer: Lyon\nNo.\nFinal answer: **Paris**.\nDone.", "Paris"),
        ("short", "**Answer:** Paris", "Paris"),
        ("short", "**Final Answer**: Paris", "Paris"),
        ("short", "Answer:\n\n**Paris**\nbecause", "Paris"),
        ("short", 'Answer: "Paris."', "Paris"),
        ("short", "Answer: “Paris”.", "Paris"),
        ("short", 'Answer: Reginald "Reggie"', 'Reginald "Reggie"'),
        ("short", 'Answer: "A" and "B"', '"A" and "B"'),
        ("short", "It is in France.\n'Paris'.\n", "Paris"),
        ("short", "Answer:", ""),
        *[("short", f"Answer: {answer}", answer) for answer in WHOLE],
        *[("boxed", f"The answer is {answer}.", answer) for answer in WHOLE],
        *[("short", reply, "Paris") for reply in PARIS],
        ("short", "Answer: Yes, both are directors.", "Yes"),
        ("short", "The answer is no, because they are not.", "no"),
        ("short", "Answer: Yes, Prime Minister", "Yes, Prime Minister"),
        ("short", "Answer: No, No, Nanette", "No, No, Nanette"),
        ("boxed", r"so \boxed{3}, no: \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        ("boxed", r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        ("boxed", r"\boxed{7} and then \boxed{8", "7"),
        ("boxed", "48 + 24 = 72\n#### 72", "72"),
        ("boxed", r"#### 3 \boxed{4}", "4"),
        ("boxed", "The answer is 5.", "5"),
        ("number", "48 + 24 = $1,072.", "1072"),
        ("number", "none", ""),
        ("choice", "The answer is (B).", "B"),
        ("choice", "A dog is an animal.", ""),
        ("code", "Here:\n```python\n    return 1\n```\nand\n```\n2\n```", "    return 1"),
        ("code", "```\nreturn 1\n", "return 1"),
        ("code", "    return 1\n", "    return 1"),
        ("code", "```\r\nreturn 1\r\n```", "return 1"),
    ],
)
def test_extractor(name: str, text: str, answer: str) -> None:
    assert extractor(name)(text) == answer


@pytest.mark.parametrize("name", EXTRACTORS)
@given(text=TEXTS)
def test_no_extractor_raises(name: str, text: str) -> None:
    assert isinstance(extractor(name)(text), str)


@pytest.mark.parametrize("name", ["text", "line", "last_line", "short", "boxed"])
@pytest.mark.parametrize("answer", ["[THINK] magazine", "Paris <think>", "<scratchpad> of 1990"])
def test_tags_that_are_no_thoughts_of_the_model_stay(name: str, answer: str) -> None:
    assert extractor(name)(answer) == answer


@pytest.mark.parametrize("name", EXTRACTORS)
@given(text=TEXTS)
def test_thought_that_a_workflow_drops_never_counts(name: str, text: str) -> None:
    extract = extractor(name)
    assert extract(drop_thought(f"Answer: 3</think>{text}")) == extract(drop_thought(text))
    assert extract(drop_thought(f"<think>{text.replace('</think>', '')}")) == ""


@pytest.mark.parametrize("name", ["short", "boxed", "number", "choice"])
@given(text=st.sampled_from(["5", "B", "-1080", "1/2", "3.5"]))
def test_extracting_twice_changes_nothing(name: str, text: str) -> None:
    once = extractor(name)(f"So the answer is {text}.")
    assert extractor(name)(once) == once


@pytest.mark.parametrize("noise", ["<think>", "\\boxed{", "answer: ", "####", "```\n", '"', "**."])
@pytest.mark.parametrize("name", EXTRACTORS)
def test_long_noise_ends(name: str, noise: str) -> None:
    assert isinstance(extractor(name)(noise * 2_000), str)


def test_unknown_extractor() -> None:
    with pytest.raises(ConfigError, match=r"unknown extractor 'regex'.*boxed, choice, code"):
        extractor("regex")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")
def test_real_solutions_come_out_as_they_went_in() -> None:
    for line in (SHARED / "gsm8k" / "valid.jsonl").read_text("utf-8").splitlines():
        solution = json.loads(line)["answer"]
        reference = solution.split("#### ")[1]
        assert extractor("boxed")(solution) == reference
        assert extractor("number")(solution) == reference.replace(",", "")
    with gzip.open(SHARED / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            code = json.loads(line)["canonical_solution"]
            fenced = f"Here it is:\n```python\n{code}```\nIt runs."
            assert extractor("code")(fenced) == extractor("code")(code)
            assert extractor("code")(code).strip() == code.strip()
