"""Sampling with engines in actors of a Ray cluster: the same content, whoever ends meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.experiments import SPLITS, Raw, load, settings, table, write_scripts
from helpers.paths import ROOT
from helpers.processes import runs

from hcache.engines import fleet as fleets
from hcache.engines.fleet import Fleet
from hcache.errors import ConfigError, EngineError
from hcache.experiment import Experiment
from hcache.sampling import Sampler, Tally
from hcache.sampling.placing import Serving, planned_placement, serving
from hcache.store import Store
from hcache.store.digest import content_digest
from hcache.store.spool import shards_path

PLUGIN = ROOT / "tests/helpers/weighty.py"
ALL = sum(SPLITS.values()) * 6  # generations of two arms and two hops
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each, which `workers: ray` finds."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        paths = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        patch.setenv("PYTHONPATH", paths)
        args = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
        made = Cluster(initialize_head=True, head_node_args=args)
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what one process samples."""
    folder = tmp_path_factory.mktemp("alone")
    write_scripts(folder, "ab")
    experiment = load(folder, weighty())
    Sampler(experiment).run()
    return digest(experiment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scripts(tmp_path, "ab")
    return tmp_path


def weighty(workers: int | str = "ray", **how: object) -> Raw:
    """Settings whose models load something, and behave as `how` says."""
    raw = settings("ab", plugins=[str(PLUGIN)], sampling={"workers": workers})
    for model in raw["models"].values():
        model |= {"engine": "weighty", "engine_args": how}
    return raw


def digest(experiment: Experiment) -> str:
    with Store(experiment.db) as store:
        return content_digest(store).digest


def served(experiment: Experiment) -> tuple[Serving, Fleet]:
    found = serving(experiment)
    assert found.fleet is not None
    return found, found.fleet


def sample(experiment: Experiment, found: Serving, **how: Any) -> Tally:
    return Sampler(experiment, found.factory, workers=found.workers, swap=found.swap, **how).run()


def processes(experiment: Experiment) -> set[int]:
    """The processes that have answered, by provenance."""
    facts = table(experiment.db, "provenance")["facts"]
    return {int(json.loads(each)["process"]) for each in facts}


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(runs, pids))


def test_content_is_that_of_one_process(cluster: Any, folder: Path, expected: str) -> None:
    experiment = load(folder, weighty(slow=0.05))
    found, fleet = served(experiment)
    assert len(fleet.workers) == 2
    tally = sample(experiment, found)
    fleet.close()
    assert sum(tally.generated.values()) == ALL and tally.complete == sum(SPLITS.values())
    assert digest(experiment) == expected
    made = processes(experiment)
    assert len(made) == 2 and os.getpid() not in made and gone([*made])
    assert fleet.deaths == 0 and not shards_path(experiment.db).exists()
