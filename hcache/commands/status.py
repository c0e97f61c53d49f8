"""`hcache status`: how far sampling is, asked from another terminal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hcache.commands.console import print_rows, say
from hcache.commands.options import Database, Format, OutputFormat
from hcache.commands.targets import Target, database_of
from hcache.errors import StoreBusyError
from hcache.sampling.status import RunStatus, read_status
from hcache.store import Store, exists, spool_path
from hcache.store.queries import STORED
from hcache.store.spool import sampling

KILLED = "killed"
PATIENCE_SECONDS = 2.0  # for a sampler that writes; what it says of itself is enough


def status(target: Target = None, db: Database = None, format: OutputFormat = Format.table) -> None:
    """Say who samples into a database, how far that is, how fast, and what it has cost.

    Works while sampling runs, and is not in its way. Of a run that was killed it says so. What the
    database holds is counted by experiment and arm, at the experiment's prices.

    Example: `hcache status data/demo/experiment.yaml`
    """
    path = database_of(target, db)
    sampler, run = sampling(path), read_status(path)
    stored = _stored(path, run)
    if format is not Format.table:
        print_rows(stored, format, whole=_plain(path, sampler, run, stored))
        return
    for line in _told(path, sampler, run):
        say(line)
    if sampler and run is not None and run.arms:
        print_rows(_arm_rows(run), title="this run")
    if sampler and run is not None and run.parts:
        print_rows(_part_rows(run), title="workers and endpoints")
    if stored:
        print_rows(stored, title="in the database")


def _stored(path: Path, run: RunStatus | None) -> list[dict[str, Any]]:
    """Contents of the database; nothing while a run has just made it, or is writing it."""
    if run is None:
        with Store(path) as store:
            return store.sql(STORED).to_dicts()
    if not exists(path):
        return []
    try:
        with Store(path, PATIENCE_SECONDS) as store:
            return store.sql(STORED).to_dicts()
    except StoreBusyError:
        return []


def _state(sampler: str, run: RunStatus | None) -> str:
    if sampler:
        return "sampling"
    return "idle" if run is None else KILLED


def _told(path: Path, sampler: str, run: RunStatus | None) -> Iterator[str]:
    state = _state(sampler, run)
    waiting = spool_path(path).stat().st_size if exists(spool_path(path)) else 0
    if state == "idle" or run is None:
        yield f"{sampler or 'nobody'} is sampling into {path}"
    elif state == KILLED:
        yield (
            f"the run of {run.experiment} (process {run.pid} on {run.host}, since "
            f"{_moment(run.started)}) was killed after {_moment(run.updated)}; the same command "
            "goes on: hcache sample EXPERIMENT.yaml"
        )
    else:
        yield (
            f"{sampler} on {run.host} is sampling {run.experiment} since {_moment(run.started)}: "
            f"{run.complete:,} of {run.queries:,} queries complete, {run.generated:,} generations "
            f"made, at most {run.left:,} left"
        )
        yield (
            f"{run.tokens_per_second:,.1f} tokens a second, {_left(run.seconds_left)}, "
            f"spent so far: {run.spent:.4g}"
        )
    if waiting and not sampler:
        yield (
            f"{waiting:,} bytes of finished generations wait in {spool_path(path)} for the next run"
        )


def _arm_rows(run: RunStatus) -> list[dict[str, Any]]:
    return [
        {
            "arm": name,
            "done": arm.done,
            "left at most": arm.total - arm.done,
            "made": arm.generated,
            "per second": arm.generated / max(run.seconds, 1e-9),
            "prompt tokens": arm.prompt_tokens,
            "output tokens": arm.output_tokens,
            "spent": arm.spent,
        }
        for name, arm in run.arms.items()
    ]


def _part_rows(run: RunStatus) -> list[dict[str, Any]]:
    return [
        {"who": name, "generations": count, "a second": round(count / max(run.seconds, 1e-9), 1)}
        for name, count in run.parts.items()
    ]


def _plain(
    path: Path, sampler: str, run: RunStatus | None, stored: list[dict[str, Any]]
) -> dict[str, Any]:
    computed = ("generated", "left", "tokens_per_second", "seconds_left", "spent")
    return {
        "db": str(path),
        "state": _state(sampler, run),
        "sampler": sampler or None,
        "run": run
        and run.model_dump(mode="json") | {name: getattr(run, name) for name in computed},
        "stored": stored,
    }


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown until the first reply"
    hours, rest = divmod(round(seconds), 3600)
    return f"about {hours}:{rest // 60:02}:{rest % 60:02} left at this rate"
