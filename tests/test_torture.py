"""Sampling under SIGKILL, in short; `make torture` kills many times."""

from __future__ import annotations

import subprocess
import sys

from helpers.paths import ROOT


def test_a_few_kills_of_sampling_lose_nothing() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "torture.py"), "5", "--queries", "40"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 kills of sampling" in done.stdout
    assert "all equal to an undisturbed run" in done.stdout
