"""What the environment holds stays there: no file that any command writes has a value of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.experiments import load, settings
from helpers.paths import ROOT

NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY",
    "AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", "VLLM_SECRET_OF_MINE", "DATABASE_PASSWORD", "ANYTHING",
)  # fmt: skip


def test_no_value_of_the_environment_is_ever_written(folder: Path) -> None:
    load(folder, settings("ab", train={"iterations": 5}))
    canaries = {name: f"canary-{number}-{name[::-1]}" for number, name in enumerate(NAMES)}
    for command in (
        ["sample", "experiment.yaml"],
        ["train", "experiment.yaml"],
        ["eval", "experiment.yaml"],
        ["report", "experiment.yaml"],
    ):
        done = subprocess.run(
            [sys.executable, ROOT / "cli.py", *command],
            cwd=folder,
            env=os.environ | canaries | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode()
        found = [name for name in NAMES if canaries[name].encode() in done.stdout + done.stderr]
        assert not found, command
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"small.duckdb", "manifest.json"} <= {file.name for file in files}
    for file in files:
        data = file.read_bytes()
        assert not [name for name in NAMES if canaries[name].encode() in data], file
