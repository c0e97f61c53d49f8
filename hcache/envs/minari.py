"""Every trajectory of a tree as a Minari data set, one episode each, for offline learning.

In: a `RoutingMDP` and the name that the data set shall have. Out: a data set in Minari's folder
(`MINARI_DATASETS_PATH`, else ~/.minari/datasets), in its default format (HDF5).

An episode has the observations and actions of `hcache.envs.mdp`, rewards in float64, and as infos
the masks of valid actions, int8 [steps + 1, A]. Its options are those that reset a `RoutingEnv` to
the same tree; its metadata tell query, quality and cost. No text of a question is in it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from hcache.envs.gym import spaces_of
from hcache.envs.mdp import RoutingMDP
from hcache.envs.transitions import Transitions, transitions
from hcache.errors import ConfigError
from hcache.packages import missing

try:
    import h5py  # noqa: F401  # Minari asks for it when it writes
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path
except ImportError as error:
    raise missing("minari[hdf5]", "envs") from error


def export_minari(mdp: RoutingMDP, dataset_id: str) -> Any:
    """Write all trajectories; the `MinariDataset`, which `minari.load_dataset` gives again.

    Raises:
        ConfigError: the name is none that Minari takes, or a data set has it already.
    """
    _check_name(dataset_id)
    observation_space, action_space = spaces_of(mdp)
    played = transitions(mdp)
    try:
        with warnings.catch_warnings():
            # It misses an author and the like, which can be added; and a spec, which has no tree.
            warnings.simplefilter("ignore", UserWarning)
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                _episodes(played),
                observation_space=observation_space,
                action_space=action_space,
                algorithm_name="all trajectories",
                description=f"Routing among {', '.join(mdp.tree.arms)}; R = Q - {mdp.alpha} C",
            )
        dataset.storage.update_episode_metadata(_metadata(played))
    except BaseException:  # a data set is whole or absent
        shutil.rmtree(get_dataset_path(dataset_id), ignore_errors=True)
        raise
    return dataset


def _check_name(dataset_id: str) -> None:
    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError) as error:  # TypeError where the version is missing
        raise ConfigError(
            f"{dataset_id!r} is no name of a Minari data set.",
            "Write name-v0 or namespace/name-v0, with letters, digits, - and _.",
        ) from error
    if get_dataset_path(dataset_id).exists():
        raise ConfigError(
            f"there is a Minari data set {dataset_id} already.",
            f"Choose another version, or delete it: minari delete {dataset_id}",
        )


def _episodes(played: Transitions) -> Iterator[Any]:
    """The trajectories as Minari's buffers; each has one observation more than actions."""
    mdp = played.mdp
    table, valid = mdp.observation_NW.cpu().numpy(), mdp.valid_NA.cpu().numpy().astype(np.int8)
    tree_of_leaf = mdp.tree_M.tolist()
    fields = [
        np.split(values.cpu().numpy(), _ends(played)[:-1])
        for values in (played.state_B, played.action_B, played.reward_B, played.terminal_B)
    ]
    for leaf, state, action, reward, terminal in zip(_leaves(played), *fields, strict=True):
        seen = np.append(state, mdp.end)
        yield EpisodeBuffer(
            observations=table[seen],
            actions=action,
            rewards=reward,
            terminations=terminal,
            truncations=np.zeros_like(terminal),
            infos={"action_mask": valid[seen]},
            options={"tree": tree_of_leaf[leaf]},
        )


def _metadata(played: Transitions) -> Iterator[dict[str, Any]]:
    tree = played.mdp.tree
    query_M = tree.query_T[played.mdp.tree_M].tolist()
    quality_M, cost_M = tree.quality_M.tolist(), tree.cost_M.tolist()
    for leaf in _leaves(played):
        yield {
            "query": tree.queries[query_M[leaf]],
            "quality": quality_M[leaf],
            "cost": cost_M[leaf],
        }


def _ends(played: Transitions) -> Any:
    """Ends of trajectories, as indices of transitions."""
    return played.terminal_B.nonzero()[:, 0].cpu().numpy() + 1


def _leaves(played: Transitions) -> list[int]:
    leaves: list[int] = played.leaf_B[played.terminal_B].tolist()
    return leaves
