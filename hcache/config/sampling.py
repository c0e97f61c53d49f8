"""The section of sampling: how trees are filled, and where models run."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from hcache.config.section import Section, Seed

MOST_WORKERS = 1024
MOST_REPLICAS = 1 << 16  # keys of generations have room for as many


def known_workers(workers: object) -> int | str:
    """The number of workers, or the Ray cluster that they are on.

    Raises:
        ValueError: it is neither.
    """
    text = str(workers).strip()
    if re.fullmatch(r"ray(://[^\s/:]+:\d{1,5})?", text):
        return text
    if re.fullmatch(r"0*[1-9]\d{0,3}", text) and int(text) <= MOST_WORKERS:
        return int(text)
    raise ValueError(f"{text[:40]!r} is no number from 1 to {MOST_WORKERS}, ray or ray://HOST:PORT")


class SamplingConfig(Section):
    """Settings of sampling: how the tree is filled."""

    replicas: int = Field(
        1,
        ge=1,
        le=MOST_REPLICAS,
        description="samples per prompt of arms with temperature > 0; "
        "with all of them a question may have 100,000 trajectories",
    )
    width: int | None = Field(
        None,
        ge=1,
        le=MOST_REPLICAS,
        description="arms that continue each state after the first hop, drawn by its own key; all "
        "of them where omitted",
    )
    bound: bool = Field(
        False,
        description="continue a state only where 1 - alpha * its cost so far exceeds the best "
        "reward found so far, hop by hop, at `train.alpha` and the prices of the arms; the oracle "
        "stays exact, routers are not to be trained on such trees",
    )
    schedule: Literal["resident", "swap"] = Field(
        "resident", description="all engines at once, or one at a time"
    )
    workers: int | str | None = Field(
        None,
        description="GPUs, or shares of the cores, that run models beside each other, each in a "
        "process of its own; all GPUs that are visible, or half the cores, where omitted; `ray` or "
        "`ray://HOST:PORT` for those of a Ray cluster, see docs/scaling.md; provenance, not "
        "identity",
    )
    logprobs: bool = Field(False, description="keep the log-probability of each output token")
    max_cost: float | None = Field(
        None, ge=0, description="of one run, at the prices of the arms; nothing is asked beyond it"
    )
    seed: Seed = Field(0, description="of the order in which queries are taken, and of `width`")

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_or_ray(cls, workers: object) -> int | str | None:
        return None if workers is None else known_workers(workers)
