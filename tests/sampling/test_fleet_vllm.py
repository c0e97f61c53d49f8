"""Two workers with real vLLM on the demo: rows of an undisturbed run, whoever ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.experiments import digest_of
from helpers.paths import ROOT

from hcache.store import spool_path

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]

LIMITS = [f"data.demo.sources.{split}.limit=8" for split in ("train", "valid", "test")]


def command(db: Path, workers: int) -> list[str]:
    sets = [part for value in [*LIMITS, "workflow.hops=2"] for part in ("--set", value)]
    file = "data/demo/experiment.yaml"
    return [sys.executable, "cli.py", "sample", file, "--db", str(db), "--workers", str(workers), *sets]  # fmt: skip  # noqa: E501


def run(db: Path, workers: int) -> str:
    done = subprocess.run(
        command(db, workers), cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one process samples."""
    db = tmp_path_factory.mktemp("alone") / "demo.duckdb"
    run(db, 1)
    return digest_of(db)


def workers_of(pid: int) -> list[int]:
    """Processes that a process has started by multiprocessing, its tracker of resources apart."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid and "spawn_main" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@contextmanager
def begun(db: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run with two workers, from its first replies on."""
    with subprocess.Popen(
        command(db, 2), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 600
        spool = spool_path(db)
        while not (spool.exists() and spool.stat().st_size) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        try:
            yield process, workers_of(process.pid)
        finally:
            process.kill()


def test_two_workers_make_the_content_of_one_process(expected: str, tmp_path: Path) -> None:
    db = tmp_path / "demo.duckdb"
    run(db, 2)
    assert digest_of(db) == expected


def test_a_worker_that_is_killed_costs_nothing_but_time(expected: str, tmp_path: Path) -> None:
    db = tmp_path / "demo.duckdb"
    with begun(db) as (process, workers):
        assert len(workers) == 2
        subprocess.run(["kill", "-9", str(workers[0])], check=True)
        out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "ended by themselves: 1" in out
    assert digest_of(db) == expected


def test_a_driver_that_is_killed_leaves_no_worker_and_loses_nothing(
    expected: str, tmp_path: Path
) -> None:
    db = tmp_path / "demo.duckdb"
    with begun(db) as (process, workers):
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        time.sleep(2)
        assert not any(Path(f"/proc/{pid}/cmdline").exists() and
                       "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
                       for pid in workers)  # fmt: skip
    run(db, 2)
    assert digest_of(db) == expected
