"""A worker: it loads the engines of some arms and answers what it is asked.

`Worker` is its loop, wherever it runs. As a process it begins with `serve`: questions come in over
a pipe and replies and errors go out, each as what it is. A thread takes in what comes, so that
neither side ever waits for the other to read. For an actor of Ray see `ray_host.py`.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NoReturn, Protocol

from hcache.engines.base import Engine, Generation, Request, make_engine
from hcache.errors import ArmError, EngineError, HcacheError, RequestError
from hcache.files import cache_folder
from hcache.models.arms import Arm
from hcache.plugins import load_file
from hcache.processes.children import end_with_parent
from hcache.processes.signals import ignore_ending
from hcache.workflows.effects import Message


@dataclass(frozen=True)
class Job:
    """The arms that a worker serves, and where."""

    arms: Mapping[str, tuple[str, Arm]]  # by id: the key of its engine, and how it is loaded
    logprobs: bool
    cores: tuple[int, ...]  # none: any
    gpus: tuple[str, ...]
    plugins: tuple[Path, ...]


@dataclass(frozen=True)
class Question:
    """A request without its arm's settings, which the worker has."""

    arm: str
    key: str
    messages: tuple[Message, ...]
    messages_key: str
    sample: int
    question: str

    @classmethod
    def of(cls, request: Request) -> Question:
        """The question that a request is."""
        return cls(
            request.arm.id,
            request.key,
            request.messages,
            request.messages_key,
            request.sample,
            request.question,
        )


@dataclass(frozen=True)
class Drop:
    """Drop all that the engine of this key was asked."""

    engine: str


@dataclass(frozen=True)
class Stop:
    """End, in good order: what libraries have put beside the process goes with it."""


@dataclass(frozen=True)
class Replies:
    """Generations that an engine has finished."""

    engine: str
    generations: list[Generation]
    provenance: dict[str, str]


@dataclass(frozen=True)
class Failure:
    """An error of an engine; one with a `request` is of that alone."""

    engine: str
    error: HcacheError


@dataclass(frozen=True)
class Ready:
    """A worker has been placed and can be asked."""

    engine: str = ""


@dataclass(frozen=True)
class Safe:
    """The first `count` generations of an engine are where a kill of the driver loses none."""

    engine: str
    count: int


Inbound = Question | Drop | Safe | Stop
Outbound = Replies | Failure | Ready


class Keeper(Protocol):
    """Keeps what a worker has finished until it is safe with the driver."""

    def keep(self, key: str, engine: Engine, made: Sequence[tuple[Request, Generation]]) -> None:
        """Keep generations of the engine of this key; the driver has not been told yet."""

    def forget(self, key: str, count: int) -> None:
        """Let go of its first `count` generations."""


def serve(pipe: Connection, job: Job) -> NoReturn:
    """Answer until it is told to stop, the other end of the pipe is closed, or its process ends."""
    ignore_ending()
    end_with_parent()
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    worker = Worker(job, partial(_send, pipe))
    Thread(target=_listen, args=(pipe, worker.inbox), daemon=True).start()
    worker.run()
    sys.exit(0)


def _listen(pipe: Connection, inbox: SimpleQueue[Inbound]) -> None:
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to answer


def _send(pipe: Connection, message: Outbound) -> None:
    try:
        pipe.send(message)
    except OSError:
        os._exit(0)


class Worker:
    """The loop inside: whoever fills its inbox gets what `tell` is told."""

    def __init__(
        self, job: Job, tell: Callable[[Outbound], None], keeper: Keeper | None = None
    ) -> None:
        self.job, self.tell, self.keeper = job, tell, keeper
        self.inbox: SimpleQueue[Inbound] = SimpleQueue()
        self.engines: dict[str, Engine] = {}
        self.failed: set[str] = set()
        self.owed: dict[str, dict[str, Request]] = {}  # by engine and key

    def run(self) -> None:
        """Answer until it is told to stop."""
        self._load_plugins()
        while self._take_in():
            for key in [key for key, owed in self.owed.items() if owed]:
                self._work(key)

    def _load_plugins(self) -> None:
        try:
            for file in self.job.plugins:
                load_file(file)
        except HcacheError as error:  # such as a file that is not on this machine
            for key, arm in self.job.arms.values():
                self._fail(key, arm.model, error)

    def _take_in(self) -> bool:
        """All that has come; without anything to do, wait for it. False after the last."""
        try:
            while True:
                message = self.inbox.get(block=not any(self.owed.values()))
                if isinstance(message, Stop):
                    return False
                self._take(message)
        except Empty:
            return True

    def _take(self, message: Question | Drop | Safe) -> None:
        match message:
            case Question():
                self._ask(message)
            case Safe():
                if self.keeper is not None:
                    self.keeper.forget(message.engine, message.count)
            case Drop():
                self.owed.pop(message.engine, None)
                if message.engine in self.engines:
                    self.engines[message.engine].abort()

    def _ask(self, question: Question) -> None:
        key, arm = self.job.arms[question.arm]
        if key in self.failed:
            return
        request = Request(
            question.key,
            arm,
            question.messages,
            question.messages_key,
            question.sample,
            question.question,
        )
        try:
            if key not in self.engines:
                with _loading(self.job.gpus):
                    self.engines[key] = make_engine(arm, self.job.logprobs)
            self.engines[key].submit(request)
            self.owed.setdefault(key, {})[request.key] = request
        except ArmError as error:
            error.request = question.key
            self.tell(Failure(key, error))
        except Exception as error:  # whatever an engine raises is told to who asked
            self._fail(key, arm.model, error)

    def _work(self, key: str) -> None:
        engine, owed = self.engines[key], self.owed[key]
        try:
            finished = engine.step()
        except (ArmError, RequestError) as error:  # of one request; it goes on with others
            owed.pop(error.request, None)
            self.tell(Failure(key, error))
            return
        except Exception as error:  # likewise
            model = next(arm.model for own, arm in self.job.arms.values() if own == key)
            self._fail(key, model, error)
            return
        if not finished:
            return
        pairs = [(owed.pop(generation.key), generation) for generation in finished]
        if self.keeper is not None:
            self.keeper.keep(key, engine, pairs)
        self.tell(Replies(key, finished, engine.provenance))

    def _fail(self, key: str, model: str, error: Exception) -> None:
        """Tell of an engine's end; others may depend on its parts, so it is left as it is."""
        self.failed.add(key)
        self.owed.pop(key, None)
        self.tell(Failure(key, error if isinstance(error, HcacheError) else _told(model, error)))


@contextmanager
def _loading(gpus: tuple[str, ...]) -> Iterator[None]:
    """Have each GPU to oneself: vLLM takes what others take of it meanwhile for its own."""
    folder = cache_folder() / "loading"
    with ExitStack() as held:
        for gpu in sorted(gpus):
            folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((folder / f"gpu-{gpu}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel gives it back if this process is killed
        yield


def _told(model: str, error: Exception) -> EngineError:
    said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
    return EngineError(
        f"models.{model}: its engine failed in a worker process ({said}).",
        "Run the same command again: what was finished is kept. With sampling.workers=1 and no GPU "
        "the engine runs in the command's own process, which shows where it failed.",
    )
