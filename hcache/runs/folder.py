"""Runs: a folder each, with manifest, metrics, checkpoint, policy and evaluations.

    <runs>/<algo>-s<seed>-<identity>/
        manifest.json      see `manifest.py`
        metrics.jsonl      one line per iteration
        events/            the same for TensorBoard
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
import itertools
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import ValidationError

from hcache.artefacts import check_file, damaged, digest_of, refuse_endless, unreadable
from hcache.config.schema import ExperimentConfig
from hcache.config.stored import stored_config
from hcache.errors import RunError
from hcache.experiment import Experiment
from hcache.files import replace_file
from hcache.keys import digest_file
from hcache.packages import installed_version
from hcache.plugins import sources
from hcache.runs.manifest import MANIFEST, again, has_manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    from hcache.policies import Policy

PACKAGES = ("hcache", "torch", "numpy", "scikit-learn", "duckdb", "polars", "safetensors")
METRICS, DESCRIPTION = "metrics.jsonl", "policy/policy.json"  # files that the manifest answers for
SHOWN = 5  # runs that an error names
WAIT = 0.2  # seconds between two looks whether a run is free
_log = logging.getLogger(__name__)


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
        """Folder of the trained policy."""
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
        """Checkpoint that a stopped run goes on from."""
        return self.folder / "checkpoint.safetensors"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            RunError: there is none, or it is damaged.
        """
        return read_manifest(self.folder)

    @property
    def digest(self) -> str:
        """The digest of the manifest, and so of all that is of the run."""
        return digest_of(self.manifest)

    @cached_property
    def config(self) -> ExperimentConfig:
        """The configuration it was trained with.

        Raises:
            RunError: the manifest is damaged.
        """
        try:
            return stored_config(self.manifest["config"])
        except ValidationError as error:
            raise damaged(
                self.folder / MANIFEST, "its config does not hold", again(self.folder)
            ) from error

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

        self._check(DESCRIPTION)
        return load_policy(self.policy_folder)

    @property
    def finished(self) -> bool:
        """True if training came to its end."""
        return has_manifest(self.folder) and bool(self.manifest.get("outcome"))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest with its digest, whole or not at all."""
        self._forget()
        write_manifest(self.folder, manifest)

    def _forget(self) -> None:
        """Forget what was read of the run, since there is something else now, or may be."""
        for known in ("manifest", "config", "policy"):
            self.__dict__.pop(known, None)

    def files(self) -> dict[str, str]:
        """Digests of the files that the manifest of a finished run answers for, by name."""
        return {name: digest_file(self.folder / name) for name in (METRICS, DESCRIPTION)}

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl; a torn last line is left out.

        Raises:
            RunError: there is none, or it is damaged.
        """
        self._check(METRICS)
        file = self.folder / METRICS
        try:
            refuse_endless(file)
            lines = [json.loads(line) for line in file.read_bytes().decode().split("\n")[:-1]]
            if not all(_is_metrics(line) for line in lines):
                raise ValueError("a line has other things than numbers")
            return lines
        except (OSError, ValueError, RecursionError) as error:
            raise unreadable(file, error, again(self.folder)) from error

    def _check(self, name: str) -> None:
        """Hold a file of a finished run against the manifest; old runs know nothing of theirs.

        Raises:
            RunError: it cannot be read, or is not what it was.
        """
        outcome = self.manifest.get("outcome") or {}
        if known := outcome.get("files", {}).get(name):
            check_file(self.folder / name, again(self.folder), known)

    def is_locked(self) -> bool:
        """True while a process trains it."""
        try:
            with (self.folder / "lock").open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # it was never trained here
            return False
        return False

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[Callable[[], None]]:
        """Hold the run for this process; the kernel lets go of it when the process ends.

        With `wait`, one that another process trains is waited for, and that is said. The function
        it gives makes sure that the run is still held: another could train in a folder that takes
        the place of one that was removed.

        Raises:
            RunError: another process trains it, and there is no `wait` for its end.
        """
        lock = self.folder / "lock"
        file = _writing(lock, "a+")

        def still_held() -> None:
            if not _is_file_of(file, lock):
                raise RunError(
                    f"{self.folder} was removed or replaced while it was being trained.",
                    "Run the same command again.",
                )

        with file:
            self._take(file, wait)
            self._forget()  # another process may have held it until now
            still_held()
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()} since {now()}")
            file.flush()
            yield still_held

    def _take(self, file: IO[str], wait: bool) -> None:
        """Take the lock; a look now and then in place of a long call, which no Ctrl-C could end."""
        said = False
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = f"being trained by another process (pid {file.read() or 'unknown'})"
                if not wait:
                    raise RunError(
                        f"{self.folder} is {holder}.",
                        "Run the same command again when that has ended.",
                    ) from error
            if not said:
                _log.warning("%s is %s: waiting for its end.", self.folder, holder)
                said = True
            time.sleep(WAIT)

    def write_evaluation(self, split: str, report: str) -> None:
        """Keep an evaluation, and record the look at the split."""
        replace_file(self.folder / f"eval-{split}.json", report.encode())
        self.record_look(split)

    def record_look(self, split: str) -> None:
        """Record that a split was looked at: when, and by which command."""
        look = {"split": split, "time": now(), "command": sys.argv}
        with _writing(self.folder / "looks.jsonl", "a") as file:
            file.write(json.dumps(look) + "\n")


def _writing(file: Path, mode: str) -> IO[str]:
    """A file of a run, open to be written; its folder is made.

    Raises:
        RunError: it cannot be.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        refuse_endless(file)
        return file.open(mode, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{file} cannot be written ({error}).",
            "Check its permissions, or train into another folder: --set runs=FOLDER",
        ) from error


class MetricsLog:
    """Writes metrics.jsonl anew; a run that goes on begins with the lines of its checkpoint."""

    def __init__(self, run: Run) -> None:
        self._open = _writing(run.folder / METRICS, "w")

    def write(self, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        self._open.write(json.dumps(metrics) + "\n")
        self._open.flush()

    def close(self) -> None:
        """Close the file."""
        self._open.close()


def find_run(name: str | Path, folder: Path = Path("runs")) -> Run:
    """A run by its path, or by the beginning of its name below `folder`.

    Raises:
        RunError: there is no such run, or several are called so.
    """
    path = Path(name)
    if has_manifest(path):
        return Run(path)
    runs = all_runs(folder)
    found = [run for run in runs if run.name == str(name)] or [
        run for run in runs if _begins(run, str(name))
    ]
    if not found:
        raise RunError(
            f"there is no run {name}.", f"See them with: hcache runs list --runs {folder}"
        )
    if len(found) > 1:
        known = ", ".join(str(run.folder) for run in found[:SHOWN])
        raise RunError(
            f"{len(found)} runs begin with {name}: {known}{', …' * (len(found) > SHOWN)}.",
            "Give more of the name, or the folder.",
        )
    return found[0]


def _begins(run: Run, name: str) -> bool:
    """True if the name of a run, or its path, begins so."""
    return bool(name) and (run.name.startswith(name) or str(run.folder).startswith(name))


def all_runs(folder: Path) -> list[Run]:
    """All runs below a folder, oldest first; a folder below it that cannot be read is told.

    Raises:
        RunError: the folder cannot be read.
    """

    def left_out(error: OSError) -> None:
        if error.filename == os.fspath(folder):
            raise error
        _log.warning("%s cannot be read (%s): runs in it are left out.", error.filename, error)

    try:
        places = os.walk(folder, onerror=left_out)
        runs = [Run(Path(place)) for place, *names in places if MANIFEST in itertools.chain(*names)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{folder} cannot be read ({error}).", "Name another folder.") from error
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


def _is_metrics(line: object) -> bool:
    """True if a line of metrics.jsonl is numbers by name, that of the iteration among them."""
    return (
        isinstance(line, dict)
        and "iteration" in line
        and all(type(value) in (int, float) for value in line.values())
    )


def _is_file_of(file: IO[str], path: Path) -> bool:
    """True if an open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
