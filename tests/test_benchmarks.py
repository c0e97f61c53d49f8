"""Benchmarks in short: every learner whose package is there takes a step."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.paths import ROOT

FAMILIES = {
    "hcache soft": "hcache",
    "hcache ppo": "hcache",
    "hcache sft": "hcache",
    "PPO in CleanRL's style": "hcache",
    "sb3-contrib MaskablePPO": "sb3_contrib",
    "Stable-Baselines3 PPO": "sb3_contrib",
    "TorchRL PPO": "torchrl",
    "d3rlpy DiscreteCQL": "d3rlpy",
    "d3rlpy DiscreteBCQ": "d3rlpy",
    "discrete IQL": "gymnasium",
}
"""Learners of the table, without their settings, and the package that each needs."""


@pytest.mark.slow
def test_every_learner_takes_a_step(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    few = ("--seeds", "1", "--questions", "40", "--seconds", "0", "--only", "hcache|rate 0.003")
    command = [sys.executable, "-m", "benchmarks.learning", *few, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    stepped = {row["learner"].split(",")[0] for row in rows if row["steps"] == 1}
    assert stepped == {name for name, package in FAMILIES.items() if find_spec(package)}
    missing = "without d3rlpy_offline: No module named 'd3rlpy'" in done.stdout
    assert missing == (find_spec("d3rlpy") is None)


@pytest.mark.slow
def test_estimators_are_held_against_exact_values(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    few = ("--draws", "3", "--sizes", "100", "300", "--population", "400", "--out", str(out))
    command = [sys.executable, "-m", "benchmarks.off_policy", *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(out.read_text())["cells"]
    assert len(cells) == 4 * 3 * 4  # logs, sizes with one of several episodes a query, estimators
    assert not any(cell["answered"] for cell in cells if cell["log"] == "a poor router alone")
