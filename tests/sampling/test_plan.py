"""The plan: what is complete is counted in the database, and equals a slow twin that enumerates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import load, sample, settings, write_script

from hcache.experiment import Experiment
from hcache.sampling import plan
from hcache.sampling.plan import Line, make_plan


def enumerated(experiment: Experiment) -> Sequence[Line]:
    """The lines of a plan that enumerates every query: the slow twin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_counted", lambda experiment: ({}, experiment.queries()))
        return make_plan(experiment).lines


def changed(raw: dict[str, Any], what: str) -> dict[str, Any]:
    if what == "three hops":
        return raw | {"workflow": {"name": "relay", "hops": 3}}
    if what == "replicas":
        raw["arms"]["b"]["temperature"] = 1.0
        return raw | {"sampling": {"replicas": 2}}
    if what == "a cascade":
        return raw | {"workflow": {"name": "cascade", "hops": 3}}
    if what == "arms alike":
        raw["arms"]["twin"] = {"model": "b"}
    return raw


@pytest.mark.parametrize(
    "what", ["as it is", "three hops", "replicas", "a cascade", "arms alike", "equal replies"]
)
@pytest.mark.parametrize("budget", [None, 45])
def test_counts_are_those_of_enumerating_all(folder: Path, what: str, budget: int | None) -> None:
    if what == "equal replies":
        write_script(folder, "b", [["1", ""], ["(?s)^.*$", "the same"]])
        write_script(folder, "a", [["1", ""], ["(?s)^(.*)$", r"a \1"]])
    raw = changed(settings("abc"), what)
    before = make_plan(load(folder, raw))
    sample(folder, raw, budget=budget)
    experiment = load(folder, raw)
    after = make_plan(experiment)
    found = [(one.arm, one.hop, one.generations, one.cached) for one in after.lines]
    assert found == [
        (one.arm, one.hop, one.generations, one.cached) for one in enumerated(experiment)
    ]
    assert after.missing < before.missing and (budget or after.missing == 0)


def test_what_is_complete_is_not_enumerated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = settings("abc")
    sample(folder, raw, budget=24)
    walked = []

    def counting(experiment: Any, query: Any, known: Any, walk: Any = plan._walk) -> Any:
        walked.append(query.id)
        return walk(experiment, query, known)

    monkeypatch.setattr(plan, "_walk", counting)
    make_plan(load(folder, raw))
    assert len(walked) == 3  # of five, two are complete
    sample(folder, raw)
    walked.clear()
    assert make_plan(load(folder, raw)).missing == 0
    assert walked == []


def test_a_dialogue_with_several_calls_a_hop_is_counted_alike(folder: Path) -> None:
    raw = settings("ab", workflow={"name": "teacher_student", "hops": 2})
    sample(folder, raw)
    experiment = load(folder, raw)
    assert make_plan(experiment).lines == enumerated(experiment)
