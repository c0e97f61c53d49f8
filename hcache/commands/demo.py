"""`hcache demo`: the whole of it on the embedded default."""

from __future__ import annotations

from pathlib import Path

from hcache.commands import routers, sampling
from hcache.commands.console import console, say
from hcache.errors import ConfigError

EXPERIMENT = Path("data/demo/experiment.yaml")

NEXT = f"""
What to try next (`source .venv/bin/activate` makes .venv/bin/hcache plain `hcache`):
  hcache sql "select * from sequences order by f1 desc limit 5" --db runs/demo/hcache.duckdb
  hcache sql "select * from outcomes where sequence = 'reader>calculator' limit 3" \\
      --db runs/demo/hcache.duckdb
  hcache show TRAJECTORY --db runs/demo/hcache.duckdb
  hcache train {EXPERIMENT} --algo sft
  hcache eval {EXPERIMENT}
  hcache runs list --runs runs/demo
"""


def demo() -> None:
    """Sample, train and evaluate the embedded demo, with real models.

    A second run generates nothing.

    Example: `hcache demo`
    """
    if not EXPERIMENT.is_file():
        raise ConfigError(
            f"{EXPERIMENT} is not here.", "Run `hcache demo` in the folder of the project."
        )
    console.rule("1. sample: every model sequence up to 3 hops, once")
    sampling.sample(EXPERIMENT)
    console.rule("2. train: PPO on the stored trajectories")
    routers.train(EXPERIMENT)
    console.rule("3. evaluate: on the test questions")
    routers.evaluate(str(EXPERIMENT))
    say(NEXT)
