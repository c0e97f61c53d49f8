"""Queries: identity by content, and splits that no question can cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.queries import (
    CONFLICTING,
    OPTIONAL,
    REPEATED,
    SPLITS,
    Dropped,
    Query,
    dropped_in_words,
    known_split,
    split_by_hash,
    without_duplicates,
)
from hcache.errors import ConfigError, DataError


def queries(count: int) -> list[Query]:
    return [Query(f"question {number}", (str(number),), "made") for number in range(count)]


def test_id_is_the_content() -> None:
    query = Query("Where?", ("Paris",), "made", "place")
    assert query.id == Query("Where?", ("Paris",), "made", "another kind").id
    others = [
        Query("Where", ("Paris",), "made"),
        Query("Where?", ("paris",), "made"),
        Query("Where?", ("Paris", "Paris"), "made"),
        Query("Where?", ("Paris",), "other"),
    ]
    fields: list[dict[str, Any]] = [{field: "x"} for field in OPTIONAL]
    others += [replace(query, **field) for field in fields]
    assert len({query.id, *(other.id for other in others)}) == 5 + len(OPTIONAL)


def test_id_stays_what_it_is() -> None:
    assert Query("Where?", ("Paris",), "made").id == "3d1574674b3a0b309a63c688f77a45df"


PARTS = [list(SPLITS[:count]) for count in (1, 2, 3)]
WORDS = st.lists(st.text("abcdefgh", min_size=3, max_size=8), unique=True, max_size=40)


def split_of(questions: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    dealt = split_by_hash([Query(question, ("x",), "d") for question in questions], names)
    assert list(dealt) == list(names)
    return {query.question: name for name, part in dealt.items() for query in part}


@given(WORDS, WORDS, st.sampled_from(PARTS), st.randoms(use_true_random=False))
def test_more_questions_move_none_and_their_order_is_no_matter(
    old: list[str], new: list[str], names: list[str], random: Random
) -> None:
    alone, together = split_of(old, names), [*new, *(text for text in old if text not in new)]
    random.shuffle(together)
    found = split_of(together, names)
    assert set(alone) == set(old) and alone.items() <= found.items()


@given(WORDS, st.sampled_from(PARTS))
def test_a_question_in_another_dress_falls_in_the_same_split(
    questions: list[str], names: list[str]
) -> None:
    plain = split_of(questions, names)
    for question, split in plain.items():
        assert split_of([f" {question.upper()} ?!"], names) == {f" {question.upper()} ?!": split}


@pytest.mark.parametrize("names", PARTS)
def test_parts_are_about_equal(names: list[str]) -> None:
    sizes = [len(part) for part in split_by_hash(queries(3000), names).values()]
    assert sum(sizes) == 3000
    assert max(abs(size - 3000 / len(names)) for size in sizes) < 4 * 3000**0.5 / 2


def test_repeated_questions_are_read_once_and_counted() -> None:
    first, more = queries(3), [*queries(1), *queries(2)]
    repeated = [replace(query, kind="another") for query in more]
    kept, dropped = without_duplicates({"train": [*first, *repeated]})
    assert kept == {"train": first}
    assert dropped == {Dropped("made", "train", REPEATED): 3}
    assert dropped_in_words(dropped) == "questions dropped: 3 of train of made (repeated)"
    assert dropped_in_words({}) == ""


def test_other_wordings_stay_in_one_split_but_not_in_two() -> None:
    one, other = queries(1)[0], Query("Question  0?", ("0",), "made")
    kept, dropped = without_duplicates({"train": [one, other]})
    assert kept == {"train": [one, other]} and not dropped
    with pytest.raises(DataError, match="in another split too: test of made"):
        without_duplicates({"train": [one], "test": [other]})


def test_another_answer_is_refused_or_the_first_stays() -> None:
    first, other = queries(1)[0], Query("question 0", ("7",), "made")
    with pytest.raises(DataError, match=r"train of made: repeated with another answer: train of"):
        without_duplicates({"train": [first, other]})
    kept, dropped = without_duplicates({"train": [first, other]}, {"made"})
    assert kept == {"train": [first]}
    assert dropped == {Dropped("made", "train", CONFLICTING): 1}
    again = Query("question 0", ("0", "0"), "made")  # the same answers
    assert without_duplicates({"train": [first, again]})[1].total() == 1


def test_questions_in_two_splits_are_all_listed_with_the_fix() -> None:
    train = [replace(query, place=f"file:{n}") for n, query in enumerate(queries(25))]
    with pytest.raises(DataError) as caught:
        without_duplicates({"train": train, "test": [replace(q, dataset="other") for q in train]})
    assert caught.value.message.startswith("25 questions stand where they may not")
    assert caught.value.message.count("\n  'question") == 20
    place = (
        "'question 19' in train of made (file:19): in another split too: test of other (file:19)"
    )
    assert place in caught.value.message
    assert "and 5 more" in caught.value.message
    assert "on_duplicate: drop` in data.made:" in caught.value.hint


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 5), st.integers(0, 2))))
def test_what_is_dropped_is_not_what_is_evaluated(rows: list[tuple[str, int, int]]) -> None:
    splits: dict[str, list[Query]] = {split: [] for split in SPLITS}
    for split, number, dress in rows:
        question = f"question {number}" + "?" * dress
        splits[split].append(Query(question, ("x",), "d"))
    kept, dropped = without_duplicates(splits, {"d"})
    found: dict[str, set[str]] = {name: {q.wording for q in kept[name]} for name in SPLITS}
    given = {name: {q.wording for q in splits[name]} for name in SPLITS}
    assert found["test"] == given["test"]
    assert found["valid"] == given["valid"] - given["test"]
    assert found["train"] == given["train"] - given["valid"] - given["test"]
    assert sum(map(len, kept.values())) + dropped.total() == len(rows)


def test_questions_that_differ_pass() -> None:
    splits = {"train": queries(5), "test": [Query("question 9", ("9",))]}
    assert without_duplicates(splits) == (splits, {})


def test_unknown_split() -> None:
    assert known_split("valid") == "valid"
    with pytest.raises(ConfigError, match=r"unknown split .dev.; known: test, train, valid"):
        known_split("dev")
