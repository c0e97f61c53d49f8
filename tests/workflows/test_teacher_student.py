"""The dialogue of teacher and student: what is parsed, said, shared, noted, stored and routed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import load, plain_arm, sample, settings, table, write_script
from helpers.joint import SHORT
from helpers.policies import SequencePolicy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from hcache.commands.app import app
from hcache.data.queries import Query
from hcache.engines import Engines, Request, make_engine
from hcache.errors import ConfigError, DataError
from hcache.experiment import Experiment
from hcache.keys import digest_text
from hcache.live import Live
from hcache.models.arms import Pool
from hcache.replay.features import make_encoder
from hcache.replay.loading import load_replay
from hcache.runs.routing import Router
from hcache.runs.training import train, with_train
from hcache.sampling import Enumerator, Reply, Sampler, make_plan
from hcache.store import Store
from hcache.workflows import Choose, Finished, Message, TeacherStudent, Undecided, advance
from hcache.workflows.acts import Act, has_verdict, parse_act
from hcache.workflows.teacher_student import PLACES, default_prompts

T, S, W = plain_arm("t"), plain_arm("s"), plain_arm("w")
QUERY = Query("Where?", ("Rome",), passages=("Paris is in France.", "Rome is in Italy."))


def dialogue(**how: Any) -> TeacherStudent:
    return TeacherStudent.model_validate({"prompts": SHORT, **how})


def talk(replies: Iterable[str], workflow: TeacherStudent | None = None) -> Finished:
    """The dialogue of t and s (and w), in which these replies are given in turn."""
    workflow = workflow or dialogue()
    cast = [{"teacher": T, "student": S, "summarizer": W}[role] for role in workflow.roles]
    said = iter(replies)
    outcome = advance(workflow.run(QUERY, (T, S, W)), cast, lambda ask: next(said))
    assert isinstance(outcome, Finished) and next(said, None) is None
    return outcome


def lines(outcome: Finished) -> list[tuple[str, str, str]]:
    """Arm, role and last message of each call."""
    return [(ask.arm.name, ask.role, ask.messages[-1].content) for ask in outcome.asks]


# Parsing


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("Finish[Paris]", "finish", "Paris"),
        ("Finish [Paris]", "finish", "Paris"),
        ("finish[Paris", "finish", "Paris"),
        ("finish[Paris\nThat is all.", "finish", "Paris"),
        ("FINISH[ Paris ]", "finish", "Paris"),
        ("Thought: hm\nAction: Search[capital of France]", "search", "capital of France"),
        ("**Action:** Search[x]", "search", "x"),
        ("Action 1: `search[x]`", "search", "x"),
        ("Finish[list[int]] or so]", "finish", "list[int]"),
        ("Finish[[a], [b]]", "finish", "[a], [b]"),
        ("Finish[one\ntwo]", "finish", "one\ntwo"),
        ("Finish[Paris\nas in [1] and [2]", "finish", "Paris"),
        ("Search[a]\nObservation: b\nAction: Finish[c]", "finish", "c"),
        ("Action: Search[a]\nObservation: b\nAction: Finish[c]", "search", "a"),
        ("I could Finish[a] now. Action: Search[b]", "search", "b"),
        ("Search[a] Finish[b]", "search", "a"),
        ("Finish[b] Action: none", "finish", "b"),
        ("Action: Finish[] Search[x]", "search", "x"),
    ],
)
def test_action_is_read_as_people_read_it(reply: str, kind: str, text: str) -> None:
    act = parse_act(reply)
    assert act is not None and (act.kind, act.text) == (kind, text)


@pytest.mark.parametrize(
    "reply", ["", "Paris", "Finish Paris", "Finish(Paris)", "Research[x]", "Finish[]",
              "Search[ \n]", "[Finish]", "Finished[x]", "Action: Finish", "Finish["],
)  # fmt: skip
def test_what_is_no_action_is_none(reply: str) -> None:
    assert parse_act(reply) is None


def test_step_ends_with_its_action() -> None:
    act = parse_act(" I look.\nAction: Search[a [b]]\nObservation: made up ")
    assert act == Act("search", "a [b]", "I look.\nAction: Search[a [b]]")


@given(
    st.lists(
        st.sampled_from(["Search", "finish", "[", "]", " ", "\n", "Action:", "x", "[Continue]"])
        | st.text(max_size=5)
    )
)
def test_parsing_never_raises(parts: list[str]) -> None:
    reply = "".join(parts)
    act = parse_act(reply)
    has_verdict(reply)
    if act is not None:
        assert act.text and act.text == act.text.strip() and act.kind in ("search", "finish")
        assert act.text in reply and reply.strip().startswith(act.step)


@pytest.mark.parametrize(
    ("reply", "found"),
    [("Go on. [Continue]", True), ("[ rethink ] no", True), ("Continue", False), ("[x]", False)],
)
def test_verdict_stands_in_brackets(reply: str, found: bool) -> None:
    assert has_verdict(reply) == found


# The dialogue


def test_router_casts_role_by_role() -> None:
    workflow = dialogue(roles=["student", "teacher"])
    first = advance(workflow.run(QUERY, (T, S)), [], lambda ask: None)
    assert first == Undecided(Choose(("Where?",), (T, S), role="student"), ())
    second = advance(workflow.run(QUERY, (T, S)), [S], lambda ask: None)
    assert second == Undecided(Choose(("Where?", "student: s"), (T, S), role="teacher"), ())


def test_each_says_what_the_last_turn_left() -> None:
    outcome = talk(
        ["<think>hm</think>I look.\nAction: Search[Italy] More.", "Rome is in Italy.", "S1",
         "Good. [Continue]", "T1", "Search[x]", "y", "S2", "No. [Rethink]", "T2", "Finish [Rome]"],
        dialogue(budget=2),
    )  # fmt: skip
    step = "I look.\nAction: Search[Italy]"
    found = "Rome is in Italy."
    assert lines(outcome) == [
        ("s", "student", "act|Where?|-|-"),
        ("search", "search", "Italy"),
        ("s", "student", f"note|Where?|-|-|{step}|{found}"),
        ("t", "teacher", f"advise|Where?|-|-|{step}|{found}"),
        ("t", "teacher", f"watch|Where?|-|-|{step}|{found}|Good. [Continue]"),
        ("s", "student", "act|Where?|S1|Good. [Continue]"),
        ("search", "search", "x"),
        ("s", "student", "note|Where?|S1|Good. [Continue]|Search[x]|y"),
        ("t", "teacher", "advise|Where?|T1|Good. [Continue]|Search[x]|y"),
        ("t", "teacher", "watch|Where?|T1|Good. [Continue]|Search[x]|y|No. [Rethink]"),
        ("s", "student", "last|Where?|S2|No. [Rethink]"),
    ]
    assert (outcome.output, outcome.notes) == ("Rome", ())
    passages = tuple(Message("passage", passage) for passage in QUERY.passages)
    assert outcome.asks[1].messages == (*passages, Message("user", "Italy"))
    assert [ask.sample for ask in outcome.asks if ask.role != "search"] == [0] * 4 + [1] * 4 + [2]


def test_answer_in_the_first_turn_ends_it() -> None:
    outcome = talk(["Finish[Rome]"])
    assert (outcome.output, len(outcome.asks), outcome.notes) == ("Rome", 1, ())


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_budget_bounds_the_turns(budget: int) -> None:
    replies = ["Search[x]", "y", "S", "[Continue]", "T"] * budget + ["Search[z]"]
    outcome = talk(replies, dialogue(budget=budget))
    assert (outcome.output, outcome.notes) == ("", ("no answer",))
    told = [text for _, role, text in lines(outcome) if role == "student" and "last" in text]
    assert len(told) == 1 and lines(outcome)[-1][2] == told[0]


def test_what_is_no_action_is_noted_and_goes_no_further() -> None:
    outcome = talk(["I say Rome.", "Act! [Rethink]", "T1", "Rome it is."], dialogue(budget=1))
    assert lines(outcome) == [
        ("s", "student", "act|Where?|-|-"),
        ("t", "teacher", "advise|Where?|-|-|no action|-"),
        ("t", "teacher", "watch|Where?|-|-|no action|-|Act! [Rethink]"),
        ("s", "student", "last|Where?|-|Act! [Rethink]"),
    ]
    assert outcome.output == ""
    assert outcome.notes == (
        "student: no action at turn 1", "student: no action at turn 2", "no answer",
    )  # fmt: skip


def test_comment_without_verdict_and_empty_summary_are_noted() -> None:
    outcome = talk(
        ["Search[a]", "b", "S1", "Fine.", "T1", "Search[a]", "b", "", "[Continue]", " ",
         "Finish[c]"],
        dialogue(budget=2),
    )  # fmt: skip
    assert outcome.notes == (
        "teacher: neither [Continue] nor [Rethink] at turn 1",
        "student: empty summary at turn 2",
        "teacher: empty summary at turn 2",
    )
    assert lines(outcome)[-1][2] == "last|Where?|S1|[Continue]"


def test_summarizer_writes_both_summaries() -> None:
    roles = ["summarizer", "teacher", "student"]
    outcome = talk(["Search[a]", "b", "S1", "[Continue]", "T1", "Finish[c]"], dialogue(roles=roles))
    assert [(arm, role) for arm, role, _ in lines(outcome)] == [
        ("s", "student"), ("search", "search"), ("w", "summarizer"), ("t", "teacher"),
        ("w", "summarizer"), ("s", "student"),
    ]  # fmt: skip
    assert lines(outcome)[-1][2] == "act|Where?|S1|[Continue]"


def test_text_of_a_reply_is_never_taken_for_a_place() -> None:
    outcome = talk(
        ["Search[{advice} \\1]", "{question}", "{advice}", "[Continue]", "", "Finish[x]"]
    )
    assert lines(outcome)[2][2] == "note|Where?|-|-|Search[{advice} \\1]|{question}"
    assert lines(outcome)[-1][2] == "act|Where?|{advice}|[Continue]"


def test_what_is_particular_to_an_arm_stands_last() -> None:
    told = plain_arm("told", instruction="Be brief.", system="You are kind.")
    workflow = dialogue(budget=0, separator="|")
    outcome = advance(workflow.run(QUERY, (told,)), [told, told], lambda ask: "Finish[x]")
    assert isinstance(outcome, Finished)
    assert outcome.asks[0].messages == (
        Message("system", "You are kind."),
        Message("user", "last|Where?|-|-|Be brief."),
    )


@given(st.lists(st.text(max_size=12) | st.sampled_from(["Search[a]", "Finish[b]", "[Continue]"])))
def test_any_replies_make_a_dialogue(replies: list[str]) -> None:
    said = iter(replies)
    outcome = advance(dialogue().run(QUERY, (T, S)), [T, S], lambda ask: next(said, ""))
    assert isinstance(outcome, Finished)
    assert len(outcome.asks) <= 3 * 5 + 1
    assert bool(outcome.output) != ("no answer" in outcome.notes)


# Settings


def test_default_prompts_fill_every_place_and_name_no_turn_but_the_last() -> None:
    prompts = default_prompts()
    for name in PLACES:
        assert all(place in getattr(prompts, name) for place in ("{question}", "{summary}"))
    assert all(f"{{{place}}}" in prompts.student for place in PLACES["student"])
    assert TeacherStudent().prompts == prompts
    outcome = advance(TeacherStudent().run(QUERY, (T,)), [T, T], lambda ask: "Search[x]")
    assert isinstance(outcome, Finished)
    prompt = [ask.messages[-1].content for ask in outcome.asks]
    assert not any("{" in text for text in prompt)
    beginning = prompts.last.split("{")[0]
    assert [text.startswith(beginning) for text in prompt] == [False] * 15 + [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": ["teacher"]}, "needs teacher and student, each role once"),
        ({"roles": ["teacher", "student", "student"]}, "each role once"),
        ({"roles": ["teacher", "pupil"]}, "roles.1"),
        ({"roles": 3}, "roles"),
        ({"hops": 3}, "is the number of roles, 2"),
        ({"budget": -1}, "budget"),
        ({"prompts": {**SHORT, "student": "{answer}"}}, "student: unknown place {answer}"),
        ({"prompts": {**SHORT, "nothing": "{found}"}}, "nothing: unknown place {found}; known: no"),
        ({"prompts": {"student": "x"}}, "prompts.last"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        dialogue(**changes)
    assert message in str(error.value)


def test_hops_are_the_number_of_roles() -> None:
    assert TeacherStudent().hops == 2
    three = dialogue(roles=["student", "teacher", "summarizer"])
    assert three.hops == 3 and dialogue(**three.model_dump()) == three
    assert (TeacherStudent().trajectories(3), three.trajectories(2)) == (9, 8)


def test_fingerprint_is_what_is_said() -> None:
    found = [
        dialogue(),
        dialogue(prompts={**SHORT, "last": "end"}),
        dialogue(budget=2),
        dialogue(roles=["student", "teacher"]),
        dialogue(search={"top": 2}),
        TeacherStudent(),
    ]
    assert len({workflow.fingerprint for workflow in found}) == len(found)
    encoder = {"method": "sentence-transformers", "content": "1"}
    moved = [dialogue(search={**encoder, "path": path}) for path in ("here", "there")]
    assert moved[0].fingerprint == moved[1].fingerprint


# Enumeration

Say = Callable[[Request], str]


def hashed(request: Request) -> str:
    """A search of its own for everything that is asked."""
    return f"Search[{request.arm.name} {digest_text(request.key)}] [Continue]"


def enumerate_all(workflow: TeacherStudent, pool: Pool, say: Say) -> tuple[Any, list[Request]]:
    """The rows of one query, and all that was asked."""
    enumerator = Enumerator(workflow, pool)
    asked = todo = enumerator.start(QUERY, 1)
    while todo:
        todo = [
            unlocked
            for request in todo
            for unlocked in enumerator.supply(request.key, Reply(say(request), 3, 2))
        ]
        asked = asked + todo
    assert enumerator.complete == 1
    return enumerator.take_rows(), asked


@pytest.mark.parametrize("arms", [1, 2, 3])
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_turns_that_assignments_share_are_generated_once(arms: int, budget: int) -> None:
    pool = tuple(plain_arm(name) for name in "abc"[:arms])
    rows, asked = enumerate_all(dialogue(budget=budget), pool, hashed)
    names = [row["sequence"] for row in rows["trajectories"]]
    assert sorted(names) == [">".join(pair) for pair in product("abc"[:arms], repeat=2)]
    # The first act, search and summary depend on the student alone, all else on the pair.
    first = 3 * arms + 2 * arms**2
    whole = first + 5 * arms**2 * (budget - 1) + arms**2 if budget else arms
    assert len(asked) == len({request.key for request in asked}) == whole
    assert {len(row["asks"]) for row in rows["trajectories"]} == {5 * budget + 1}
    assert [(row["depth"], row["role"], row["stop"]) for row in rows["states"]].count(
        (1, "student", False)
    ) == arms


@pytest.mark.parametrize("arms", [2, 3])
def test_three_roles_are_enumerated_too(arms: int) -> None:
    pool = tuple(plain_arm(name) for name in "abc"[:arms])
    workflow = dialogue(roles=["teacher", "student", "summarizer"], budget=1)
    rows, asked = enumerate_all(workflow, pool, hashed)
    assert len(rows["trajectories"]) == workflow.trajectories(arms) == arms**3
    # act and search: student; its summary: and summarizer; comment: student and teacher; then all
    assert len(asked) == 2 * arms + 2 * arms**2 + 2 * arms**3
    roles = Counter(ask["role"] for ask in rows["trajectories"][0]["asks"])
    assert roles == {"student": 2, "search": 1, "summarizer": 2, "teacher": 1}


def test_same_replies_are_asked_for_once() -> None:
    pool = (plain_arm("a"), plain_arm("b"))
    rows, asked = enumerate_all(dialogue(budget=1), pool, lambda request: "Search[x]")
    # One search; of a and b each: act, summary, comment, teacher's summary, last act.
    assert len(asked) == 1 + 2 * 5
    assert [row["output"] for row in rows["trajectories"]] == [""] * 4
    noted = ["teacher: neither [Continue] nor [Rethink] at turn 1", "no answer"]
    assert [row["notes"] for row in rows["trajectories"]] == [noted] * 4


# From the experiment file to the router, with scripts

PASSAGES = [["Paris", ["Paris lies in France."]], ["Rome", ["Rome lies in Italy."]]]
TEACHER = [
    ["(?s)^You watch.*you give advice", "Good. [Continue]"],
    ["^You watch", "it goes well"],
]
SEARCHER = [
    [r"(?s)^You answer.*notes so far: \(nothing\)", "Hm. Action: Search[Italy]"],
    [r"(?s)^You answer.*notes so far: noted (\w+)", r"Action: Finish[\1]"],
    [r"(?s)^You are answering.*search found:\s+(\w+)", r"noted \1"],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scripts of a, which searches, and of b, which never acts; a question for each split."""
    write_script(tmp_path, "a", SEARCHER + TEACHER)
    write_script(tmp_path, "b", [["^You answer", "Rome, I think."], *TEACHER])
    for split in ("train", "valid", "test"):
        row = {"question": f"{split}: where?", "answer": "Rome", "context": PASSAGES}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def raw(**sections: Any) -> dict[str, Any]:
    found = settings("ab", workflow={"name": "teacher_student"}, **sections)
    found["data"]["made"] |= {
        "reader": "hotpotqa", "options": {"apart": True, "passages": "all"},
    }  # fmt: skip
    return found


@pytest.mark.parametrize("schedule", ["resident", "swap"])
def test_sampled_dialogues_are_a_tree_of_casts(folder: Path, schedule: str) -> None:
    experiment = load(folder, raw(sampling={"schedule": schedule}))
    planned = {(line.arm, line.hop) for line in make_plan(experiment).lines}
    assert planned == {("a", 2), ("b", 2), ("search", 2)}
    tally = Sampler(experiment).run()
    assert tally.complete == 3 and set(tally.generated) == {"a", "b", "search"}
    assert tally.generated["search"] == 1  # the same passages, the same text
    rows = {row["sequence"]: row for row in table(experiment.db, "outcomes").to_dicts()}
    assert {name: (row["answer"], row["f1"]) for name, row in rows.items()} == {
        "a>a": ("Rome", 1), "b>a": ("Rome", 1), "a>b": ("", 0), "b>b": ("", 0),
    }  # fmt: skip
    assert rows["a>a"]["notes"] == []
    silent = [f"student: no action at turn {turn}" for turn in (1, 2, 3, 4)]
    assert rows["b>b"]["notes"] == [*silent, "no answer"]
    with Store(experiment.db) as store:
        tree = load_replay(store, experiment.config, "train").tree
    assert tree.hops == 2 and tree.arms == ("a", "b")
    assert sorted(tree.path_ML.tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert tree.hop_N.tolist() == [0, 1, 1]
    assert not (tree.leaf_NA[:, -1] >= 0).any()


def test_second_run_begins_no_query(folder: Path) -> None:
    sample(folder, raw())
    before = table(folder / "small.duckdb", "generations")
    again = Sampler(load(folder, raw()))
    tally = again.run()
    assert not tally.generated and tally.complete == 3 and not again.known
    assert sum(tally.cached.values()) == len(before)
    plan = make_plan(load(folder, raw()))
    assert plan.missing == 0


def test_plan_bounds_what_a_query_takes(folder: Path) -> None:
    plan = make_plan(load(folder, raw()))
    by_arm: Counter[str] = Counter()
    for line in plan.lines:
        by_arm[line.arm] += line.generations
        assert line.arm != "search" or line.prompt_tokens == line.output_tokens == 0
    first, later = 3 * 2 + 2 * 4, 5 * 4
    assert sum(by_arm.values()) == 3 * (first + 2 * later + 4)
    assert by_arm["search"] == 3 * (2 + 2 * 4)
    one = plan.missing // 3
    assert sample(folder, raw(), budget=one - 1).generated.total() == 0
    sampled = sample(folder, raw(), budget=one)
    assert sampled.complete >= 1 and 0 < sampled.generated.total() <= one


def test_tokens_are_summed_by_role(folder: Path) -> None:
    sample(folder, raw())
    found = table(folder / "small.duckdb", "roles", 'experiment, split, sequence, "role"')
    whole = {
        (row["split"], row["sequence"]): row
        for row in table(folder / "small.duckdb", "sequences").to_dicts()
    }
    assert {row["role"] for row in found.to_dicts()} == {"search", "student", "teacher"}
    for (split, sequence), row in whole.items():
        parts = [one for one in found.to_dicts()
                 if (one["split"], one["sequence"]) == (split, sequence)]  # fmt: skip
        for column in ("prompt_tokens", "output_tokens", "cost"):
            assert sum(one[column] for one in parts) == pytest.approx(row[column])
        (search,) = [one for one in parts if one["role"] == "search"] or [{"cost": 0}]
        assert search["cost"] == 0


def test_coverage_counts_where_dialogues_end(folder: Path) -> None:
    sample(folder, raw())
    found = table(folder / "small.duckdb", "coverage").to_dicts()
    assert [(row["depth"], row["expected"], row["trajectories"]) for row in found] == [
        (2, 4, 4)
    ] * 3


@pytest.mark.parametrize("sequence", ["a>a", "a>b", "b>a", "b>b"])
def test_live_equals_cached(folder: Path, sequence: str) -> None:
    sample(folder, raw())
    experiment = load(folder, raw())
    (query,) = experiment.splits["test"]
    policy = SequencePolicy("ab", ["ab".index(name) for name in sequence.split(">")])
    encoder = make_encoder(experiment.config.features)
    engines = Engines(make_engine)
    live = Live(experiment.config, experiment.workflow, experiment.pool, encoder, engines)
    router = Router(live, policy)
    route = router.route(query.question, query.passages)
    engines.close()
    with Store(experiment.db) as store:
        cached = store.sql(
            "select o.*, t.asks from outcomes o join trajectories t using (trajectory_id) "
            "where o.sequence = $1 and o.split = 'test'",
            [sequence],
        ).row(0, named=True)
    assert route.sequence == sequence
    assert (route.answer, route.notes) == (cached["answer"], cached["notes"])
    assert route.cost == cached["cost"]
    called = [(step.role, step.prompt_tokens, step.output_tokens) for step in route.steps]
    assert called == [(a["role"], a["prompt_tokens"], a["output_tokens"]) for a in cached["asks"]]
    assert len(route.choices) == 2
    if sequence == "a>a":
        assert [(step.arm, step.cost) for step in route.steps if step.role == "search"] == [
            ("search", 0)
        ]
        assert router.route(query.question).answer == ""  # nothing to search, nothing found


def test_the_command_routes_with_passages_and_says_roles_and_notes(folder: Path) -> None:
    experiment = load(folder, raw(runs=str(folder / "runs")))
    Sampler(experiment).run()
    config = experiment.config.train.model_copy(update={"algo": "knn", "stop": False})
    run = train(with_train(experiment, config))
    (query,) = experiment.splits["test"]
    (folder / "texts.txt").write_text("\n\n".join(query.passages))
    command = ["route", str(run.folder), query.question]

    def said(*options: str) -> str:
        done = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    with_texts = said("--passages", str(folder / "texts.txt"))
    assert "a, student (" in with_texts and "search, search (" in with_texts
    assert "Rome" in with_texts and "no answer" not in with_texts
    assert "no answer" in said()
    found = CliRunner().invoke(app, [*command, "--passages", str(folder / "none.txt")])
    assert isinstance(found.exception, DataError) and "--passages" in str(found.exception)


def test_prompts_of_a_file_are_in_the_configuration(folder: Path) -> None:
    (folder / "mine.yaml").write_text(json.dumps(SHORT))
    (folder / "other.yaml").write_text(json.dumps(SHORT))
    paths = ("mine.yaml", "other.yaml", str(folder / "mine.yaml"))
    found = [load(folder, raw(), f"workflow.prompts={path}") for path in paths]
    assert len({experiment.workflow.fingerprint for experiment in found}) == 1
    assert found[0].workflow.fingerprint == dialogue().fingerprint
    assert found[0].config.workflow["prompts"] == SHORT
    again = Experiment(found[0].config, Path("elsewhere") / "gone.yaml")
    assert again.workflow == found[0].workflow
    (folder / "mine.yaml").write_text(json.dumps({**SHORT, "last": "end"}))
    changed = load(folder, raw(), "workflow.prompts=mine.yaml")
    assert changed.workflow.fingerprint != found[0].workflow.fingerprint


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("workflow.prompts=none.yaml", r"workflow\.prompts: none\.yaml does not exist"),
        ("workflow.prompts=train.jsonl", r"workflow: prompts\.\w+: "),
        ("workflow.prompts=list.yaml", r"workflow\.prompts: .*list\.yaml: no YAML mapping"),
        ("workflow.prompts=broken.yaml", r"workflow\.prompts: .*broken\.yaml:\d+: "),
        ("workflow.search.path=none", r"workflow\.search\.path: none does not exist"),
        ("workflow.search.method=guess", r"workflow: search\.method: "),
        ("workflow.prompt=x", r"workflow: prompt: unknown setting; did you mean 'prompts'"),
        ("arms.search={model: a}", r"arms\.search: a tool of the workflow has that name"),
        ("models.a.engine=search", r"models\.a\.engine: search is no model"),
    ],
)
def test_wrong_files_and_names_are_refused(folder: Path, sets: str, message: str) -> None:
    (folder / "list.yaml").write_text("[1]")
    (folder / "broken.yaml").write_text("{")
    with pytest.raises(ConfigError, match=message):
        _ = load(folder, raw(), sets).pool
