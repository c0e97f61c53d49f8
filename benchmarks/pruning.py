"""How much is lost where trees are not sampled whole: a study on trees that are.

    python -m benchmarks.pruning                                    # synthetic forests
    python -m benchmarks.pruning demo.duckdb data/demo/experiment.yaml    # --seeds N --out FILE

The trees of training and validation are pruned as `hcache sample` prunes them, and of the pruned
trees as many queries are taken, in random order, as fit a share of the calls of all whole trees.
Each seed has draws, an order of the queries and a router (`soft`, with its defaults) of its own.

- queries: share of the queries that fit, and calls: share of all calls that were made;
- oracle: share of the gap between best static sequence and oracle that the pruned trees show, over
  the queries that were taken;
- static lost: reward, on the whole test trees, of the static sequence chosen on whole trees less
  that of the one chosen on the pruned trees, and how often these are one;
- router: reward on the whole test trees of the router trained and selected on the pruned trees.

Means over seeds, with 95% intervals of Student's t. Equal prompts count as several calls here.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

import hcache
from benchmarks.learning.forest import forest
from hcache.policies.rollout import greedy_leaves
from hcache.replay.exact import oracle_leaves, static_leaves
from hcache.replay.pruned import Links, Rule, asked_for
from hcache.replay.static import Path as Sequence_
from hcache.replay.static import best_static
from hcache.replay.tree import NONE, Partial, Tree, tree_of_state
from hcache.trainers import TRAINERS
from hcache.trainers.loop import fit

SHARES = (0.1, 0.25, 0.5)
ITERATIONS, EVERY, PATIENCE = 100, 5, 10

Figures = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How trees are pruned; whole ones with neither."""

    name: str
    width: int | None = None
    bound: bool = False

    def rule(self, tree: Tree, alpha: float, seed: int) -> Rule:
        """The rule of sampling."""
        return Rule(self.width, seed, alpha if self.bound else None, tree.arms)


METHODS = (
    Method("whole queries"),
    Method("width 2", 2),
    Method("width 1", 1),
    Method("bound", bound=True),
    Method("bound, width 2", 2, bound=True),
)


@dataclass(frozen=True)
class Data:
    """Whole trees of an experiment, by split, and its α."""

    train: Tree
    valid: Tree
    test: Tree
    alpha: float


def from_database(db: Path, file: Path) -> Data:
    """The splits of a database that was sampled whole."""
    experiment = hcache.Experiment.load(file, db=db)
    with hcache.Store(experiment.db) as store:
        train, valid, test = (
            replace(hcache.load_replay(store, experiment.config, split).tree, texts=None)
            for split in ("train", "valid", "test")
        )
    return Data(train, valid, test, experiment.config.train.alpha)


def synthetic(seed: int) -> Data:
    """Forests as those of `benchmarks/learning`, with noise that nothing foretells."""
    counts = ((400, seed), (200, 20_000 + seed), (1000, 10_000 + seed))
    train, valid, test = (forest(count, seed=each, noise=0.1) for count, each in counts)
    return Data(train, valid, test, 0.25)


def pruned(tree: Tree, method: Method, alpha: float, seed: int, share: float) -> tuple[Tree, float]:
    """As many pruned trees as fit a share of the calls of all, and the share that they take."""
    rule = method.rule(tree, alpha, seed)
    queries = [tree.queries[query] for query in tree.query_T.tolist()]
    asked_NA, reached_N = asked_for(links_of(tree), rule, queries)
    owner_N = tree_of_state(tree).numpy()
    every_N = tree.valid_NA[:, : tree.stop].sum(dim=1).numpy()
    calls_T = np.bincount(owner_N, asked_NA[:, : tree.stop].sum(axis=1), minlength=len(tree))
    calls_Q = np.bincount(tree.query_T.numpy(), calls_T, minlength=len(tree.queries))
    order_Q = np.random.default_rng(seed).permutation(len(calls_Q))
    fits = calls_Q[order_Q].cumsum() <= share * every_N.sum()
    taken_Q = np.zeros(len(calls_Q), dtype=bool)
    taken_Q[order_Q[fits]] = True
    kept = cut(tree, torch.from_numpy(asked_NA), torch.from_numpy(reached_N))
    if method.width or method.bound:
        there = len(kept.quality_M) / len(tree.quality_M)
        at = alpha if method.bound and not method.width else None
        partial = Partial(len(tree.queries), there, not method.bound, at)
        kept = replace(kept, partial=partial)
    index_B = torch.from_numpy(taken_Q[tree.query_T.numpy()]).nonzero()[:, 0]
    return of_queries(kept.some(index_B), taken_Q), calls_Q[taken_Q].sum() / every_N.sum()


def links_of(tree: Tree) -> Links:
    """What pruning is decided by, of whole trees."""
    return Links(
        tree.child_NA.numpy(),
        tree.leaf_NA.numpy(),
        tree.valid_NA.numpy(),
        tree.hop_N.numpy(),
        tree_of_state(tree).numpy(),
        tree.cost_N.numpy(),
        tree.quality_M.numpy(),
        tree.cost_M.numpy(),
    )


def cut(tree: Tree, asked_NA: torch.Tensor, reached_N: torch.Tensor) -> Tree:
    """The forest with nothing but these actions and states."""
    child_NA = tree.child_NA.masked_fill(~asked_NA, NONE)[reached_N]
    leaf_NA = tree.leaf_NA.masked_fill(~asked_NA, NONE)[reached_N]
    state_n = reached_N.nonzero()[:, 0]
    leaf_m = leaf_NA[leaf_NA != NONE].sort().values

    def places(numbers: torch.Tensor, kept_n: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(kept_n, numbers).masked_fill(numbers == NONE, NONE)

    return replace(
        tree,
        root_T=places(tree.root_T, state_n),
        child_NA=places(child_NA, state_n),
        leaf_NA=places(leaf_NA, leaf_m),
        hop_N=tree.hop_N[reached_N],
        cost_N=tree.cost_N[reached_N],
        features_ND=tree.features_ND[reached_N],
        quality_M=tree.quality_M[leaf_m],
        cost_M=tree.cost_M[leaf_m],
        path_ML=tree.path_ML[leaf_m],
    )


def of_queries(tree: Tree, taken_Q: np.ndarray) -> Tree:
    """The forest with these queries alone in its lists of queries."""
    new_Q = torch.from_numpy(taken_Q.cumsum() - 1)

    def some(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(value for value, kept in zip(values, taken_Q, strict=True) if kept)

    return replace(
        tree,
        queries=some(tree.queries),
        datasets=some(tree.datasets),
        kinds=some(tree.kinds),
        query_T=new_Q[tree.query_T],
    )


def measured(data: Data, method: Method, seed: int, share: float) -> Figures:
    """All figures of one method, seed and share."""
    train, calls = pruned(data.train, method, data.alpha, seed, share)
    valid, _ = pruned(data.valid, method, data.alpha, seed, share)
    chosen = best_static([train, valid], data.alpha)
    best = best_static([data.train, data.valid], data.alpha)
    began = time.process_time()
    router = trained(train, valid, data.alpha, seed)
    return {
        "method": method.name,
        "share": share,
        "seed": seed,
        "queries": len(train.queries) / len(data.train.queries),
        "calls": calls,
        "oracle": gap_seen(data.train, train, data.alpha, best),
        "static lost": reward(data.test, best, data.alpha) - reward(data.test, chosen, data.alpha),
        "static found": chosen == best,
        "router": router(data.test),
        "seconds": time.process_time() - began,
    }


def trained(train: Tree, valid: Tree, alpha: float, seed: int) -> Any:
    """A router of the pruned trees, as what gives its mean reward on others."""
    kind = TRAINERS["soft"]
    trainer = kind(train, kind.Settings(), alpha=alpha, seed=seed)
    fitted = fit(
        trainer,
        valid,
        iterations=ITERATIONS,
        evaluate_every=EVERY,
        patience=PATIENCE,
        on_metrics=lambda metrics: None,
    )
    return lambda test: float(test.reward_M(alpha)[greedy_leaves(fitted.policy, test)].mean())


def gap_seen(whole: Tree, part: Tree, alpha: float, path: Sequence_) -> float:
    """What share of the gap of the queries that were taken their pruned trees show."""
    index = {query: number for number, query in enumerate(whole.queries)}
    taken = torch.zeros(len(whole.queries), dtype=torch.bool)
    taken[[index[query] for query in part.queries]] = True
    same = whole.some(taken[whole.query_T].nonzero()[:, 0])
    static = reward(same, path, alpha)
    return (oracle(part, alpha) - static) / (oracle(same, alpha) - static)


def reward(tree: Tree, path: Sequence_, alpha: float) -> float:
    """Mean reward of a static sequence."""
    return float(tree.reward_M(alpha)[static_leaves(tree, [path])[:, 0]].mean())


def oracle(tree: Tree, alpha: float) -> float:
    """Mean reward of the best leaves."""
    reward_M = tree.reward_M(alpha)
    return float(reward_M[oracle_leaves(tree, reward_M)].mean())


def jobs(seeds: int) -> Iterator[tuple[Method, int, float]]:
    """Methods, seeds and shares; whole trees of all queries first."""
    for seed in range(seeds):
        yield METHODS[0], seed, 1.0
        yield from ((method, seed, share) for method in METHODS for share in SHARES)


def same(row: Figures, method: Method, seed: int) -> bool:
    """Whether figures are of a method and seed that prune trees."""
    return (row["method"], row["seed"]) == (method.name, seed) and method != METHODS[0]


def table(rows: Sequence[Figures]) -> str:
    """A row for each share and method."""
    lines = [
        "| share of calls | | queries | calls | oracle's gap seen | static found, reward lost | "
        "router's test reward |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[float, str], list[Figures]] = {}
    for row in rows:
        groups.setdefault((row["share"], row["method"]), []).append(row)
    for (share, name), found in sorted(groups.items(), key=lambda group: group[0][0]):
        same = sum(row["static found"] for row in found)
        lines.append(
            f"| {share:.0%} | {name} | {statistics.mean(r['queries'] for r in found):.0%} | "
            f"{statistics.mean(r['calls'] for r in found):.1%} | {cell(found, 'oracle')} | "
            f"{same} of {len(found)}, {cell(found, 'static lost')} | {cell(found, 'router')} |"
        )
    return "\n".join(lines)


def cell(rows: Sequence[Figures], name: str) -> str:
    """A mean with its interval."""
    values = [row[name] for row in rows]
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    """Measure all methods on all seeds; write and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning", description=__doc__)
    parser.add_argument("db", type=Path, nargs="?", help="sampled whole; synthetic without")
    parser.add_argument("experiment", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("pruning.json"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    stored = from_database(told.db, told.experiment) if told.db else None
    rows: list[Figures] = []
    for method, seed, share in jobs(told.seeds):
        if any(same(row, method, seed) and row["queries"] == 1 > share for row in rows):
            continue  # a larger share takes no more
        rows.append(measured(stored or synthetic(seed), method, seed, share))
        print(json.dumps(rows[-1]), flush=True)
        told.out.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
