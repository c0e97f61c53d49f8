"""Errors that a user can act on, each with what was wrong, where, and what to type next.

HcacheError                   exit code 1, one line on the terminal, no traceback
├── ConfigError               an experiment file or an override does not hold
├── DataError                 a data set cannot be read as it stands
├── StoreError                the database cannot be opened, read or written
│   └── StoreBusyError        another process holds it; trying later helps
├── EngineError               a model cannot be loaded, or the engine died
└── RunError                  a run folder is missing, incomplete or does not fit
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=Any)


class HcacheError(Exception):
    """Base of all errors that hcache raises on purpose; `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(HcacheError):
    """An experiment file, an override or a name in it does not hold."""


class DataError(HcacheError):
    """A data set cannot be read as it stands."""


class StoreError(HcacheError):
    """The database cannot be opened, read or written."""


class StoreBusyError(StoreError):
    """Another process holds the database open; trying again later helps."""


class EngineError(HcacheError):
    """A model cannot be loaded, or its engine failed."""


class RunError(HcacheError):
    """A run folder is missing, incomplete, or does not fit what is asked of it."""


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
