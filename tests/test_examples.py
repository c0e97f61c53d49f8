"""The experiments in examples/: they load, and `plan` works on real rows with small models."""

from __future__ import annotations

from pathlib import Path

import pytest

from hcache.config import read_config
from hcache.experiment import Experiment
from hcache.sampling import make_plan

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def overrides(example: Path) -> list[str]:
    """The demo's models in place of those of the hub, and the first rows of real files."""
    config = read_config(example)
    models = ROOT / "data" / "demo" / "models"
    found = [
        f"models.{name}.path={models / small}"
        for name, small in zip(config.models, ("generalist", "calculator", "reader"), strict=False)
    ]
    for name, dataset in config.data.items():
        for key, source in dataset.sources.items():
            place = f"data.{name}.sources.{key}"
            found += [f"{place}.path={DATA / source.path}", f"{place}.limit=6"]
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_says_what_it_is_and_loads(example: Path) -> None:
    assert example.read_text(encoding="utf-8").startswith("# ")
    assert Experiment.load(example).name == example.stem


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_plan_counts_every_sequence(example: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(example, overrides(example), tmp_path / "none.duckdb")
    plan = make_plan(experiment, show=1)
    arms, hops = len(experiment.pool), experiment.workflow.hops
    whole = sum(arms**hop for hop in range(1, hops + 1))
    assert plan.missing == whole * len(experiment.queries())
    assert plan.prompts[0].messages[-1].content
