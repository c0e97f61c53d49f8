"""Faults in short; `make torture` tries many more of them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp(2) is of Linux")
SIGNALS = ("--kills", "5", "--requests", "3", "--queries", "40")
FAULTS = ("--works", "sample", "--every", "100", "--faults", "disk,files,rights,engine")


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    """How often each fault was tried; none may have had another end than it should."""
    command = [sys.executable, "-m", "benchmarks.torture", *SIGNALS, *FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (.+?) \| (\d+) \|", done.stdout, re.MULTILINE)
    return {fault: int(times) for fault, times in rows}


def test_signals_at_random_moments_lose_nothing(counts: dict[str, int]) -> None:
    assert counts["sample: SIGKILL at a random moment"] == 5
    assert counts["sample: SIGINT, SIGTERM, SIGHUP at a random moment"] == 3


@pytest.mark.parametrize(
    "fault",
    [
        "disk full at one call",
        "disk full from one call on",
        "I/O error at one call",
        "I/O errors from one call on",
        "SIGKILL before one call",
    ],
)
def test_faults_of_the_disk_lose_nothing(counts: dict[str, int], fault: str) -> None:
    assert counts[f"sample: {fault}"]


def test_faults_of_the_surroundings_lose_nothing(counts: dict[str, int]) -> None:
    assert counts["sample: read-only folder"]
    assert counts["sample: torture.duckdb removed meanwhile"]
    assert counts["sample with an engine that dies: by an error"]


def test_every_work_runs_undisturbed() -> None:
    """Those too that only the long form disturbs; the last one has all others before it."""
    options = ("--works", "bench", "--every", "1", "--faults", "none")
    command = [sys.executable, "-m", "benchmarks.torture", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
