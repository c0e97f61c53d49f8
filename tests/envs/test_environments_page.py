"""docs/environments.md: its blocks run, one after another."""

from __future__ import annotations

import re
from pathlib import Path

import minari
import pytest
from helpers.paths import ROOT

from hcache.envs.mdp import INVALID_REWARD
from hcache.experiment import Experiment

PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_page_runs(
    sampled: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a scripted experiment in place of the demo."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(sampled.db.parent)
    text = "\n".join(BLOCKS)
    assert text.count("data/demo/experiment.yaml") == 1
    exec(text.replace("data/demo/experiment.yaml", str(sampled.source)), {})
    assert [*minari.list_local_datasets()] == ["hcache/demo-train-v0"]


def test_the_reward_of_invalid_actions_is_the_one_told() -> None:
    assert f"`invalid_reward` ({INVALID_REWARD})".replace("-", "−") in PAGE
