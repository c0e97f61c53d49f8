"""Trees too large to be enumerated, and texts that no database can store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.experiments import (
    load,
    plain_arm,
    sample,
    settings,
    table,
    write_script,
    write_scripts,
)
from hypothesis import given
from hypothesis import strategies as st

from hcache.data.queries import Query
from hcache.engines import Generation, Request, ScriptedEngine
from hcache.errors import ConfigError
from hcache.experiment import Experiment, build_workflow
from hcache.keys import well_formed
from hcache.models.arms import Arm
from hcache.sampling import Sampler, make_plan
from hcache.sampling.enumerator import Enumerator, Reply
from hcache.store import Spool

TEN = "abcdefghij"


@pytest.mark.parametrize("start", [make_plan, Sampler])
def test_tree_too_large_is_refused_before_it_is_enumerated(
    tmp_path: Path, start: Callable[[Experiment], object]
) -> None:
    write_scripts(tmp_path, TEN)
    experiment = load(tmp_path, settings(TEN, workflow={"name": "relay", "hops": 6}))
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        start(experiment)
    assert time.process_time() - started < 2
    assert "1,111,110 trajectories of each question" in refused.value.message
    assert "At `workflow.hops` 4 there are 11,110." in refused.value.hint


def test_replicas_beyond_measure_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"replicas.*65536"):
        load(folder, settings("ab", sampling={"replicas": 10_000_000_000}))
    with pytest.raises(ConfigError, match="360,000 trajectories of each question"):
        make_plan(load(folder, settings("ab", sampling={"replicas": 60_000})))


@given(
    arms=st.integers(1, 3),
    hops=st.integers(1, 3),
    kind=st.sampled_from(["relay", "cascade", "teacher_student"]),
)
def test_count_in_closed_form_is_that_of_the_enumeration(arms: int, hops: int, kind: str) -> None:
    horizon = {} if kind == "teacher_student" else {"hops": hops}
    workflow = build_workflow({"name": kind, **horizon}, "")
    pool: tuple[Arm, ...] = tuple(map(plain_arm, "abc"[:arms]))
    enumerator = Enumerator(workflow, pool)
    todo = enumerator.start(Query("q", ("a",)), 2)
    while todo:
        key = todo.pop().key
        todo += enumerator.supply(key, Reply(workflow.stand_in(key), 1, 1))
    assert len(enumerator.rows["trajectories"]) == 2 * workflow.trajectories(arms)


@given(st.text(st.characters(codec=None)) | st.text(st.sampled_from("a\ud800\udc00\ufeffé")))
def test_well_formed_text_can_be_stored_and_stays(text: str) -> None:
    made = well_formed(text)
    made.encode()
    assert well_formed(made) == made
    try:
        text.encode()
    except UnicodeEncodeError:
        assert "\ufffd" in made or len(made) < len(text)
    else:
        assert made == text


class Halves(ScriptedEngine):
    """Says half a surrogate pair."""

    def reply(self, request: Request) -> Generation:
        """See `QueueEngine`."""
        return Generation(request.key, "a \ud800 b", (1, 2, 3), 1, "stop")


def test_reply_with_half_a_surrogate_pair_is_stored_and_sampling_goes_on(folder: Path) -> None:
    raw = settings("a")
    sample(folder, raw, lambda arm, logprobs: Halves(lambda request: ""))
    assert set(table(folder / raw["db"], "generations")["text"]) == {"a \ufffd b"}
    assert sample(folder, raw).generated.total() == 0


def test_answer_that_escapes_half_a_surrogate_pair_is_stored(folder: Path) -> None:
    raw = settings("a")
    raw["data"]["made"]["extract"] = "short"
    write_script(folder, "a", [["", r'{"answer": "x \\ud800"}']])
    sample(folder, raw)
    assert set(table(folder / raw["db"], "scores")["answer"]) == {"x \ufffd"}


def test_spool_that_holds_half_a_surrogate_pair_is_no_dead_end(folder: Path) -> None:
    raw = settings("a")
    spool = Spool(load(folder, raw).db)
    spool.append(
        [
            {
                "generation_id": "0" * 32,
                "fingerprint": "f",
                "messages_id": "m",
                "messages": '[{"role":"user","content":"\ud800"}]',
                "sample": 0,
                "text": "\ud800",
                "token_ids": [1],
                "prompt_tokens": 1,
                "output_tokens": 1,
                "cached_tokens": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "seconds": 0.0,
                "provenance_id": "p",
                "provenance": "{}",
                "created": "2026-01-01T00:00:00",
            }
        ]
    )
    spool.close()
    assert sample(folder, raw).complete == 5
    assert "\ufffd" in set(table(folder / raw["db"], "generations")["text"])
