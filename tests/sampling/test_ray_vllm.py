"""Two actors of Ray with real vLLM on the demo: the content of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from hcache.store import Store
from hcache.store.digest import content_digest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(sys.platform != "linux", reason="vLLM needs Linux"),
]

LIMITS = [f"data.demo.sources.{split}.limit=4" for split in ("train", "valid", "test")]


def sampled(db: Path, workers: str) -> tuple[str, str]:
    """What a run says, and the digest of what it makes."""
    sets = [part for value in [*LIMITS, "workflow.hops=2"] for part in ("--set", value)]
    command = [sys.executable, "cli.py", "sample", "data/demo/experiment.yaml", "--db", str(db)]
    done = subprocess.run(
        [*command, "--workers", workers, *sets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Store(db) as store:
        return done.stdout, content_digest(store).digest


def test_two_actors_make_the_content_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # a cluster of this machine, whatever else runs
    _, expected = sampled(tmp_path / "one.duckdb", "1")
    out, found = sampled(tmp_path / "ray.duckdb", "ray")
    assert found == expected
    assert out.startswith("132 generations made") and "worker 2" in out
