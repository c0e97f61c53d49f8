"""The registry of everything that can be added."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from hcache.errors import ConfigError

T = TypeVar("T")

C = TypeVar("C", bound=Any)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest one, and all there are."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{guess} known: {', '.join(names)}"


def register_in(registry: dict[str, T], name: str, plural: str) -> Callable[[C], C]:
    """A decorator that enters a class into a registry under `name`.

    Raises:
        ConfigError: the name is taken.
    """

    def add(cls: C) -> C:
        if name in registry:
            raise ConfigError(f"two {plural} are named {name!r}.", "Rename one of them.")
        registry[name] = cls
        return cls

    return add


def lookup(registry: Mapping[str, T], name: object, what: str, place: str = "") -> T:
    """The entry of a registry by its name; `place` is where the name stands.

    Raises:
        ConfigError: for an unknown name, with the nearest one and all there are.
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    where = f"{place}: " if place else ""
    raise ConfigError(f"{where}unknown {what} {name!r}{did_you_mean(str(name), sorted(registry))}")
