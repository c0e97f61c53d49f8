"""What every workflow has: settings, an identity, and a generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from hcache.arms import Arm
from hcache.keys import digest
from hcache.queries import Query
from hcache.workflows.effects import Flow


class Workflow(BaseModel, ABC):
    """Settings of a workflow, and the generator that they describe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[int] = 1
    """Raise it when `run` comes to say something else for the same settings."""
    regular: ClassVar[bool] = True
    """Whether every `Choose` offers the whole pool, and only STOP ends a trajectory before the last
    hop. Replay then sees of every query whether it was sampled with all arms and hops asked for."""

    name: str
    hops: int = Field(default=2, ge=1, le=8, description="most decisions of a trajectory, L")

    @abstractmethod
    def run(self, query: Query, arms: tuple[Arm, ...]) -> Flow:
        """A fresh generator for one query: yields `Choose` and `Ask`, returns the answer."""

    @property
    def fingerprint(self) -> str:
        """Identity of what is said. The horizon is left out: a longer one only adds to it."""
        settings = self.model_dump(exclude={"hops"})
        return digest({"version": self.version, **settings})


WORKFLOWS: dict[str, type[Workflow]] = {}
W = TypeVar("W", bound=Workflow)


def register(workflow: type[W]) -> type[W]:
    """Make a workflow known under the default of its field `name`."""
    WORKFLOWS[workflow.model_fields["name"].default] = workflow
    return workflow
