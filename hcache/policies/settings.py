"""Settings: frozen dataclasses whose fields carry their help and their limits.

A settings class calls `check(self)` once, in `__post_init__`; from then on its values hold.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar, get_type_hints

import torch

from hcache.errors import ConfigError

S = TypeVar("S")


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its help: `low` <= value, `above` < value, value <= `high`."""
    limits = {"low": low, "above": above, "high": high, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


def check(settings: Any) -> None:
    """Hold every field of a settings object to its type and limits.

    Raises:
        ConfigError: naming the field, what it may be, and its default.
    """
    kinds = get_type_hints(type(settings))
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        problem = _problem(value, kinds[spec.name], spec.metadata)
        if problem:
            raise ConfigError(
                f"{type(settings).__name__}.{spec.name} is {value!r}, but must be {problem}.",
                f"Change {spec.name}, or leave it out for the default, {spec.default!r}.",
            )


def make(cls: type[S], values: Mapping[str, Any]) -> S:
    """Settings of class `cls` from names and values, as an experiment file gives them.

    Raises:
        ConfigError: for a name that `cls` lacks, or a value out of its limits.
    """
    known = [spec.name for spec in fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known)}."
            raise ConfigError(f"{cls.__name__} has no field {name!r}.", hint)
    return cls(**values)


def pick_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for here.

    Raises:
        ConfigError: if CUDA is asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but no GPU is visible.", "Set device to auto or cpu.")
    return torch.device(device)


def _problem(value: Any, kind: Any, limits: Mapping[str, Any]) -> str:
    """What a value should have been; empty if it is fine."""
    if limits.get("choices"):
        return "" if value in limits["choices"] else f"one of {', '.join(limits['choices'])}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is str:
        return "" if isinstance(value, str) else "a text"
    wanted = int if kind is int else (int, float)
    noun = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(value):
        return noun
    return "" if _within(value, limits) else f"{noun} {_range(limits)}"


def _within(value: float, limits: Mapping[str, Any]) -> bool:
    low, above, high = (limits.get(name) for name in ("low", "above", "high"))
    return (
        (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
    )


def _range(limits: Mapping[str, Any]) -> str:
    words = {"low": "of at least", "above": "above", "high": "of at most"}
    return " and ".join(f"{w} {limits[n]:g}" for n, w in words.items() if limits.get(n) is not None)
