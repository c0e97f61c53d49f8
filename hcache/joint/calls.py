"""The stored calls of a tree: arm, messages, tokens generated, and the leaves they lead to.

A call that several trajectories share, as a common beginning, stands here once. Calls of arms
without weights (scripted ones, tools) are left out: nothing about them can be learned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcache.config.schema import ExperimentConfig, ModelConfig
from hcache.engines import build_pool
from hcache.errors import ConfigError, StoreError
from hcache.experiment import build_workflow
from hcache.models.arms import Arm
from hcache.replay.tree import NONE, Tree, tree_of_leaf
from hcache.store import Store
from hcache.store.queries import CALLS_OF_POOL
from hcache.workflows import Message


@dataclass(frozen=True)
class Call:
    """A stored call of an arm."""

    messages: tuple[Message, ...]
    output_ids: tuple[int, ...]  # the end-of-turn token included where the model said it
    role: str
    question: str  # that it was said for
    logprobs: tuple[float, ...] | None  # as the engine gave them
    generation: str  # its key; arms that say the same share it


@dataclass(frozen=True)
class Calls:
    """The calls of a tree; the pair of leaf_E[i] and turn_E[i] is a call on the way to a leaf."""

    records: tuple[Call, ...]
    arm_U: Tensor
    query_U: Tensor
    prompt_U: Tensor  # a number per query, arm and messages: calls of equal ones are draws of one
    draw_U: Tensor  # a number per query and generation: arms that say the same share the draw
    leaf_E: Tensor
    call_E: Tensor

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class CallTree(Tree):
    """A tree with its calls, and the arms that said them (None: one without weights)."""

    calls: Calls
    speakers: tuple[Arm | None, ...]


NO_CALLS = Calls((), *(torch.zeros(0, dtype=torch.int64) for _ in range(6)))


def calls_of(tree: Tree) -> Calls:
    """The calls of a tree; none of one that carries none."""
    return tree.calls if isinstance(tree, CallTree) else NO_CALLS


def speakers_of(tree: Tree) -> tuple[Arm | None, ...]:
    """The arms with weights of a tree, by their index."""
    return tree.speakers if isinstance(tree, CallTree) else (None,) * len(tree.arms)


def with_calls(store: Store, config: ExperimentConfig, tree: Tree) -> CallTree:
    """The tree with its stored calls.

    Raises:
        StoreError: a checkpoint is not the one that said the stored replies.
        ConfigError: a checkpoint is not there, or was not sampled at temperature 1 and top_p 1.
    """
    ids = dict(store.pool(config.name).select("name", "arm_id").iter_rows())
    pool = [ids[name] for name in config.arms]
    speakers = _speakers(store, config)
    workflow = build_workflow(config.workflow, "workflow").fingerprint
    spoken = [arm_id for arm_id, arm in zip(pool, speakers, strict=True) if arm is not None]
    rows = store.sql(CALLS_OF_POOL, [config.name, workflow, pool, spoken]).iter_rows(named=True)
    calls = _assemble(rows, _leaf_indices(tree), {arm: index for index, arm in enumerate(pool)})
    return CallTree(**{name: getattr(tree, name) for name in tree.__dataclass_fields__},
                    calls=calls, speakers=speakers)  # fmt: skip


def _speakers(store: Store, config: ExperimentConfig) -> tuple[Arm | None, ...]:
    """The arms that vLLM serves, with their checkpoints found and checked."""
    rows = store.pool(config.name).rows_by_key("name", named=True, unique=True)
    return tuple(_speaker(name, rows[name], config) for name in config.arms)


def _speaker(name: str, row: dict[str, Any], config: ExperimentConfig) -> Arm | None:
    settings, model_name = config.arms[name], config.arms[name].model
    if config.models[model_name].engine != "vllm":
        return None
    if (settings.temperature, settings.top_p) != (1.0, 1.0):
        raise ConfigError(
            f"arms.{name}: was sampled at temperature {settings.temperature:g}, top_p "
            f"{settings.top_p:g}; log-probabilities to learn from need 1 and 1.",
            f"Sample with arms.{name}.temperature=1 and arms.{name}.top_p=1.",
        )
    known = json.loads(row["settings"])
    stored = ModelConfig.model_validate(
        {key: known[key] for key in ModelConfig.model_fields if key in known}
    )
    moved = config.models[model_name].model_copy(update={"low_rank": stored.low_rank})
    model = stored if Path(stored.path).is_dir() else moved
    (arm,) = build_pool({model_name: model}, {name: settings}, Path())
    if arm.fingerprint != row["fingerprint"]:
        raise StoreError(
            f"models.{model_name}: {arm.path} is not the checkpoint that said the stored replies.",
            "Name the folder it was sampled from, or sample again.",
        )
    return arm


Place = tuple[str, int, tuple[int, ...]]  # query id, replica, path: what a leaf is of


def _leaf_indices(tree: Tree) -> dict[Place, int]:
    """The leaves that can be reached, by what they are of."""
    tree_M = tree_of_leaf(tree)
    reached = tree.leaf_NA[tree.leaf_NA != NONE].unique()
    found = {}
    for leaf, index in zip(reached.tolist(), tree_M[reached].tolist(), strict=True):
        path = tuple(action for action in tree.path_ML[leaf].tolist() if action != NONE)
        query = tree.queries[int(tree.query_T[index])]
        found[query, int(tree.replica_T[index]), path] = leaf
    return found


def _assemble(rows: Any, leaves: dict[Place, int], arms: dict[str, int]) -> Calls:
    """Calls and their leaves from rows of calls; calls of other queries are passed over."""
    queries: dict[str, int] = {}
    for query, _, _ in sorted(leaves):  # a tree's queries are ordered by id
        queries.setdefault(query, len(queries))
    records: list[Call] = []
    numbers: dict[tuple[str, str, str], int] = {}
    edges: dict[tuple[int, int], None] = {}
    for row in rows:
        leaf = leaves.get((row["query_id"], row["replica"], tuple(row["path"])))
        if leaf is None:
            continue
        key = row["query_id"], row["arm"], row["generation"]
        if key not in numbers:
            numbers[key] = len(numbers)
            records.append(_call(row))
        edges[leaf, numbers[key]] = None
    prompts: dict[tuple[str, str, tuple[Message, ...]], int] = {}
    draws: dict[tuple[str, str], int] = {}
    for (query, arm, _), call in zip(numbers, records, strict=True):
        prompts.setdefault((query, arm, call.messages), len(prompts))
        draws.setdefault((query, call.generation), len(draws))
    return Calls(
        tuple(records),
        arm_U=_ints([arms[arm] for _, arm, _ in numbers]),
        query_U=_ints([queries[query] for query, _, _ in numbers]),
        prompt_U=_ints(
            [
                prompts[query, arm, call.messages]
                for (query, arm, _), call in zip(numbers, records, strict=True)
            ]
        ),
        draw_U=_ints([draws[query, generation] for query, _, generation in numbers]),
        leaf_E=_ints([leaf for leaf, _ in edges]),
        call_E=_ints([call for _, call in edges]),
    )


def _call(row: dict[str, Any]) -> Call:
    logprobs = row["logprobs"]
    return Call(
        tuple(Message(**message) for message in json.loads(row["messages"])),
        tuple(row["token_ids"]),
        row["role"],
        row["question"],
        None if logprobs is None else tuple(logprobs),
        row["generation"],
    )


def _ints(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
