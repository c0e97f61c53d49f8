"""Runs: a folder each, with manifest, metrics, checkpoint, policy and evaluations.

    <runs>/<algo>-s<seed>-<identity>/
        manifest.json      configuration, fingerprints, versions, machine, command, outcome
        metrics.jsonl      one line per iteration
        checkpoint.*       what a killed run goes on from; gone when it is finished
        policy/            weights as safetensors, settings as JSON
        lock               held while it is trained, with the process that does
        queries.json       what it was trained and selected on, see `leakage.py`
        replies.duckdb     what is said with the policy's ΔW, where that was sampled
        eval-<split>.json  evaluations; looks.jsonl says when each split was looked at

The identity is the key of all that the outcome depends on, so the same command finds the same
folder: it goes on with a run that was stopped, and leaves a finished one as it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hcache.config.schema import ExperimentConfig
from hcache.errors import RunError
from hcache.experiment import Experiment
from hcache.files import replace_file
from hcache.packages import installed_version
from hcache.plugins import sources

if TYPE_CHECKING:
    from hcache.policies import Policy

PACKAGES = ("hcache", "torch", "numpy", "scikit-learn", "duckdb", "polars", "safetensors")
AGAIN = "Remove the folder of the run and train it again."


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def policy_folder(self) -> Path:
        """Where the trained policy lies."""
        return self.folder / "policy"

    @property
    def queries_file(self) -> Path:
        """Keys of the questions that it was trained and selected on."""
        return self.folder / "queries.json"

    @property
    def replies(self) -> Path:
        """The database of what is said with the policy's ΔW, where that was sampled."""
        return self.folder / "replies.duckdb"

    @property
    def checkpoint(self) -> Path:
        """What a run that was stopped goes on from."""
        return self.folder / "checkpoint.safetensors"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = self.folder / "manifest.json"
        try:
            manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.folder} is no run (it has no manifest.json).", "See them with: hcache runs"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is damaged ({error}).", AGAIN) from error
        if not isinstance(manifest, dict):
            raise RunError(f"{file} is damaged (it is no object).", AGAIN)
        return manifest

    @cached_property
    def config(self) -> ExperimentConfig:
        """The configuration it was trained with.

        Raises:
            RunError: the manifest is damaged.
        """
        try:
            return ExperimentConfig.model_validate(self.manifest["config"])
        except (KeyError, ValidationError) as error:
            file = self.folder / "manifest.json"
            raise RunError(f"{file} is damaged (its config).", AGAIN) from error

    def experiment(self, db: Path | None = None) -> Experiment:
        """The experiment it was trained on; `db` in place of its database."""
        return Experiment(
            self.config, Path(self.manifest["source"]), db or Path(self.manifest["db"])
        )

    @cached_property
    def policy(self) -> Policy:
        """The trained policy.

        Raises:
            RunError: there is none, or it is damaged.
        """
        from hcache.policies import load_policy  # which takes seconds that a list of runs has not

        return load_policy(self.policy_folder)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / "manifest.json").exists() and "outcome" in self.manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, whole or not at all."""
        for known in ("manifest", "config", "policy"):
            self.__dict__.pop(known, None)
        replace_file(self.folder / "manifest.json", _json(manifest))

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl; a torn last line is left out.

        Raises:
            RunError: there is none, or it is damaged.
        """
        file = self.folder / "metrics.jsonl"
        try:
            lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
            _ = [float(line["iteration"]) for line in lines]
            return lines
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{file} is damaged ({error!r}).", AGAIN) from error

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it when the process ends.

        Raises:
            RunError: another process trains it, and there is no `wait` for its end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.folder} is being trained by another process (pid {file.read()}).",
                    "Run the same command again when that has ended.",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def write_evaluation(self, split: str, report: str) -> None:
        """Keep an evaluation, and record the look at the split."""
        replace_file(self.folder / f"eval-{split}.json", report.encode())
        self.record_look(split)

    def record_look(self, split: str) -> None:
        """Record that a split was looked at: when, and by which command."""
        look = {"split": split, "time": now(), "command": sys.argv}
        with (self.folder / "looks.jsonl").open("a") as file:
            file.write(json.dumps(look) + "\n")


class MetricsLog:
    """Writes metrics.jsonl; after a resume, lines that come again replace those written before."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.kept: dict[float, str] = {}
        if file.exists():
            lines = file.read_text().split("\n")[:-1]
            self.kept = {json.loads(line)["iteration"]: line for line in lines}
        self._open = file.open("a")

    def write(self, metrics: dict[str, float]) -> None:
        """Append one line, unless the iteration stands there already."""
        if metrics["iteration"] in self.kept:
            return
        self._open.write(json.dumps(metrics) + "\n")
        self._open.flush()

    def close(self) -> None:
        """Close the file."""
        self._open.close()


def find_run(name: str | Path, folder: Path = Path("runs")) -> Run:
    """A run by its path, or by its name below `folder`.

    Raises:
        RunError: there is no such run.
    """
    path = Path(name)
    if (path / "manifest.json").is_file():
        return Run(path)
    found = [run for run in all_runs(folder) if run.name == str(name)]
    if not found:
        raise RunError(f"there is no run {name}.", f"See them with: hcache runs --runs {folder}")
    return found[0]


def all_runs(folder: Path) -> list[Run]:
    """All runs below a folder, oldest first."""
    runs = [Run(file.parent) for file in folder.rglob("manifest.json")]
    return sorted(runs, key=lambda run: (_created(run), run.name))


def _created(run: Run) -> str:
    """When a run began; empty where its manifest is damaged."""
    try:
        return str(run.manifest.get("created"))
    except RunError:
        return ""


def provenance() -> dict[str, Any]:
    """Versions, plug-ins, machine and command of this process."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
        "plugins": [vars(source) for source in sources()],
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
    }


def first_difference(one: Iterable[Any], two: Iterable[Any]) -> int | None:
    """The place of the first unequal items of two lists, or None where all are equal."""
    first, second = list(one), list(two)
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return None if len(first) == len(second) else min(len(first), len(second))


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
