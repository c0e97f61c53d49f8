"""How fast replay is, as ratios against a baseline that runs in turn with it.

    python benchmarks/replay.py          # after `hcache sample data/demo/experiment.yaml`

- environment: episodes under random decisions, advanced together by gathers on the tree, against
  one episode at a time over the same tree as dictionaries (how a gym environment would step it)
- features: vectors of all states from the memory-mapped cache, against encoding them again
- evaluating: the return of a stochastic policy, exactly by one backward pass, against the mean of
  1,000 sampled episodes of each tree (which is an estimate besides)

Each figure is the median over five rounds, in which the two take turns. One thread.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import hcache
from hcache.replay.exact import returns
from hcache.replay.features import FeatureStore, make_encoder
from hcache.replay.tree import Tree

ROUNDS = 5
EPISODES = 4096


def main() -> None:
    """Print one line for each comparison."""
    torch.set_num_threads(1)
    experiment = hcache.Experiment.load("data/demo/experiment.yaml")
    with hcache.Store(experiment.db) as store:
        tree = hcache.load_replay(store, experiment.config, "train").tree
        contexts = dict(store.sql(CONTEXTS).iter_rows())
    transitions = as_dictionaries(tree)
    compare("environment", lambda: gather(tree), lambda: step(tree, transitions))
    with TemporaryDirectory() as folder:
        encoder = make_encoder(experiment.config.features)
        db = Path(folder) / "x.duckdb"
        FeatureStore(db, encoder).add(contexts)
        compare(
            "features",
            lambda: FeatureStore(db, encoder).rows(list(contexts)),
            lambda: encoder.encode(list(contexts.values())),
        )
    probs_NA = tree.valid_NA / tree.valid_NA.sum(dim=1, keepdim=True)
    reward_M = tree.reward_M(0.5)
    compare(
        "evaluating",
        lambda: returns(tree, reward_M, probs_NA),
        lambda: [gather(tree, len(tree)) for _ in range(1000)],
    )


def compare(name: str, ours: Callable[[], object], baseline: Callable[[], object]) -> None:
    """Time both in turn, and print medians and the median of the ratios."""
    pairs = [(seconds(ours), seconds(baseline)) for _ in range(ROUNDS)]
    one, two = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{name:12} {one * 1e3:9.2f} ms against {two * 1e3:9.2f} ms: {ratio:.1f} times as fast")


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def gather(tree: Tree, episodes: int = EPISODES) -> torch.Tensor:
    """Play episodes together; the leaves they end in."""
    state = tree.root_T[torch.randint(len(tree), (episodes,))]
    leaf = torch.full_like(state, -1)
    for _ in range(tree.hops):
        action = torch.multinomial(tree.valid_NA[state].float(), 1)[:, 0]
        leaf = torch.where(leaf < 0, tree.leaf_NA[state, action], leaf)
        state = tree.child_NA[state, action].clamp(min=0)
    return leaf


Transitions = dict[int, list[tuple[int, int]]]  # state -> (child, leaf) of each valid action


def as_dictionaries(tree: Tree) -> Transitions:
    """The tree as a plain environment has it."""
    children, leaves = tree.child_NA.tolist(), tree.leaf_NA.tolist()
    return {
        state: [pair for pair in zip(*rows, strict=True) if max(pair) >= 0]
        for state, rows in enumerate(zip(children, leaves, strict=True))
    }


def step(tree: Tree, transitions: Transitions) -> list[int]:
    """Play episodes one at a time; the leaves they end in."""
    roots = tree.root_T.tolist()
    ends = []
    for _ in range(EPISODES):
        state, leaf = random.choice(roots), -1
        while leaf < 0:
            state, leaf = random.choice(transitions[state])
        ends.append(leaf)
    return ends


CONTEXTS = """
select s.context_id, list(t.text order by p.place)
from (select distinct context_id, context from states) s,
     lateral (select unnest(s.context) as text_id, generate_subscripts(s.context, 1) as place) p
     join texts t using (text_id)
group by s.context_id order by s.context_id
"""


if __name__ == "__main__":
    main()
