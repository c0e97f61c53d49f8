"""The fleet: engines in worker processes, behind the interface that an engine has in process.

Requests go to the worker that owes least among those that serve their model. A worker that ends
before it has answered is started anew, and what it owed is asked again, of any that can. Whichever
reply to a request comes first holds, and no other is taken.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from hcache.engines.base import Engine, Generation, Request, make_engine
from hcache.engines.devices import VISIBLE
from hcache.engines.placement import Placement, Post
from hcache.engines.worker import (
    Drop,
    Failure,
    Inbound,
    Job,
    Outbound,
    Question,
    Replies,
    Stop,
    serve,
)
from hcache.errors import EngineError
from hcache.models.arms import Arm
from hcache.plugins import loaded_files
from hcache.processes.children import THREADS
from hcache.processes.signals import shielded

WAIT_SECONDS = 0.05  # for a worker that has something to say, at most
STOP_SECONDS = 5.0  # that workers have to end in good order
MOST_ENDS = 3  # of workers that owed the same request; then its model is given up


class Fleet:
    """All workers. As an `EngineFactory` it makes engines that stand for those in the workers.

    Models that have no place are served in process.
    """

    def __init__(self, placement: Placement, arms: Iterable[Arm]) -> None:
        """Workers as placed, which serve these arms; none is started before it is asked."""
        self.workers = [_Worker(post, list(arms)) for post in placement.posts]
        self.swap = placement.swap
        self.engines: dict[str, RemoteEngine] = {}
        self.ends: Counter[str] = Counter()  # of workers, by request that they owed
        atexit.register(self.close)

    def __call__(self, arm: Arm, logprobs: bool) -> Engine:
        """The engine that serves an arm."""
        key = arm.engine_key
        if not any(key in worker.keys for worker in self.workers):
            return make_engine(arm, logprobs)
        for worker in self.workers:
            worker.logprobs = logprobs
        self.engines[key] = RemoteEngine(self, key)
        return self.engines[key]

    @property
    def deaths(self) -> int:
        """Number of times that a worker has ended by itself."""
        return sum(worker.deaths for worker in self.workers)

    @property
    def answered(self) -> dict[str, int]:
        """Generations that each worker has made so far."""
        return {
            f"worker {number} ({worker.name})": worker.answered
            for number, worker in enumerate(self.workers, 1)
        }

    def submit(self, request: Request) -> None:
        """Ask the worker that owes least."""
        able = [worker for worker in self.workers if request.arm.engine_key in worker.keys]
        min(able, key=lambda worker: len(worker.owed)).ask(request)

    def collect(self, seconds: float) -> None:
        """Take what workers have to say into the inboxes of their engines; wait at most so long."""
        waiting: dict[Any, _Worker] = {
            each: worker for worker in self.workers if worker.owed for each in worker.ears
        }
        ready = {id(waiting[each]): waiting[each] for each in wait(list(waiting), seconds)}
        for worker in ready.values():
            message = worker.heard()
            if message is None:
                self._replace(worker)
            else:
                self._deliver(worker, message)

    def _deliver(self, worker: _Worker, message: Outbound) -> None:
        engine = self.engines.get(message.engine)
        if engine is None:
            return
        match message:
            case Replies():
                finished = [g for g in message.generations if worker.owed.pop(g.key, None)]
                worker.answered += len(finished)
                engine.inbox.append(replace(message, generations=finished))
            case Failure():
                worker.owed.pop(getattr(message.error, "request", ""), None)
                engine.inbox.append(message)

    def _replace(self, worker: _Worker) -> None:
        """Ask again what a worker owed that has ended, unless it ends them all."""
        how, owed = worker.ended(), list(worker.owed.values())
        worker.end()
        self.ends.update(request.key for request in owed)
        fatal = {r.arm.engine_key: r for r in owed if self.ends[r.key] >= MOST_ENDS}
        for key, request in fatal.items():
            self.engines[key].inbox.append(Failure(key, _deadly(request.arm, worker.name, how)))
        worker.deaths += 1
        for request in owed:
            if request.arm.engine_key not in fatal:
                self.submit(request)

    def drop(self, key: str) -> None:
        """Forget an engine; workers that serve no other end, which frees their memory."""
        self.engines.pop(key, None)
        serving = [worker for worker in self.workers if key in worker.keys]
        for worker in serving:
            worker.forget(key)
        _end([worker for worker in serving if not worker.keys & self.engines.keys()])

    def close(self) -> None:
        """End all workers."""
        atexit.unregister(self.close)
        self.engines.clear()
        _end(self.workers)


class RemoteEngine:
    """Stands for the engine of one checkpoint in all workers that serve it, see `Engine`."""

    def __init__(self, fleet: Fleet, key: str) -> None:
        self.fleet, self.key = fleet, key
        self.provenance: dict[str, str] = {}  # of what `step` has returned last
        self.inbox: deque[Outbound] = deque()

    def submit(self, request: Request) -> None:
        """See `Engine`; a worker that cannot take it says so later."""
        self.fleet.submit(request)

    def step(self) -> list[Generation]:
        """See `Engine`: what one worker has sent."""
        idle = not any(engine.inbox for engine in self.fleet.engines.values())
        self.fleet.collect(WAIT_SECONDS if idle else 0)
        if not self.inbox:
            return []
        message = self.inbox.popleft()
        if isinstance(message, Failure):
            raise message.error
        self.provenance = message.provenance
        return message.generations

    def abort(self) -> None:
        """See `Engine`."""
        self.inbox.clear()
        for worker in self.fleet.workers:
            worker.forget(self.key)

    def close(self) -> None:
        """See `Engine`."""
        self.fleet.drop(self.key)


class _Worker:
    """A worker as seen from here; its process runs from the first question to the end."""

    def __init__(self, post: Post, arms: list[Arm]) -> None:
        self.post, self.name = post, post.name
        self.keys = {seat.key for seat in post.seats}
        self.arms = {
            arm.id: (arm.engine_key, post.seated(arm))
            for arm in arms
            if arm.engine_key in self.keys
        }
        self.logprobs = False
        self.owed: dict[str, Request] = {}
        self.answered = 0
        self.deaths = 0
        self.process: SpawnProcess | None = None
        self.pipe: Connection | None = None

    @property
    def ears(self) -> tuple[object, ...]:
        """Its pipe, and what shows that it has ended."""
        assert self.process is not None and self.pipe is not None
        return self.pipe, self.process.sentinel

    def ask(self, request: Request) -> None:
        if self.process is None:
            self._start()
        self.owed[request.key] = request
        self._send(Question.of(request))

    def heard(self) -> Outbound | None:
        """The next message; None when it has ended and all is read."""
        assert self.pipe is not None
        try:
            if self.pipe.poll():
                message: Outbound = self.pipe.recv()
                return message
        except (EOFError, OSError):
            pass
        return None

    def forget(self, key: str) -> None:
        """Owe nothing more for an engine."""
        self.owed = {k: r for k, r in self.owed.items() if r.arm.engine_key != key}
        self._send(Drop(key))

    def ended(self) -> str:
        """The way it has ended, in words."""
        assert self.process is not None
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            return "has closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        how = f"was ended by {signal.Signals(-code).name}"
        return f"{how}, perhaps for want of memory" if -code == signal.SIGKILL else how

    def stop(self) -> None:
        """Ask its process to end."""
        self.owed.clear()
        self._send(Stop())

    def end(self) -> None:
        """End its process, whatever it does."""
        self.owed.clear()
        if self.process is None or self.pipe is None:
            return
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process = self.pipe = None

    def _start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        cores = self.post.group[0].cores
        gpus = () if cores else tuple(device.name for device in self.post.group)
        job = Job(self.arms, self.logprobs, cores, gpus, tuple(loaded_files()))
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(theirs, job), name=self.name)
        with shielded(), _environment(_variables(self.post)):
            self.process.start()
        theirs.close()

    def _send(self, message: Inbound) -> None:
        if self.pipe is not None:
            # A message that is cut in two would make all that follows unreadable. One that has
            # ended is seen to have when it is listened to.
            with shielded(), suppress(OSError):
                self.pipe.send(message)


def _end(workers: Sequence[_Worker]) -> None:
    """End workers, all at the same time: in good order if they can, and in any case soon."""
    for worker in workers:
        worker.stop()
    until = time.monotonic() + STOP_SECONDS
    for worker in workers:
        if worker.process is not None:
            worker.process.join(max(0.0, until - time.monotonic()))
        worker.end()


def _variables(post: Post) -> dict[str, str]:
    """The environment of a worker; on a CPU what the user has set about threads stays."""
    if post.group[0].cores:
        return {name: os.environ.get(name, "1") for name in THREADS}
    return {VISIBLE: ",".join(device.name for device in post.group)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have the processes that are started meanwhile find these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _deadly(arm: Arm, worker: str, how: str) -> EngineError:
    return EngineError(
        f"models.{arm.model}: its worker on {worker} {how}, {MOST_ENDS} times before it answered.",
        f"Give it memory, or lower models.{arm.model}.max_model_len or sampling.workers; then run "
        "the same command again: what was finished is kept.",
    )
