"""Plan of which worker serves which models on which devices, by memory. Nothing is loaded.

A model stands on as few devices as hold it, its weights and cache split evenly over them. Every
model gets a place, the largest first where most is free, and replicas of it wherever there is room.
Engines beside each other on a device share out its memory, so that each knows its share before any
is loaded. Where the models do not fit beside each other they are swapped: each has all devices in
its turn, and the processes of the one before end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from hcache.engines.devices import Device
from hcache.errors import ConfigError
from hcache.models.arms import Arm

GIB = 1 << 30
Group = tuple[Device, ...]
"""Devices that one worker has."""


@dataclass(frozen=True)
class Demand:
    """Memory that an engine needs."""

    model: str  # name in the experiment
    key: str  # of the engine
    split: int  # bytes that devices share out: weights and cache
    each: int  # bytes that every device needs besides
    heads: int = 0  # of attention: devices share them out evenly; 0 where unknown
    devices: int | None = None  # that it is split over, where its settings say so
    share: float | None = None  # of the memory of each device, where its settings say so

    def on(self, device: Device, count: int) -> int:
        """Bytes of a device, one of as many as `count` says."""
        if self.share is not None:
            return int(self.share * device.memory)
        return math.ceil(self.split / count) + self.each

    def fits(self, group: Group, free: Counter[Device]) -> bool:
        """True if what is free on each device of a group is enough."""
        return all(self.on(device, len(group)) <= free[device] for device in group)


@dataclass(frozen=True)
class Seat:
    """An engine in a worker."""

    model: str
    key: str
    share: float  # of the memory of each device of the worker


@dataclass(frozen=True)
class Post:
    """A worker: a process with its devices, and the engines in it."""

    group: Group
    seats: tuple[Seat, ...]

    @property
    def name(self) -> str:
        """Its devices in words."""
        kind = "cores" if self.group[0].cores else "GPU"
        return f"{kind} {','.join(device.name for device in self.group)}"

    def seated(self, arm: Arm) -> Arm:
        """An arm as it is loaded here; its fingerprint stays, since no reply depends on its place.

        What its settings say of memory and devices holds.
        """
        if self.group[0].cores:
            return arm
        model = arm.model_config
        share = next(seat.share for seat in self.seats if seat.key == arm.engine_key)
        stages = model.engine_args.get("pipeline_parallel_size", 1)
        split = len(self.group) // (stages if isinstance(stages, int) else 1)
        placed = {"gpu_memory_utilization": share, "tensor_parallel_size": split}
        arguments = {**placed, **model.engine_args}
        return replace(arm, model_config=model.model_copy(update={"engine_args": arguments}))


@dataclass(frozen=True)
class Placement:
    """All workers; with `swap`, of one model at a time."""

    posts: tuple[Post, ...]
    swap: bool = False

    @property
    def replicas(self) -> int:
        """Workers that serve the model which most of them do."""
        keys = Counter(seat.key for post in self.posts for seat in post.seats)
        return max(keys.values())


def place(
    demands: Sequence[Demand], devices: Sequence[Device], swap: bool = False, apart: bool = False
) -> Placement:
    """A place for each engine; `swap` where they are to be swapped though they may fit.

    With `apart`, no two workers have a device in common: whoever starts them gives it to one.

    Raises:
        ConfigError: one does not fit, whatever else is there.
    """
    # Those of a node stand together, and there equal ones.
    devices = sorted(devices, key=lambda device: (device.node, -device.memory))
    ordered = sorted(demands, key=lambda demand: (-demand.split, demand.model))
    groups = {demand.key: _groups(demand, devices) for demand in ordered}
    together = None if swap else _side_by_side(ordered, groups, devices, apart)
    if together is not None:
        return Placement(_posts(together))
    alone = [
        _posts([(demand, group) for group in groups[demand.key] if _alone(demand, group)])
        for demand in ordered
    ]
    return Placement(tuple(post for posts in alone for post in posts), swap=True)


def _groups(demand: Demand, devices: Sequence[Device]) -> list[Group]:
    """The devices in groups of as few as hold an engine; those that are left over serve none.

    Raises:
        ConfigError: all together do not.
    """
    nodes = [tuple(found) for _, found in groupby(devices, key=lambda device: device.node)]
    most = max(map(len, nodes))
    if (asked := demand.devices or 1) > most:
        where = " on one node" if devices[0].node else ""
        raise ConfigError(
            f"models.{demand.model}.engine_args: the model is split over {asked} devices; "
            f"{most} can be used{where}.",
            "Lower tensor_parallel_size, or use more (sampling.workers, CUDA_VISIBLE_DEVICES).",
        )
    for count in [demand.devices] if demand.devices else _splits(demand, devices[0], most):
        groups = [
            node[first : first + count]
            for node in nodes
            for first in range(0, len(node) - count + 1, count)
        ]
        if any(_alone(demand, group) for group in groups):
            return groups
    raise _too_large(demand, devices)


def _splits(demand: Demand, device: Device, most: int) -> Iterable[int]:
    """Numbers of such devices that an engine may be split over: powers of two; cores are not."""
    counts = (1 << power for power in range(1 if device.cores else most.bit_length()))
    return (count for count in counts if demand.heads % count == 0)


def _alone(demand: Demand, group: Group) -> bool:
    return demand.fits(group, _free(group))


def _free(devices: Iterable[Device]) -> Counter[Device]:
    return Counter({device: device.free for device in devices})


def _too_large(demand: Demand, devices: Sequence[Device]) -> ConfigError:
    kind = "share of the cores" if devices[0].cores else "GPU"
    best = max(device.free for device in devices)
    need = demand.on(devices[0], 1)
    return ConfigError(
        f"models.{demand.model}: needs {need / GIB:.1f} GiB at least for weights and cache; "
        f"{len(devices)} × {kind} with {best / GIB:.1f} GiB free cannot hold it.",
        f"Take a smaller or a quantised checkpoint, lower models.{demand.model}.max_model_len, "
        "free memory, or change sampling.workers.",
    )


def _side_by_side(
    demands: Sequence[Demand],
    groups: dict[str, list[Group]],
    devices: Sequence[Device],
    apart: bool,
) -> list[tuple[Demand, Group]] | None:
    """All engines, and as many replicas as there is room for; None if not all fit."""
    free = _free(devices)
    left = {demand.key: groups[demand.key] for demand in demands}
    placed: list[tuple[Demand, Group]] = []
    owner: dict[Device, Group] = {}
    replicas = Counter({demand.key: 0 for demand in demands})
    while True:
        # The one with fewest replicas is next; a model without any comes before all others.
        for demand in sorted(demands, key=lambda demand: replicas[demand.key]):
            fitting = [
                group
                for group in left[demand.key]
                if demand.fits(group, free) and not (apart and _crosses(group, owner))
            ]
            if fitting:
                break
            if not replicas[demand.key]:
                return None
        else:
            return placed
        group = max(fitting, key=lambda group: min(free[device] for device in group))
        left[demand.key] = [other for other in fitting if other is not group]
        for device in group:
            free[device] -= demand.on(device, len(group))
            owner[device] = group
        placed.append((demand, group))
        replicas[demand.key] += 1


def _crosses(group: Group, owner: dict[Device, Group]) -> bool:
    """True if devices of a group stand in another one."""
    return any(owner.get(device, group) != group for device in group)


def _posts(placed: Sequence[tuple[Demand, Group]]) -> tuple[Post, ...]:
    """The workers of placed engines, each engine with its share of the memory of its devices."""
    left = _free({device for _, group in placed for device in group})
    sharing: Counter[Device] = Counter()  # engines that what is left goes to
    for demand, group in placed:
        for device in group:
            left[device] -= demand.on(device, len(group))
            sharing[device] += demand.share is None
    seats: dict[Group, list[Seat]] = {}
    for demand, group in placed:
        shares = [
            (demand.on(device, len(group)) + left[device] / sharing[device]) / device.memory
            for device in group
            if demand.share is None
        ]
        share = math.floor(1000 * min(shares)) / 1000 if demand.share is None else demand.share
        seats.setdefault(group, []).append(Seat(demand.model, demand.key, share))
    return tuple(Post(group, tuple(found)) for group, found in seats.items())
