r"""Short answers in tags, JSON and boxes, and behind markers."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hcache.data.extractors import extractor
from hcache.data.metrics import f1

SHORT = ("short", "boxed")


@pytest.mark.parametrize(
    "reply",
    [
        "Answer: Paris",
        "<answer> Paris </answer>",
        "<ANSWER>Paris</ANSWER>",
        "<final_answer>Paris</final_answer>",
        "<answer>\n**Paris**\n</answer>\nThe answer is based on the passage.",
        "<answer>Lyon</answer> No: <answer>Paris</answer>",
        "Put it in <answer></answer> tags. <answer>Paris</answer>",
        "It is\n<answer>Paris",  # cut by a stop string
        r"<answer>\boxed{Paris}</answer>",
        "<answer>The answer is Paris.</answer>",
        '{"answer": "Paris"}',
        '{"Answer": "Paris", "confidence": 0.9}',
        '{"final_answer": "Paris"}',
        '{"finalAnswer": "Paris"}',
        '{"reasoning": "Not {Lyon}.", "result": {"ANSWER": "Paris"}}',
        '{"answer": {"value": "Paris", "sure": true}}',
        '{"answer": ["Paris"]}',
        "{'answer': 'Paris'}",
        '```json\n{\n  "answer": "Paris"\n}\n```',
        'Here it is: {"answer": "Paris"} as asked.',
        '{"answer": "Lyon"} or rather {"answer": "Paris"}',
        r'{"answer": "\boxed{Paris}"}',
        "Answer： Paris",
        "答案：Paris",
        "La respuesta es Paris.",
        "The answer to this question is Paris.",
        r"The final answer is \boxed{Paris}.",
        r"It is \boxed{\text{Paris}}, in France.",
        r"It is \boxed{ \mathrm{Paris} }",
        r"It is \fbox{Paris}",
        "[ANSWER]Paris[/ANSWER]",
        "[Answer]\nParis\n[/Answer] as asked.",
        "<choice>Paris</choice>",
        '{"choice": "Paris"}',
        '{"correct_option": "Paris"}',
        "Jawaban yang benar adalah Paris.",
        "Poprawna odpowiedź to Paris.",
        "Đáp án đúng là Paris.",
        "Die Lösung ist Paris.",
    ],
)
def test_short_answer(reply: str) -> None:
    for name in SHORT:
        assert extractor(name)(reply) == "Paris"
        assert f1(extractor(name)(reply), ["Paris"]) == 1


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r'{"answer": "\frac{1}{2}"}', r"\frac{1}{2}"),
        (r'{"answer": "\\frac{1}{2}"}', r"\frac{1}{2}"),
        (r'{"answer": "say \"no\""}', r'say "no"'),
        ('{"answer": 3.50}', "3.50"),
        ('{"answer": -7}', "-7"),
        ('{"answer": true}', "true"),
        ('{"answer": ["Paris", "Lyon"]}', "Paris, Lyon"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"$\boxed5$", "5"),
        (r"\boxed 18", "18"),
        (r"\boxed B", "B"),
        ("「パリ」\n答え：「パリ」", "パリ"),
    ],
)
def test_content_as_it_is(reply: str, answer: str) -> None:
    assert [extractor(name)(reply) for name in SHORT] == [answer, answer]


@pytest.mark.parametrize("name", ["text", "line", "last_line"])
@pytest.mark.parametrize(
    "reply", ["<answer>Paris</answer>", '{"answer": "Paris"}', r"\boxed{Paris}"]
)
def test_other_extractors_leave_containers_alone(name: str, reply: str) -> None:
    assert extractor(name)(reply) == reply


@pytest.mark.parametrize(
    "reply", ["The answer is not known", "I cannot answer this.", '"answer": [', '{"answer": null}']
)
def test_no_container(reply: str) -> None:
    assert isinstance(extractor("short")(reply), str)


@given(st.text(alphabet=st.characters(categories=["L", "N", "Zs"]), min_size=1))
def test_json_holds_any_text(text: str) -> None:
    assume(text.strip())  # a blank container is passed over
    inner = json.dumps({"reasoning": "x", "answer": text})
    assert extractor("short")(f"So: {inner}") == extractor("short")(f"<answer>{text}</answer>")
