"""Base of workflows: settings, an identity, a generator, and the layout of prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from hcache.data.queries import Query
from hcache.keys import digest
from hcache.models.arms import Arm
from hcache.plugins import Registry, source_of
from hcache.workflows.effects import Flow, Message


class Workflow(BaseModel, ABC):
    """Settings of a workflow, and the generator that they describe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[int] = 1
    """Raise it when `run` comes to say something else for the same settings."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that earlier versions lacked; at their defaults they are no part of the identity."""
    regular: ClassVar[bool] = True
    """True if every `Choose` offers the whole pool, and only STOP ends a trajectory before the last
    hop. Replay then sees of every query whether it was sampled with all arms and hops asked for,
    and sampling counts `trajectories` in place of enumerating them again."""

    name: str
    hops: int = Field(default=2, ge=1, le=8, description="most decisions of a trajectory, L")

    @abstractmethod
    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """A fresh generator for one query: yields `Choose` and `Ask`, returns the answer."""

    @classmethod
    def with_files(cls, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The settings with the contents of files in place of their paths, relative to `folder`.

        The settings are then complete: a database or a run needs none of these files.

        Raises:
            ConfigError: a file that is not there or cannot be read.
        """
        return settings

    @property
    def shows_passages(self) -> bool:
        """True if prompts have the passages of a query, which are no part of its question."""
        return False

    def tools(self) -> tuple[Arm, ...]:
        """Arms that may be asked besides those of the pool."""
        return ()

    def trajectories(self, arms: int) -> int:
        """Number of trajectories of a query with so many arms; at most, if it is not regular."""
        return sum(arms**hop for hop in range(1, self.hops + 1))

    def trajectories_within(self, arms: int, width: int) -> int:
        """The same where each state after the first hop is continued by `width` arms alone."""
        return sum(arms * min(arms, width) ** hop for hop in range(self.hops))

    def stand_in(self, text: str) -> str:
        """A reply with this text in it that leads to as many calls as any, for plans."""
        return f"({text})"

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what is said. The horizon is left out: a longer one only adds to it."""
        settings = self.model_dump(exclude={"hops"})
        fields = type(self).model_fields
        for name in self.later:
            if settings[name] == fields[name].default:
                del settings[name]
        source = source_of(type(self))
        plugin = {} if source is None else {"plugin": source.digest}
        return digest({"version": self.version, **settings, **plugin})


def parts_for(query: Query, replies: Sequence[str] = (), passages: bool = False) -> list[str]:
    """Examples, question, earlier replies and instruction of a query: all that no arm changes.

    With `passages`, those of the query stand before the question.
    """
    before = [*filter(None, [query.examples]), *(query.passages if passages else ())]
    return [*before, query.question, *replies, *filter(None, [query.instruction])]


def prompt_for(arm: Arm, parts: Sequence[str], separator: str) -> tuple[Message, ...]:
    """A prompt of some parts; what is particular to the arm stands last, so prefixes are shared."""
    user = separator.join([*parts, arm.instruction] if arm.instruction else parts)
    system = (Message("system", arm.system),) if arm.system else ()
    return (*system, Message("user", user))


WORKFLOWS: Registry[type[Workflow]] = Registry("workflow", "hcache.workflows")
