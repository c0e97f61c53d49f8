"""hcache: the offline study of routing queries among language models.

What the command line does, as functions; each name is imported when it is first used.

    experiment = hcache.Experiment.load("data/demo/experiment.yaml")
    hcache.Sampler(experiment).run()                          # runs models; all else does not
    with hcache.Store(experiment.db) as store:
        frame = store.sequences("test")                       # polars
        tree = hcache.load_replay(store, experiment.config, "train").tree
    run = hcache.train(experiment)
    report = hcache.evaluate_runs(experiment, [run], "test")
    with hcache.live_router(run.folder) as router:
        route = router.route("What is: 12 + 30")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcache.engines import ScriptedEngine
    from hcache.errors import HcacheError
    from hcache.evaluation.evaluator import evaluate
    from hcache.evaluation.report import Report
    from hcache.experiment import Experiment
    from hcache.policies import load_policy
    from hcache.replay.loading import load_replay
    from hcache.replay.tree import Tree
    from hcache.runs.evaluating import evaluate_runs
    from hcache.runs.folder import Run, find_run
    from hcache.runs.routing import live_router
    from hcache.runs.training import repeat, train
    from hcache.sampling import Sampler, make_plan
    from hcache.store import Store

__version__ = "0.1.0"

_HOME = {
    "Experiment": "experiment",
    "HcacheError": "errors",
    "Report": "evaluation.report",
    "Run": "runs.folder",
    "Sampler": "sampling",
    "ScriptedEngine": "engines",
    "Store": "store",
    "Tree": "replay.tree",
    "evaluate": "evaluation.evaluator",
    "find_run": "runs.folder",
    "evaluate_runs": "runs.evaluating",
    "live_router": "runs.routing",
    "load_policy": "policies",
    "load_replay": "replay.loading",
    "make_plan": "sampling",
    "repeat": "runs.training",
    "train": "runs.training",
}

__all__ = [
    "Experiment",
    "HcacheError",
    "Report",
    "Run",
    "Sampler",
    "ScriptedEngine",
    "Store",
    "Tree",
    "evaluate",
    "evaluate_runs",
    "find_run",
    "live_router",
    "load_policy",
    "load_replay",
    "make_plan",
    "repeat",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hcache' has no attribute {name!r}")
    module = import_module(f"hcache.{_HOME[name]}")
    return getattr(module, name)
