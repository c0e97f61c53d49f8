"""Trees as files of arrays, and the memory that a process has taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from torch import Tensor

from hcache.replay.tree import Tree


def peak_bytes() -> int:
    """The largest resident set that this process has had; `getrusage` would have its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0])


def tensors_of(tree: Tree) -> dict[str, Tensor]:
    """The tensors of a tree by name."""
    values = {field.name: getattr(tree, field.name) for field in fields(tree)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def save_arrays(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """A file for each tensor, as `numpy.load` reads it."""
    folder.mkdir(parents=True)
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor.numpy())
