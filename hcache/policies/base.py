"""Policies: a state goes in, a probability for every action comes out.

A policy is one file in this folder with a class under `@register("name")`; every module here is
imported with the package, so nothing else needs an edit. A saved policy is a folder with
`policy.safetensors` (its tensors) and `policy.json` (its registered name, its settings, the digest
of the tensors, and its own).

Axes in names: n states asked about, A actions (arms, then STOP).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hcache.artefacts import check_file, read_object, write_object
from hcache.errors import ConfigError, RunError
from hcache.files import replace_file
from hcache.keys import digest_file
from hcache.plugins import Registry
from hcache.replay.tree import States

FORMAT = 1  # of a saved policy; raised when an older reader could not read it
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"
ENTRIES = frozenset({"format", "name", "settings", "tensors"})  # of the description
AGAIN = "Train the policy again, or copy its whole folder again."
Module = TypeVar("Module", bound=nn.Module)


class Policy(Protocol):
    """A router: π(a | s) for every state and action."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that its actions stand for, in order; the action after them is STOP."""

    def probs(self, states: States) -> Tensor:
        """Probabilities [n, A]: exactly 0 on actions that are not valid, rows sum to 1."""

    def save(self, folder: Path) -> None:
        """Write `policy.safetensors` and `policy.json` into `folder`."""


@runtime_checkable
class AnyAlpha(Protocol):
    """A policy that serves any α, not only the one that it was trained with."""

    def at(self, alpha: float) -> Policy:
        """The same policy for R = Q − α·C with this α."""


def at_alpha(policy: Policy, alpha: float) -> Policy:
    """The policy at an α, where it can serve another than its own; else the policy."""
    return policy.at(alpha) if isinstance(policy, AnyAlpha) else policy


@runtime_checkable
class ChangesReplies(Protocol):
    """A policy that changes the models, so that replay knows only half of what it does."""

    def delta(self, arm: int, features_BD: Tensor) -> Any:
        """The changes to the weights of an arm, for queries with these features."""


class StoredPolicy(Policy, Protocol):
    """A policy of a registered class, which has a way back from a saved folder."""

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy that `save` wrote; ValueError, TypeError or KeyError if it does not fit."""


POLICIES: Registry[type[StoredPolicy]] = Registry("policy", "hcache.policies")


def write_policy(
    folder: Path, name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Save a policy; the description goes last, so that a half-written folder is noticed."""
    copies = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    replace_file(folder / TENSORS, safetensors.torch.save(copies))
    description = {
        "format": FORMAT,
        "name": name,
        "settings": dict(settings),
        "tensors": digest_file(folder / TENSORS),
    }
    write_object(folder / DESCRIPTION, description, indent=1)


def with_weights(make: Callable[[], Module], tensors: Mapping[str, Tensor]) -> Module:
    """A module with saved tensors as its weights; memory is taken for those that were saved only.

    Raises:
        RuntimeError: there are others than the module has, or of another shape.
        TypeError: one is of another type.
    """
    with torch.device("meta"):  # so that sizes which are absurd cost nothing
        module = make()
    types = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    module.load_state_dict(tensors, assign=True)
    if types != {name: tensor.dtype for name, tensor in tensors.items()}:
        raise TypeError("a tensor is of another type")
    return module


def load_policy(folder: Path) -> Policy:
    """Read a saved policy.

    Raises:
        RunError: if the folder holds none, or one that is damaged, unknown or does not fit.
    """
    description = _read_description(folder)
    name = description["name"]
    if name not in POLICIES:
        raise RunError(
            f"{folder} holds a policy of the unknown class {name!r}.",
            f"Known: {', '.join(POLICIES)}. Name the plug-in that it comes from (`plugins:` in the "
            "experiment, or --plugin FILE), or use the version that saved it.",
        )
    tensors = _read_tensors(folder, description["tensors"])
    try:
        policy = POLICIES[name].restore(description["settings"], tensors)
        if not all(isinstance(arm, str) for arm in policy.arms):
            raise TypeError("an arm is no name")
        return policy
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ConfigError) as exc:
        raise RunError(
            f"the policy in {folder} does not fit the class {name!r}: {' '.join(str(exc).split())}",
            "Use the version of hcache that saved it, or train it again.",
        ) from exc


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not os.path.lexists(path):
        raise RunError(
            f"there is no policy in {folder}: {DESCRIPTION} is missing.",
            "Train one with `hcache train`, or name the folder of a finished run.",
        )
    description = read_object(path, AGAIN, ENTRIES)
    kinds = {key: type(value) for key, value in description.items()}
    if kinds != {"format": int, "name": str, "settings": dict, "tensors": str}:
        raise RunError(f"{path} does not describe a policy.", AGAIN)
    if description["format"] != FORMAT:
        raise RunError(
            f"{path} has format {description['format']!r}, and this version reads {FORMAT}.",
            "Use the version of hcache that saved it.",
        )
    return description


def _read_tensors(folder: Path, wanted: str) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        raise RunError(f"{path} is missing.", AGAIN)
    check_file(path, AGAIN, wanted)
    try:
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as exc:
        raise RunError(f"{path} cannot be read: {exc}.", AGAIN) from exc
