"""Queries: identity by content, and splits that no question can cross."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.queries import Query, check_splits, known_split, split_by_hash
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
    assert len({query.id, *(other.id for other in others)}) == 5


def test_id_stays_what_it_is() -> None:
    assert Query("Where?", ("Paris",), "made").id == "3d1574674b3a0b309a63c688f77a45df"


@given(st.integers(0, 40), st.integers(1, 3), st.randoms(use_true_random=False))
def test_parts_are_equal_and_depend_on_the_questions_alone(
    count: int, parts: int, random: object
) -> None:
    names = ["train", "valid", "test"][:parts]
    dealt = split_by_hash(queries(count), names)
    assert list(dealt) == names
    sizes = [len(part) for part in dealt.values()]
    assert max(sizes) - min(sizes) <= 1
    ids = [query.id for part in dealt.values() for query in part]
    assert sorted(ids) == sorted(query.id for query in queries(count))
    for part in dealt.values():
        assert [query.id for query in part] == sorted(query.id for query in part)
    shuffled = queries(count)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_by_hash(shuffled, names) == dealt


def test_question_in_two_splits_is_refused() -> None:
    train, other = queries(3), Query("question 1", ("another answer",), "other")
    with pytest.raises(
        DataError, match=r"duplicate question in train of made and test of other: 'question 1'"
    ):
        check_splits({"train": train, "test": [other]})


def test_question_twice_in_one_split_is_refused() -> None:
    with pytest.raises(DataError, match="train of made and train of made"):
        check_splits({"train": [*queries(3), *queries(1)]})


def test_questions_that_differ_pass() -> None:
    check_splits({"train": queries(5), "test": [Query("question 9", ("9",))]})


def test_unknown_split() -> None:
    assert known_split("valid") == "valid"
    with pytest.raises(ConfigError, match=r"unknown split .dev.; known: test, train, valid"):
        known_split("dev")
