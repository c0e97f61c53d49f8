"""Workers as actors of a Ray cluster: the loop of `worker.py`, with Ray in place of a pipe.

An actor asks Ray for as many GPUs as its models are split over, or for a core and its memory, and
is placed where they are free, on the node of the plan if it can be. Actors end with the driver, as
Ray has it for those that are not detached. One that dies is not restarted by Ray but asked for anew
by the fleet, which knows what it owed.

Two threads a worker stand between Ray and the driver: one sends what has gathered meanwhile, one
waits for what the actor says and passes it on through a pipe, which the fleet can wait for together
with others.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from hcache.engines.devices import PROCESS
from hcache.engines.hosts import Host, next_message
from hcache.engines.placement import Post
from hcache.engines.ray_cluster import Cluster, in_words
from hcache.engines.worker import Inbound, Job, Keeper, Outbound, Ready, Worker
from hcache.errors import EngineError

T = TypeVar("T")
LOST = ("node has died", "temporarily unavailable")  # Ray's words for an end with the node
LOW = ("running low on memory", "OutOfMemory")  # and for one by its own monitor of memory
KILLED = "connection error code 2"  # and for one that it does not know more of


class Actors:
    """Workers as actors of a cluster, see `Hosting`."""

    def __init__(
        self, cluster: Cluster, needs: Mapping[str, int], shards: Path, keeper: Keeper
    ) -> None:
        """`needs` says how many bytes the engine of a key takes on a node without GPUs; `shards` is
        the folder that a copy of the keeper in each actor writes into.
        """
        self.cluster, self.needs, self.shards, self.keeper = cluster, needs, shards, keeper
        self.begun: set[Post] = set()

    def start(self, post: Post, job: Job) -> Host:
        """See `Hosting`; returns at once, wherever and whenever the actor is placed."""
        self.cluster.start()
        self.shards.mkdir(exist_ok=True)
        ray = self.cluster.ray
        # A thread for each method, none of which is called again before it has returned.
        remote = ray.remote(max_concurrency=3, max_restarts=0)(WorkerActor)
        own = replace(job, cores=(), gpus=()), Path.cwd(), self.keeper
        try:
            actor = remote.options(**self._asked(post)).remote(*own)
        except Exception as error:  # Ray raises whatever its parts do
            raise EngineError(
                f"sampling.workers: the Ray cluster takes no worker any more ({in_words(error)}).",
                "Start it anew, and run the same command again: what was finished is kept.",
            ) from error
        self.begun.add(post)
        return _Actor(ray, actor)

    def close(self) -> None:
        """See `Hosting`; shards of workers that were killed stay for the next run."""
        with suppress(OSError):
            self.shards.rmdir()
        self.cluster.close()

    def _asked(self, post: Post) -> dict[str, Any]:
        """The resources of a worker, and the first time the node that was planned for it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked: dict[str, Any] = {"num_cpus": 1}
        if post.group[0].cores:
            asked["memory"] = PROCESS + sum(self.needs[seat.key] for seat in post.seats)
        else:
            asked["num_gpus"] = len(post.group)
        node = post.group[0].node
        if node and post not in self.begun:
            asked["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        return asked


class WorkerActor:
    """A worker inside an actor, whose methods run in threads of their own."""

    def __init__(self, job: Job, folder: Path, keeper: Keeper) -> None:
        """Paths that are relative are so to `folder`, where that is there."""
        with suppress(OSError):
            os.chdir(folder)
        self.outbox: SimpleQueue[Outbound] = SimpleQueue()
        self.worker = Worker(job, self.outbox.put, keeper)

    def begin(self) -> int:
        """Begin to answer; returns the number of its process."""
        Thread(target=self._run, daemon=True).start()
        return os.getpid()

    def take(self, messages: list[Inbound]) -> None:
        """Take messages in."""
        for message in messages:
            self.worker.inbox.put(message)

    def say(self) -> list[Outbound]:
        """Its next message; waits until there is one."""
        return _all(self.outbox)

    def _run(self) -> None:
        code = 1
        try:
            self.worker.run()
            code = 0
        except BaseException:
            traceback.print_exc()  # into Ray's log
        os._exit(code)


class _Actor:
    """The driver's end of an actor."""

    keeps = True

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor
        self.pid: int | None = None
        self.ready = self.lost = False
        self.how = "has ended"
        self.outgoing: SimpleQueue[Inbound | None] = SimpleQueue()
        self.pipe, self._theirs = multiprocessing.Pipe(duplex=False)
        self._threads = [Thread(target=each, daemon=True) for each in (self._listen, self._send)]
        for thread in self._threads:
            thread.start()

    @property
    def ears(self) -> tuple[object, ...]:
        return (self.pipe,)

    def send(self, message: Inbound) -> None:
        self.outgoing.put(message)

    def heard(self) -> Outbound | None:
        return next_message(self.pipe)

    def ended(self) -> str:
        self._threads[0].join(1)
        return self.how

    def join(self, seconds: float) -> None:
        self._threads[0].join(seconds)

    def end(self) -> None:
        self.outgoing.put(None)
        with suppress(Exception):  # the cluster itself may be gone
            self.ray.kill(self.actor)
        self.pipe.close()
        for thread in self._threads:
            thread.join(1)

    def _listen(self) -> None:
        try:
            self.pid = self.ray.get(self.actor.begin.remote())
            self.ready = True
            self._theirs.send(Ready())
            while True:
                for message in self.ray.get(self.actor.say.remote()):
                    self._theirs.send(message)
        except OSError:  # nobody listens here any more
            pass
        except Exception as error:  # the actor has ended, or could not begin
            self.how, self.lost = _how(error), any(words in str(error) for words in LOST)
        self.ready = False
        self._theirs.close()

    def _send(self) -> None:
        with suppress(Exception):  # it has ended, which `_listen` sees
            while None not in (messages := _all(self.outgoing)):
                self.ray.get(self.actor.take.remote(messages))


def _all(queue: SimpleQueue[T]) -> list[T]:
    """All that is in a queue, one at least."""
    found = [queue.get()]
    with suppress(Empty):
        while True:
            found.append(queue.get_nowait())
    return found


def _how(error: Exception) -> str:
    """End of an actor, in words."""
    said = str(error)
    if any(words in said for words in LOST):
        return "was lost with its node"
    if any(words in said for words in LOW):
        return "was ended by Ray for want of memory"
    if KILLED in said:
        return "was killed, perhaps for want of memory"
    return f"ended ({in_words(error)})"
