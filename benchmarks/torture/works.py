"""Works: commands of hcache that follow each other in a folder, and the digest of what each makes.

A work is staged: it was run undisturbed, so that its outcome is known, and how many calls it makes
on files. From then on it can be tried with a fault, again and again, on a copy of what it began
with. It has to end with success or in one line of error, and to make, when it is run again without
a fault, what the undisturbed run made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, Signals
from typing import TypeVar

import duckdb

import hcache
from hcache.keys import digest, digest_file
from hcache.runs.folder import all_runs
from hcache.store.digest import content_digest
from hcache.store.schema import MIGRATIONS

from .findings import Finding, improper
from .scene import DATABASE, EXPERIMENT, SILENCE, Ended, asked, command
from .syscalls import Call, OnCall

T = TypeVar("T")
Before = Callable[[], object]
"""Something that is done in a process before it runs a command."""
Action = Callable[[Path], object]
"""Something that is done to the folder of a work."""


@dataclass(frozen=True)
class Work:
    """A command of hcache, and what it is to make."""

    name: str
    arguments: tuple[str, ...]
    outcome: Callable[[Path], str]
    prepare: Callable[[Path], str] = lambda folder: ""


@dataclass
class Stage:
    """A work, what it begins with, and what it makes of that."""

    work: Work
    place: Path
    before: Path
    calls: list[Call] = field(default_factory=list)
    wanted: str = ""

    def run(
        self,
        on_call: OnCall | None = None,
        before: Before = lambda: None,
        ending: tuple[float, int] | None = None,
    ) -> Ended:
        """Run the work once, see `command`."""
        return command(self.work.arguments, self.place, on_call, before, ending)

    def observed(self, look: Callable[[Call], T], before: Before = lambda: None) -> list[T]:
        """Run it without a fault; what there is to see before each of its calls."""
        seen: list[T] = []

        def on_call(call: Call) -> int:
            seen.append(look(call))
            return 0

        if (ended := self.run(on_call, before=before)).code:
            raise SystemExit(f"{self.work.name} does not work undisturbed: {ended.said}")
        return seen

    def found(self) -> str:
        """The digest of what it has made so far."""
        return asked(self.work.outcome, self.place)

    def restore(self) -> None:
        """Have the folder as it was before."""
        shutil.rmtree(self.place)
        shutil.copytree(self.before, self.place, symlinks=True)

    def tried(
        self,
        fault: str,
        where: object = "",
        on_call: OnCall | None = None,
        before: Before = lambda: None,
        after: Action = lambda place: None,
        cure: Action | None = None,
        losing: bool = False,
        deaths: tuple[int, ...] = (-SIGKILL,),
    ) -> Finding:
        """Run it with a fault, then without.

        `before` is done in the process before the command, `after` to the folder when it has ended,
        and `cure` when it cannot go on: it is what its error asks for. With `losing`, a success may
        leave nothing, never a part. `deaths` are exit codes of a process that could not say more.
        """
        self.restore()
        name, ended = f"{self.work.name}: {fault}", self.run(on_call, before=before)

        def wrong(what: str) -> Finding:
            return Finding(name, "", f"{where}: {what}; it ended with {ended.code}: {ended.said!r}")

        after(self.place)
        if ended.code not in deaths and (what := improper(ended)):
            return wrong(what)
        found = self.found() if ended.code == 0 else ""
        if found and found != self.wanted and not (losing and found.startswith(SILENCE)):
            return wrong("success was said, but the outcome differs")
        again = self.run()
        if again.code and cure is not None and not improper(again):
            cure(self.place)
            again = self.run()
        if again.code:
            return wrong(f"it does not go on: {again.said!r}")
        if self.found() != self.wanted:
            return wrong("when it went on, the outcome differs")
        return Finding(name, f"{_in_words(ended)}, then equal")


def _in_words(ended: Ended) -> str:
    if ended.code in (0, 1):
        return "one line of error" if ended.code else "success"
    return Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"


def staged(works: Iterable[Work], place: Path) -> Iterator[Stage]:
    """Works that follow each other in a folder, undisturbed before and after faults."""
    for work in works:
        asked(work.prepare, place)
        stage = Stage(work, place, place.with_name("before"))
        shutil.copytree(place, stage.before, symlinks=True)
        _undisturbed(stage)
        stage.wanted = stage.found()
        yield stage
        stage.restore()
        _undisturbed(stage)
        shutil.rmtree(stage.before)


def _undisturbed(stage: Stage) -> None:
    stage.calls = stage.observed(lambda call: call)


def database_digest(folder: Path) -> str:
    """The digest of what the database of a folder holds."""
    with hcache.Store(folder / DATABASE) as store:
        return content_digest(store).digest


def _age(folder: Path) -> str:
    """Make the database one of the first release: all that later ones add is taken away."""
    added = re.findall(r"alter table (\w+) add column (\w+)", "".join(MIGRATIONS.values()))
    with duckdb.connect(str(folder / DATABASE)) as connection:
        for table, column in added:
            connection.execute(f"alter table {table} drop column {column}")
        connection.execute("drop table conflicts")
        connection.execute(f"update meta set version = {min(MIGRATIONS)}")
    return ""


def _runs(folder: Path) -> str:
    """The digest of weights and metrics of all runs, as they are and as their manifests have it."""
    runs = all_runs(folder / "runs")
    return digest([[{**run.manifest["outcome"], "seconds": 0}, run.files()] for run in runs])


def _evaluations(folder: Path) -> str:
    return digest(sorted(digest_file(file) for file in folder.glob("runs/*/eval-*.json")))


def _report(folder: Path) -> str:
    report = folder / "runs" / "report"
    files = sorted(str(file) for file in report.rglob("*.*") if file.suffix != ".tmp")
    return digest([digest_file(report / "report.json"), files])


def _exported(folder: Path) -> str:
    return digest_file(folder / "replies.parquet")


STEPS = ("--set", "train.iterations=4", "--set", "train.evaluate_every=2")
SAMPLE = Work("sample", ("sample", EXPERIMENT), database_digest)
SAMPLE_CRASHING = Work("sample with an engine that dies", SAMPLE.arguments, database_digest)
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "data" / "demo" / "experiment.yaml"
FEW = [f"data.demo.sources.{split}.limit={count}"
       for split, count in (("train", 16), ("valid", 8), ("test", 8))]  # fmt: skip
SAMPLE_VLLM = Work(
    "sample with vLLM",
    ("sample", str(DEMO), "--db", DATABASE, *(part for few in FEW for part in ("--set", few))),
    database_digest,
)
WORKS = (
    SAMPLE,
    Work("migrate and rescore", ("rescore", EXPERIMENT), database_digest, _age),
    Work("train", ("train", EXPERIMENT, "--algo", "ppo", *STEPS), _runs),
    Work("eval", ("eval", EXPERIMENT), _evaluations),
    Work("report", ("report", EXPERIMENT), _report),
    Work("export", ("export", "replies.parquet", "--db", DATABASE), _exported),
    Work("bench", ("bench", EXPERIMENT, "--algos", "sft,ppo"), _runs),
)
