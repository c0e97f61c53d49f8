"""Faults in short; `make torture` tries many more of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp(2) is of Linux")


def tortured(*arguments: str) -> str:
    """The table that the program prints; none of it may be wrong."""
    command = [sys.executable, "-m", "benchmarks.torture", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_signals_at_random_moments_lose_nothing() -> None:
    table = tortured("--kills", "5", "--requests", "3", "--queries", "40")
    assert "| sample: SIGKILL at a random moment | 5 | ended, then equal 5 |" in table
    assert (
        "| sample: SIGINT, SIGTERM, SIGHUP at a random moment | 3 | ended, then equal 3 |" in table
    )


def test_faults_of_the_disk_lose_nothing() -> None:
    table = tortured("--works", "sample", "--every", "60", "--faults", "disk")
    for fault in (
        "disk full at one call",
        "I/O errors from one call on",
        "SIGKILL before one call",
    ):
        assert f"| sample: {fault} |" in table


def test_faults_of_the_surroundings_lose_nothing() -> None:
    table = tortured("--works", "sample", "--every", "200", "--faults", "rights,files,engine")
    assert "| sample: read-only folder | 1 | one line of error, then equal 1 |" in table
    assert "| sample with an engine that dies: by an error |" in table
