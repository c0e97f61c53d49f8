"""A Ray cluster (https://docs.ray.io): where it is, and what its nodes have.

`ray` is the cluster that RAY_ADDRESS names or that was started on this machine (`ray start`). Where
neither is, one of this machine alone is started, which ends with this process. `ray://HOST:PORT` is
a cluster elsewhere, asked through Ray's client. Ray is imported when a cluster is asked for.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hcache.engines.devices import (
    PROCESS,
    Device,
    find_gpus,
    free_memory,
    has_gpu,
    nvidia_smi,
    visible_gpus,
)
from hcache.errors import ConfigError
from hcache.packages import missing
from hcache.processes.children import cores

PROBE_SECONDS = 10.0  # for the port of a cluster to be open
SURVEY_SECONDS = 120.0  # for its nodes to say what GPUs they have
NOTICE_SECONDS = 15.0  # for a cluster to notice that a node has died
SHOWN = 300  # characters of an error of Ray
FOUND, LOCAL = "", "local"  # the cluster of this machine, and that there is none yet
OBJECTS = 256 << 20  # bytes that a cluster of ours has for objects: messages are small
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Node:
    """Resources of a node that workers can be given."""

    id: str  # none: of this machine, before a cluster is started
    name: str
    cpus: int
    memory: int  # bytes
    gpus: tuple[Device, ...]

    def shares(self, most: int) -> list[Device]:
        """Its cores, one for each worker, of which there are so many at most."""
        count = min(self.cpus, most)
        memory = self.memory // max(1, count)
        usable = max(0, memory - PROCESS)
        return [
            Device(number, f"{self.name}:{number}", memory, usable, (number,), self.id)
            for number in range(count)
        ]


class Cluster:
    """A cluster, or where none runs, the one that `start` starts here."""

    def __init__(self, setting: str) -> None:
        """`setting` is what `sampling.workers` says.

        Raises:
            ConfigError: Ray is not installed, or the cluster cannot be reached.
        """
        self.ray = _import_ray()
        self.ours = not self.ray.is_initialized()  # whoever connected before has the last word
        address = _address(setting) if self.ours else FOUND
        self.runs = address != LOCAL
        if self.ours and self.runs:
            _probe(address)
            self._connect(address)
        try:
            self.nodes = self._nodes() if self.runs else [_this_machine()]
        except ConfigError:
            self.close()
            raise

    @property
    def gpus(self) -> list[Device]:
        """All GPUs, of all nodes."""
        return [gpu for node in self.nodes for gpu in node.gpus]

    def shares(self, most: int) -> list[Device]:
        """Cores of all nodes, so many of each at most."""
        return [share for node in self.nodes for share in node.shares(most)]

    def start(self) -> None:
        """Start the cluster of this machine, where none runs."""
        if self.runs:
            return
        (node,) = self.nodes
        self._connect(
            LOCAL,
            num_cpus=node.cpus,
            num_gpus=len(node.gpus),
            include_dashboard=False,
            object_store_memory=OBJECTS,
            _memory=node.memory,
        )
        self.runs = True

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self.ours:
            self.ray.shutdown()

    def _connect(self, address: str, **how: Any) -> None:
        try:
            with _own_handler():
                # Without an address Ray takes the cluster that was started here last.
                self.ray.init(address or None, log_to_driver=False, logging_level="CRITICAL", **how)
        except Exception as error:  # Ray raises whatever its parts do
            raise _unreachable(address, error) from error
        _hush()

    def _nodes(self) -> list[Node]:
        """The nodes that are alive, with the memory of their GPUs as they say it themselves.

        Raises:
            ConfigError: none has room for a worker, or one cannot say what GPUs it has.
        """
        before = self._alive()
        listed = self._listed([id for id, node in before.items() if node["Resources"].get("GPU")])
        alive = {id: node for id, node in self._alive().items() if id in before}
        nodes = [_node(node, listed.get(id, "")) for id, node in alive.items()]
        if not any(node.cpus for node in nodes):
            raise ConfigError(
                "sampling.workers: no node of the Ray cluster has a core for a worker.",
                "Start nodes with cores; `ray status` lists them.",
            )
        return nodes

    def _alive(self) -> dict[str, dict[str, Any]]:
        """Nodes by id, as Ray describes them; one that has just died may be among them."""
        return {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}

    def _gone(self, id: str, error: Exception) -> bool:
        """True if a node has died, which a cluster takes seconds to notice; the error is of it."""
        if isinstance(error, self.ray.exceptions.RayTaskError):  # it lived, and something failed
            return False
        until = time.monotonic() + NOTICE_SECONDS
        while id in self._alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
        return True

    def _listed(self, ids: list[str]) -> dict[str, str]:
        """Output of `nvidia-smi` on some nodes, those left out that have just gone.

        Raises:
            ConfigError: none of them can say it.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self.ray.remote(num_cpus=0, max_retries=0)(nvidia_smi)
        there = {id: NodeAffinitySchedulingStrategy(id, soft=False) for id in ids}
        asked = {id: ask.options(scheduling_strategy=there[id]).remote() for id in ids}
        until = time.monotonic() + SURVEY_SECONDS
        said: dict[str, str] = {}
        why: dict[str, Exception] = {}
        for id, answer in asked.items():
            try:
                said[id] = self.ray.get(answer, timeout=max(0.0, until - time.monotonic()))
            except Exception as error:  # likewise; such as that hcache is not there
                why[id] = error
        left = [error for id, error in why.items() if not said and not self._gone(id, error)]
        if left:
            raise ConfigError(
                f"sampling.workers: no node of the Ray cluster says what GPUs it has "
                f"({in_words(left[0])}).",
                "Install the same Python, Ray and hcache on all of them.",
            )
        return said


def in_words(error: BaseException) -> str:
    """An error of Ray in one line: the last of the traceback that it may hold."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:SHOWN].rstrip(".:")


def _import_ray() -> Any:
    if find_spec("ray") is None:
        raise missing("ray", "ray")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


def _address(setting: str) -> str:
    """The address of the cluster that is meant, or FOUND, or LOCAL."""
    from ray._private.utils import read_ray_address  # where `ray start` has written it

    if setting != "ray":
        return setting
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    running: str | None = read_ray_address()
    return FOUND if running and _answers(running) else LOCAL


def _probe(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes.

    Raises:
        ConfigError: saying why.
    """
    try:
        _knock(address)
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error


def _answers(address: str) -> bool:
    try:
        _knock(address)
    except (OSError, ValueError):
        return False
    return True


def _knock(address: str) -> None:
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()


def _unreachable(address: str, error: Exception) -> ConfigError:
    where = "on this machine" if address in (FOUND, LOCAL) else f"at {address}"
    return ConfigError(
        f"sampling.workers: the Ray cluster {where} cannot be reached ({in_words(error)}).",
        "Start it (`ray start`), correct the address (sampling.workers, RAY_ADDRESS), or "
        "give its token (RAY_AUTH_MODE=token).",
    )


def _this_machine() -> Node:
    gpus = find_gpus(None) if has_gpu() else ()
    return _with_gpus("", socket.gethostname(), cores(), free_memory(), gpus)


def _node(said: dict[str, Any], listed: str) -> Node:
    has = said["Resources"]
    gpus = visible_gpus(listed, None)[: int(has.get("GPU", 0))]
    cpus, memory = int(has.get("CPU", 0)), int(has.get("memory", 0))
    return _with_gpus(said["NodeID"], said["NodeManagerHostname"], cpus, memory, gpus)


def _with_gpus(id: str, name: str, cpus: int, memory: int, gpus: tuple[Device, ...]) -> Node:
    named = [
        Device(gpu.number, f"{name}:{gpu.name}", gpu.memory, gpu.free, node=id) for gpu in gpus
    ]
    return Node(id, name, cpus, memory, tuple(named))


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that ends the process anyhow."""
    before, asked = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:  # by Ray's, while it was there
        asked = True
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)
    if asked:
        signal.raise_signal(signal.SIGTERM)


def _hush() -> None:
    """Have Ray print nothing: notices of its nodes come on stdout, whatever it is told of logs."""
    from ray._private import worker

    worker.print_to_stdstream = lambda *said, **how: None
