"""Pruned trees hold a part of the whole ones, which depends on nothing but the settings."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.experiments import (
    SPLITS,
    digest_of,
    facts,
    failing,
    generated,
    load,
    per_1000,
    plain_arm,
    prompt_of,
    sample,
    settings,
    table,
    write_script,
)
from hypothesis import given
from hypothesis import strategies as st

from hcache.checking import check_database
from hcache.config.schema import DatasetConfig
from hcache.data.queries import Query
from hcache.errors import ConfigError, EngineError
from hcache.keys import digest_text
from hcache.models.arms import Pool
from hcache.sampling import Enumerator, Reply
from hcache.sampling.plan import check_size, make_plan, trajectories
from hcache.sampling.pruning import Bound, Pruning
from hcache.workflows import WORKFLOWS, Cascade, Relay, Workflow

Raw = dict[str, Any]
QUERIES = [Query("One two?", ("yes no",), "made"), Query("Three?", ("no",), "made")]
POOL: Pool = tuple(
    plain_arm(name, temperature=1.0, price=per_1000(price))
    for name, price in (("a", 1), ("b", 2), ("c", 9))
)
SAID = ("yes", "no", "yes no", "perhaps", "no no no and so on")


def bound_at(alpha: float) -> Bound:
    data = DatasetConfig(metrics=("f1",), sources={})
    prices = {arm.id: arm.config.price for arm in POOL}
    return Bound(alpha, prices, {"made": data}, {"made": "f1"})


def enumerate_all(
    workflow: Workflow, pruning: Pruning, world: int, order: int, replicas: int = 2
) -> dict[tuple[Any, ...], Raw]:
    """Trajectories by what identifies them; replies are of `world` and arrive in some `order`."""
    rng = random.Random(order)
    enumerator = Enumerator(workflow, POOL, pruning)
    pending = [request for query in QUERIES for request in enumerator.start(query, replicas)]
    while pending:
        request = pending.pop(rng.randrange(len(pending)))
        key = digest_text(f"{world} {request.arm.name} {prompt_of(request)} {request.sample}")
        text = SAID[int(key[:8], 16) % len(SAID)]
        reply = Reply(text, int(key[8:11], 16) % 50 + 1, len(text.split()))
        pending += enumerator.supply(request.key, reply)
    assert enumerator.complete == len(QUERIES)
    assert not enumerator.trees
    rows = enumerator.take_rows()["trajectories"]
    found = {(row["query_id"], row["replica"], *row["decisions"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def oracles(bound: Bound, rows: dict[tuple[Any, ...], Raw]) -> dict[tuple[Any, ...], float]:
    """The best reward of each query and replica."""
    by_id = {query.id: query for query in QUERIES}
    best: dict[tuple[Any, ...], float] = defaultdict(lambda: -1e9)
    for (query_id, replica, *_), row in rows.items():
        reward = bound.reward(by_id[query_id], row["output"], row["asks"])
        best[query_id, replica] = max(best[query_id, replica], reward)
    return dict(best)


workflows = st.sampled_from([Relay(hops=1), Relay(hops=2), Relay(hops=3), Cascade(hops=3)])


@given(workflows, st.integers(0, 9999), st.sampled_from([0.0, 0.3, 2.0, 20.0]), st.integers(1, 9))
def test_a_bound_leaves_out_nothing_that_is_better(
    workflow: Workflow, world: int, alpha: float, order: int
) -> None:
    bound = bound_at(alpha)
    whole = enumerate_all(workflow, Pruning(), world, 0)
    pruned = enumerate_all(workflow, Pruning(bound=bound), world, 0)
    assert pruned.items() <= whole.items()
    assert oracles(bound, pruned) == pytest.approx(oracles(bound, whole), abs=1e-11)
    assert enumerate_all(workflow, Pruning(bound=bound), world, order) == pruned


@given(workflows, st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(1, 9))
def test_what_is_drawn_depends_on_the_state_alone(
    workflow: Workflow, width: int, seed: int, bounded: bool, order: int
) -> None:
    bound = bound_at(0.3) if bounded else None
    found = enumerate_all(workflow, Pruning(width, seed, bound), 1, 0)
    assert enumerate_all(workflow, Pruning(width, seed, bound), 1, order) == found
    if bounded:
        return
    wider = enumerate_all(workflow, Pruning(width + 1, seed), 1, order)
    assert found.items() <= wider.items() <= enumerate_all(workflow, Pruning(), 1, 0).items()
    assert len(found) == 4 * workflow.trajectories_within(len(POOL), width)
    paths = Counter((query, *path) for query, _, *path in found)
    assert set(paths.values()) == {2}  # the same sequences in both replicas


def test_every_arm_is_drawn_alike() -> None:
    names = [arm.id for arm in POOL]
    pruning = Pruning(width=1, seed=3)
    counts: Counter[str] = Counter()
    for number in range(3000):
        query = Query(f"question {number}", ("x",))
        counts.update(arm.id for arm in pruning.arms(query, [POOL[0]], POOL))
    assert all(abs(counts[name] - 1000) < 110 for name in names)  # four standard deviations
    assert pruning.arms(QUERIES[0], [], POOL) == POOL


@pytest.mark.parametrize("name", ["relay", "cascade", "teacher_student"])
def test_a_width_of_all_arms_is_the_whole_tree(name: str) -> None:
    for hops in (2, 3):
        workflow = WORKFLOWS[name].model_construct(name=name, hops=hops)
        assert workflow.trajectories_within(4, 9) == workflow.trajectories(4)


def pruned(raw: Raw, **sampling: Any) -> Raw:
    return raw | {"sampling": {**raw.get("sampling", {}), **sampling}}


PRUNINGS: list[Raw] = [{"width": 1}, {"width": 2}, {"bound": True}, {"width": 2, "bound": True}]


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_sampling_on_gives_what_sampling_at_once_does(folder: Path, pruning: Raw) -> None:
    raw = settings("abc", workflow={"name": "relay", "hops": 3}, train={"alpha": 0.2})
    raw["arms"]["b"]["temperature"] = 1.0
    raw["sampling"] = {"replicas": 2}
    whole = raw | {"db": "whole.duckdb"}
    all_made = sum(generated(folder, whole).values())
    first = sum(generated(folder, pruned(raw, **pruning)).values())
    assert 0 < first < all_made
    assert (
        facts(folder / "small.duckdb")["trajectories"]
        != facts(folder / "whole.duckdb")["trajectories"]
    )
    assert sum(generated(folder, pruned(raw, **pruning)).values()) == 0
    assert sum(generated(folder, raw).values()) == all_made - first
    assert digest_of(folder / "small.duckdb") == digest_of(folder / "whole.duckdb")


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_a_plan_counts_what_is_pruned(folder: Path, pruning: Raw) -> None:
    raw = pruned(settings("abc", workflow={"name": "relay", "hops": 3}), **pruning)
    experiment = load(folder, raw)
    before = make_plan(experiment)
    made = sum(generated(folder, raw).values())
    queries = len(experiment.queries())
    most = {1: 9, 2: 21}.get(pruning.get("width", 3), 39) * queries
    assert before.missing == most
    assert made == most if "bound" not in pruning else made < most
    after = make_plan(load(folder, raw))
    assert (after.missing, sum(line.cached for line in after.lines)) == (0, made)


def test_no_arm_has_done_more_than_there_is(folder: Path) -> None:
    tally = sample(folder, settings("abc", sampling={"width": 1}))
    done = {arm: tally.done(arm) for arm in "abc"}
    assert {arm: tally.total(arm) for arm in "abc"} == done
    assert len(set(done.values())) > 1


def test_a_wider_draw_that_was_stopped_does_not_stand_for_a_smaller(folder: Path) -> None:
    raw = settings("abc", workflow={"name": "relay", "hops": 3})
    wide = pruned(raw, width=2)
    with pytest.raises(EngineError):
        sample(folder, wide, failing("b", 30))
    narrow = pruned(raw, width=1)
    again = sample(folder, narrow)
    assert again.complete == again.queries == sum(SPLITS.values())
    alone = narrow | {"db": "alone.duckdb"}
    sample(folder, alone)
    here, there = (
        {row[0] for row in facts(folder / name)["trajectories"]}
        for name in ("alone.duckdb", "small.duckdb")
    )
    assert here < there  # by their ids


def test_another_draw_of_the_same_size_is_another_tree(folder: Path) -> None:
    raw = settings("abc", workflow={"name": "relay", "hops": 3})
    first = pruned(raw, width=1)
    other = pruned(raw, width=1, seed=1)
    made = sum(generated(folder, first).values())
    assert 0 < sum(generated(folder, other).values()) < made
    assert sum(generated(folder, first).values()) == sum(generated(folder, other).values()) == 0


def test_trees_that_do_not_fit_can_be_sampled_with_a_width(folder: Path) -> None:
    raw = settings("abc", workflow={"name": "relay", "hops": 8})
    raw["arms"] |= {f"a{number}": {"model": "a"} for number in range(6)}
    with pytest.raises(ConfigError, match=r"48,427,560 trajectories") as error:
        check_size(load(folder, raw))
    assert "sampling.width" in str(error.value.hint)
    experiment = load(folder, pruned(raw, width=1))
    check_size(experiment)
    assert trajectories(experiment.workflow, 9, experiment.config.sampling) == 72
    with pytest.raises(ConfigError, match=r"9 arms, 8 hops of width 4 and 1 replicas"):
        check_size(load(folder, pruned(raw, width=4)))


def test_a_bound_needs_trajectories_that_may_end(folder: Path) -> None:
    raw = pruned(settings("ab", train={"stop": False}), bound=True)
    with pytest.raises(ConfigError, match=r"sampling\.bound: needs train\.stop"):
        load(folder, raw)


def test_views_say_how_much_is_there(folder: Path) -> None:
    raw = pruned(settings("abc", workflow={"name": "relay", "hops": 3}), width=1)
    sample(folder, raw)
    db = folder / "small.duckdb"
    coverage = table(db, "coverage").filter(split="train").sort("depth")
    assert coverage["expected"].to_list() == [9, 27, 81]
    assert coverage["trajectories"].to_list() == [9, 9, 9]
    assert set(table(db, "oracle")["share"]) == {9 / 39}
    board = table(db, "leaderboard").filter(split="train")
    assert board.filter(place=0)["share"].to_list() == [9 / 39]
    ranked = board.filter(pl.col("place") > 0)
    assert set(ranked["share"]) == {1.0} and {"a", "b", "c"} <= set(ranked["sequence"])
    assert board.filter(pl.col("share") < 1)["place"].null_count() == len(board) - len(ranked) - 1
    sample(folder, settings("abc", workflow={"name": "relay", "hops": 3}))
    assert set(table(db, "sequences")["share"]) == set(table(db, "oracle")["share"]) == {1.0}
    assert table(db, "leaderboard")["place"].null_count() == 0


def test_what_pruning_leaves_out_is_no_fault(folder: Path) -> None:
    """Generations of what was left out may be there all the same: others have asked alike."""
    for name in "abc":
        write_script(folder, name, [["(?s)^.*$", "the same"]])
    raw = pruned(settings("abc", workflow={"name": "relay", "hops": 3}), width=1)
    sample(folder, raw)
    assert check_database(folder / "small.duckdb").faults == ()
