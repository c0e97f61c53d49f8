"""Replay: the stored trajectories of some splits as a `Tree` of tensors. Loads no model.

In: the database (read-only) and the experiment's settings. Out: the tree of the queries that
are complete, or hold all that pruned sampling asks for, and how many do not. A path of decisions
is coded as one integer, base K+1 digits behind the number of its tree, so that parents and children
are found by arithmetic and sorting, with no loop over rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from hcache.config.schema import ExperimentConfig
from hcache.data.extractors import version_of
from hcache.data.metrics import CODE
from hcache.engines import ENGINES
from hcache.errors import StoreError
from hcache.experiment import build_workflow
from hcache.keys import canonical, digest
from hcache.replay.assembly import Assembly
from hcache.replay.features import Encoder, FeatureStore, make_encoder
from hcache.replay.pruned import Rule
from hcache.replay.tree import Texts, Tree, to_read
from hcache.store import Store
from hcache.store.queries import CONTEXTS, LEAVES, QUERIES, STATES, STATES_WITH_ARMS


@dataclass(frozen=True)
class Replay:
    """A tree with what is to be said about where it comes from."""

    tree: Tree
    split: str
    incomplete: int  # queries left out, since an outcome of theirs is missing
    unsampled: int = 0  # those of them of which nothing is there

    @property
    def fingerprint(self) -> str:
        """Key of the queries, arms, structure, qualities and costs; features have their own."""
        tree = self.tree
        tensors = [tree.child_NA, tree.leaf_NA, tree.path_ML, tree.quality_M, tree.cost_M]
        return digest([list(tree.arms), list(tree.queries), [_digest(t) for t in tensors]])


def load_replay(
    store: Store, config: ExperimentConfig, split: str, encoder: Encoder | None = None
) -> Replay:
    """The tree of one split, with the config's arms, hops, prices and quality metric.

    The config may ask for fewer arms or hops than were sampled.

    Raises:
        StoreError: the experiment was not sampled, or not like this; the split has no queries,
            or none that is complete.
    """
    assembly = _assembled(store, config, split)
    if not assembly.complete.any():
        raise StoreError(
            f"{store.path}: no query of split {split} is complete.",
            "Run the same `hcache sample` again; it generates what is missing.",
        )
    contexts = assembly.contexts
    features = _features(store, contexts, encoder or make_encoder(config.features))
    texts = Texts(partial(_read_texts, store.path, contexts, assembly.roles))
    workflow = build_workflow(config.workflow, "workflow")
    partial_trees = assembly.partial(workflow.trajectories(len(config.arms)))
    tree = assembly.tree(tuple(config.arms), features)
    tree = replace(tree, texts=texts, partial=partial_trees)
    return Replay(tree, split, int((~assembly.complete).sum()), int((~assembly.begun).sum()))


def _assembled(store: Store, config: ExperimentConfig, split: str) -> Assembly:
    """States and leaves of a split, of which nothing is kept that the tree does not need."""
    workflow = build_workflow(config.workflow, "workflow")
    pool = _sampled_pool(store, config, workflow.fingerprint, workflow.hops)
    wanted = [config.name, split, workflow.fingerprint, workflow.hops, config.sampling.replicas]
    prices = [pool, *_prices(config)]
    rule = Rule.of(config, pool)
    listed = rule is not None and not workflow.regular
    asked = STATES_WITH_ARMS if listed else STATES
    states = store.sql(asked[config.cost], [*wanted, *prices])
    leaves = store.sql(LEAVES[config.cost], [*wanted, *prices, *_qualities(config)])
    queries = store.sql(QUERIES, wanted[:2])
    if queries.is_empty():
        raise StoreError(
            f"{store.path}: split {split} of {config.name} has no queries.",
            "Give it a source in the experiment's data, and sample it.",
        )
    _check_scored(store, leaves)
    return Assembly(
        states.drop_nulls("cost"),  # what is not known of an outcome is a hole, as the outcome is
        leaves.drop_nulls("cost"),
        queries,
        arms=len(pool),
        hops=workflow.hops,
        replicas=config.sampling.replicas,
        regular=workflow.regular,
        rule=rule,
    )


def _sampled_pool(store: Store, config: ExperimentConfig, workflow: str, hops: int) -> list[str]:
    """Ids of the config's arms as they were sampled, in the config's order."""
    found = store.rows_of("experiments", config.name)
    if found.is_empty():
        known = store.experiments()
        raise StoreError(
            f"{store.path} holds no experiment {config.name!r} (it has: {', '.join(known)}).",
            "Sample it first: hcache sample EXPERIMENT.yaml",
        )
    asked, sampled = config.model_dump(mode="json"), json.loads(found["config"][0])
    arms: dict[str, str] = dict(store.pool(config.name).select("name", "arm_id").iter_rows())
    changes = [
        f"arms.{name}"
        for name in config.arms
        if name not in arms or _differ(_reply_settings(asked, name), _reply_settings(sampled, name))
    ]
    changes += ["workflow"] if found["workflow"][0] != workflow else []
    changes += ["workflow.hops"] if found["hops"][0] < hops else []
    changes += ["sampling.replicas"] if found["replicas"][0] < config.sampling.replicas else []
    changes += ["data"] if _differ(_data(asked), _data(sampled)) else []
    if changes:
        raise StoreError(
            f"{store.path}: {config.name} was sampled otherwise ({', '.join(changes)} differ).",
            "Run `hcache sample` with these settings, or undo the change.",
        )
    return [arms[name] for name in config.arms]


def _differ(one: Any, two: Any) -> bool:
    """True if two configurations differ in a setting that both have; a version may add some."""
    if not isinstance(one, dict) or not isinstance(two, dict):
        return bool(one != two)
    return any(_differ(one[key], two[key]) for key in one.keys() & two.keys())


def _reply_settings(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of an arm that change what it says; where its files lie is no matter.

    Each is JSON text, so that an entry that one of two has and the other has not is a difference.
    """
    arm = config["arms"][name]
    model = config["models"][arm["model"]]
    files = {"path", "chat_template", "adapter", "low_rank"}
    settings = {k: v for k, v in model.items() if k not in files}
    settings.setdefault("reasoning_tags", None)  # a version before knew no others
    if engine := ENGINES.get(model["engine"]):
        settings["engine_args"] = engine.reply_arguments(model["engine_args"])
    settings |= {k: v for k, v in arm.items() if k not in ("price", "model")}
    return {k: canonical(v) for k, v in settings.items()}


def _data(config: dict[str, Any]) -> dict[str, Any]:
    """The data of an experiment, without where the files lie and how answers are evaluated."""
    return {
        "names": sorted(config["data"]),
        **{
            f"data.{name}": {
                "reader": data["reader"],
                "options": canonical(data["options"]),
                "extract": data["extract"],
                "limits": [
                    [key, source["limit"]] for key, source in sorted(data["sources"].items())
                ],
            }
            for name, data in config["data"].items()
        },
    }


def _prices(config: ExperimentConfig) -> list[list[float]]:
    prices = [arm.price.per_1000 for arm in config.arms.values()]
    return [[price for price, _ in prices], [price for _, price in prices]]


def _qualities(config: ExperimentConfig) -> list[list[str]]:
    """The data sets with the metric of each and the version that its scores must have."""
    metrics = [config.quality_of(name) for name in config.data]
    extractors = [data.extract for data in config.data.values()]
    return [list(config.data), metrics, list(map(version_of, extractors, metrics))]


def _check_scored(store: Store, leaves: pl.DataFrame) -> None:
    """Refuse leaves without a score, and scores that other rules have made than the rest."""
    unscored = leaves.filter(pl.col("quality").is_null())
    outdated = unscored.filter(pl.col("scored"))
    if len(outdated):
        raise StoreError(
            f"{store.path}: {len(outdated)} of {len(leaves)} scores {_metrics_of(outdated)} are by "
            "another version of their metric or extractor.",
            "Score anew, without any model: hcache rescore EXPERIMENT.yaml "
            "(`hcache sample` does so too).",
        )
    if len(unscored):
        if CODE in unscored["metric"]:
            raise StoreError(
                f"{store.path}: {len(unscored)} trajectories have no score {CODE!r}, which runs "
                "code that models wrote.",
                "Make it where you allow that: hcache rescore EXPERIMENT.yaml "
                "--allow-code-execution",
            )
        raise StoreError(
            f"{store.path}: {len(unscored)} trajectories have no score {_metrics_of(unscored)}.",
            "Add the metric to the data's `metrics` and run `hcache sample` again; "
            "it runs no model for that.",
        )


def _metrics_of(leaves: pl.DataFrame) -> str:
    return ", ".join(repr(name) for name in sorted(set(leaves["metric"])))


def _digest(tensor: torch.Tensor) -> str:
    """Key of a tensor's shape and bytes, in the byte order of most machines."""
    array = np.ascontiguousarray(tensor.cpu().numpy())
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return digest([list(array.shape), array.dtype.str[1:], hashlib.sha256(data).hexdigest()])


def _features(store: Store, contexts: Sequence[str], encoder: Encoder) -> npt.NDArray[Any]:
    """Vectors of the contexts; those never encoded before are encoded and kept."""
    cache = FeatureStore(store.path, encoder)
    missing = cache.missing(contexts)
    if missing:
        cache.add(_texts(store, missing))
    return cache.rows(contexts)


def _read_texts(db: Path, contexts: Sequence[str], roles: Sequence[str]) -> list[Sequence[str]]:
    """The texts of states by context and role, from a database that need not be open."""
    with Store(db) as store:
        texts = _texts(store, sorted(set(contexts)))
    return [to_read(texts[key], role) for key, role in zip(contexts, roles, strict=True)]


def _texts(store: Store, contexts: list[str]) -> dict[str, list[str]]:
    frame = store.sql(CONTEXTS, contexts=pl.DataFrame({"context_id": contexts}))
    return dict(frame.iter_rows())
