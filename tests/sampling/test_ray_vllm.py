"""Two actors of Ray with real vLLM on the demo: the content of one process, whoever ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.experiments import digest_of
from helpers.paths import ROOT
from helpers.processes import descendants

from hcache.store import spool_path

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]

LIMITS = [f"data.demo.sources.{split}.limit=4" for split in ("train", "valid", "test")]
HERE = os.environ | {"RAY_ADDRESS": "local"}  # a cluster of this machine, whatever else runs


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one process samples."""
    db = tmp_path_factory.mktemp("alone") / "demo.duckdb"
    sampled(db, "1")
    return digest_of(db)


def sampled(db: Path, workers: str, kill: bool = False) -> str:
    """What a run says; one of its actors may be killed once there are replies."""
    sets = [part for value in [*LIMITS, "workflow.hops=2"] for part in ("--set", value)]
    command = [sys.executable, "cli.py", "sample", "data/demo/experiment.yaml", "--db", str(db)]
    with subprocess.Popen(
        [*command, "--workers", workers, *sets],
        cwd=ROOT,
        env=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if kill:
                _kill_actor(process, spool_path(db))
            out, errors = process.communicate(timeout=1800)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return out


def _kill_actor(process: subprocess.Popen[str], spool: Path) -> None:
    while not (spool.exists() and spool.stat().st_size):
        assert process.poll() is None
        time.sleep(0.02)
    names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(process.pid)}
    actors = [pid for pid, name in names.items() if name.startswith("ray::WorkerActor")]
    os.kill(actors[0], signal.SIGKILL)


def test_two_actors_make_the_content_of_one_process(expected: str, tmp_path: Path) -> None:
    out = sampled(tmp_path / "demo.duckdb", "ray")
    assert "worker 2" in out and "ended by themselves" not in out
    assert digest_of(tmp_path / "demo.duckdb") == expected


def test_an_actor_that_is_killed_costs_nothing_but_time(expected: str, tmp_path: Path) -> None:
    out = sampled(tmp_path / "demo.duckdb", "ray", kill=True)
    assert "ended by themselves: 1" in out
    assert digest_of(tmp_path / "demo.duckdb") == expected
