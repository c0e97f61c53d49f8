"""The status of a sampling run: a small file beside the database, for whoever asks meanwhile.

The sampler replaces it every few seconds and removes it at its end. One that is left without a
sampler, whose lock says so, is of a run that was killed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from hcache.errors import StoreError
from hcache.files import replace_file
from hcache.sampling.tally import Tally

SECONDS_BETWEEN = 3.0


class ArmStatus(BaseModel):
    """Generations of an arm; tokens and what they cost, of this run."""

    done: int  # those that were there included
    generated: int
    total: int  # at most
    prompt_tokens: int
    output_tokens: int
    spent: float  # at the prices of the experiment


class RunStatus(BaseModel):
    """A sampling run, as it was when its file was written."""

    pid: int
    host: str
    started: datetime
    updated: datetime
    experiment: str
    queries: int
    complete: int
    seconds: float
    waiting: bool  # finished generations wait beside the database, which is in use
    arms: dict[str, ArmStatus]
    parts: dict[str, int] = Field(default={})  # generations of this run, by worker or endpoint

    @property
    def generated(self) -> int:
        """Generations of this run."""
        return sum(arm.generated for arm in self.arms.values())

    @property
    def left(self) -> int:
        """Generations still to be made, at most."""
        return sum(arm.total - arm.done for arm in self.arms.values())

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second, since the run began."""
        return sum(arm.output_tokens for arm in self.arms.values()) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Time left at the rate so far; None before the first generation."""
        return self.left * self.seconds / self.generated if self.generated else None

    @property
    def spent(self) -> float:
        """Cost of the tokens of this run."""
        return sum(arm.spent for arm in self.arms.values())


def status_path(db: Path) -> Path:
    """Path of the status of whoever samples into a database."""
    return db.with_name(db.name + ".status.json")


def read_status(db: Path) -> RunStatus | None:
    """The status beside a database; None where there is none.

    Raises:
        StoreError: the file is no status.
    """
    path = status_path(db)
    try:
        return RunStatus.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise StoreError(
            f"{path} cannot be read ({reason}).", "Remove it: whoever samples writes it anew."
        ) from error


class StatusFile:
    """The writer's end. A status that cannot be written is no reason to stop."""

    def __init__(self, db: Path, experiment: str) -> None:
        self.path = status_path(db)
        self.experiment = experiment
        self.started = datetime.now(UTC)
        self._due = 0.0

    def write(self, tally: Tally, answered: Callable[[], Mapping[str, int]]) -> None:
        """Write how far the run is, unless that was done a moment ago.

        `answered` says how many generations each worker has made.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SECONDS_BETWEEN
        status = RunStatus(
            pid=os.getpid(),
            host=socket.gethostname(),
            started=self.started,
            updated=datetime.now(UTC),
            experiment=self.experiment,
            queries=tally.queries,
            complete=tally.complete,
            seconds=tally.seconds,
            waiting=tally.waiting,
            arms={
                arm: ArmStatus(
                    done=tally.done(arm),
                    generated=tally.generated[arm],
                    total=tally.total(arm),
                    prompt_tokens=tally.prompt_tokens[arm],
                    output_tokens=tally.output_tokens_of[arm],
                    spent=tally.spent_of[arm],
                )
                for arm in tally.expected
            },
            parts={**answered(), **tally.endpoints},
        )
        with suppress(OSError):
            replace_file(self.path, status.model_dump_json(indent=1).encode())

    def remove(self) -> None:
        """The run has ended."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
