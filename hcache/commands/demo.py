"""`hcache demo`: the whole of it on what comes with a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hcache.commands import bench, routers, sampling
from hcache.commands.console import console, say
from hcache.errors import ConfigError

EXPERIMENT = Path("data/demo/experiment.yaml")
REAL = Path("data/real/experiment.yaml")
CACHE = Path("data/real/real.duckdb")

NEXT = f"""
What to try next (`source .venv/bin/activate` makes .venv/bin/hcache plain `hcache`):
  hcache sql "select * from sequences order by f1 desc limit 5" --db runs/demo/hcache.duckdb
  hcache sql "select * from outcomes where sequence = 'reader>calculator' limit 3" \\
      --db runs/demo/hcache.duckdb
  hcache show TRAJECTORY --db runs/demo/hcache.duckdb
  hcache train {EXPERIMENT} --algo sft
  hcache eval {EXPERIMENT}
  hcache runs --runs runs/demo
"""

NEXT_REAL = f"""
What to try next:
  hcache sql "select * from sequences order by quality desc limit 5" --db runs/real/hcache.duckdb
  hcache train {REAL} --algo ppo --seed 1
  hcache report {REAL}
"""


def demo(
    real: Annotated[
        bool,
        typer.Option("--real", help="On the stored replies of public models; runs no model."),
    ] = False,
) -> None:
    """Sample, train and evaluate the embedded demo, with real models.

    A second run generates nothing. With --real, train and evaluate every router on what three
    public models have said to four benchmarks, which needs no engine.

    Example: `hcache demo --real`
    """
    here = REAL if real else EXPERIMENT
    if not here.is_file():
        raise ConfigError(f"{here} is not here.", "Run `hcache demo` in the folder of the project.")
    if real:
        _on_stored_replies()
    else:
        _from_the_start()


def _from_the_start() -> None:
    console.rule("1. sample: every model sequence up to 3 hops, once")
    sampling.sample(EXPERIMENT)
    console.rule("2. train: PPO on the stored trajectories")
    routers.train(EXPERIMENT)
    console.rule("3. evaluate: on the test questions")
    routers.evaluate(str(EXPERIMENT))
    say(NEXT)


def _on_stored_replies() -> None:
    from hcache.experiment import Experiment

    db = Experiment.load(REAL).db
    if not db.exists():  # what is written beside a database stays out of the checkout's folder
        db.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CACHE, db)
    console.rule("train and evaluate every router on stored replies")
    bench.bench(REAL)
    say(NEXT_REAL)
