"""Scenes: a folder with a small scripted experiment, and commands of hcache run in it.

Every command runs in a child that is forked, so that nothing has to be imported again. Nothing but
such a child works with DuckDB, polars or torch, whose threads a fork would lose.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hcache
import hcache.replay.loading
import hcache.reporting  # noqa: F401
from hcache.commands import main
from hcache.errors import HcacheError
from hcache.sampling import sampler
from hcache.store import spool

from .syscalls import OnCall, watched

CHILDREN = multiprocessing.get_context("fork")
ARMS = "abc"
EXPERIMENT, DATABASE = "experiment.yaml", "torture.duckdb"
SILENCE = "no answer"


@dataclass(frozen=True)
class Ended:
    """A command that has come to its end."""

    code: int  # its exit code, or minus the signal
    said: str  # to standard error


def hurry(commit_seconds: float) -> None:
    """Have samplers commit so often, and make each append of the spool safe at once."""
    sampler.COMMIT_SECONDS, sampler.COMMIT_SHARE = commit_seconds, 1.0
    spool.SYNC_SECONDS = 0.0


def write_experiment(folder: Path, queries: int, **sections: object) -> None:
    """An experiment whose replies differ by arm, hop and question."""
    for arm in ARMS:
        rules = [["(\\w+\\d+)[^\\0]*said", f"{arm} again \\1"], ["(\\w+\\d+)", f"{arm} on \\1"]]
        (folder / f"{arm}.json").write_text(json.dumps(rules), encoding="utf-8")
    shares = {"train": queries // 2, "valid": queries // 4, "test": queries // 4}
    for split, count in shares.items():
        rows = [
            {"question": f"{split}{i}", "answer": f"{ARMS[i % len(ARMS)]} on"} for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    settings: dict[str, object] = {
        "name": "torture",
        "db": DATABASE,
        "workflow": {"name": "relay", "hops": 2},
        "models": {arm: {"path": f"{arm}.json", "engine": "scripted"} for arm in ARMS},
        "arms": {
            arm: {"model": arm, "price": {"input": place, "output": place, "per": 1000}}
            for place, arm in enumerate(ARMS, 1)
        },
        "data": {"made": {"sources": {split: {"path": f"{split}.jsonl"} for split in shares}}},
        "features": {"dim": 8},
    }
    (folder / EXPERIMENT).write_text(json.dumps(settings | sections), encoding="utf-8")


def command(
    arguments: tuple[str, ...],
    folder: Path,
    on_call: OnCall | None = None,
    before: Callable[[], object] = lambda: None,
    ending: tuple[float, int] | None = None,
) -> Ended:
    """Run a command of hcache in a folder, after something else.

    `on_call` may disturb its calls, `ending` is when it gets which signal, if it runs so long.
    """
    with tempfile.TemporaryFile() as errors:

        def work() -> NoReturn:
            os.chdir(folder)
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            before()
            sys.argv = ["hcache", *arguments]
            _exit_from(main)

        status = _ended(work, ending) if on_call is None else watched(work, folder, on_call)
        errors.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), errors.read().decode())


def _ended(work: Callable[[], NoReturn], ending: tuple[float, int] | None) -> int:
    """The status, as of `waitpid`, of a process that does some work and may get a signal."""
    child = os.fork()
    if child == 0:
        work()
    if ending is not None:
        seconds, number = ending
        descriptor = os.pidfd_open(child)
        if not select.select([descriptor], [], [], seconds)[0]:
            os.kill(child, number)
        os.close(descriptor)
    return os.waitpid(child, 0)[1]


def _exit_from(run: Callable[[], object]) -> NoReturn:
    """Run to the end as an interpreter would: threads joined, output flushed, errors printed."""
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def asked(work: Callable[..., str], *arguments: Any) -> str:
    """The result of work that another process does, or `SILENCE` and why there is none."""
    near, far = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=lambda: far.send(_result(work, *arguments)))
    child.start()
    far.close()
    try:
        found: str = near.recv()
    except EOFError:
        found = f"{SILENCE}: it was ended"
    child.join()
    return found


def _result(work: Callable[..., str], *arguments: Any) -> str:
    try:
        return work(*arguments)
    except (HcacheError, OSError, LookupError) as error:
        return f"{SILENCE}: {error}"
