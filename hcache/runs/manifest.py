"""The manifest of a run: configuration, fingerprints, versions, machine, command, outcome.

It has a digest of its own, and those of metrics and policy: so one digest stands for a whole run.
Manifests of earlier versions have none. They are read if they have no other entries than those
versions wrote, each of its type.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hcache.artefacts import damaged, read_object, write_object
from hcache.errors import RunError

MANIFEST = "manifest.json"

BEFORE = (
    "name", "experiment", "algo", "seed", "init", "source", "db", "created", "config", "settings",
    "identity", "arms", "incomplete", "command", "python", "packages", "plugins", "machine",
    "chain", "queries", "finished", "outcome",
)  # fmt: skip
"""Entries of a manifest without a digest."""


class _Part(BaseModel):
    """A part of a manifest, as far as it is read; it may have more."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Identity(_Part):
    data: dict[str, str]
    init: str | None
    plugin: str | None = None


class _Stage(_Part):
    algo: str


class _Outcome(_Part):
    iterations: int
    best_iteration: int
    best_valid_reward: float
    weights: str
    seconds: float
    halted: bool = False
    changes_replies: bool = False
    files: dict[str, str] = {}


class _Train(_Part):
    alpha: float


class _Config(_Part):
    train: _Train


class _Manifest(_Part):
    experiment: str
    algo: str
    seed: int
    init: str | None
    source: str
    db: str
    config: _Config
    identity: _Identity
    created: str = ""
    settings: dict[str, Any] = {}
    arms: dict[str, str] = {}
    chain: list[_Stage] = []
    queries: str = ""
    outcome: _Outcome | None = None


def has_manifest(folder: Path) -> bool:
    """True if a folder has a manifest, which may be damaged or closed to this user."""
    try:
        os.lstat(folder / MANIFEST)
    except PermissionError:
        return True
    except (OSError, ValueError):  # a name that no file can have
        return False
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in the folder of a run.

    Raises:
        RunError: there is none, or it is damaged.
    """
    file = folder / MANIFEST
    if not has_manifest(folder):
        raise RunError(
            f"{folder} is no run (it has no {MANIFEST}).", "See them with: hcache runs list"
        )
    manifest = read_object(file, again(folder), BEFORE)
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        (first, *_) = error.errors()
        place = ".".join(map(str, first["loc"]))
        raise damaged(file, f"{place}: {first['msg']}", again(folder)) from error
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest with its digest, whole or not at all."""
    write_object(folder / MANIFEST, manifest)


def again(folder: Path) -> str:
    """The way out where an artefact of a run is damaged."""
    return f"Remove the folder of the run and train it again: rm -r {shlex.quote(str(folder))}"
