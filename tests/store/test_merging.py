"""Merging: what was sampled apart is what one run had made; what differs is kept and said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from helpers.experiments import SPLITS, load, settings, table, write_scripts
from hypothesis import Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hcache.checking import check_database
from hcache.engines import EngineFactory, Request, ScriptedEngine
from hcache.errors import StoreError
from hcache.experiment import Experiment
from hcache.sampling import Sampler
from hcache.store import Spool, Store, merging
from hcache.store.digest import ContentDigest, content_digest
from hcache.store.merging import Merged, merge
from hcache.store.schema import UNIQUE

QUESTIONS = [(split, number) for split, count in SPLITS.items() for number in range(count)]


def digest_of(db: Path) -> ContentDigest:
    with Store(db) as store:
        return content_digest(store)


def edit(db: Path, sql: str) -> None:
    with duckdb.connect(str(db)) as connection:
        connection.execute(sql)


def part(folder: Path, name: str, arms: str, questions: Sequence[tuple[str, int]]) -> Experiment:
    """The experiment `small` with some of its questions and arms, and a database of its own."""
    sources = {}
    for split in SPLITS:
        lines = (folder / f"{split}.jsonl").read_text().splitlines(keepends=True)
        kept = [line for place, line in enumerate(lines) if (split, place) in questions]
        if kept:
            (folder / f"{name}-{split}.jsonl").write_text("".join(kept))
            sources[split] = {"path": f"{name}-{split}.jsonl"}
    raw = settings(arms, db=f"{name}.duckdb", data={"made": {"sources": sources}})
    return load(folder, raw)


def otherwise(queries: Sequence[str]) -> EngineFactory:
    """Engines that give other replies to the first prompts of some questions."""

    def script(request: Request) -> str:
        prompt = request.messages[-1].content
        words = "says another" if prompt in queries else "says"
        return f"{request.arm.name} {words} {prompt}"

    return lambda arm, logprobs: ScriptedEngine(script)


USUAL = otherwise([])


@pytest.fixture
def apart(folder: Path) -> tuple[Path, Path]:
    """Two databases of all questions, of which one has other replies to two first prompts."""
    ours, theirs = (load(folder, settings("ab", db=f"{name}.duckdb")) for name in ("one", "two"))
    Sampler(ours, USUAL).run()
    Sampler(theirs, otherwise(["train0", "test0"])).run()
    return ours.db, theirs.db


def trees(db: Path) -> dict[str, Any]:
    """Digests of what trees are made of."""
    found = digest_of(db).tables
    return {name: found[name] for name in ("queries", "splits", "states", "trajectories", "scores")}


# Equal to one run


@st.composite
def partitions(draw: st.DrawFn) -> list[tuple[str, list[tuple[str, int]]]]:
    """Two or three samplings, each of some questions with some arms, which may overlap."""
    arms = st.sampled_from(["abc", "ab", "bc", "ca", "b"])
    questions = st.lists(st.sampled_from(QUESTIONS), min_size=1, unique=True)
    return draw(st.lists(st.tuples(arms, questions), min_size=2, max_size=3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ContentDigest:
    folder = tmp_path_factory.mktemp("whole")
    write_scripts(folder, "abc")
    Sampler(load(folder, settings("abc"))).run()
    return digest_of(folder / "small.duckdb")


@examples(max_examples=4, phases=[Phase.generate])
@given(parts=partitions())
def test_what_was_sampled_apart_is_what_one_run_had_made(
    whole: ContentDigest, parts: list[tuple[str, list[tuple[str, int]]]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scripts(folder, "abc")
        files = []
        for place, (arms, questions) in enumerate(parts):
            experiment = part(folder, f"part{place}", arms, questions)
            Sampler(experiment).run()
            files.append(experiment.db)
        merge(folder / "small.duckdb", files)
        faults = check_database(folder / "small.duckdb").faults
        # The settings of the first part name not all splits, its states offer all of its arms.
        assert {fault.table for fault in faults} <= {"splits", "states"}
        before = len(table(folder / "small.duckdb", "generations"))
        made = {key for file in files for key in table(file, "generations")["generation_id"]}
        assert before == len(made)
        tally = Sampler(load(folder, settings("abc"))).run()  # what no part has
        assert sum(tally.generated.values()) == whole.tables["generations"].rows - before
        assert digest_of(folder / "small.duckdb") == whole
        assert check_database(folder / "small.duckdb").faults == ()


@examples(max_examples=3, phases=[Phase.generate])
@given(dealt=st.lists(st.integers(0, 2), min_size=5, max_size=5), seed=st.randoms())
def test_questions_sampled_apart_need_no_further_run(
    whole: ContentDigest, dealt: list[int], seed: Any
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scripts(folder, "abc")
        files = []
        for place in set(dealt):
            own = [each for each, owner in zip(QUESTIONS, dealt, strict=True) if owner == place]
            experiment = part(folder, f"part{place}", "abc", own)
            Sampler(experiment).run()
            files.append(experiment.db)
        seed.shuffle(files)
        for file in files:
            merge(folder / "small.duckdb", [file])
        assert digest_of(folder / "small.duckdb") == whole


# Conflicts


def test_another_reply_is_kept_aside_and_what_it_led_to_stays_out(
    apart: tuple[Path, Path],
) -> None:
    ours, theirs = apart
    before = trees(ours)
    facts = table(theirs, "provenance")["facts"].item()
    [found] = merge(ours, [theirs])
    assert [(one.table, one.arm, one.count) for one in found.conflicts] == [
        ("generations", "a", 2),
        ("generations", "b", 2),
    ]
    assert found.left_out == 12  # two questions, each with both arms at the first hop
    assert found.missing == 0
    assert trees(ours) == before
    rows = table(ours, "conflicts").to_dicts()
    replies = dict(table(theirs, "generations")["generation_id", "text"].iter_rows())
    assert {row["key"]: json.loads(row["content"])["text"] for row in rows} == {
        key: text for key, text in replies.items() if text.count("another") == 1
        and text.count("says") == 1
    }  # fmt: skip
    assert {(row["table_name"], row["facts"], row["origin"]) for row in rows} == {
        ("generations", facts, str(theirs))
    }
    assert set(found.conflicts[0].examples) <= {row["key"] for row in rows}
    assert check_database(ours).faults == ()


def test_merging_again_changes_nothing_and_says_the_same(apart: tuple[Path, Path]) -> None:
    ours, theirs = apart
    [first] = merge(ours, [theirs])
    before = {name: table(ours, name).rows() for name in UNIQUE}
    [again] = merge(ours, [theirs])
    assert {name: table(ours, name).rows() for name in UNIQUE} == before
    assert not any(again.new.values())
    assert (again.conflicts, again.left_out) == (first.conflicts, first.left_out)


@pytest.mark.parametrize("first", [0, 1])
def test_trees_are_of_one_kind_of_reply_whichever_file_comes_first(
    apart: tuple[Path, Path], tmp_path: Path, first: int
) -> None:
    into = tmp_path / "all.duckdb"
    merge(into, [apart[first], apart[1 - first]])
    assert trees(into) == trees(apart[first])


def test_what_is_missing_is_made_of_the_replies_that_stay(folder: Path) -> None:
    one_hop = settings("ab", db="one.duckdb")
    one_hop["workflow"]["hops"] = 1
    Sampler(load(folder, one_hop), USUAL).run()
    theirs = load(folder, settings("ab", db="two.duckdb"))
    Sampler(theirs, otherwise(["train0", "test0"])).run()
    [found] = merge(folder / "one.duckdb", [theirs.db])
    assert (found.left_out, found.missing) == (12, 8)  # those of two hops
    assert [(one.table, one.examples) for one in found.conflicts if not one.arm] == [
        ("experiments", ("small",))
    ]
    ours = load(folder, settings("ab", db="one.duckdb"))
    tally = Sampler(ours, USUAL).run()
    assert sum(tally.generated.values()) == found.missing
    assert check_database(ours.db).faults == ()
    other = load(folder, settings("ab", db="whole.duckdb"))
    Sampler(other, USUAL).run()
    assert trees(ours.db) == trees(other.db)


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("queries", """update queries set "references" = ['another'] where kind = 'odd'"""),
        ("queries", "update queries set kind = 'none'"),
        ("scores", "update scores set value = 1 - value where value != 0.5"),
        ("scores", "update scores set answer = 'another'"),
        ("splits", "update splits set split = 'test' where split = 'valid'"),
        ("pools", "update pools set input_price = 7 where position = 1"),
        ("experiments", "update experiments set replicas = 2"),
        ("messages", "update messages set messages = '[]'"),
        ("texts", "update texts set text = 'another'"),
        ("states", "update states set stop = not stop"),
        ("trajectories", "update trajectories set output = 'another'"),
        ("generations", "update generations set logprobs = [-1.0]"),
    ],
)
def test_other_content_under_a_key_is_reported_and_kept(folder: Path, name: str, sql: str) -> None:
    experiment = load(folder, settings("ab"))
    Sampler(experiment).run()
    ours, theirs = experiment.db, Path(shutil.copy(experiment.db, folder / "two.duckdb"))
    before = digest_of(ours)
    old = table(ours, name)
    edit(theirs, sql)
    changed = sum(row not in old.rows() for row in table(theirs, name).rows())
    [found] = merge(ours, [theirs])
    assert changed and {one.table for one in found.conflicts} == {name}
    assert sum(one.count for one in found.conflicts) == changed == found.new["conflicts"]
    assert digest_of(ours) == before
    if name == "trajectories":  # and so is what follows from it
        edit(theirs, "update scores set metric = 'new' where metric = 'f1'")
        assert merge(ours, [theirs])[0].new["scores"] == 0


def test_scores_by_another_version_stay_out_and_are_counted(folder: Path) -> None:
    experiment = load(folder, settings("ab"))
    Sampler(experiment).run()
    theirs = Path(shutil.copy(experiment.db, folder / "two.duckdb"))
    edit(theirs, "update scores set version = 'other', value = 0.25 where metric = 'f1'")
    before = digest_of(experiment.db)
    [found] = merge(experiment.db, [theirs])
    assert (found.conflicts, found.other_versions) == ((), 30)
    assert digest_of(experiment.db) == before


def test_an_experiment_of_another_workflow_is_another_one(folder: Path) -> None:
    ours, theirs = (load(folder, settings("ab", db=f"{name}.duckdb")) for name in ("one", "two"))
    Sampler(ours, splits=["test"]).run()
    edit(ours.db, "update experiments set workflow = 'other'; delete from splits")
    Sampler(theirs).run()
    [found] = merge(ours.db, [theirs.db])
    assert [one.table for one in found.conflicts] == ["experiments"]
    assert table(ours.db, "splits").is_empty()
    assert len(table(ours.db, "trajectories")) == 30


def test_a_question_that_comes_to_stand_in_two_splits_is_counted(folder: Path) -> None:
    ours = part(folder, "one", "ab", [("train", 0)])
    (folder / "two.jsonl").write_text('{"question": "train0", "answer": "another"}\n')
    sources = {"test": {"path": "two.jsonl"}}
    raw = settings("ab", db="two.duckdb", data={"made": {"sources": sources}})
    theirs = load(folder, raw)
    for each in (ours, theirs):
        Sampler(each).run()
    assert merge(ours.db, [theirs.db])[0].in_two_splits == 1


def test_metrics_that_come_in_have_columns(folder: Path) -> None:
    ours, theirs = (load(folder, settings("ab", db=f"{name}.duckdb")) for name in ("one", "two"))
    for each in (ours, theirs):
        Sampler(each, splits=["test"]).run()
    edit(theirs.db, "update scores set metric = 'mine' where metric = 'em'")
    merge(ours.db, [theirs.db])
    with Store(ours.db) as store:
        assert store.metrics() == ["f1", "em", "mine"]


# Interrupted, refused

KILLED = """
import os, signal, sys
from pathlib import Path
from hcache.store import merging

def killed(connection, table, origin, bring=merging._bring):
    found = bring(connection, table, origin)
    if (table, origin) == (sys.argv[1], sys.argv[-1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return found

merging._bring = killed
merging.merge(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
"""


@pytest.mark.parametrize("where", ["queries", "generations", "states", "conflicts"])
def test_killed_in_the_middle_it_is_as_before_that_file_and_goes_on(
    apart: tuple[Path, Path], tmp_path: Path, where: str
) -> None:
    into, undisturbed = tmp_path / "all.duckdb", tmp_path / "twin.duckdb"
    merge(undisturbed, [apart[0]])
    command = [sys.executable, "-c", KILLED, where, *map(str, (into, *apart))]
    assert subprocess.run(command, check=False).returncode == -9
    assert digest_of(into) == digest_of(undisturbed)
    assert table(into, "conflicts").is_empty()
    for db in (into, undisturbed):
        merge(db, apart)
    assert digest_of(into) == digest_of(undisturbed)
    assert table(into, "conflicts").equals(table(undisturbed, "conflicts"))


def wrong_files() -> Iterator[tuple[str, str]]:
    yield "update meta set version = 99", "newer hcache .*Upgrade"
    yield "drop table conflicts; update meta set version = 4", "older hcache .*hcache digest"
    yield "drop table meta", "not one of hcache"
    yield "insert into scores from scores limit 1", "1 rows of scores stand there twice.*check"
    yield "alter table texts drop column text", "text"
    yield ("drop table texts; create view texts as select content as text, filename as text_id "
           "from read_text('experiment.yaml')"), "Permission"  # fmt: skip


@pytest.mark.parametrize(("sql", "words"), list(wrong_files()))
def test_a_file_that_is_not_as_it_should_be_is_refused(
    apart: tuple[Path, Path], tmp_path: Path, sql: str, words: str
) -> None:
    edit(apart[1], sql)
    before = apart[1].read_bytes()
    into = tmp_path / "all.duckdb"
    with pytest.raises(StoreError, match=words) as error:
        merge(into, apart)
    assert "\n" not in str(error.value) and str(apart[1]) in str(error.value)
    assert not into.exists() and not list(tmp_path.glob("all*"))
    assert apart[1].read_bytes() == before


def test_damaged_bytes_are_refused_and_named(apart: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(apart[1].read_bytes())
    for place in range(12288, len(data), 64):
        data[place] ^= 0xFF
    apart[1].write_bytes(data)
    with pytest.raises(StoreError, match=str(apart[1])):
        merge(tmp_path / "all.duckdb", [apart[1]])


@pytest.mark.parametrize(
    "files", [["one", "two", "one"], ["two", "linked"], ["one", "all"], ["one", "none"]]
)
def test_files_that_stand_there_twice_or_not_at_all_are_refused(
    apart: tuple[Path, Path], folder: Path, files: list[str]
) -> None:
    into = Path(shutil.copy(apart[0], folder / "all.duckdb"))
    (folder / "linked.duckdb").hardlink_to(apart[1])
    before = into.read_bytes()
    with pytest.raises(StoreError, match=r"twice|there is no database"):
        merge(into, [folder / f"{name}.duckdb" for name in files])
    assert into.read_bytes() == before


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_being_sampled_or_was_not_finished_is_refused(
    apart: tuple[Path, Path], place: int
) -> None:
    before = apart[0].read_bytes()
    spool = Spool(apart[place])
    with pytest.raises(StoreError, match=r"is sampling into .*Wait for it"):
        merge(apart[0], [apart[1]])
    spool.append([{"generation_id": "1"}])
    spool.close()
    with pytest.raises(StoreError, match=r"finished replies .*--budget 0"):
        merge(apart[0], [apart[1]])
    assert apart[0].read_bytes() == before


def test_nobody_samples_into_it_meanwhile(
    apart: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def told(merged: Merged) -> None:
        with pytest.raises(StoreError, match="is sampling into"):
            Spool(apart[0])
        tried.append(merged)

    merge(apart[0], [apart[1]], told)
    assert len(tried) == 1
    Spool(apart[0]).close()


def test_every_table_is_merged_and_compared() -> None:
    assert {*merging.COMPARED, "provenance", "conflicts"} == {*UNIQUE}
