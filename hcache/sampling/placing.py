"""Places of an experiment's models: in this process, or in workers on its devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import NoReturn

from hcache.config.schema import ModelConfig
from hcache.engines import ENGINES, Engine, EngineFactory, engine_of, make_engine
from hcache.engines.devices import (
    Device,
    core_shares,
    default_shares,
    find_gpus,
    free_memory,
    has_gpu,
)
from hcache.engines.fleet import Fleet
from hcache.engines.hosts import Hosting, Processes
from hcache.engines.placement import GIB, Demand, Placement, Post, place
from hcache.engines.ray_cluster import Cluster
from hcache.engines.ray_host import Actors
from hcache.errors import ConfigError
from hcache.experiment import Experiment
from hcache.models.arms import Arm
from hcache.sampling.keeping import ShardKeeper
from hcache.store.spool import shards_path

ON_GPU = 2 * GIB  # of an engine besides weights and cache: CUDA, activations, graphs
ON_CPU = GIB // 4
CPU_CACHE = GIB // 2  # what vLLM is given on a CPU, see `engines/vllm.py`


def placement_of(experiment: Experiment) -> Placement | None:
    """The workers on this machine that run the models of an experiment; None: this process does.

    It does on a CPU with one worker, and where no model is loaded.

    Raises:
        ConfigError: a model does not fit, or there are fewer GPUs than asked for.
    """
    demands = _demands(experiment, has_gpu())
    workers = experiment.config.sampling.workers
    swap = experiment.config.sampling.schedule == "swap"
    if not demands:
        return None
    assert not isinstance(workers, str)
    if has_gpu():
        gpus = find_gpus(workers)
        return place(demands, gpus, swap) if gpus else None
    shares = partial(core_shares, free=free_memory())
    if workers is None:
        placement = _as_fits(demands, shares, default_shares(), swap)
    else:
        placement = place(demands, shares(workers), swap)
    return placement if len({post.group for post in placement.posts}) > 1 else None


def planned_placement(experiment: Experiment) -> tuple[Placement | None, str]:
    """The workers that would run an experiment's models, and what else there is to say of them.

    Raises:
        ConfigError: a model does not fit, or there are fewer GPUs than asked for.
    """
    workers = experiment.config.sampling.workers
    if not isinstance(workers, str) or not _demands(experiment, False):
        return placement_of(experiment), ""
    try:
        cluster = Cluster(workers)
    except ConfigError as error:
        return None, f"workers are planned once their cluster answers: {error}"
    with closing(cluster):
        said = "" if cluster.runs else "no Ray cluster runs: one is started on this machine."
        return _on_cluster(experiment, cluster), said


def _on_cluster(experiment: Experiment, cluster: Cluster) -> Placement:
    """Workers on all GPUs of a cluster, or on its cores where it has none."""
    demands = _demands(experiment, bool(cluster.gpus))
    swap = experiment.config.sampling.schedule == "swap"
    if cluster.gpus:
        return place(demands, cluster.gpus, swap, apart=True)
    return _as_fits(demands, cluster.shares, max(node.cpus for node in cluster.nodes), swap)


@dataclass(frozen=True)
class Serving:
    """The engines of a run."""

    factory: EngineFactory
    workers: int = 1  # that serve a model beside each other
    swap: bool = False
    fleet: Fleet | None = None

    def answered(self) -> dict[str, int]:
        """Generations of each worker so far."""
        return {} if self.fleet is None else self.fleet.answered


def serving(experiment: Experiment) -> Serving:
    """The engines of an experiment: a fleet, or engines in this process.

    That there is no place for a model is an error when the first engine is asked for, since a run
    that finds everything in the database asks for none.
    """
    try:
        placement, hosting = _placed(experiment)
    except ConfigError as error:
        return Serving(partial(_refuse, error))
    if placement is None:
        return Serving(make_engine)
    fleet = Fleet(placement, experiment.pool, hosting)
    return Serving(fleet, placement.replicas, placement.swap, fleet)


def _placed(experiment: Experiment) -> tuple[Placement | None, Hosting]:
    workers, demands = experiment.config.sampling.workers, _demands(experiment, False)
    if not isinstance(workers, str) or not demands:
        return placement_of(experiment), Processes()
    cluster = Cluster(workers)
    try:
        placement = _on_cluster(experiment, cluster)
    except ConfigError:
        cluster.close()
        raise
    folder = shards_path(experiment.db.resolve())
    needs = {demand.key: demand.split + demand.each for demand in demands}
    return placement, Actors(cluster, needs, folder, ShardKeeper(folder))


def _refuse(error: ConfigError, arm: Arm, logprobs: bool) -> NoReturn:
    raise error


def in_process(experiment: Experiment) -> EngineFactory:
    """Makes engines in this process; they share the first GPU that is visible, if there is one.

    The factory raises a ConfigError where a model does not fit it, unless settings split one over
    several.
    """
    plan = cache(lambda: _on_one_gpu(experiment))

    def factory(arm: Arm, logprobs: bool) -> Engine:
        key = arm.engine_key
        found = [post for post in plan() if any(seat.key == key for seat in post.seats)]
        return make_engine(found[0].seated(arm) if found else arm, logprobs)

    return factory


def _on_one_gpu(experiment: Experiment) -> tuple[Post, ...]:
    demands = _demands(experiment, True) if has_gpu() else []
    gpus = find_gpus(None)[:1] if demands else ()
    if not gpus or any(demand.devices for demand in demands):
        return ()
    return place(demands, gpus).posts


def _as_fits(
    demands: Sequence[Demand], shares: Callable[[int], Sequence[Device]], most: int, swap: bool
) -> Placement:
    """As many workers on the cores of a machine as said, or fewer where memory is short."""
    for workers in range(most, 1, -1):
        with suppress(ConfigError):  # the shares of fewer workers are larger
            placement = place(demands, shares(workers), swap)
            if placement.swap == swap:
                return placement
    return place(demands, shares(1), swap)


def _demands(experiment: Experiment, gpu: bool) -> list[Demand]:
    """Memory that the engine of each checkpoint needs, of those that load one."""
    arms = {arm.engine_key: arm for arm in experiment.pool}
    found = (_demand(arm.model, key, arm.model_config, gpu) for key, arm in arms.items())
    return [demand for demand in found if demand is not None]


def _demand(name: str, key: str, model: ModelConfig, gpu: bool) -> Demand | None:
    memory = ENGINES.find(engine_of(model)).memory(model)
    if memory is None:
        return None
    cache = _number(model, "kv_cache_memory_bytes") or (memory.cache if gpu else CPU_CACHE)
    parts = [_number(model, f"{way}_parallel_size") for way in ("tensor", "pipeline")]
    return Demand(
        name,
        key,
        split=memory.weights + int(cache),
        each=ON_GPU if gpu else ON_CPU,
        heads=memory.heads,
        devices=int((parts[0] or 1) * (parts[1] or 1)) if any(parts) else None,
        share=_number(model, "gpu_memory_utilization") if gpu else None,
    )


def _number(model: ModelConfig, argument: str) -> float | None:
    value = model.engine_args.get(argument)
    return value if isinstance(value, int | float) else None
