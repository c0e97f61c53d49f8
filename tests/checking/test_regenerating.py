"""Stored generations made again: equal, or different with what has changed since."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.experiments import Raw, load, sample, settings, write_scripts
from helpers.shell import Shell

from hcache.checking.regenerating import Regenerated, regenerate
from hcache.engines import Generation, Request, ScriptedEngine
from hcache.engines.scripted import read_script
from hcache.experiment import Experiment
from hcache.models.arms import Arm
from hcache.store import Store


class Newer(ScriptedEngine):
    """The scripted engine of another version, which says the end of some replies otherwise."""

    def reply(self, request: Request) -> Generation:
        same = super().reply(request)
        if request.arm.name == "a" or "train1" not in same.text:
            return same
        return replace(same, text=f"{same.text}!", token_ids=(*same.token_ids[:-1], 7))


def newer(arm: Arm, logprobs: bool) -> ScriptedEngine:
    engine = Newer(read_script(arm.path))
    engine.provenance = {
        "engine": "scripted",
        "vllm": "2",
        "arguments": '{"eager":true}',
        "new": "x",
    }
    return engine


@pytest.fixture(scope="module")
def raw() -> Raw:
    return settings("ab")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, raw: Raw) -> Experiment:
    folder = tmp_path_factory.mktemp("verify")
    write_scripts(folder, "ab")
    sample(folder, raw)
    return load(folder, raw)


def found(experiment: Experiment, count: int, **how: object) -> list[Regenerated]:
    with Store(experiment.db) as store:
        return list(regenerate(store, experiment, count, **how))  # type: ignore[arg-type]


def test_the_same_engine_says_the_same(experiment: Experiment) -> None:
    assert [(each.arm, each.equal, each.different) for each in found(experiment, 4)] == [
        ("a", 4, []), ("b", 4, [])
    ]  # fmt: skip
    assert [each.made for each in found(experiment, 1000)] == [15, 15]  # there are no more


def test_what_differs_is_named_with_what_has_changed(experiment: Experiment) -> None:
    def older(arm: Arm, logprobs: bool) -> ScriptedEngine:
        engine = ScriptedEngine(read_script(arm.path))
        engine.provenance = {"engine": "scripted", "vllm": "1", "arguments": '{"eager":false}'}
        return engine

    folder = experiment.db.parent / "older"
    folder.mkdir()
    write_scripts(folder, "ab")
    sample(folder, settings("ab"), factory=older)
    with Store(folder / "small.duckdb") as store:
        a, b = regenerate(store, load(folder, settings("ab")), 15, factory=newer)
    assert (a.equal, a.changed) == (15, {})
    assert (b.equal, len(b.different)) == (12, 3)
    assert b.changed == {"vllm": ("1", "2"), "arguments.eager": ("False", "True")}
    assert "12 of 15 generations are equal" in f"{b}"
    assert "vllm was 1, is 2" in f"{b}"
    assert f"{b.different[0]} differs from token" in f"{b}"


def test_the_same_seed_draws_the_same_ones(experiment: Experiment) -> None:
    def keys(seed: int) -> list[str]:
        return [key for each in found(experiment, 5, seed=seed, factory=silent) for key in
                each.different]  # fmt: skip

    assert keys(1) == keys(1)
    assert keys(1) != keys(2)


def silent(arm: Arm, logprobs: bool) -> ScriptedEngine:
    return ScriptedEngine(lambda request: "x")


def test_an_arm_without_generations_is_said(experiment: Experiment, raw: Raw) -> None:
    more = load(experiment.db.parent, raw, "arms.a.max_tokens=3")
    assert f"{found(more, 3)[0]}" == "a: the database holds no generation of it"


def test_the_command(
    experiment: Experiment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = Shell(experiment.db.parent, capsys, monkeypatch)
    assert "b: 20" not in shell("verify", "experiment.yaml")
    said = json.loads(shell("verify", "experiment.yaml", "--count", "3", "--format", "json"))
    assert [(each["arm"], each["equal"]) for each in said] == [("a", 3), ("b", 3)]
    monkeypatch.setattr(regenerate, "__defaults__", (0, newer, lambda *_: None))
    assert "3 of 30 generations came out otherwise" in shell("verify", "experiment.yaml", code=1)
