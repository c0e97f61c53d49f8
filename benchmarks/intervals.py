"""How often 95% intervals hold the truth, and how often routers without effect get a verdict.

    python benchmarks/intervals.py                  # both tables of docs/statistics.md
    python benchmarks/intervals.py --tables 4000    # with a smaller Monte Carlo error

Each simulated table is crossed, seeds by queries: x = μ + seed + query + rest, with spreads as in
docs/results.md. Dense differences are normal. Sparse ones are 0 on most queries and else ±`size`:
each seed has its own shares of gains and losses, and seeds agree on a query by a Gaussian copula.
The truth is the mean over new seeds and new queries. "before" is the percentile bootstrap over
queries of the seeds' mean, 1,000 resamples, read as verdicts were: above 0, or not above it.
"width" is the mean width relative to 2 · 1.96 true standard errors.

Axes in names: N tables, R routers, S seeds, Q queries, B resamples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hcache.evaluation.statistics import (
    BETTER,
    WORSE,
    holm,
    interval_of_mean,
    p_value,
    resampled_means,
    verdict,
)

Array = NDArray[np.float64]

SEEDS, QUERIES = (2, 3, 5, 10), (50, 300, 2000)
ROUTERS = 11
TOGETHER = 50  # tables in memory at once


@dataclass(frozen=True)
class Dense:
    """Normal differences; standard deviations of the parts."""

    name: str
    seed: float
    query: float
    rest: float
    mean: float = 0.0

    def tables(
        self, rng: np.random.Generator, shape: tuple[int, int, int], shared_1Q: Array | None = None
    ) -> Array:
        """Tables [N, S, Q]; half of the variance of queries is `shared_1Q`, where given."""
        count, seeds, queries = shape
        query_N1Q = rng.normal(size=(count, 1, queries))
        if shared_1Q is not None:
            query_N1Q = (query_N1Q + shared_1Q) / 2**0.5
        found: Array = self.mean + self.query * query_N1Q
        found = found + self.seed * rng.normal(size=(count, seeds, 1))
        return found + self.rest * rng.normal(size=shape)


@dataclass(frozen=True)
class Sparse:
    """Gains and losses of one size; `seed` is the standard deviation of a seed's mean."""

    name: str
    seed: float
    gains: float
    losses: float
    size: float = 1.0
    agreement: float = 0.7  # correlation of two seeds on a query

    @property
    def mean(self) -> float:
        """The mean over new seeds and queries."""
        return self.size * (self.gains - self.losses)

    def tables(
        self, rng: np.random.Generator, shape: tuple[int, int, int], shared_1Q: Array | None = None
    ) -> Array:
        """Tables [N, S, Q]; half of the variance of queries is `shared_1Q`, where given."""
        count, seeds, queries = shape
        # Uniform about the share, so that no share is negative and the mean is exact.
        reach = 3**0.5 * self.seed / self.size / (2 if self.losses else 1)
        moved_NS1 = rng.uniform(-reach, reach, size=(count, seeds, 1))
        query_N1Q = rng.normal(size=(count, 1, queries))
        if shared_1Q is not None:
            query_N1Q = (query_N1Q + shared_1Q) / 2**0.5
        drawn = self.agreement**0.5 * query_N1Q
        drawn = drawn + (1 - self.agreement) ** 0.5 * rng.normal(size=shape)
        found: Array = (drawn > -ndtri(self.gains + moved_NS1)).astype(float)
        if self.losses:
            found = found - (drawn < ndtri(self.losses - moved_NS1))
        return self.size * found


World = Dense | Sparse
Measure = Callable[[World, np.random.Generator, tuple[int, int, int]], tuple[float, ...]]

WORLDS: tuple[World, ...] = (
    Dense("dense, as PPO on the demo", 0.012, 0.47, 0.10, 0.685),
    Dense("dense, as front on four benchmarks", 0.012, 0.12, 0.08),
    Dense("dense, as SFT on four benchmarks", 0.020, 0.10, 0.10),
    Dense("dense, seeds alike", 0.003, 0.15, 0.05),
    Dense("dense, equal seeds (kNN)", 0.0, 0.20, 0.0),
    Sparse("sparse, 20% ±1, 4 gains a loss", 0.020, 0.16, 0.04),
    Sparse("sparse, 10% ±0.5, even", 0.010, 0.05, 0.05, size=0.5),
    Sparse("sparse, 10% ±1, 4 gains a loss", 0.010, 0.08, 0.02),
    Sparse("sparse, 10% ±1, equal seeds", 0.0, 0.06, 0.04, agreement=1.0),
    Sparse("sparse, 5% +1, no loss", 0.005, 0.05, 0.0),
    Sparse("sparse, 4% ±1, seeds apart", 0.0, 0.02, 0.02, agreement=0.0),
)
WITHOUT_EFFECT: tuple[World, ...] = (
    Dense("dense, as front on four benchmarks", 0.012, 0.12, 0.08),
    Dense("dense, as SFT on four benchmarks", 0.020, 0.10, 0.10),
    Dense("dense, seeds alike", 0.003, 0.15, 0.05),
    Sparse("sparse, 10% ±1, even", 0.010, 0.05, 0.05),
    Sparse("sparse, 4% ±1, seeds apart", 0.0, 0.02, 0.02, agreement=0.0),
)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=int, default=2000, help="simulated tables of each cell")
    parser.add_argument("--part", choices=["coverage", "verdicts"], help="one of the two alone")
    given = parser.parse_args()
    if given.part != "verdicts":
        print("| differences | seeds | queries | before | after | width |")
        print("|---|---:|---:|---:|---:|---:|")
        print_cells(WORLDS, QUERIES, coverage, given.tables)
    if given.part != "coverage":
        print(f"| {ROUTERS} routers without effect | seeds | queries | before | after |")
        print("|---|---:|---:|---:|---:|")
        print_cells(WITHOUT_EFFECT, QUERIES, verdicts, given.tables)


def print_cells(
    worlds: Sequence[World], queries: Sequence[int], measure: Measure, tables: int
) -> None:
    """One line for each world, number of seeds and number of queries."""
    for world, seeds, count in product(worlds, SEEDS, queries):
        found = measure(world, np.random.default_rng([seeds, count]), (tables, seeds, count))
        figures = " | ".join(f"{value:.3f}" for value in found)
        print(f"| {world.name} | {seeds} | {count} | {figures} |", flush=True)


def coverage(
    world: World, rng: np.random.Generator, shape: tuple[int, int, int]
) -> tuple[float, float, float]:
    """Coverage before and after, and the mean width after."""
    after, widths, means = [], [], []
    for table_SQ in _one_by_one(world, rng, shape):
        means.append(table_SQ.mean(axis=0))
        found = interval_of_mean(table_SQ)
        after.append(found.low - 1e-12 <= world.mean <= found.high + 1e-12)
        widths.append(found.high - found.low)
    low_N, high_N = percentiles(np.array(means))
    before = (low_N <= world.mean + 1e-12) & (world.mean <= high_N + 1e-12)
    truth = 2 * 1.96 * np.array(means).mean(axis=1).std(ddof=1)
    return float(np.mean(before)), float(np.mean(after)), float(np.mean(widths)) / truth


def verdicts(
    world: World, rng: np.random.Generator, shape: tuple[int, int, int]
) -> tuple[float, float]:
    """Share of the tables in which any router gets a verdict, before and after."""
    count, seeds, queries = shape
    means, after = [], []
    for _ in range(count):
        shared_1Q = rng.normal(size=(1, queries))
        table_RSQ = world.tables(rng, (ROUTERS, seeds, queries), shared_1Q)
        means.append(table_RSQ.mean(axis=1))
        corrected = holm([p_value(table_SQ) for table_SQ in table_RSQ])
        said = [verdict(own, p) for own, p in zip(table_RSQ, corrected, strict=True)]
        after.append(BETTER in said or WORSE in said)
    low, high = percentiles(np.concatenate(means))
    before = ((low > 0) | (high <= 0)).reshape(count, ROUTERS).any(axis=1)
    return float(before.mean()), float(np.mean(after))


def percentiles(mean_NQ: Array) -> tuple[Array, Array]:
    """The interval as it was: percentiles of the mean over resampled queries."""
    blocks = [
        np.quantile(resampled_means(block_NQ.T, 1000, 0), [0.025, 0.975], axis=0)
        for block_NQ in np.array_split(mean_NQ, 1 + mean_NQ.size // 4_000_000)
    ]
    low_N, high_N = np.concatenate(blocks, axis=1)
    return low_N, high_N


def _one_by_one(
    world: World, rng: np.random.Generator, shape: tuple[int, int, int]
) -> Iterator[Array]:
    count, *table = shape
    for start in range(0, count, TOGETHER):
        yield from world.tables(rng, (min(TOGETHER, count - start), table[0], table[1]))


if __name__ == "__main__":
    main()
