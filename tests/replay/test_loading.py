"""Replay: the tensors are the tree that was sampled, and settings that do not fit are refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.experiments import Raw, load, sample, settings, table, write_questions, write_script

from hcache.engines import ScriptedEngine
from hcache.engines.vllm_arguments import reply_arguments
from hcache.errors import EngineError, StoreError
from hcache.experiment import Experiment
from hcache.replay.features import make_encoder
from hcache.replay.loading import Replay
from hcache.replay.loading import load_replay as replay
from hcache.replay.tree import NONE, tree_of_leaf
from hcache.sampling import Sampler
from hcache.store import Store

Row = dict[str, Any]


def load_split(experiment: Experiment, split: str = "train") -> Replay:
    with Store(experiment.db) as store:
        return replay(store, experiment.config, split)


def rows_of(db: Path, name: str) -> dict[tuple[str, int, tuple[str, ...]], Row]:
    return {
        (row["query_id"], row["replica"], tuple(row["decisions"])): row
        for row in table(db, name).iter_rows(named=True)
    }


def assert_equals_plain_tree(experiment: Experiment, loaded: Replay) -> None:
    """Walk the tensors beside the raw tables, state by state."""
    tree, config, db = loaded.tree, experiment.config, experiment.db
    pool = [arm.id for arm in experiment.pool]
    prices = [arm.config.price for arm in experiment.pool]
    hops = experiment.workflow.hops
    states, ends = rows_of(db, "states"), rows_of(db, "trajectories")
    texts = dict(table(db, "texts").iter_rows())
    quality = {
        row["trajectory_id"]: row["value"]
        for row in table(db, "scores").iter_rows(named=True)
        if row["metric"] == config.quality
    }
    encoder = make_encoder(config.features)
    seen_states, seen_leaves = set(), set()

    def cost(row: Row) -> float:
        paid = [
            prices[pool.index(ask["arm"])].input * ask["prompt_tokens"]
            + prices[pool.index(ask["arm"])].output * ask["output_tokens"]
            for ask in row["asks"]
        ]
        return float(sum(paid)) / 1000

    def check_leaf(leaf: int, query: str, replica: int, path: tuple[int, ...]) -> None:
        row = ends[query, replica, tuple(pool[arm] for arm in path)]
        seen_leaves.add(leaf)
        assert tree.quality_M[leaf] == quality[row["trajectory_id"]]
        assert tree.cost_M[leaf].item() == pytest.approx(cost(row))
        assert tree.path_ML[leaf].tolist() == [*path, *[NONE] * (hops - len(path))]

    def check_state(state: int, query: str, replica: int, path: tuple[int, ...]) -> None:
        row = states[query, replica, tuple(pool[arm] for arm in path)]
        seen_states.add(state)
        assert tree.hop_N[state] == len(path)
        assert tree.cost_N[state].item() == pytest.approx(cost(row))
        context = [texts[key] for key in row["context"]]
        assert tree.texts is not None
        assert tree.texts[torch.tensor([state])] == [context]
        features = encoder.encode([context])[0]
        assert tree.features_ND.dtype == torch.float16  # as they are stored
        assert np.array_equal(tree.features_ND[state].numpy(), features)
        for action in range(len(pool)):
            child, leaf = int(tree.child_NA[state, action]), int(tree.leaf_NA[state, action])
            if len(path) + 1 < hops:
                assert leaf == NONE
                check_state(child, query, replica, (*path, action))
            else:
                assert child == NONE
                check_leaf(leaf, query, replica, (*path, action))
        assert tree.child_NA[state, tree.stop] == NONE
        if path:
            check_leaf(int(tree.leaf_NA[state, tree.stop]), query, replica, path)
        else:
            assert tree.leaf_NA[state, tree.stop] == NONE

    for number, root in enumerate(tree.root_T.tolist()):
        query = tree.queries[int(tree.query_T[number])]
        check_state(root, query, int(tree.replica_T[number]), ())
    assert seen_states == set(range(len(tree.hop_N)))
    assert seen_leaves == set(range(len(tree.quality_M)))
    assert tree.hop_N.tolist() == sorted(tree.hop_N.tolist())


@pytest.mark.parametrize(("seed", "arms", "hops"), [(0, 1, 1), (1, 2, 3), (2, 3, 2)])
def test_tree_equals_plain_walk_over_the_tables(
    folder: Path, seed: int, arms: int, hops: int
) -> None:
    rng = random.Random(seed)
    raw = settings("abc"[:arms], sampling={"replicas": rng.randint(1, 2)})
    raw["workflow"]["hops"] = hops
    for name in raw["arms"]:
        raw["arms"][name] |= {
            "price": {"input": rng.random(), "output": rng.random(), "per": 1000},
            "temperature": rng.choice([0, 1]),
        }
        if rng.random() < 0.5:  # replies that are empty or equal
            write_script(folder, name, [["1", ""], ["", "b"]])
    sample(folder, raw)
    experiment = load(folder, raw)
    loaded = load_split(experiment)
    assert loaded.incomplete == 0
    assert len(loaded.tree) == 3 * experiment.config.sampling.replicas
    assert loaded.tree.queries == tuple(sorted(q.id for q in experiment.splits["train"]))
    assert loaded.tree.kinds.count("odd") == 2
    assert_equals_plain_tree(experiment, loaded)


def derived(sampled: Experiment, raw: Raw) -> Experiment:
    """Other settings on the sampled database; nothing is sampled for them."""
    return Experiment(type(sampled.config).model_validate(raw), sampled.source, sampled.db)


def raw_of(sampled: Experiment) -> Raw:
    return sampled.config.model_dump(mode="json")


def test_fewer_arms_and_hops_than_were_sampled(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    raw["arms"] = {"b": raw["arms"]["b"]}
    few = load_split(derived(sampled, raw))
    assert (few.tree.arms, few.incomplete) == (("b",), 0)
    assert few.tree.path_ML.tolist() == [[0, NONE], [0, 0]] * 3
    assert_equals_plain_tree(derived(sampled, raw), few)
    raw = raw_of(sampled)
    raw["workflow"]["hops"] = 1
    short = load_split(derived(sampled, raw))
    assert short.tree.hops == 1
    assert_equals_plain_tree(derived(sampled, raw), short)


def test_order_of_arms_is_that_of_the_settings(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    raw["arms"] = dict(reversed(raw["arms"].items()))
    turned = derived(sampled, raw)
    assert load_split(turned).tree.arms == ("b", "a")
    assert_equals_plain_tree(turned, load_split(turned))


def test_prices_are_those_of_the_settings(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    for arm in raw["arms"].values():
        arm["price"] = {"input": 0, "output": 5, "per": 1000}
    dear = derived(sampled, raw)
    assert_equals_plain_tree(dear, load_split(dear))
    assert load_split(dear).fingerprint != load_split(sampled).fingerprint


def test_without_stop_every_trajectory_runs_to_the_last_hop(sampled: Experiment) -> None:
    tree = load_split(sampled).tree.without_stop()
    assert not tree.valid_NA[:, tree.stop].any()
    reachable = tree.leaf_NA[tree.leaf_NA >= 0]
    assert len(reachable) == 3 * 4
    assert (tree.path_ML[reachable] >= 0).all()


def test_fingerprint_follows_the_numbers(sampled: Experiment) -> None:
    loaded = load_split(sampled)
    assert loaded.fingerprint == load_split(sampled).fingerprint
    assert loaded.fingerprint != load_split(sampled, "valid").fingerprint
    raw = raw_of(sampled)
    raw["quality"] = "em"
    assert load_split(derived(sampled, raw)).fingerprint != loaded.fingerprint
    nudged = loaded.tree.cost_M.clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(9.0, dtype=torch.float64))
    other = Replay(type(loaded.tree)(**{**vars_of(loaded), "cost_M": nudged}), "train", 0)
    assert other.fingerprint != loaded.fingerprint


def vars_of(loaded: Replay) -> dict[str, Any]:
    return {name: getattr(loaded.tree, name) for name in type(loaded.tree).__dataclass_fields__}


def test_fingerprint_is_the_same_on_every_machine(folder: Path) -> None:
    sample(folder, settings("ab"))
    assert (
        load_split(load(folder, settings("ab"))).fingerprint == "450e1d67047221087d849d40087e0f42"
    )


def test_features_are_encoded_once(sampled: Experiment, tmp_path: Path) -> None:
    db = tmp_path / "copy.duckdb"
    shutil.copy(sampled.db, db)
    calls = []

    class Counting:
        dim = 2
        fingerprint = "counting"

        def encode(self, contexts: Any) -> Any:
            calls.append(len(contexts))
            return np.ones((len(contexts), 2), dtype=np.float16)

    for _ in range(2):
        with Store(db) as store:
            loaded = replay(store, sampled.config, "train", Counting())
    assert calls == [3 * 3]
    assert loaded.tree.features_ND.shape == (9, 2)


# What is refused


def test_experiment_that_was_not_sampled(sampled: Experiment) -> None:
    raw = raw_of(sampled) | {"name": "unknown"}
    with pytest.raises(StoreError, match=r"no experiment 'unknown' .*small.* hcache sample"):
        load_split(derived(sampled, raw))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("arms.a.max_tokens", 3, "arms.a"),
        ("arms.a.instruction", "Other.", "arms.a"),
        ("models.b.dtype", "float32", "arms.b"),
        ("workflow.hops", 3, "workflow.hops"),
        ("workflow.separator", " ", "workflow"),
        ("sampling.replicas", 2, "sampling.replicas"),
        ("data.made.extract", "line", "data"),
        ("data.made.sources.train.limit", 2, "data"),
    ],
)
def test_settings_that_changed_since_are_named(
    sampled: Experiment, place: str, value: object, named: str
) -> None:
    raw = raw_of(sampled)
    *parents, last = place.split(".")
    node = raw
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(StoreError, match=rf"sampled otherwise \({named} differ\)"):
        load_split(derived(sampled, raw))


def test_arm_that_was_not_sampled_is_named(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    raw["arms"]["new"] = raw["arms"]["a"]
    with pytest.raises(StoreError, match=r"\(arms.new differ\)"):
        load_split(derived(sampled, raw))


@pytest.mark.parametrize(
    ("place", "value"),
    [("path", "elsewhere.json"), ("engine_args", {"seed": 1})],
)
def test_where_a_model_lies_is_no_matter(sampled: Experiment, place: str, value: object) -> None:
    raw = raw_of(sampled)
    raw["models"]["a"][place] = value
    assert load_split(derived(sampled, raw)).fingerprint == load_split(sampled).fingerprint


@pytest.mark.parametrize(
    ("where", "setting", "value"),
    [
        ("models", "engine_args", {"hf_overrides": {"rope_theta": 3}}),
        ("models", "chat_template_args", {"enable_thinking": False}),
        ("models", "dtype", "float16"),
        ("arms", "system", "Be brief."),
    ],
)
def test_setting_that_changes_replies_is_missed_nowhere(
    sampled: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    setting: str,
    value: object,
) -> None:
    monkeypatch.setattr(ScriptedEngine, "reply_arguments", staticmethod(reply_arguments))
    raw = raw_of(sampled)
    raw["models"]["a"]["engine_args"] = {"gpu_memory_utilization": 0.5}
    assert load_split(derived(sampled, raw)).fingerprint == load_split(sampled).fingerprint
    raw[where]["a"][setting] = value
    with pytest.raises(StoreError, match=r"\(arms.a differ\)"):
        load_split(derived(sampled, raw))


def test_option_of_a_reader_that_was_not_there_is_a_difference(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    raw["data"]["made"]["options"] = {"question": "text"}
    with pytest.raises(StoreError, match=r"\(data differ\)"):
        load_split(derived(sampled, raw))


def test_split_without_queries(folder: Path) -> None:
    raw = settings("a")
    del raw["data"]["made"]["sources"]["valid"]
    sample(folder, raw)
    with pytest.raises(StoreError, match=r"split valid of small has no queries\. Give it a source"):
        load_split(load(folder, raw), "valid")


def test_metric_that_was_not_scored(sampled: Experiment) -> None:
    raw = raw_of(sampled)
    raw["data"]["made"]["metrics"] = ["choice"]
    raw["quality"] = "choice"
    with pytest.raises(StoreError, match=r"18 trajectories have no score 'choice'.*runs no model"):
        load_split(derived(sampled, raw))


def test_nothing_sampled_yet_is_said(folder: Path) -> None:
    def factory(arm: Any, logprobs: bool) -> Any:
        raise EngineError("no engine here.", "Take another.")

    experiment = load(folder, settings("ab"))
    with pytest.raises(EngineError):
        Sampler(experiment, factory).run()
    with pytest.raises(StoreError, match=r"no query of split train is complete\. Run the same"):
        load_split(experiment)


def test_each_data_set_has_its_own_quality(folder: Path) -> None:
    raw = settings("ab")
    raw["data"]["other"] = {
        "quality": "em",
        "sources": {"train": {"path": "other.jsonl"}},
    }
    write_questions(folder, "other", 4)
    sample(folder, raw)
    experiment = load(folder, raw)
    with Store(experiment.db) as store:
        tree = replay(store, experiment.config, "train").tree
        rows = store.sql("select dataset, quality, f1, em from outcomes where split = 'train'")
    assert set(tree.datasets) == {"made", "other"}
    for row in rows.iter_rows(named=True):
        assert row["quality"] == row["em" if row["dataset"] == "other" else "f1"]
    query_M = tree.query_T[tree_of_leaf(tree)]
    other_M = torch.tensor([tree.datasets[query] == "other" for query in query_M.tolist()])
    assert sorted(tree.quality_M[other_M].tolist()) == sorted(
        rows.filter(rows["dataset"] == "other")["em"].to_list()
    )
