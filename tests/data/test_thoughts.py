"""Thoughts: told from the answer by the tags of a model."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.thoughts import KNOWN_TAGS, drop_thought, opens_thought

THINK = (("<think>", "</think>"),)
PIECES = ["<think>", "</think>", "<thinking>", "</thinking>", "[THINK]", "Lyon", " ", "\n", "<"]
texts = st.lists(st.sampled_from(PIECES)).map("".join)


def slow(text: str) -> str:
    """Two regular expressions, for one pair of tags."""
    before, close, after = text.rpartition("</think>")
    kept = re.sub(r"<think>.*?</think>", "", before + close, flags=re.DOTALL)
    return kept.rpartition("</think>")[2] + after.partition("<think>")[0]


@given(texts)
def test_thought_of_one_pair_is_what_two_expressions_find(text: str) -> None:
    assert drop_thought(text, THINK) == slow(text)


@given(texts)
def test_opened_in_the_prompt_is_as_opened_in_the_reply(text: str) -> None:
    assert drop_thought(text, THINK, thinking=True) == drop_thought(f"<think>{text}", THINK)


@given(texts)
def test_nothing_is_thought_without_tags(text: str) -> None:
    assert drop_thought(text, (), thinking=True) == text


@pytest.mark.parametrize(("opening", "close"), KNOWN_TAGS)
def test_known_tags(opening: str, close: str) -> None:
    for start, end in ((opening, close), (opening.upper(), close.upper()), (opening, close)):
        assert drop_thought(f"{start}Lyon{end} Paris") == " Paris"
        assert drop_thought(f"So: {start}\nLyon\n{end}\nParis\n") == "So: \nParis\n"
        assert drop_thought(f"Lyon{end}Paris") == "Paris"
        assert drop_thought(f"{start}Lyon") == ""
        assert drop_thought(f"Paris{start}Lyon") == "Paris"
        assert drop_thought(f"Lyon{end}Paris", thinking=True) == "Paris"
        assert drop_thought("Lyon", thinking=True) == ""
        assert opens_thought(f"assistant: {start}\n")
        assert not opens_thought(f"assistant: {start}\n\n{end}\n\n")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "<|channel|>analysis<|message|>Lyon?<|end|><|start|>assistant<|channel|>analysis"
            "<|message|>Or?<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
            "Paris",
        ),
        ("<|channel|>analysis<|message|>Lyon<|end|><|start|>assistant", ""),
        ("<|channel|>final<|message|>Paris", "Paris"),
        ("<|START_THINKING|>Lyon<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>", "Paris"),
        ("<|begin_of_thought|>Lyon<|end_of_thought|>\n<|begin_of_solution|>Paris"
         "<|end_of_solution|>", "\nParis"),
        ("<think>a [THINK] b</think>Paris", "Paris"),  # other tags within a thought
        ("<think>a</thinking> b</think>Paris", "Paris"),
        ("if a < b: print('<b>')", "if a < b: print('<b>')"),
        ("Here is my thought process: 1 + 1 is 2.", "Here is my thought process: 1 + 1 is 2."),
    ],
)  # fmt: skip
def test_answers(text: str, answer: str) -> None:
    assert drop_thought(text) == answer


def test_own_tags_are_the_only_ones() -> None:
    granite = (("Here is my thought process:", "Here is my response:"),)
    said = "Here is my thought process: Lyon. Here is my response: Paris <think>"
    assert drop_thought(said, granite) == " Paris <think>"
    assert not opens_thought("<think>", granite)
