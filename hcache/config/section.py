"""Sections: what all parts of an experiment file and settings of algorithms have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # as NumPy takes them


class Section(BaseModel):
    """A section of the file: unknown keys are refused, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Section):
    """Settings of an algorithm, defined next to it; nothing is converted on the way."""

    model_config = ConfigDict(strict=True)
