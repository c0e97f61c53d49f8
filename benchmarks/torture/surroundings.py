"""Faults of what is around a command: its files, rights, memory, clock, and the engine."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGSEGV

from .findings import Finding
from .scene import ARMS, write_experiment
from .syscalls import Call, OnCall
from .works import ROOT, SAMPLE, Stage

STEPS = 12  # of an engine
MEGABYTES = (0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
DEATHS = (-SIGABRT, -SIGKILL, -SIGSEGV, 127)  # of a library without memory for its last words
YEARS = (-10, 10)
CAPABILITIES_VERSION = 0x20080522  # of capset(2)
TARGETS = {
    "sample": ("torture.duckdb", "torture.duckdb.spool", "torture.duckdb.wal"),
    "train": ("torture.duckdb", "torture.duckdb.features", "runs/*", "runs/*/checkpoint.*",
              "runs/*/metrics.jsonl", "runs/*/policy"),
}  # fmt: skip
CRASHING = """
import os, signal
from hcache.engines.base import ENGINES
from hcache.engines.scripted import ScriptedEngine, read_script
from hcache.errors import EngineError


@ENGINES.register("crashing")
class Crashing(ScriptedEngine):
    steps = 0

    @staticmethod
    def serving(arm, logprobs):
        return Crashing(read_script(arm.path), batch=1)

    def step(self):
        Crashing.steps += 1
        if str(Crashing.steps) == os.environ.get("CRASH_AT"):
            if os.environ["CRASH_BY"] == "error":
                raise EngineError("the engine died.", "Start it again.")
            os.kill(os.getpid(), int(os.environ["CRASH_BY"]))
        return super().step()
"""


def write_crashing(folder: Path, queries: int) -> None:
    """An experiment whose engine dies when the environment says so."""
    (folder / "crashing.py").write_text(CRASHING, encoding="utf-8")
    models = {arm: {"path": f"{arm}.json", "engine": "crashing"} for arm in ARMS}
    write_experiment(folder, queries, models=models, plugins=["crashing.py"])


def engine_faults(stage: Stage, every: int) -> Iterator[Finding]:
    """The engine fails, or takes the process with it, at every so manieth of its first steps."""
    for by, name in (("error", "by an error"), ("9", "with its process")):
        for step in range(1, STEPS + 1, every):
            crash = {"CRASH_AT": str(step), "CRASH_BY": by}
            yield stage.tried(name, f"step {step}", before=partial(os.environ.update, crash))


def file_faults(stage: Stage, every: int) -> Iterator[Finding]:
    """A file or folder is removed, or replaced, while it is there: before a fourth of the calls."""
    for target in TARGETS.get(stage.work.name, ()):
        stage.restore()
        there = partial(_if_there, stage.place, target)
        calls = [call for call in stage.observed(there) if call is not None]
        for how in (_remove, _replace):
            for call in calls[:: 4 * every]:
                yield stage.tried(
                    f"{target} {how.__name__[1:]}d meanwhile",
                    call,
                    _at(call.place, partial(how, stage.place, target)),
                    cure=partial(_mend, stage.before, target=target),
                    losing=True,
                )


def _if_there(place: Path, target: str, call: Call) -> Call | None:
    return call if any(place.glob(target)) else None


def _at(place: int, act: Callable[[], object]) -> OnCall:
    def on_call(call: Call) -> int:
        if call.place == place:
            act()
        return 0

    return on_call


def _remove(place: Path, target: str) -> list[Path]:
    found = list(place.glob(target))
    for each in found:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return found


def _replace(place: Path, target: str) -> None:
    for each in _remove(place, target):
        each.write_bytes(b"something else\n" * 40)


def _mend(before: Path, place: Path, target: str) -> None:
    """Remove what is damaged, a run as a whole, and have what stood there before the command."""
    target = "runs/*" if target.startswith("runs/") else target
    _remove(place, target)
    for each in before.glob(target):
        here = place / each.relative_to(before)
        shutil.copytree(each, here) if each.is_dir() else shutil.copy(each, here)


def read_only(stage: Stage, every: int) -> Iterator[Finding]:
    """The folder and all in it can be read but not written."""

    def close() -> None:
        for each in (stage.place, *stage.place.rglob("*")):
            each.chmod(0o555 if each.is_dir() else 0o444)
        _give_up_rights()

    def reopen(place: Path) -> None:
        for each in (place, *place.rglob("*")):
            each.chmod(0o755 if each.is_dir() else 0o644)

    yield stage.tried("read-only folder", before=close, after=reopen)


def _give_up_rights() -> None:
    """Have modes of files count for root too."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


def memory_faults(stage: Stage, every: int) -> Iterator[Finding]:
    """The process may take so much memory more than it has when it begins."""
    for megabytes in MEGABYTES:
        limit = partial(_limit, megabytes << 20)
        yield stage.tried("out of memory", f"{megabytes} MB", before=limit, deaths=DEATHS)


def _limit(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def clock_faults(stage: Stage, every: int) -> Iterator[Finding]:
    """The clock jumps by years, back or ahead, while sampling: before an eighth of the calls."""
    if stage.work is not SAMPLE:
        return
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        raise SystemExit("jumps of the clock need libfaketime: apt-get install faketime")
    file = stage.place.with_name("clock")
    environment = os.environ | {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    program = [sys.executable, str(ROOT / "cli.py"), *stage.work.arguments]
    begin = partial(os.execve, sys.executable, program, environment)
    file.write_text("+0")
    stage.restore()
    calls = stage.observed(lambda call: call, begin)
    for years in YEARS:
        for call in calls[:: 8 * every]:
            file.write_text("+0")
            yield stage.tried(
                f"clock jumps by {years:+} years",
                call,
                _at(call.place, partial(file.write_text, f"{years:+}y")),
                before=begin,
            )
