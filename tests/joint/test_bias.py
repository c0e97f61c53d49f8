"""Gradient of the low-level router over worlds so small that every cache of them can be listed.

A world is a workflow whose arms have two replies to a prompt. All caches that sampling it could
give, at n replicas, are queries of one tree; the mean of their gradients, each as often as the
behaviour gives that cache, is the expectation of the estimator. It must be the gradient itself.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import combinations_with_replacement
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.forest import Leaf, Node, lay_out

from hcache.joint.calls import CallTree, _assemble, _leaf_indices
from hcache.joint.from_cache import Joint, JointSettings, baselines, leaf_probs
from hcache.replay.tree import NONE, tree_of_leaf

ARMS = ("a", "b")
STOP = len(ARMS)
Cell = tuple[int, str]  # arm and prompt
Said = tuple[Cell, int]  # and which reply
Draws = Mapping[Cell, int]


@dataclass
class Replica:
    """The tree of one replica, with what was said on the way to each leaf, and all that was."""

    root: Node
    said: dict[tuple[int, ...], tuple[Said, ...]]
    draws: Draws


@dataclass
class Grower:
    """Builds the tree of one replica from draws; `twins` are arms of one checkpoint."""

    seed: str
    twins: bool
    draws: Draws
    said: dict[tuple[int, ...], tuple[Said, ...]] = field(default_factory=dict)

    def say(self, log: list[Said], arm: int, prompt: str) -> int:
        """The reply of an arm, logged. KeyError: it is not drawn yet."""
        cell = arm, prompt
        log.append((cell, self.draws[owner(self.twins, cell)]))
        return log[-1][1]

    def state(self, hop: int, *seen: object) -> Node:
        """A state whose features are the router's logits there, by what is seen."""
        rng = random.Random(f"{self.seed}|{hop}|{seen}")
        return Node([rng.uniform(-2, 2) for _ in range(3)], float(hop), hop)

    def end(self, path: tuple[int, ...], log: Sequence[Said]) -> Leaf:
        """Reward by path and replies."""
        self.said[path] = tuple(log)
        rng = random.Random(f"{self.seed}|{path}|{[reply for _, reply in log]}")
        return Leaf(rng.uniform(0.05, 1), rng.uniform(0, 3), path)


def one_turn(grower: Grower) -> Node:
    """Each arm answers once."""
    root = grower.state(0)
    for arm in (0, 1):
        log: list[Said] = []
        grower.say(log, arm, "q")
        root.actions[arm] = grower.end((arm,), log)
    return root


def two_turns(grower: Grower, shared: bool) -> Node:
    """An arm answers twice; the second prompt, where shared, does not say which arm began."""
    root = grower.state(0)
    for arm in (0, 1):
        log: list[Said] = []
        first = grower.say(log, arm, "q")
        grower.say(log, 1 if shared else arm, f"{first}" if shared else f"{arm}{first}")
        root.actions[arm] = grower.end((arm,), log)
    return root


def roles(grower: Grower, students: Sequence[int] = (0, 1)) -> Node:
    """Student and teacher are chosen first: assignments share the student's turn, often both."""
    root = grower.state(0)
    for student in students:
        root.actions[student] = child = grower.state(1, student)
        for teacher in (0, 1):
            log: list[Said] = []
            first = grower.say(log, student, "q")
            grower.say(log, teacher, f"advise {first}")
            child.actions[teacher] = grower.end((student, teacher), log)
    return root


def relay(grower: Grower, stop: bool) -> Node:
    """The router reads the first reply before it chooses who goes on, or stops."""
    root = grower.state(0)
    for arm in (0, 1) if stop else (0,):
        log: list[Said] = []
        first = grower.say(log, arm, "q")
        root.actions[arm] = child = grower.state(1, arm, first)
        for second in (0, 1):
            longer = [*log]
            grower.say(longer, second, f"{first}" if stop else f"{arm}{first}")
            child.actions[second] = grower.end((arm, second), longer)
        if stop:
            child.actions[STOP] = grower.end((arm,), log)
    return root


@dataclass(frozen=True)
class World:
    """A workflow, and whether its two arms are one checkpoint, whose draws are the same."""

    flow: Callable[[Grower], Node]
    twins: bool = False


WORLDS = {
    "one turn": World(one_turn),
    "two turns, apart": World(partial(two_turns, shared=False)),
    "two turns, shared": World(partial(two_turns, shared=True)),
    "roles": World(roles),
    "roles, one student": World(partial(roles, students=(0,))),
    "relay": World(partial(relay, stop=False)),
    "relay with stop": World(partial(relay, stop=True)),
    "twins": World(one_turn, twins=True),
    "twins with roles": World(roles, twins=True),
}
LARGE = {"roles", "relay with stop", "twins with roles"}  # too many caches at n = 3
CASES = [
    pytest.param(world, replicas, id=f"{name}, n={replicas}")
    for name, world in WORLDS.items()
    for replicas in (1, 2, 3)
    if replicas < 3 or name not in LARGE
]


def owner(twins: bool, cell: Cell) -> Cell:
    """The cell whose draw it is."""
    return (0, cell[1]) if twins else cell


def replicas_of(world: World, seed: str) -> Iterator[Replica]:
    """Everything that one replica can come to."""
    todo: list[dict[Cell, int]] = [{}]
    while todo:
        draws = todo.pop()
        grower = Grower(seed, world.twins, draws)
        try:
            root = world.flow(grower)
        except KeyError as missing:
            todo += [draws | {missing.args[0]: reply} for reply in (0, 1)]
        else:
            yield Replica(root, grower.said, draws)


def behaviour(world: World, seed: str, cell: Cell) -> tuple[float, float]:
    """Probabilities of the two replies."""
    first = random.Random(f"{seed}|{owner(world.twins, cell)}").uniform(0.15, 0.85)
    return first, 1 - first


@dataclass
class Caches:
    """Every cache of a world as a query of one tree, its probability, and its cells by number."""

    tree: CallTree
    chance_Q: torch.Tensor
    cells: tuple[Cell, ...]
    said: list[tuple[Said, ...]]  # of each leaf


def caches(world: World, replicas: int, seed: str) -> Caches:
    """All sets of replicas, each set once."""
    single = list(replicas_of(world, seed))
    weight = [
        math.prod(behaviour(world, seed, cell)[reply] for cell, reply in one.draws.items())
        for one in single
    ]
    assert sum(weight) == pytest.approx(1)
    sets = list(combinations_with_replacement(range(len(single)), replicas))
    chance = [
        math.factorial(replicas)
        / math.prod(math.factorial(count) for count in Counter(some).values())
        * math.prod(weight[one] for one in some)
        for some in sets
    ]
    roots = [copied(single[one].root) for some in sets for one in some]
    width = len(str(len(sets)))
    tree = lay_out(roots, ARMS, hops=2, replicas=replicas).tree
    # Calls number queries in the order of their ids, which has to be that of the tree.
    tree = replace(tree, queries=tuple(f"{index:0{width}d}" for index in range(len(sets))))
    rows, said = [], {}
    for query, some in zip(tree.queries, sets, strict=True):
        for replica, one in enumerate(some):
            for path, log in single[one].said.items():
                said[query, replica, path] = log
                rows += [row(world, query, replica, path, *what) for what in log]
    places = _leaf_indices(tree)
    calls = _assemble(rows, places, {arm: index for index, arm in enumerate(ARMS)})
    parts = {name: getattr(tree, name) for name in tree.__dataclass_fields__}
    cells = tuple(sorted({cell for log in said.values() for cell, _ in log}))
    by_leaf = {leaf: said[place] for place, leaf in places.items()}
    return Caches(
        CallTree(**parts, calls=calls, speakers=(None, None)),
        torch.tensor(chance, dtype=torch.float64),
        cells,
        [by_leaf[leaf] for leaf in range(len(by_leaf))],
    )


def copied(node: Node) -> Node:
    """A tree of its own for each cache that it is in."""
    actions = {
        action: copied(target) if isinstance(target, Node) else Leaf(**vars(target))
        for action, target in node.actions.items()
    }
    return Node(node.features, node.cost, node.hop, actions)


def row(
    world: World, query: str, replica: int, path: tuple[int, ...], cell: Cell, reply: int
) -> dict[str, Any]:
    """A stored call, as the database gives it."""
    return {
        "query_id": query,
        "replica": replica,
        "path": path,
        "arm": ARMS[cell[0]],
        "generation": f"{owner(world.twins, cell)}|{replica}",
        "messages": json.dumps([{"role": "user", "content": cell[1]}]),
        "token_ids": [reply],
        "role": "",
        "question": "",
        "logprobs": None,
    }


class Tabular(Joint):
    """Joint training with a table of logits, of its own for every query, in place of models."""

    def __init__(self, world: World, seed: str, listed: Caches, z_CR: torch.Tensor) -> None:
        calls = listed.tree.calls
        number = {cell: index for index, cell in enumerate(listed.cells)}
        cells = [
            (int(arm), call.messages[0].content)
            for arm, call in zip(calls.arm_U, calls.records, strict=True)
        ]
        self.cell_U = torch.tensor([number[cell] for cell in cells])
        self.reply_U = torch.tensor([call.output_ids[0] for call in calls.records])
        self.behaviour_CR = table_of(world, seed, listed)
        self.z_QCR = z_CR.repeat(len(listed.tree.queries), 1, 1).requires_grad_()
        settings = JointSettings(batch_queries=10**6, clip_ratio=1e9, min_ess=0, device="cpu")
        super().__init__(listed.tree, settings, alpha=0.1, seed=0)

    def make_policy(self, train: Any, init: Any) -> Any:
        policy: Any = super().make_policy(train, init)
        policy.probs = router
        return policy

    def _said(self, tree: Any) -> Any:
        arm_U = tree.calls.arm_U

        def chunks(index_B: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
            for arm in (0, 1):
                yield arm, index_B[arm_U[index_B] == arm]

        scorer = SimpleNamespace(calls=tree.calls, chunks=chunks, engine_difference=0.0)
        return SimpleNamespace(tree=tree, scorer=scorer, calls=tree.calls)

    def _log_ratio(self, stored: Any, arm: int, part: torch.Tensor) -> torch.Tensor:
        query_B, cell_B, reply_B = stored.calls.query_U[part], self.cell_U[part], self.reply_U[part]
        logprob_B = self.z_QCR.log_softmax(dim=2)[query_B, cell_B, reply_B]
        return logprob_B - self.behaviour_CR.log()[cell_B, reply_B]


def router(states: Any) -> torch.Tensor:
    """The high-level router of all worlds: its logits are the features."""
    logits_NA = states.features_ND.double().masked_fill(~states.valid_NA, -torch.inf)
    probs_NA: torch.Tensor = logits_NA.softmax(dim=1)
    return probs_NA


def table_of(world: World, seed: str, listed: Caches) -> torch.Tensor:
    """The behaviour, [cells, replies]."""
    rows = [behaviour(world, seed, cell) for cell in listed.cells]
    return torch.tensor(rows, dtype=torch.float64)


@cache
def case(world: World, replicas: int, seed: str) -> Caches:
    return caches(world, replicas, seed)


def estimated(
    world: World, replicas: int, seed: str, listed: Caches, z_CR: torch.Tensor
) -> torch.Tensor:
    """Expectation of the gradient, [cells, replies]."""
    trainer = Tabular(world, seed, listed, z_CR)
    trainer.step()
    assert trainer.z_QCR.grad is not None
    by_query = -trainer.z_QCR.grad * len(listed.tree) / replicas
    return torch.einsum("q,qcr->cr", listed.chance_Q, by_query)


def exact(world: World, seed: str, listed: Caches, z_CR: torch.Tensor, whole: bool) -> torch.Tensor:
    """Gradient of the expected reward, from each trajectory once; with the ratios of calls one by
    one, as the surrogate has them, where not `whole`."""
    tree, at = listed.tree, {cell: index for index, cell in enumerate(listed.cells)}
    chance_M = leaf_probs(tree, router(tree.states))
    z_CR = z_CR.clone().requires_grad_()
    logprob_CR, behaviour_CR = z_CR.log_softmax(dim=1), table_of(world, seed, listed)
    reward_M = tree.reward_M(0.1)
    trajectories = {
        (tuple(tree.path_ML[leaf].tolist()), log): leaf for leaf, log in enumerate(listed.said)
    }
    total = torch.zeros((), dtype=torch.float64)
    for (_, log), leaf in trajectories.items():
        policy = [logprob_CR[at[cell], reply].exp() for cell, reply in log]
        sampled = [behaviour_CR[at[cell], reply] for cell, reply in log]
        many = (
            math.prod(policy)
            if whole
            else math.prod(sampled)
            * sum(one / two for one, two in zip(policy, sampled, strict=True))
        )
        total = total + chance_M[leaf] * reward_M[leaf] * many
    total.backward()
    assert z_CR.grad is not None
    return z_CR.grad


def moved(world: World, seed: str, listed: Caches) -> torch.Tensor:
    """Logits of a policy away from the behaviour."""
    generator = torch.Generator().manual_seed(0)
    table = table_of(world, seed, listed).log()
    return table + torch.randn(table.shape, generator=generator, dtype=torch.float64)


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one * two).sum() / (one.norm() * two.norm()))


@pytest.mark.parametrize("seed", ["0", "1", "4"])
@pytest.mark.parametrize(("world", "replicas"), CASES)
def test_the_gradient_has_no_bias(world: World, replicas: int, seed: str) -> None:
    listed = case(world, replicas, seed)
    z_CR = table_of(world, seed, listed).log()
    found = estimated(world, replicas, seed, listed, z_CR)
    wanted = exact(world, seed, listed, z_CR, whole=True)
    assert float((found - wanted).abs().max()) < 1e-9, f"cosine {cosine(found, wanted):.2f}"


@pytest.mark.parametrize("seed", ["0", "4"])
@pytest.mark.parametrize(("world", "replicas"), CASES)
def test_nor_away_from_the_behaviour(world: World, replicas: int, seed: str) -> None:
    """The gradient of the surrogate; where a trajectory is one call, of the reward itself."""
    listed = case(world, replicas, seed)
    z_CR = moved(world, seed, listed)
    found = estimated(world, replicas, seed, listed, z_CR)
    wanted = exact(world, seed, listed, z_CR, whole=world.flow is one_turn)
    assert float((found - wanted).abs().max()) < 1e-9, f"cosine {cosine(found, wanted):.2f}"


@pytest.mark.parametrize("name", ["two turns, shared", "roles", "twins with roles"])
def test_baselines_are_means_of_the_nearest_leaves_without_the_draw(name: str) -> None:
    """Against plain loops."""
    listed = case(WORLDS[name], 2, "0")
    tree, calls = listed.tree, listed.tree.calls
    reward_M = tree.reward_M(0.1)
    found_U = baselines(tree, calls, reward_M)
    query_M = tree.query_T[tree_of_leaf(tree)].tolist()
    own: list[list[int]] = [[] for _ in query_M]
    for leaf, call in zip(calls.leaf_E.tolist(), calls.call_E.tolist(), strict=True):
        own[leaf].append(call)
    kinds = Counter[str]()
    for call in range(0, len(calls), 1 + len(calls) // 100):
        lacking = [
            leaf
            for leaf, query in enumerate(query_M)
            if query == int(calls.query_U[call])
            and not any(calls.draw_U[one] == calls.draw_U[call] for one in own[leaf])
        ]
        redrawn = [
            leaf
            for leaf in lacking
            if any(calls.prompt_U[one] == calls.prompt_U[call] for one in own[leaf])
        ]
        some = redrawn or lacking
        kinds["redrawn" if redrawn else "lacking" if lacking else "none"] += 1
        mean = sum(float(reward_M[leaf]) for leaf in some) / len(some) if some else 0.0
        assert float(found_U[call]) == pytest.approx(mean)
    assert kinds["redrawn"] and kinds["lacking"]
    assert NONE not in calls.draw_U
