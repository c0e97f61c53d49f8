"""The fleet: engines in workers, behind the interface that an engine has in process.

Requests go to the worker that owes least among those that serve their model. A worker that ends
before it has answered is started anew, and what it owed is asked again, of any that can. Whichever
reply to a request comes first holds, and no other is taken.

Workers are processes here or actors of a Ray cluster, which may have no room for one at the moment:
nobody waits for those that are still to be placed while others can answer.
"""

from __future__ import annotations

import atexit
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

from hcache.engines.base import Engine, Generation, Request, make_engine
from hcache.engines.hosts import Host, Hosting, Processes
from hcache.engines.placement import Placement, Post
from hcache.engines.worker import (
    Drop,
    Failure,
    Inbound,
    Job,
    Outbound,
    Question,
    Ready,
    Replies,
    Safe,
    Stop,
)
from hcache.errors import EngineError
from hcache.models.arms import Arm
from hcache.plugins import loaded_files

WAIT_SECONDS = 0.05  # for a worker that has something to say, at most
STOP_SECONDS = 5.0  # that workers have to end in good order
PLACE_SECONDS = 300.0  # that a model waits for a worker to be placed; then it is given up
MOST_ENDS = 3  # of workers that owed the same request; then its model is given up


class Fleet:
    """All workers. As an `EngineFactory` it makes engines that stand for those in the workers.

    Models that have no place are served in process.
    """

    def __init__(
        self, placement: Placement, arms: Iterable[Arm], hosting: Hosting | None = None
    ) -> None:
        """Workers as placed, which serve these arms; none is started before it is asked."""
        self.hosting = hosting or Processes()
        self.workers = [_Worker(post, list(arms), self.hosting) for post in placement.posts]
        self.swap = placement.swap
        self.engines: dict[str, RemoteEngine] = {}
        self.ends: Counter[str] = Counter()  # of workers, by request that they owed
        atexit.register(self.close)

    def __call__(self, arm: Arm, logprobs: bool) -> Engine:
        """The engine that serves an arm."""
        key = arm.engine_key
        if not self._serving(key):
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
        """Ask the worker that owes least; one that is still to be placed only if all are."""
        serving = self._serving(request.arm.engine_key)
        able = [worker for worker in serving if not worker.lame] or serving
        prompt = [worker for worker in able if not worker.pending] or able
        min(prompt, key=lambda worker: len(worker.owed)).ask(request)

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
        if not ready:
            self._relieve()
            self._despair()

    def _serving(self, key: str) -> list[_Worker]:
        return [worker for worker in self.workers if key in worker.keys]

    def _deliver(self, worker: _Worker, message: Outbound) -> None:
        if isinstance(message, Ready):
            worker.send_held()
            return
        engine = self.engines.get(message.engine)
        if engine is None:
            return
        match message:
            case Replies():
                told = worker.count(message)
                finished = [g for g in message.generations if worker.owed.pop(g.key, None)]
                worker.answered += len(finished)
                engine.inbox.append((replace(message, generations=finished), told))
            case Failure():
                worker.owed.pop(getattr(message.error, "request", ""), None)
                engine.inbox.append((message, None))

    def _replace(self, worker: _Worker) -> None:
        """Ask again what a worker owed that has ended, unless it ends them all."""
        (how, lost), owed = worker.ended(), list(worker.owed.values())
        worker.end()
        if not lost:
            self.ends.update(request.key for request in owed)
        fatal = {r.arm.engine_key: r for r in owed if self.ends[r.key] >= MOST_ENDS}
        for key, request in fatal.items():
            self._give_up(key, _deadly(request.arm, worker.name, how))
        worker.deaths += 1
        for request in owed:
            if request.arm.engine_key not in fatal:
                self.submit(request)

    def _relieve(self) -> None:
        """Have workers that are idle answer what those owe that are still to be placed."""
        idle = {key for worker in self.workers if worker.idle for key in worker.keys}
        for pending in [worker for worker in self.workers if worker.pending] if idle else ():
            for request in pending.take_back(idle):
                self.submit(request)

    def _despair(self) -> None:
        """Give up models that wait in vain for a worker to be placed."""
        for key, engine in self.engines.items():
            serving = self._serving(key)
            held = [request for worker in serving for request in worker.held]
            waiting = [request for request in held if request.arm.engine_key == key]
            if not waiting or any(worker.ready for worker in serving):
                engine.placed = time.monotonic()
            elif time.monotonic() - engine.placed > PLACE_SECONDS:
                self._give_up(key, _homeless(waiting[0].arm, serving[0].name))

    def _give_up(self, key: str, error: EngineError) -> None:
        self.engines[key].inbox.append((Failure(key, error), None))

    def drop(self, key: str) -> None:
        """Forget an engine; workers that serve no other end, which frees their memory."""
        self.engines.pop(key, None)
        serving = self._serving(key)
        for worker in serving:
            worker.forget(key)
        _end([worker for worker in serving if not worker.keys & self.engines.keys()])

    def close(self) -> None:
        """End all workers."""
        atexit.unregister(self.close)
        self.engines.clear()
        _end(self.workers)
        self.hosting.close()


class RemoteEngine:
    """Stands for the engine of one checkpoint in all workers that serve it, see `Engine`."""

    def __init__(self, fleet: Fleet, key: str) -> None:
        self.fleet, self.key = fleet, key
        self.provenance: dict[str, str] = {}  # of what `step` has returned last
        self.inbox: deque[tuple[Outbound, _Told | None]] = deque()
        self.placed = time.monotonic()  # when a worker of it was there, or none was asked for
        self._taken: _Told | None = None  # what `step` has returned last

    def submit(self, request: Request) -> None:
        """See `Engine`; a worker that cannot take it says so later."""
        self.fleet.submit(request)

    def step(self) -> list[Generation]:
        """See `Engine`: what one worker has sent."""
        self._have_safe()
        idle = not any(engine.inbox for engine in self.fleet.engines.values())
        self.fleet.collect(WAIT_SECONDS if idle else 0)
        if not self.inbox:
            return []
        message, self._taken = self.inbox.popleft()
        if isinstance(message, Failure):
            raise message.error
        assert isinstance(message, Replies)
        self.provenance = message.provenance
        return message.generations

    def abort(self) -> None:
        """See `Engine`."""
        self._have_safe()
        self.inbox.clear()
        for worker in self.fleet.workers:
            worker.forget(self.key)

    def close(self) -> None:
        """See `Engine`."""
        self.fleet.drop(self.key)

    def _have_safe(self) -> None:
        """Tell who made it that what was returned last is safe: the sampler has come back."""
        if self._taken is not None:
            self._taken.safe()
            self._taken = None


@dataclass(frozen=True)
class _Told:
    """Generations that a worker has told of, up to a message of its."""

    host: Host
    engine: str
    count: int

    def safe(self) -> None:
        self.host.send(Safe(self.engine, self.count))


class _Worker:
    """A worker as seen from here; its host runs from the first question to the end."""

    def __init__(self, post: Post, arms: list[Arm], hosting: Hosting) -> None:
        self.post, self.name, self.hosting = post, post.name, hosting
        self.keys = {seat.key for seat in post.seats}
        self.arms = {
            arm.id: (arm.engine_key, post.seated(arm))
            for arm in arms
            if arm.engine_key in self.keys
        }
        self.logprobs = False
        self.owed: dict[str, Request] = {}
        self.held: list[Request] = []  # of these, until it has been placed
        self.told: Counter[str] = Counter()  # generations by engine, since its start
        self.answered = 0
        self.deaths = 0
        self.stillborn = 0  # ends before it was placed, in a row
        self.host: Host | None = None

    @property
    def ready(self) -> bool:
        """True if what it is sent, it works on."""
        return self.host is not None and self.host.ready

    @property
    def pending(self) -> bool:
        """True if it is still to be placed."""
        return self.host is not None and not self.host.ready

    @property
    def idle(self) -> bool:
        return self.ready and not self.owed

    @property
    def lame(self) -> bool:
        """True if it has failed to start too often to be asked where others can be."""
        return self.stillborn >= MOST_ENDS

    @property
    def ears(self) -> tuple[object, ...]:
        """Object to wait for until it has something to say, or has ended."""
        assert self.host is not None
        return self.host.ears

    def ask(self, request: Request) -> None:
        if self.host is None:
            self._start()
        self.owed[request.key] = request
        if self.ready:
            self._send(Question.of(request))
        else:
            self.held.append(request)

    def send_held(self) -> None:
        """Send what it was asked before it was placed."""
        self.stillborn = 0
        held, self.held = self.held, []
        for request in held:
            self._send(Question.of(request))

    def take_back(self, keys: set[str]) -> list[Request]:
        """Take back requests to some engines that have not been sent; it owes them no more."""
        taken = [request for request in self.held if request.arm.engine_key in keys]
        self.held = [request for request in self.held if request.arm.engine_key not in keys]
        return [self.owed.pop(request.key) for request in taken]

    def heard(self) -> Outbound | None:
        """The next message; None when it has ended and all is read."""
        assert self.host is not None
        return self.host.heard()

    def count(self, message: Replies) -> _Told | None:
        """The generations of an engine up to this message, if its host keeps them."""
        assert self.host is not None
        if not self.host.keeps:
            return None
        self.told[message.engine] += len(message.generations)
        return _Told(self.host, message.engine, self.told[message.engine])

    def forget(self, key: str) -> None:
        """Owe nothing more for an engine."""
        self.owed = {k: r for k, r in self.owed.items() if r.arm.engine_key != key}
        self.held = [request for request in self.held if request.key in self.owed]
        self._send(Drop(key))

    def ended(self) -> tuple[str, bool]:
        """The way it has ended, in words, and whether its machine has."""
        assert self.host is not None
        how = self.host.ended()
        self.stillborn += self.host.pid is None and not self.host.lost
        return how, self.host.lost

    def stop(self) -> None:
        """Ask it to end."""
        self._owe_nothing()
        self._send(Stop())

    def join(self, seconds: float) -> None:
        """Wait for its end, so long at most."""
        if self.host is not None:
            self.host.join(seconds)

    def end(self) -> None:
        """End it, whatever it does."""
        self._owe_nothing()
        if self.host is None:
            return
        self.host.end()
        self.host = None

    def _owe_nothing(self) -> None:
        self.owed.clear()
        self.held.clear()

    def _start(self) -> None:
        cores = self.post.group[0].cores
        gpus = () if cores else tuple(device.name for device in self.post.group)
        job = Job(self.arms, self.logprobs, cores, gpus, tuple(loaded_files()))
        self.told.clear()
        self.host = self.hosting.start(self.post, job)

    def _send(self, message: Inbound) -> None:
        if self.host is not None:
            self.host.send(message)


def _end(workers: Sequence[_Worker]) -> None:
    """End workers, all at the same time: in good order if they can, and in any case soon."""
    for worker in workers:
        worker.stop()
    until = time.monotonic() + STOP_SECONDS
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
        worker.end()


def _deadly(arm: Arm, worker: str, how: str) -> EngineError:
    return EngineError(
        f"models.{arm.model}: its worker on {worker} {how}, {MOST_ENDS} times before it answered.",
        f"Give it memory, or lower models.{arm.model}.max_model_len or sampling.workers; then run "
        "the same command again: what was finished is kept.",
    )


def _homeless(arm: Arm, worker: str) -> EngineError:
    return EngineError(
        f"models.{arm.model}: no worker of it could be placed for {PLACE_SECONDS:.0f} s "
        f"({worker}).",
        "Look at `ray status` for what its nodes have and what is taken; then run the same command "
        "again: what was finished is kept.",
    )
