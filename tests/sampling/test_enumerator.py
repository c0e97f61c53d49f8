"""The enumerator equals a plain recursion, whatever the order in which replies arrive."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from helpers.experiments import plain_arm, prompt_of
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.queries import Query
from hcache.engines import Request
from hcache.keys import digest_text
from hcache.models.arms import Pool
from hcache.sampling import Enumerator, Reply
from hcache.workflows import Cascade, Relay, Workflow

Say = Callable[[str, str, int], str]  # (arm, prompt, sample) to reply
QUERIES = [Query("One two?", ("1",)), Query("Three?", ("3",))]


def reply(say: Say, arm: str, prompt: str, sample: int) -> Reply:
    text = say(arm, prompt, sample)
    return Reply(text, len(prompt.split()), len(text.split()))


def enumerate_all(
    queries: list[Query],
    pool: Pool,
    hops: int,
    replicas: int,
    say: Say,
    seed: int = 0,
    workflow: Workflow | None = None,
) -> tuple[Enumerator, dict[str, list[dict[str, Any]]], list[Request]]:
    """The rows found when replies arrive in an order of chance, and all that was asked."""
    rng = random.Random(seed)
    enumerator = Enumerator(workflow or Relay(hops=hops), pool)
    pending = [request for query in queries for request in enumerator.start(query, replicas)]
    asked = list(pending)
    while pending:
        request = pending.pop(rng.randrange(len(pending)))
        said = reply(say, request.arm.name, prompt_of(request), request.sample)
        unlocked = enumerator.supply(request.key, said)
        asked += unlocked
        pending += unlocked
    return enumerator, enumerator.take_rows(), asked


def plain(
    queries: list[Query], pool: Pool, hops: int, replicas: int, say: Say
) -> dict[tuple[str, int, tuple[str, ...]], tuple[str, list[tuple[str, int, int]]]]:
    """Output and calls of every sequence of 1 to L arms, by recursion."""
    found = {}

    def grow(
        query: Query, replica: int, path: tuple[str, ...], texts: list[str], calls: Any
    ) -> None:
        for arm in pool:
            parts = [query.question, *(text for text in texts if text)]
            parts += [arm.instruction] if arm.instruction else []
            sample = 0 if arm.config.temperature == 0 else replica
            said = reply(say, arm.name, "\n\n".join(parts), sample)
            longer = (*path, arm.id)
            made = [*calls, (arm.id, said.prompt_tokens, said.output_tokens)]
            found[query.id, replica, longer] = said.text, made
            if len(longer) < hops:
                grow(query, replica, longer, [*texts, said.text], made)

    for query in queries:
        for replica in range(replicas):
            grow(query, replica, (), [], [])
    return found


def as_plain(rows: list[dict[str, Any]]) -> dict[Any, Any]:
    found = {
        (row["query_id"], row["replica"], tuple(row["decisions"])): (
            row["output"],
            [(ask["arm"], ask["prompt_tokens"], ask["output_tokens"]) for ask in row["asks"]],
        )
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def distinct(arm: str, prompt: str, sample: int) -> str:
    return f"{arm}{sample} " + digest_text(prompt)


def pools(temperatures: list[int], instructions: list[str]) -> Pool:
    return tuple(
        plain_arm(name, temperature=temperature, instruction=instruction)
        for name, temperature, instruction in zip("abc", temperatures, instructions, strict=False)
    )


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=3),
    st.lists(st.sampled_from(["", "Go."]), min_size=3, max_size=3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_enumeration_equals_plain_recursion(
    temperatures: list[int],
    instructions: list[str],
    hops: int,
    replicas: int,
    words: int,
    seed: int,
) -> None:
    pool = pools(temperatures, instructions)

    def few_words(arm: str, prompt: str, sample: int) -> str:
        """Replies that are often equal, and now and then empty."""
        number = int(digest_text(f"{arm} {prompt} {sample}"), 16) % words
        return "" if number == 1 else f"word {number}"

    enumerator, rows, asked = enumerate_all(QUERIES, pool, hops, replicas, few_words, seed)
    wanted = plain(QUERIES, pool, hops, replicas, few_words)
    assert as_plain(rows["trajectories"]) == wanted
    assert max(Counter(request.key for request in asked).values()) == 1
    assert (enumerator.complete, enumerator.waiting, enumerator.trees) == (2, {}, {})
    paths = {(key[0], key[1], key[2][:-1]) for key in wanted}
    states = {(row["query_id"], row["replica"], tuple(row["decisions"])) for row in rows["states"]}
    assert states == paths and len(rows["states"]) == len(paths)
    texts = {row["text_id"]: row["text"] for row in rows["texts"]}
    for row in rows["states"]:
        question, *replies = (texts[key] for key in row["context"])
        start = row["query_id"], row["replica"]
        ends = [tuple(row["decisions"][: hop + 1]) for hop in range(row["depth"])]
        assert replies == [wanted[*start, end][0] for end in ends]
        assert question == next(q.question for q in QUERIES if q.id == row["query_id"])
        assert row["actions"] == [arm.id for arm in pool]
        assert row["stop"] == (row["depth"] > 0)


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("arms", [1, 2, 3])
def test_distinct_replies_take_one_request_for_each_sequence(arms: int, hops: int) -> None:
    pool = tuple(plain_arm(name) for name in "abc"[:arms])
    _, rows, asked = enumerate_all(QUERIES[:1], pool, hops, 1, distinct)
    assert len(asked) == sum(arms**hop for hop in range(1, hops + 1))
    assert len(rows["trajectories"]) == len(asked)


def test_equal_replies_share_what_follows() -> None:
    pool = tuple(plain_arm(name) for name in "abc")
    _, rows, asked = enumerate_all(QUERIES[:1], pool, 3, 1, lambda arm, prompt, sample: "same")
    assert len(asked) == 3 * 3
    assert len(rows["trajectories"]) == 3 + 9 + 27


def test_arms_without_temperature_share_sample_zero() -> None:
    pool = plain_arm("a"), plain_arm("b", temperature=1.0)
    _, rows, asked = enumerate_all(QUERIES[:1], pool, 2, 3, distinct)
    first = [request for request in asked if prompt_of(request) == "One two?"]
    assert sorted((r.arm.name, r.sample) for r in first) == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]
    assert {request.sample for request in asked if request.arm.name == "a"} == {0}
    outputs = {
        row["replica"]: row["output"] for row in rows["trajectories"] if row["sequence"] == "a"
    }
    assert len(outputs) == 3 and len(set(outputs.values())) == 1


def test_rows_do_not_depend_on_the_order_of_replies() -> None:
    pool = tuple(plain_arm(name) for name in "ab")
    found = []
    for seed in range(3):
        _, rows, _ = enumerate_all(QUERIES, pool, 3, 1, distinct, seed)
        found.append({name: sorted(map(repr, items)) for name, items in rows.items()})
    assert found[0] == found[1] == found[2]


def test_sequences_are_named_as_people_read_them() -> None:
    pool = tuple(plain_arm(name) for name in "ab")
    _, rows, _ = enumerate_all(QUERIES[:1], pool, 2, 1, distinct)
    names = [row["sequence"] for row in rows["trajectories"]]
    assert sorted(names) == ["a", "a>a", "a>b", "b", "b>a", "b>b"]
    assert len({row["trajectory_id"] for row in rows["trajectories"]}) == 6


def test_reply_that_nobody_waits_for_is_left_alone() -> None:
    enumerator = Enumerator(Relay(), (plain_arm("a"),))
    assert enumerator.supply("unknown", Reply("x", 1, 1)) == []
    assert enumerator.complete == 0


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_cascade_asks_each_arm_once_and_as_the_relay_does(hops: int) -> None:
    pool = tuple(plain_arm(name) for name in "abc")
    first = {request.key for request in enumerate_all(QUERIES[:1], pool, 1, 1, distinct)[2]}
    found = enumerate_all(QUERIES[:1], pool, hops, 1, distinct, workflow=Cascade(hops=hops))
    enumerator, rows, asked = found
    assert enumerator.complete == 1 and {request.key for request in asked} == first
    orders = [order for size in range(1, hops + 1) for order in permutations("abc", size)]
    names = {row["sequence"]: row for row in rows["trajectories"]}
    assert len(names) == len(rows["trajectories"])
    assert names.keys() == {">".join(order) for order in orders}
    for order in orders:
        row = names[">".join(order)]
        assert [ask["arm"] for ask in row["asks"]] == row["decisions"]
        assert row["output"] == distinct(order[-1], "One two?", 0)
        assert row["notes"] == []
