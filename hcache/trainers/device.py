"""The device that a trainer computes on."""

from __future__ import annotations

from typing import Literal

import torch

from hcache.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def pick_device(device: Device) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for here.

    Raises:
        ConfigError: if CUDA is asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but no GPU is visible.", "Set device to auto or cpu.")
    return torch.device(device)
