"""Workflows: running one step by step, and what relay and cascade say to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from helpers.experiments import generated, load, plain_arm, sample, settings
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hcache.data.queries import Query
from hcache.engines import request_for
from hcache.errors import ConfigError
from hcache.models.arms import Arm
from hcache.replay.loading import load_replay
from hcache.replay.tree import NONE
from hcache.store import Store
from hcache.workflows import (
    STOP,
    WORKFLOWS,
    Answer,
    Ask,
    Cascade,
    Choose,
    Decision,
    Finished,
    Flow,
    Message,
    Pending,
    Relay,
    TeacherStudent,
    Undecided,
    Workflow,
    advance,
)

A, B = plain_arm("a"), plain_arm("b")
OTHER = plain_arm("other")
QUERY = Query("Where?", ("Paris",))


def reply_to(ask: Ask) -> str:
    return f"{ask.arm.name}{len(ask.messages[-1].content)}"


def run(
    decisions: Sequence[Decision], hops: int = 3, relay: Relay | None = None
) -> Pending | Undecided | Finished:
    return advance((relay or Relay(hops=hops)).run(QUERY, (A, B)), decisions, reply_to)


def prompts(decisions: Sequence[Decision], relay: Relay, *arms: Arm) -> list[str]:
    """The user messages of the asks along the way."""
    outcome = advance(relay.run(QUERY, arms), decisions, reply_to)
    assert not isinstance(outcome, Pending)
    return [ask.messages[-1].content for ask in outcome.asks]


# Advance


def test_without_decisions_it_waits_at_the_first() -> None:
    outcome = run([])
    assert isinstance(outcome, Undecided)
    assert (outcome.choose.context, outcome.choose.arms) == (("Where?",), (A, B))
    assert outcome.asks == ()


@given(st.lists(st.sampled_from([A, B]), max_size=3), st.booleans())
def test_any_start_leads_to_the_same_place(arms: list[Arm], stop: bool) -> None:
    decisions: list[Decision] = [*arms]
    if stop and 0 < len(arms) < 3:
        decisions.append(STOP)
    outcome = run(decisions)
    assert run(decisions) == outcome
    assert not isinstance(outcome, Pending)
    assert [ask.arm for ask in outcome.asks] == arms
    assert isinstance(outcome, Finished) == (len(decisions) == 3 or STOP in decisions)


def test_reply_that_is_not_known_is_asked_for() -> None:
    known = {"a": "from a"}
    outcome = advance(Relay().run(QUERY, (A, B)), [A, B], lambda ask: known.get(ask.arm.name))
    assert isinstance(outcome, Pending)
    assert outcome.ask.arm == B
    assert outcome.ask.messages == (Message("user", "Where?\n\nfrom a"),)


def test_empty_reply_is_a_reply() -> None:
    outcome = advance(Relay(hops=1).run(QUERY, (A,)), [A], lambda ask: "")
    assert outcome == Finished("", outcome.asks if isinstance(outcome, Finished) else ())


def test_decision_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not offer 'other' here\. It offers: a, b\.$"):
        run([OTHER])
    with pytest.raises(ConfigError, match=r"does not offer 'STOP' here\. It offers: a, b\.$"):
        run([STOP])
    with pytest.raises(ConfigError, match=r"It offers: a, b, STOP\.$"):
        run([A, OTHER])


def test_decisions_beyond_the_end_are_not_used() -> None:
    assert run([A, STOP, B]) == run([A, STOP])


def test_answer_is_a_text_or_a_text_with_notes() -> None:
    for returned in ("x", Answer("x")):
        assert advance(plainly(returned), [], reply_to) == Finished("x", ())
    assert advance(plainly(Answer("x", ("odd",))), [], reply_to) == Finished("x", (), ("odd",))


def plainly(answer: str | Answer) -> Flow:
    """A workflow that asks nobody."""
    yield from ()
    return answer


# The relay


def test_stop_is_offered_from_the_second_hop_on() -> None:
    offered = []
    for decisions in ([], [A], [A, B]):
        outcome = run(decisions)
        assert isinstance(outcome, Undecided)
        offered.append(outcome.choose.stop)
    assert offered == [False, True, True]


def test_context_grows_by_each_reply() -> None:
    outcome = run([A, B])
    assert isinstance(outcome, Undecided)
    assert outcome.choose.context == ("Where?", "a6", "b10")


def test_answer_is_the_last_reply() -> None:
    ends: list[tuple[list[Decision], str]] = [
        ([A, STOP], "a6"),
        ([A, B, STOP], "b10"),
        ([A, B, A], "a15"),
    ]
    for decisions, answer in ends:
        outcome = run(decisions)
        assert isinstance(outcome, Finished)
        assert outcome.output == answer


def test_prompt_is_question_then_replies_then_instruction() -> None:
    relay = Relay(hops=2, separator="|", reply="said <{reply}>")
    told = plain_arm("t", instruction="Go.", system="Be.")
    assert prompts([A, told], relay, A, told) == ["Where?", "Where?|said <a6>|Go."]
    outcome = advance(relay.run(QUERY, (A, told)), [told], lambda ask: None)
    assert isinstance(outcome, Pending)
    assert outcome.ask.messages == (Message("system", "Be."), Message("user", "Where?|Go."))


@pytest.mark.parametrize("workflow", [Relay(separator="|"), Cascade(separator="|")])
def test_prompt_has_examples_first_and_the_instruction_of_the_data_before_the_arms(
    workflow: Workflow,
) -> None:
    query = replace(QUERY, examples="1+1? 2.", instruction="One word.")
    told = plain_arm("t", instruction="Go.")
    outcome = advance(workflow.run(query, (A, told)), [A, told], reply_to)
    assert isinstance(outcome, Finished)
    first, second = (ask.messages[-1].content for ask in outcome.asks)
    assert first == "1+1? 2.|Where?|One word."
    replies = "a24|" if isinstance(workflow, Relay) else ""
    assert second == f"1+1? 2.|Where?|{replies}One word.|Go."


@pytest.mark.parametrize("kind", [Relay, Cascade])
def test_passages_stand_in_prompts_alone_and_only_if_asked_for(
    kind: type[Relay] | type[Cascade],
) -> None:
    query = replace(QUERY, passages=("Paris: a city.", "Rome: a city."), examples="1+1? 2.")
    for wanted, prompt in (
        (True, "1+1? 2.|Paris: a city.|Rome: a city.|Where?"),
        (False, "1+1? 2.|Where?"),
    ):
        flow = kind(separator="|", passages=wanted).run(query, (A,))
        outcome = advance(flow, [A], lambda ask: None)
        assert isinstance(outcome, Pending)
        assert outcome.ask.messages == (Message("user", prompt),)
    waiting = advance(kind(passages=True).run(query, (A,)), [], lambda ask: None)
    assert isinstance(waiting, Undecided) and waiting.choose.context == ("Where?",)
    assert kind(passages=True).fingerprint != kind().fingerprint


def test_dialogue_has_them_where_the_question_stands() -> None:
    query = replace(QUERY, examples="1+1? 2.", instruction="One word.")
    dialogue = TeacherStudent(separator="|")
    asked = advance(dialogue.run(query, (A,)), [A] * dialogue.hops, lambda ask: None)
    plain = advance(dialogue.run(QUERY, (A,)), [A] * dialogue.hops, lambda ask: None)
    assert isinstance(asked, Pending) and isinstance(plain, Pending)
    (now,), (before,) = asked.ask.messages, plain.ask.messages
    assert now.content == before.content.replace("Where?", "1+1? 2.|Where?|One word.")


def test_prompt_says_neither_hop_nor_horizon() -> None:
    for hops in (2, 3, 8):
        assert prompts([A, B], Relay(hops=hops), A, B) == ["Where?", "Where?\n\na6"]


def test_arms_share_the_prompt_up_to_their_instruction() -> None:
    one, two = plain_arm("x", instruction="One."), plain_arm("y", instruction="Two.")
    relay = Relay(hops=2)
    first, second = (prompts([one, arm], relay, one, two)[-1] for arm in (one, two))
    assert first.removesuffix("One.") == second.removesuffix("Two.") != first


def test_empty_replies_are_left_out_of_prompts_and_kept_in_the_context() -> None:
    said = iter(["", "x"])
    outcome = advance(Relay(hops=3).run(QUERY, (A,)), [A, A], lambda ask: next(said))
    assert isinstance(outcome, Undecided)
    assert outcome.choose.context == ("Where?", "", "x")
    assert [ask.messages[-1].content for ask in outcome.asks] == ["Where?", "Where?"]


def test_thought_is_dropped_from_context_and_answer() -> None:
    relay = Relay(hops=2)
    outcome = advance(relay.run(QUERY, (A,)), [A, A], lambda ask: "<think>hm</think>yes")
    assert isinstance(outcome, Finished)
    assert outcome.output == "yes"
    assert outcome.asks[1].messages[-1].content == "Where?\n\nyes"


def test_text_of_a_reply_is_never_taken_for_a_placeholder() -> None:
    relay = Relay(hops=2, reply="({reply})")
    outcome = advance(relay.run(QUERY, (A,)), [A, A], lambda ask: r"{reply} \1 {x}")
    assert isinstance(outcome, Finished)
    assert outcome.asks[1].messages[-1].content == "Where?\n\n({reply} \\1 {x})"


def test_fingerprint_is_what_is_said_whatever_the_horizon() -> None:
    fingerprints = {Relay(hops=hops).fingerprint for hops in (1, 2, 5)}
    assert len(fingerprints) == 1
    others = [Relay(separator=" "), Relay(reply="> {reply}")]
    assert len(fingerprints | {other.fingerprint for other in others}) == 3


def test_fingerprint_stays_what_it_is() -> None:
    assert Relay().fingerprint == "c7e18d1ecb17ec1e360703e5895cc7ac"


def test_registered_by_name() -> None:
    assert WORKFLOWS["relay"] is Relay
    with pytest.raises(ValidationError):
        Relay(hops=9)


# The cascade


def cascade(decisions: Sequence[Decision], hops: int = 3) -> Pending | Undecided | Finished:
    return advance(Cascade(hops=hops).run(QUERY, (A, B, OTHER)), decisions, reply_to)


@pytest.mark.parametrize(
    ("decisions", "context", "offered", "stop"),
    [
        ([], ("Where?",), (A, B, OTHER), False),
        ([B], ("Where?", "b6"), (A, OTHER), True),
        ([B, OTHER], ("Where?", "b6", "other6"), (A,), True),
    ],
)
def test_cascade_offers_the_arms_that_are_left(
    decisions: list[Decision], context: tuple[str, ...], offered: tuple[Arm, ...], stop: bool
) -> None:
    outcome = cascade(decisions)
    assert isinstance(outcome, Undecided)
    assert outcome.choose == Choose(context, offered, stop)
    with pytest.raises(ConfigError, match="does not offer"):
        cascade([A, A])


def test_cascade_answers_with_its_last_reply_and_counts_all() -> None:
    ends: list[tuple[list[Decision], int, str]] = [
        ([A, STOP], 3, "a6"),
        ([A, B, STOP], 3, "b6"),
        ([A, OTHER], 2, "other6"),
        ([A, OTHER, B], 8, "b6"),  # no arm is left
    ]
    for decisions, hops, answer in ends:
        outcome = cascade(decisions, hops)
        assert isinstance(outcome, Finished)
        assert outcome.output == answer
        assert [ask.arm for ask in outcome.asks] == [arm for arm in decisions if arm is not STOP]


def test_cascade_asks_what_the_relay_asks_first() -> None:
    told = plain_arm("t", instruction="Go.", system="Be.")
    outcome = advance(Cascade(hops=2).run(QUERY, (A, told)), [A, told], reply_to)
    assert isinstance(outcome, Finished)
    for ask in outcome.asks:
        first = advance(Relay().run(QUERY, (A, told)), [ask.arm], lambda ask: None)
        assert isinstance(first, Pending)
        assert request_for(ask, 0, "") == request_for(first.ask, 0, "")


def test_cascade_has_a_name_and_a_fingerprint_of_its_own() -> None:
    assert WORKFLOWS["cascade"] is Cascade
    prints = [Cascade(hops=2), Cascade(hops=3), Cascade(separator=" "), Relay()]
    assert len({workflow.fingerprint for workflow in prints}) == 3


def test_sampled_cascade_is_a_tree_and_costs_a_relay_nothing_more(folder: Path) -> None:
    sample(folder, settings("abc", workflow={"name": "relay", "hops": 1}))
    raw = settings("abc", name="cascade", workflow={"name": "cascade", "hops": 3})
    assert generated(folder, raw) == {}
    with Store(folder / raw["db"]) as store:
        tree = load_replay(store, load(folder, raw).config, "valid").tree
        rows = store.sql(
            "select sequence, cost from outcomes where experiment = 'cascade' and split = 'valid'"
        ).rows()
        whole = store.sql("select sum(expected), sum(trajectories) from coverage").row(0)
    costs = dict(rows)
    orders = [order for size in (1, 2, 3) for order in permutations(range(3), size)]
    assert sorted(tree.path_ML.tolist()) == sorted(
        [*order, *[NONE] * (3 - len(order))] for order in orders
    )
    names = {order: ">".join("abc"[arm] for arm in order) for order in orders}
    assert costs.keys() == set(names.values())
    for order, name in names.items():
        assert costs[name] == pytest.approx(sum(costs["abc"[arm]] for arm in order))
    assert whole[0] == whole[1]
