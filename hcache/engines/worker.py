"""A worker: a process that loads the engines of some arms and answers what it is asked.

It begins with `serve`. Questions come in over a pipe and replies and errors go out, each as what it
is. A thread takes in what comes, so that neither side ever waits for the other to read.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NoReturn

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


Inbound = Question | Drop | Stop
Outbound = Replies | Failure


def serve(pipe: Connection, job: Job) -> NoReturn:
    """Answer until it is told to stop, the other end of the pipe is closed, or its process ends."""
    ignore_ending()
    end_with_parent()
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores)
    for file in job.plugins:
        load_file(file)
    _Worker(pipe, job).run()


class _Worker:
    def __init__(self, pipe: Connection, job: Job) -> None:
        self.pipe, self.job = pipe, job
        self.inbox: SimpleQueue[Inbound] = SimpleQueue()
        self.engines: dict[str, Engine] = {}
        self.failed: set[str] = set()
        self.owed: Counter[str] = Counter()  # requests by engine

    def run(self) -> NoReturn:
        Thread(target=self._listen, daemon=True).start()
        while True:
            self._take_in()
            for key in [key for key, owed in self.owed.items() if owed]:
                self._work(key)

    def _listen(self) -> None:
        try:
            while True:
                self.inbox.put(self.pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody is left to answer

    def _take_in(self) -> None:
        """All that has come; without anything to do, wait for it."""
        try:
            while True:
                self._take(self.inbox.get(block=not self.owed.total()))
        except Empty:
            return

    def _take(self, message: Inbound) -> None:
        match message:
            case Question():
                self._ask(message)
            case Stop():
                sys.exit(0)
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
            self.owed[key] += 1
        except ArmError as error:
            error.request = question.key
            self._send(Failure(key, error))
        except Exception as error:  # whatever an engine raises is told to who asked
            self._fail(key, arm.model, error)

    def _work(self, key: str) -> None:
        engine = self.engines[key]
        try:
            finished = engine.step()
        except (ArmError, RequestError) as error:  # of one request; it goes on with others
            self.owed[key] -= 1
            self._send(Failure(key, error))
            return
        except Exception as error:  # likewise
            model = next(arm.model for own, arm in self.job.arms.values() if own == key)
            self._fail(key, model, error)
            return
        if finished:
            self.owed[key] -= len(finished)
            self._send(Replies(key, finished, engine.provenance))

    def _fail(self, key: str, model: str, error: Exception) -> None:
        """Tell of an engine's end; others may depend on its parts, so it is left as it is."""
        self.failed.add(key)
        self.owed.pop(key, None)
        self._send(Failure(key, error if isinstance(error, HcacheError) else _told(model, error)))

    def _send(self, message: Outbound) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            os._exit(0)


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
