"""Errors that a user can act on, each with what was wrong, where, and what to type next.

HcacheError                   exit code 1, one line on the terminal, no traceback
├── ConfigError               an experiment file or an override does not hold
├── DataError                 a data set cannot be read as it stands
├── StoreError                the database cannot be opened, read or written
│   └── StoreBusyError        another process holds it; trying later helps
├── EngineError               a model cannot be loaded, or the engine died
│   ├── ArmError              an engine cannot serve one of its arms; the others it can
│   └── RequestError          an engine has no reply to one request; to others it has
└── RunError                  a run folder is missing, incomplete or does not fit
"""

from __future__ import annotations

from collections.abc import Sequence


class HcacheError(Exception):
    """Base of all errors that hcache raises on purpose; `hint` says what to do next.

    docs/errors.md lists them all; `scripts/errors.py` makes it from the places that raise them.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)  # both, by which a worker process hands it over
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"


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


class ArmError(EngineError):
    """An engine cannot serve one of its arms; what else it serves goes on."""

    request = ""  # key of the one that was refused, where it had been queued


class RequestError(EngineError):
    """An engine has no reply to one of its requests; all else goes on."""

    def __init__(self, message: str, hint: str, request: str = "") -> None:
        super().__init__(message, hint)
        self.request = request  # its key


def together(errors: Sequence[EngineError]) -> EngineError:
    """One error that says what several do; what several say alike stands there once."""
    *others, last = {str(error): error for error in errors}.values()
    if not others:
        return last
    return EngineError(" ".join([*map(str, others), last.message]), last.hint)


class RunError(HcacheError):
    """A run folder is missing, incomplete, or does not fit what is asked of it."""
