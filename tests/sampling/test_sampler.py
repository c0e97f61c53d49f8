"""Sampling: each generation is made once, and nothing that was finished is ever lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers.experiments import (
    FaultyEngine,
    facts,
    failing,
    generated,
    load,
    sample,
    settings,
    table,
    write_questions,
    write_script,
    write_scripts,
)
from helpers.paths import ROOT

from hcache.checking import check_database
from hcache.data.extractors import version_of
from hcache.data.metrics import METRICS
from hcache.engines import Request, ScriptedEngine
from hcache.engines.scripted import read_script
from hcache.errors import ArmError, DataError, EngineError, StoreBusyError, StoreError
from hcache.experiment import Experiment
from hcache.models.arms import Arm
from hcache.models.replies import ReplyCount, in_words
from hcache.replay import loading
from hcache.replay.loading import load_replay as replay
from hcache.sampling import Sampler, make_plan, sampler, scoring
from hcache.sampling.scoring import Scored, rescore
from hcache.store import Rows, Store, spool_path, store, wait_and_write, write
from hcache.store.schema import UNIQUE
from hcache.store.store import insert_batch

QUERIES = 5
OUTDATED = r"18 of 18 scores 'em' are by another version.*hcache rescore EXPERIMENT\.yaml"
Facts = dict[str, list[tuple[Any, ...]]]


def assert_unique(db: Path) -> None:
    with Store(db) as store:
        for name, keys in UNIQUE.items():
            rows = store.sql(f"select count(*), count(distinct ({keys})) from {name}").row(0)
            assert rows[0] == rows[1], name


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own; the experiment's file is in `folder`."""
    program = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    here = ROOT / "tests"
    return subprocess.run(
        program, cwd=here, capture_output=True, text=True, check=False, timeout=1800
    )


# What is generated


def test_each_distinct_prompt_is_generated_once(folder: Path) -> None:
    tally = sample(folder, settings("ab"))
    assert dict(tally.generated) == {"a": QUERIES * 3, "b": QUERIES * 3}
    assert dict(tally.expected) == dict(tally.generated)
    assert (tally.complete, tally.left, tally.missing) == (QUERIES, 0, 0)
    assert len(table(folder / "small.duckdb", "generations")) == QUERIES * 6
    assert not spool_path(folder / "small.duckdb").exists()
    assert_unique(folder / "small.duckdb")


def test_equal_replies_share_what_follows(folder: Path) -> None:
    for name in "ab":
        write_script(folder, name, [["", "same"]])
    raw = settings("ab")
    raw["models"]["b"]["max_model_len"] = 1024  # another identity, although it says the same
    assert generated(folder, raw) == {"a": QUERIES * 2, "b": QUERIES * 2}
    assert len(table(folder / "small.duckdb", "trajectories")) == QUERIES * 6


def test_arms_that_ask_the_same_of_one_checkpoint_share_generations(folder: Path) -> None:
    raw = settings("a")
    raw["arms"]["twin"] = {"model": "a", "price": 9}
    tally = sample(folder, raw)
    assert sum(tally.generated.values()) == QUERIES * 2
    assert_unique(folder / "small.duckdb")


def test_second_run_generates_nothing_and_loads_no_library_of_models(folder: Path) -> None:
    raw = settings("ab")
    sample(folder, raw)
    before = facts(folder / "small.duckdb")
    done = python(
        folder,
        """
        import sys
        from pathlib import Path
        from hcache.experiment import Experiment
        from hcache.sampling import Sampler
        folder = Path(sys.argv[1])
        tally = Sampler(Experiment.load(folder / "experiment.yaml", (), folder / "small.duckdb"))
        tally = tally.run()
        print(sum(tally.generated.values()), sum(tally.cached.values()), tally.loads)
        print(sorted({"torch", "vllm", "transformers", "sklearn"} & set(sys.modules)))
        """,
    )
    assert done.stdout.split("\n")[:2] == [f"0 {QUERIES * 6} 0", "[]"], done.stderr
    assert facts(folder / "small.duckdb") == before


def test_only_what_is_new_is_generated(folder: Path) -> None:
    raw = settings("ab")
    sample(folder, raw)

    raw["workflow"]["hops"] = 3
    assert generated(folder, raw) == {"a": QUERIES * 4, "b": QUERIES * 4}

    raw["arms"]["a"]["price"] = 7
    raw["arms"] = {"first": raw["arms"]["a"], "b": raw["arms"]["b"]}
    assert generated(folder, raw) == {}

    raw["workflow"]["hops"] = 2
    raw["models"]["c"] = {"path": "c.json", "engine": "scripted"}
    raw["arms"]["c"] = {"model": "c"}
    new = {"first": QUERIES * 1, "b": QUERIES * 1, "c": QUERIES * 3}  # 3 + 9, less 2 + 4 there
    assert sum(new.values()) + QUERIES * 1 == QUERIES * (3 + 9 - 2 - 4)
    tally = sample(folder, raw)
    assert sum(tally.generated.values()) == QUERIES * 6
    assert tally.generated["c"] == QUERIES * 4
    assert_unique(folder / "small.duckdb")


def test_queries_stay_complete_when_an_arm_is_added(folder: Path) -> None:
    raw = settings("a")
    sample(folder, raw)
    wider = settings("abc")
    sample(folder, wider)
    experiment = load(folder, wider)
    with Store(experiment.db) as store:
        assert replay(store, experiment.config, "train").incomplete == 0
        coverage = store.sql("select expected, trajectories from coverage")
    assert coverage["expected"].equals(coverage["trajectories"])
    sample(folder, raw)  # and when it is taken away again
    sample(folder, wider)
    with Store(experiment.db) as store:
        assert replay(store, experiment.config, "train").incomplete == 0


def test_experiments_share_what_they_have_in_common(folder: Path) -> None:
    sample(folder, settings("ab"))
    assert generated(folder, settings("ab", name="other")) == {}
    assert_unique(folder / "small.duckdb")
    assert set(table(folder / "small.duckdb", "leaderboard")["experiment"]) == {"small", "other"}


def test_replicas_sample_anew_only_above_temperature_zero(folder: Path) -> None:
    raw = settings("ab", sampling={"replicas": 3}, workflow={"name": "relay", "hops": 1})
    raw["arms"]["b"]["temperature"] = 0.7
    assert generated(folder, raw) == {"a": QUERIES, "b": QUERIES * 3}
    samples = table(folder / "small.duckdb", "generations")["sample"]
    assert Counter(samples) == {0: QUERIES * 2, 1: QUERIES, 2: QUERIES}
    assert len(table(folder / "small.duckdb", "trajectories")) == QUERIES * 6


def test_a_model_that_moved_is_the_same_arm(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_scripts(tmp_path / place, "ab")
        assert sum(generated(tmp_path / place, settings("ab")).values()) == QUERIES * 6


def test_swap_loads_each_engine_as_seldom_as_can_be(tmp_path: Path) -> None:
    hops, names = 3, "abc"
    found = {}
    for schedule in ("resident", "swap"):
        folder = tmp_path / schedule
        folder.mkdir()
        write_scripts(folder, names)
        raw = settings(names, sampling={"schedule": schedule})
        raw["workflow"]["hops"] = hops
        loaded: list[int] = []

        def factory(arm: Arm, logprobs: bool, loaded: list[int] = loaded) -> ScriptedEngine:
            engine = FaultyEngine(arm, lambda answered: None)
            loaded.append(0)
            return engine

        tally = Sampler(load(folder, raw), factory).run()
        assert tally.loads == len(loaded)
        found[schedule] = tally.loads, facts(folder / "small.duckdb")
    assert found["resident"][0] == len(names)
    assert found["swap"][0] == hops * (len(names) - 1) + 1
    assert found["swap"][1] == found["resident"][1]


# What is an outcome


def test_too_long_prompt_and_empty_reply_are_outcomes(folder: Path) -> None:
    raw = settings("ab")
    raw["models"]["a"]["max_model_len"] = 8
    raw["arms"]["a"]["instruction"] = "one two three four five six"  # 7 words, and a reply's 8
    write_script(folder, "b", [["", ""]])
    assert generated(folder, raw) == {"a": QUERIES * 2, "b": QUERIES * 2}
    outcomes = table(folder / "small.duckdb", "outcomes").sort("sequence", "query_id")
    by_sequence = {name: rows for (name,), rows in outcomes.group_by("sequence")}
    assert set(by_sequence["a>a"]["f1"]) == {0.0}
    assert set(by_sequence["a>a"]["prompt_tokens"]) == {7 + 15}
    assert set(by_sequence["a>a"]["output_tokens"]) == {8}
    assert set(by_sequence["a>a"]["cost"]) == {(7 + 8 + 15) / 1000}
    assert set(by_sequence["b"]["f1"]) == {0.0}
    assert set(by_sequence["b"]["cost"]) == {2 * 1 / 1000}
    reasons = table(folder / "small.duckdb", "generations")["finish_reason"]
    assert Counter(reasons)["too_long"] == QUERIES
    assert generated(folder, raw) == {}  # an outcome is not tried again


def test_cut_replies_and_long_prompts_are_counted_by_arm(folder: Path) -> None:
    raw = settings("ab")
    raw["models"]["a"]["max_model_len"] = 8
    raw["arms"]["a"]["instruction"] = "one two three four five six"
    raw["arms"]["b"] |= {"max_tokens": 2, "instruction": "more words"}
    tally = sample(folder, raw)
    rows = table(folder / "small.duckdb", "generations")
    prints = {arm.name: arm.fingerprint for arm in load(folder, raw).pool}
    wanted = []
    for name in "ab":
        reasons = Counter(rows.filter(fingerprint=prints[name])["finish_reason"])
        wanted.append(ReplyCount(name, reasons.total(), reasons["length"], reasons["too_long"]))
    assert wanted[0].too_long > 0 and wanted[1].truncated > 0
    assert list(tally.replies) == wanted
    (first, second) = in_words(tally.replies)
    share = f"{wanted[0].too_long / wanted[0].replies:.1%}"
    assert first.startswith("a: ") and f"prompts too long for its window ({share})." in first
    assert second.startswith("b: ") and "replies cut at max_tokens (100.0%)." in second
    raw["arms"] = {"b": raw["arms"]["b"]}  # replies of the pool as it is now
    (only,) = sample(folder, raw).replies
    assert (only.arm, only.replies) == ("b", QUERIES * 2)
    (of_train,) = load(folder, raw).replies(["train"])
    assert of_train.replies == 3 * 2
    assert list(in_words([ReplyCount("c", 5, 0, 0), ReplyCount("d", 0, 0, 0)])) == []


def test_reply_is_cut_at_max_tokens(folder: Path) -> None:
    raw = settings("a")
    raw["arms"]["a"] |= {"max_tokens": 2, "instruction": "more words"}
    sample(folder, raw)
    rows = table(folder / "small.duckdb", "generations")
    assert set(rows["output_tokens"]) == {2}
    assert set(rows["finish_reason"]) == {"length"}


def test_any_text_comes_back_as_it_was_said(folder: Path) -> None:
    text = "nul \x00, 😀 ünïcode ﷽, a 'quote' \\ and \"more\""
    raw = settings("a", workflow={"name": "relay", "hops": 1})

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return ScriptedEngine(lambda request: text)

    sample(folder, raw, factory)
    assert set(table(folder / "small.duckdb", "generations")["text"]) == {text}
    assert set(table(folder / "small.duckdb", "trajectories")["output"]) == {text}


# Stopped in the middle


@pytest.fixture(scope="module")
def undisturbed(sampled: Experiment) -> Facts:
    """The facts of a run that nothing disturbed; identities do not depend on the folder."""
    return facts(sampled.db)


@pytest.mark.parametrize("after", [0, 7])
def test_interrupt_keeps_all_that_was_finished(
    undisturbed: Facts, folder: Path, after: int
) -> None:
    raw = settings("ab")
    with pytest.raises(KeyboardInterrupt):
        sample(folder, raw, failing("b", after, KeyboardInterrupt()))
    kept = len(table(folder / "small.duckdb", "generations"))
    assert kept >= after
    assert not spool_path(folder / "small.duckdb").exists()
    assert sum(generated(folder, raw).values()) == QUERIES * 6 - kept
    assert facts(folder / "small.duckdb") == undisturbed
    assert_unique(folder / "small.duckdb")


def test_kill_loses_nothing_that_was_finished(undisturbed: Facts, folder: Path) -> None:
    raw = settings("ab")
    experiment = load(folder, raw)
    done = python(
        folder,
        f"""
        import os, sys
        from pathlib import Path
        from helpers.experiments import FaultyEngine
        from hcache.experiment import Experiment
        from hcache.sampling import Sampler, sampler
        def fault(answered):
            sampler.COMMIT_SECONDS = 0.0 if answered < 5 else 60.0  # some are in the spool only
            if answered == 8:
                os.kill(os.getpid(), {int(signal.SIGKILL)})
        folder = Path(sys.argv[1])
        experiment = Experiment.load(folder / "experiment.yaml", (), folder / "small.duckdb")
        Sampler(experiment, lambda arm, logprobs: FaultyEngine(arm, fault)).run()
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 0 < len(table(experiment.db, "generations")) < 16
    finished = 8 + 8  # the engines take turns
    assert sum(generated(folder, raw).values()) == QUERIES * 6 - finished
    assert facts(experiment.db) == undisturbed
    assert_unique(experiment.db)


@pytest.mark.parametrize("after", [0, 4])
def test_failed_engine_leaves_its_outcomes_missing(
    undisturbed: Facts, folder: Path, after: int
) -> None:
    raw = settings("ab")
    with pytest.raises(EngineError, match="the engine died"):
        sample(folder, raw, failing("b", after))
    rows = table(folder / "small.duckdb", "outcomes")
    assert (rows["sequence"] == "a>a").sum() == QUERIES  # the other went on
    assert (rows["sequence"] == "b").sum() == after
    experiment = load(folder, raw)
    with Store(experiment.db) as store, pytest.raises(StoreError, match="no query of split train"):
        replay(store, experiment.config, "train")
    assert sum(generated(folder, raw).values()) > 0
    assert facts(experiment.db) == undisturbed


def test_engine_that_cannot_be_loaded_leaves_its_outcomes_missing(folder: Path) -> None:
    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        if arm.model == "a":
            raise EngineError("cannot load it.", "Mend it.")
        return ScriptedEngine(read_script(arm.path))

    with pytest.raises(EngineError, match="cannot load it"):
        sample(folder, settings("ab"), factory)
    assert (table(folder / "small.duckdb", "outcomes")["sequence"] == "b>b").sum() == QUERIES
    assert generated(folder, settings("ab"))["b"] == QUERIES


def with_system(raw: dict[str, Any]) -> dict[str, Any]:
    """The same with an arm c, of the model of a and with a system message."""
    raw["arms"]["c"] = {"model": "a", "system": "Be brief."}
    return raw


def no_system(request: Request) -> None:
    if request.messages[0].role == "system":
        raise ArmError(f"arms.{request.arm.name}: no system role.", "Leave it out.")


class NoSystemEngine(ScriptedEngine):
    """An engine whose template takes no system message."""

    def submit(self, request: Request) -> None:
        """See `Engine`."""
        no_system(request)
        super().submit(request)


@pytest.mark.parametrize("schedule", ["resident", "swap"])
def test_arm_that_its_engine_refuses_leaves_the_others_of_its_model(
    folder: Path, schedule: str
) -> None:
    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return NoSystemEngine(read_script(arm.path))

    raw = with_system(settings("ab", sampling={"schedule": schedule}))
    for _ in range(2):  # the second time there is nothing else left to do
        with pytest.raises(EngineError, match=r"^arms\.c: no system role\. Leave it out\.$"):
            sample(folder, raw, factory)
        rows = Counter(table(folder / "small.duckdb", "outcomes")["sequence"])
        assert rows == dict.fromkeys(["a>a", "a>b", "b>a", "b>b", "a", "b"], QUERIES)
    sample(folder, raw)
    assert set(table(folder / "small.duckdb", "outcomes")["sequence"]) > {"c>a", "a>c", "c>c"}


def test_all_that_failed_is_named(folder: Path) -> None:
    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        if arm.model == "b":
            raise EngineError("cannot load b.", "Mend it.")
        return NoSystemEngine(read_script(arm.path))

    with pytest.raises(EngineError) as caught:
        sample(folder, with_system(settings("ab")), factory)
    assert "cannot load b. Mend it." in str(caught.value)
    assert "arms.c: no system role." in str(caught.value)


@pytest.mark.parametrize("schedule", ["resident", "swap"])
def test_queries_begun_after_a_failure_still_use_the_other_engines(
    undisturbed: Facts, folder: Path, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "BATCH", 1)
    monkeypatch.setattr(sampler, "BACKLOG", 1)
    raw = settings("ab", sampling={"schedule": schedule})
    with pytest.raises(EngineError):
        sample(folder, raw, failing("a", 1))
    rows = table(folder / "small.duckdb", "outcomes")
    assert (rows["sequence"] == "b>b").sum() == QUERIES
    sample(folder, raw)
    assert facts(folder / "small.duckdb") == undisturbed


def test_replay_leaves_incomplete_queries_out_and_counts_them(folder: Path) -> None:
    raw = settings("ab")
    with pytest.raises(EngineError):
        sample(folder, raw, failing("b", 13))  # b owes the last two of its fifteen
    experiment = load(folder, raw)
    missing = 0
    with Store(experiment.db) as store:
        for split in ("train", "valid", "test"):
            try:
                loaded = replay(store, experiment.config, split)
            except StoreError:
                missing += 1  # the one query of a split of one
            else:
                missing += loaded.incomplete
                assert len(loaded.tree) + loaded.incomplete == len(experiment.splits[split])
    assert 1 <= missing <= 2


def test_longer_horizon_is_incomplete_until_it_is_sampled(folder: Path) -> None:
    raw = settings("ab", workflow={"name": "relay", "hops": 1})
    sample(folder, raw)
    raw["workflow"]["hops"] = 2
    assert generated(folder, raw, budget=0) == {}
    experiment = load(folder, raw)
    with Store(experiment.db) as store, pytest.raises(StoreError, match=r"no query .* complete"):
        replay(store, experiment.config, "train")


@pytest.mark.parametrize("change", ["another arm", "other weights"])
def test_larger_pool_is_incomplete_until_it_is_sampled(folder: Path, change: str) -> None:
    sample(folder, settings("ab"))
    raw = settings("abc" if change == "another arm" else "ab")
    raw["models"]["b"]["max_model_len"] = 99 if change == "other weights" else 2048
    assert generated(folder, raw, budget=0) == {}
    experiment = load(folder, raw)
    with Store(experiment.db) as store, pytest.raises(StoreError, match=r"no query .* complete"):
        replay(store, experiment.config, "train")


def test_more_replicas_are_incomplete_until_they_are_sampled(folder: Path) -> None:
    raw = settings("ab")
    for name in "ab":
        raw["arms"][name]["temperature"] = 1.0
    sample(folder, raw)
    raw["sampling"] = {"replicas": 2}
    assert generated(folder, raw, budget=0) == {}
    experiment = load(folder, raw)
    with Store(experiment.db) as store, pytest.raises(StoreError, match=r"no query .* complete"):
        replay(store, experiment.config, "train")


# The database while sampling


def test_sampler_does_not_wait_for_a_reader(
    undisturbed: Facts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(sampler, "COMMIT_SECONDS", 0.0)
    raw = settings("ab")
    experiment = load(folder, raw)
    experiment.record(10.0)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, duckdb; c = duckdb.connect(sys.argv[1], read_only=True);"
            "print('open', flush=True); sys.stdin.read()",
            str(experiment.db),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdin is not None and reader.stdout is not None
    try:
        assert reader.stdout.readline() == b"open\n"
        paused: list[float] = []
        pause = time.sleep

        def counted(seconds: float) -> None:
            paused.append(seconds)
            pause(seconds)

        monkeypatch.setattr(time, "sleep", counted)
        tally = Sampler(experiment).run()
        assert sum(paused) < 1  # it asks again at the end alone, for as long as its patience
        assert tally.waiting
        assert sum(tally.generated.values()) == QUERIES * 6
        assert spool_path(experiment.db).stat().st_size > 0
    finally:
        reader.stdin.close()
        reader.wait()
        reader.stdout.close()
    assert table(experiment.db, "generations").is_empty()
    assert generated(folder, raw) == {}
    assert facts(experiment.db) == undisturbed
    assert not spool_path(experiment.db).exists()


def test_two_samplers_of_one_database_are_refused(folder: Path) -> None:
    raw = settings("ab")

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        with pytest.raises(StoreBusyError, match=r"^process \d+ \(.*\) is sampling into "):
            sample(folder, raw)
        return ScriptedEngine(read_script(arm.path))

    assert sum(generated(folder, raw, factory=factory).values()) == QUERIES * 6


# Budget


@pytest.mark.parametrize("budget", [0, 5, 17, 18, 100])
def test_budget_fills_whole_queries_only(folder: Path, budget: int) -> None:
    raw = settings("ab")
    tally = sample(folder, raw, budget=budget)
    whole = min(budget // 6, QUERIES)
    assert sum(tally.generated.values()) == whole * 6
    assert (tally.complete, tally.left) == (whole, QUERIES - whole)


def test_budget_is_spent_on_what_is_missing(undisturbed: Facts, folder: Path) -> None:
    raw = settings("ab")
    done = 0
    while done < QUERIES:
        done += sum(generated(folder, raw, budget=12).values()) // 6
    assert facts(folder / "small.duckdb") == undisturbed


def test_no_query_is_begun_after_the_minutes_are_over(folder: Path) -> None:
    tally = Sampler(load(folder, settings("ab")), minutes=0.0).run()
    assert (sum(tally.generated.values()), tally.left) == (0, QUERIES)


# Data


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "", "answer": "x"}', "question"),
        ('{"question": "new"}', "answer"),
        ('{"question": "new", "answer": []}', "answer"),
        ('{"question": "train0", "answer": "x"}', "same question|duplicate"),
        ('{"question": "test0", "answer": "x"}', "duplicate question in .*te?.*train0?|duplicate"),
    ],
)
def test_defects_of_data_stop_before_anything_runs(folder: Path, row: str, message: str) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(DataError, match=message):
        Sampler(load(folder, settings("ab")))
    assert not (folder / "small.duckdb").exists()


# Scores


def test_new_metric_is_scored_without_a_model(folder: Path) -> None:
    raw = settings("ab")
    raw["data"]["made"]["metrics"] = ["f1"]
    sample(folder, raw)
    raw["data"]["made"]["metrics"] = ["f1", "em"]
    assert generated(folder, raw, factory=None) == {}
    scores = table(folder / "small.duckdb", "scores")
    assert Counter(scores["metric"]) == {"f1": QUERIES * 6, "em": QUERIES * 6}
    assert_unique(folder / "small.duckdb")


def test_rescoring_says_how_many_it_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = settings("ab")
    raw["data"]["made"]["metrics"] = ["f1"]
    sample(folder, raw)
    raw["data"]["made"]["metrics"] = ["f1", "em"]
    monkeypatch.setattr(scoring, "PAGE", 7)  # pages that neither metric nor query end
    pages: list[int] = []
    assert rescore(load(folder, raw), 1.0, pages.append) == Scored(new=QUERIES * 6)
    assert pages == [7, 14, 21, 28, 30]
    assert rescore(load(folder, raw), 1.0) == Scored()


def renewed(patch: pytest.MonkeyPatch, version: str) -> None:
    """As if the source of the metric `em` were changed."""

    def renewed_em(extract: str, metric: str) -> str:
        return version if metric == "em" else version_of(extract, metric)

    for module in (scoring, loading):
        patch.setattr(module, "version_of", renewed_em)


def test_scores_by_an_older_version_are_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = settings("ab", quality="em")
    sample(folder, raw)
    experiment, db = load(folder, raw), folder / "small.duckdb"
    before = table(db, "scores")
    monkeypatch.setitem(METRICS.entries, "em", lambda answer, references: 0.0)
    renewed(monkeypatch, "2")
    with Store(db) as store, pytest.raises(StoreError, match=OUTDATED):
        replay(store, experiment.config, "train")
    right = int((before.filter(metric="em")["value"] == 1).sum())
    assert 0 < right < QUERIES * 6
    tally = sample(folder, raw)
    assert (tally.generated, tally.scored) == ({}, Scored(anew=QUERIES * 6, changed=right))
    assert_unique(db)
    scores = table(db, "scores")
    assert set(scores.filter(metric="em")["value"]) == {0.0}
    assert set(scores.filter(metric="em")["version"]) == {"2"}
    assert scores.filter(metric="f1").equals(before.filter(metric="f1"))
    with Store(db) as store:
        assert set(replay(store, experiment.config, "train").tree.quality_M.tolist()) == {0.0}
    assert sample(folder, raw).scored == Scored()


def test_a_mixture_of_versions_is_refused_until_all_is_scored_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = settings("ab", quality="em")
    sample(folder, raw)
    renewed(monkeypatch, "2")
    experiment, db = load(folder, raw), folder / "small.duckdb"
    old = table(db, "scores").filter(metric="em")
    few = old["trajectory_id"].sort()[:11].to_list()
    rows = old.filter(old["trajectory_id"].is_in(few)).to_dicts()
    write(db, {"scores": [row | {"version": "2"} for row in rows]})
    with Store(db) as store:
        for split in ("train", "test"):
            with pytest.raises(StoreError, match=r"of \d+ scores 'em'.*hcache rescore EXPERIMENT"):
                replay(store, experiment.config, split)
    for name in "ab":
        (folder / f"{name}.json").unlink()  # no model is needed
    assert rescore(load(folder, raw), 1.0) == Scored(anew=QUERIES * 6 - 11)
    with Store(db) as store:
        assert replay(store, experiment.config, "train").tree.quality_M.numel() == 18


def test_new_scores_carry_their_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed(monkeypatch, "1")
    sample(folder, settings("ab"))
    scores = table(folder / "small.duckdb", "scores")
    versions = {("f1", version_of("text", "f1")), ("em", "1")}
    assert {*scores["metric", "version"].iter_rows()} == versions


# The plan


def test_plan_says_what_is_generated(folder: Path) -> None:
    raw = settings("abc", workflow={"name": "relay", "hops": 3})
    planned = make_plan(load(folder, raw))
    assert {(line.arm, line.hop): line.generations for line in planned.lines} == {
        (arm, hop): QUERIES * 3 ** (hop - 1) for arm in "abc" for hop in (1, 2, 3)
    }
    assert planned.seconds is None
    tally = sample(folder, raw)
    assert sum(tally.generated.values()) == planned.missing
    by_arm: Counter[str] = Counter()
    for line in planned.lines:
        by_arm[line.arm] += line.generations
    assert by_arm == tally.generated
    after = make_plan(load(folder, raw))
    assert after.missing == 0
    assert after.seconds == 0
    assert [line.cached for line in after.lines] == [line.generations for line in after.lines]


def test_plan_knows_what_is_cached_in_part(folder: Path) -> None:
    raw = settings("ab")
    sample(folder, raw, budget=12)
    assert make_plan(load(folder, raw)).missing == (QUERIES - 2) * 6
    raw["workflow"]["hops"] = 3
    assert make_plan(load(folder, raw)).missing == (QUERIES - 2) * 14 + 2 * 8


def test_plan_says_which_arms_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedEngine, "check", staticmethod(no_system))
    made = make_plan(load(folder, with_system(settings("ab"))))
    assert [str(error) for error in made.errors] == ["arms.c: no system role. Leave it out."]
    assert made.missing > 0
    raw = settings("ab")
    assert make_plan(load(folder, raw)).errors == []


def test_plan_shows_real_prompts(folder: Path) -> None:
    raw = settings("ab")
    raw["arms"]["a"] |= {"system": "Be brief.", "instruction": "Now."}
    prompts = make_plan(load(folder, raw), show=2).prompts
    assert len(prompts) == 2
    assert [message.content for message in prompts[0].messages] == ["Be brief.", "train0\n\nNow."]
    sample(folder, raw)
    assert make_plan(load(folder, raw), show=2).prompts == prompts  # also of what is cached


def test_first_questions_of_a_source_are_a_part_of_all(folder: Path) -> None:
    raw = settings("ab")
    raw["data"]["made"]["sources"]["train"]["limit"] = 1
    sample(folder, raw)
    write_questions(folder, "train", 3)
    del raw["data"]["made"]["sources"]["train"]["limit"]
    assert sum(generated(folder, raw).values()) == 2 * 6


def test_commits_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = []

    def slow_write(db: Path, rows: Rows, *how: Any, **further: Any) -> None:
        commits.append(len(rows["generations"]))
        time.sleep(0.1)
        wait_and_write(db, rows, *how, **further)

    monkeypatch.setattr(sampler, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(sampler, "wait_and_write", slow_write)
    write_scripts(tmp_path, "ab")
    answers = failing("ab", 10**9)  # one reply a step
    assert sample(tmp_path, settings("ab"), answers).generated.total() == 30
    assert 0 < len(commits) < 10
    monkeypatch.setattr(sampler, "MOST_UNCOMMITTED", 1)
    assert sample(tmp_path, settings("ab", db="full.duckdb"), answers).generated.total() == 30
    assert len(commits) > 10
    assert facts(tmp_path / "small.duckdb") == facts(tmp_path / "full.duckdb")


def test_rows_that_are_new_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is keyed by a run's own work no stored key is read; nothing is there twice for it."""
    compared = Counter[str]()

    def insert(connection: duckdb.DuckDBPyConnection, table: str) -> int:
        compared[table] += 1
        return insert_batch(connection, table)

    monkeypatch.setattr(sampler, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(store, "insert_batch", insert)
    write_scripts(tmp_path, "ab")
    raw = settings("ab")
    sample(tmp_path, raw, failing("ab", 10**9), budget=15)  # some queries, in part
    sample(tmp_path, raw | {"workflow": {"name": "relay", "hops": 3}})
    assert compared["texts"] and compared["states"] and compared["messages"]
    assert not {"generations", "trajectories", "scores"} & compared.keys()
    assert not check_database(tmp_path / raw["db"]).faults


def test_an_interruption_right_after_a_commit_doubles_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are there, and the sampler does not know it when it commits once more at its end."""
    calls = 0

    def interrupted(*given: Any, **how: Any) -> None:
        nonlocal calls
        wait_and_write(*given, **how)
        calls += "new" in how
        if calls == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(sampler, "wait_and_write", interrupted)
    monkeypatch.setattr(sampler, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(sampler, "COMMIT_SHARE", 1.0)
    with pytest.raises(KeyboardInterrupt):
        sample(folder, settings("ab"))
    assert_unique(folder / "small.duckdb")
    sample(folder, settings("ab"))
    assert_unique(folder / "small.duckdb")
