"""Folders out and in again: the same trees, of random small databases and of recorded outcomes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from helpers.experiments import (
    SPLITS,
    Raw,
    failing,
    load,
    settings,
    table,
    write_script,
    write_scripts,
)
from helpers.paths import SHARED
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from hcache.checking import check_database
from hcache.engines import ScriptedEngine
from hcache.errors import DataError, HcacheError, StoreError
from hcache.experiment import Experiment
from hcache.exports import EXPORTERS, Selection
from hcache.exports.writing import write_out
from hcache.models.arms import Arm
from hcache.recorded.importing import import_files
from hcache.replay.loading import Replay, load_replay
from hcache.sampling import Sampler
from hcache.store import Store

TEXTS = (
    "yes", "", " \n", "API Error: 429", "<error> no", "=1+1", "-5", "@x", "né\u202e\u200b", "🎲",
    "````\n---\n", "{'a': 1}", "a>b", "STOP", "'; drop table x --", "\r\n\t", "a\0b", "0.1",
    "<think>so</think> yes", '"', "['x']", "# h\n| a |", "\\1 \\g<0>",
)  # fmt: skip
NAMES = ("b", "a", "ä b", "A", "x|y", "`c`", "=d", "0", "no: yes", "🎲")


@dataclass(frozen=True)
class Made:
    """What is drawn of a database."""

    raw: Raw
    texts: list[str]
    references: list[str]
    budget: int | None


@st.composite
def databases(draw: st.DrawFn) -> Made:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    workflow = draw(st.sampled_from(["relay", "cascade"]))
    replicas = draw(st.integers(1, 2))
    price = st.floats(0, 10, allow_subnormal=False)
    most = len(names) if workflow == "cascade" else 3
    raw = settings(names, workflow={"name": workflow, "hops": draw(st.integers(1, most))})
    # Scripts are files, whose names are not those of the arms.
    raw["models"] = {name: {"path": f"{place}.json", "engine": "scripted"}
                     for place, name in enumerate(names)}  # fmt: skip
    raw["arms"] = {
        name: {
            "model": name,
            "price": {"input": draw(price), "output": draw(price)},
            "temperature": draw(st.sampled_from([0.0, 1.0])),
        }
        for name in names
    }
    raw["sampling"] = {"replicas": replicas}
    raw["data"]["made"]["on_duplicate"] = "drop"
    text = st.one_of(st.sampled_from(TEXTS), st.text(max_size=8))
    return Made(
        raw,
        draw(st.lists(text, min_size=1, max_size=6)),
        draw(st.lists(text.filter(str.strip), min_size=5, max_size=5)),
        draw(st.one_of(st.none(), st.integers(1, 60))),
    )


def sampled_in(folder: Path, made: Made) -> Experiment:
    """The database, filled by engines whose replies follow from the key of each request."""
    numbers = iter(made.references)
    for split, count in SPLITS.items():
        rows = [
            {"question": f"{split} {place} {(text := next(numbers))}", "answer": ["yes", text],
             "kind": text[:1]}
            for place in range(count)
        ]  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    for place in range(len(made.raw["models"])):
        write_script(folder, str(place), [["^", str(place)]])
    experiment = load(folder, made.raw)

    def factory(arm: Arm, logprobs: bool) -> ScriptedEngine:
        return ScriptedEngine(lambda asked: made.texts[int(asked.key[:8], 16) % len(made.texts)])

    Sampler(experiment, factory, budget=made.budget).run()
    return experiment


def shared(experiment: Experiment, out: Path) -> Path:
    """The folder of all that an experiment's database holds."""
    with Store(experiment.db) as store:
        selection = Selection(store, experiment.config.name, questions=True)
        write_out(out, EXPORTERS["hf"](selection, out).content)
    return out


def imported(out: Path, db: Path, *overrides: str) -> Experiment:
    import_files("hf", [out], db, name="again")
    return Experiment.load(db.with_name("again.yaml"), overrides, db)


def replay(experiment: Experiment, split: str) -> Replay | None:
    """The tree of a split, None where no query of it is complete."""
    with Store(experiment.db) as store:
        try:
            return load_replay(store, experiment.config, split)
        except StoreError:
            return None


def replies(experiment: Experiment) -> list[Any]:
    """Who said what, by question, replica and sequence, with its score and cost."""
    columns = ["query_id", "split", "dataset", "kind", "question", "references", "replica",
               "sequence", "quality", "cost", "prompt_tokens", "output_tokens"]  # fmt: skip
    with Store(experiment.db) as store:
        frame = Selection(store, experiment.config.name).outcomes()
    step = pl.element().struct
    said = pl.concat_list(
        pl.col("steps").list.eval(step.field("arm")), pl.col("steps").list.eval(step.field("reply"))
    )
    return sorted(frame.select(*columns, said).rows(), key=repr)


def assert_same(one: Experiment, two: Experiment) -> int:
    """Refuse a difference between the trees; the number of trees that there are."""
    trees = 0
    for split in SPLITS:
        a, b = replay(one, split), replay(two, split)
        assert (a is None) == (b is None), split
        if a is None or b is None:
            continue
        trees += len(a.tree)
        assert a.tree.arms == b.tree.arms and a.tree.queries == b.tree.queries
        assert a.tree.kinds == b.tree.kinds and a.tree.datasets == b.tree.datasets
        for name in ("child_NA", "leaf_NA", "path_ML", "quality_M", "cost_M", "cost_N", "hop_N"):
            assert torch.equal(getattr(a.tree, name), getattr(b.tree, name)), name
        assert a.tree.texts is not None and b.tree.texts is not None
        states = torch.arange(len(a.tree.hop_N))
        assert a.tree.texts[states] == b.tree.texts[states]  # what a router reads
        assert a.fingerprint == b.fingerprint
    return trees


@pytest.mark.slow
@given(databases())
@profile(max_examples=8)
def test_random_databases_come_back_as_they_went(made: Made) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first = sampled_in(folder, made)
        try:
            out = shared(first, folder / "out")
        except StoreError as error:
            assert made.budget is not None and "holds no trajectories" in error.message
            return
        (folder / "new").mkdir()
        second = imported(out, folder / "new" / "db.duckdb")
        assert_same(first, second)
        assert replies(first) == replies(second)
        (folder / "third").mkdir()
        third = imported(shared(second, folder / "out2"), folder / "third" / "db.duckdb")
        assert_same(first, third)
        assert not check_database(second.db, second).faults


def test_costs_may_be_of_tokens_and_prices_too(sampled: Experiment, tmp_path: Path) -> None:
    own = {name: arm.price for name, arm in sampled.config.arms.items()}
    prices = [
        f"arms.{name}.price={{input: {price.input}, output: {price.output}, per: {price.per}}}"
        for name, price in own.items()
    ]
    again = imported(
        shared(sampled, tmp_path / "out"), tmp_path / "db.duckdb", "cost=tokens", *prices
    )
    assert assert_same(sampled, again) == 5


def test_scores_are_made_again(sampled: Experiment, tmp_path: Path) -> None:
    out = shared(sampled, tmp_path / "out")
    told = import_files("hf", [out], tmp_path / "db.duckdb")
    assert told.recomputed == {"f1": (30, 0)} and not told.holes and not told.repeated


def test_replies_and_names_are_taken_as_they_are(tmp_path: Path) -> None:
    """Of others a reply like the first is a failure, and a name like the second a mistake."""
    write_scripts(tmp_path, "ab")
    write_script(tmp_path, "a", [["(?s)^.*$", "API Error: 429"]])
    raw = settings(["A", "a"])
    raw["models"] = {"A": {"path": "b.json", "engine": "scripted"},
                     "a": {"path": "a.json", "engine": "scripted"}}  # fmt: skip
    first = load(tmp_path, raw)
    Sampler(first).run()
    second = imported(shared(first, tmp_path / "out"), tmp_path / "again.duckdb")
    assert assert_same(first, second) == 5 and replies(first) == replies(second)


def test_reply_that_was_not_recorded_stays_so(tmp_path: Path) -> None:
    table_of = pl.DataFrame({"query": ["q?"] * 2, "arm": ["m", "o"], "score": [1.0, 0.0],
                             "cost": [2.0, None]})  # fmt: skip
    table_of.write_csv(tmp_path / "t.csv")
    options = {"unit": "calls"}
    import_files("long", [tmp_path / "t.csv"], tmp_path / "one.duckdb", name="one", options=options)
    first = Experiment.load(tmp_path / "one.yaml", [], tmp_path / "one.duckdb")
    second = imported(shared(first, tmp_path / "out"), tmp_path / "again.duckdb")
    assert replies(first) == replies(second)
    for experiment in (first, second):
        assert set(table(experiment.db, "generations")["finish_reason"]) == {"unrecorded"}
        stated = table(experiment.db, "trajectories")
        assert dict(stated["sequence", "costs"].iter_rows()) == {"m": [2.0], "o": [None]}
        assert set(stated["unit"]) == {"calls"}


def test_hole_everywhere_is_one_afterwards(tmp_path: Path) -> None:
    """An arm that never replied is still one that could be chosen; without it the trees are."""
    write_scripts(tmp_path, "ab")
    first = load(tmp_path, settings("ab"))
    with pytest.raises(HcacheError, match="the engine died"):
        Sampler(first, failing("b", after=0)).run()
    out = shared(first, tmp_path / "out")
    second = imported(out, tmp_path / "again.duckdb")
    assert list(second.config.arms) == ["a", "b"]
    assert assert_same(first, second) == 0
    alone = load(tmp_path, settings("a"))
    again = Experiment.load(
        tmp_path / "again.yaml", ["arms={a: {model: a}}"], tmp_path / "again.duckdb"
    )
    assert assert_same(alone, again) == 5


@pytest.mark.parametrize(
    ("kind", "path", "options"),
    [
        ("anytime_gsm8k", "anytime_gsm8k/data/router_splits_seeds/seed0", {}),
        ("routellm", "routellm", {"dataset": "gsm8k"}),
    ],
)
def test_recorded_outcomes_come_back(
    kind: str, path: str, options: dict[str, str], tmp_path: Path
) -> None:
    place = SHARED / "recorded" / path
    if not place.is_dir():
        pytest.skip(f"no copy of {kind} at {place}")
    import_files(kind, [place], tmp_path / "one.duckdb", name="one", options=options)
    first = Experiment.load(tmp_path / "one.yaml", [], tmp_path / "one.duckdb")
    (tmp_path / "new").mkdir()
    second = imported(shared(first, tmp_path / "out"), tmp_path / "new" / "db.duckdb")
    assert assert_same(first, second) > 200
    assert replies(first) == replies(second)


def test_dialogue_comes_back_as_one_call_a_decision(tmp_path: Path) -> None:
    write_scripts(tmp_path, "ab")
    raw = settings("ab", workflow={"name": "teacher_student"})
    first = load(tmp_path, raw)
    Sampler(first).run()
    second = imported(shared(first, tmp_path / "out"), tmp_path / "again.duckdb")
    for split in SPLITS:
        one, two = replay(first, split), replay(second, split)
        assert one is not None and two is not None
        for name in ("child_NA", "leaf_NA", "path_ML", "quality_M"):
            assert torch.equal(getattr(one.tree, name), getattr(two.tree, name)), name
        assert torch.allclose(one.tree.cost_M, two.tree.cost_M)


@pytest.fixture
def out(sampled: Experiment, tmp_path: Path) -> Path:
    return shared(sampled, tmp_path / "out")


def refused(out: Path, tmp_path: Path) -> str:
    with pytest.raises(HcacheError) as found:
        import_files("hf", [out], tmp_path / "db.duckdb")
    assert "\n" not in str(found.value) and not (tmp_path / "db.duckdb").exists()
    return str(found.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hcache:\n", "other:\n"),
        ("---\n", ""),
        ("- a>b\n", "- a>c\n"),
        ("  digest:", "  digest: [1]\n  x:"),
        ("  - b\n", "  - &b [*b]\n"),
        ("license: unknown", "license: !!python/object:os.system {}"),
    ],
)
def test_card_that_is_none_is_refused(out: Path, tmp_path: Path, old: str, new: str) -> None:
    card = out / "README.md"
    text = card.read_text(encoding="utf-8")
    assert old in text
    card.write_text(text.replace(old, new), encoding="utf-8")
    assert "no README.md with what hcache says" in refused(out, tmp_path)


def test_rows_that_say_otherwise_are_refused(out: Path, tmp_path: Path) -> None:
    [file] = out.glob("data/train-*")
    rows = pl.read_parquet(file)
    for changed, words in (
        (rows.drop("question"), "without questions"),
        (rows.drop("steps"), "has no column 'steps'"),
        (rows.with_columns(sequence=pl.lit("c")), "row 1: an arm is none of a, b"),
        (rows.with_columns(quality=pl.lit(2.0)), "score 2 is not between 0 and 1"),
        (rows.with_columns(quality=pl.lit(float("nan"))), "is no number"),
        (pl.concat([rows, rows.with_columns(quality=1 - pl.col("quality"))]), "another outcome"),
        (rows.with_columns(steps=pl.lit(1)), "hf"),
        (rows.with_columns(split=pl.Series(["train", "test"] * 9)), "the split of its question"),
        (rows.with_columns(split=pl.lit(None)), "row 1: split is missing"),
    ):
        changed.write_parquet(file)
        assert words in refused(out, tmp_path)
    file.write_bytes(b"PAR1")
    assert "cannot be read" in refused(out, tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="one folder is imported at a time"):
        import_files("hf", [out, out], tmp_path / "db.duckdb")
