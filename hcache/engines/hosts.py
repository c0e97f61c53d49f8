"""Hosts of workers as the driver sees them: processes here, or actors of Ray (`ray_host.py`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Protocol

from hcache.engines.devices import VISIBLE
from hcache.engines.placement import Post
from hcache.engines.worker import Inbound, Job, Outbound, serve
from hcache.processes.children import THREADS
from hcache.processes.signals import shielded


class Host(Protocol):
    """Home of one worker from its start to its end: a process or an actor."""

    ready: bool
    """True if it has been placed: what it is sent, it works on."""

    lost: bool
    """True if it ended with the machine it was on, for which no request is to blame."""

    keeps: bool
    """True if it keeps what it has made until it is told that this is safe."""

    @property
    def pid(self) -> int | None:
        """Number of its process, once it has one."""

    @property
    def ears(self) -> tuple[object, ...]:
        """Object for `multiprocessing.connection.wait`, until there is something to hear."""

    def send(self, message: Inbound) -> None:
        """Send a message; that it has ended is seen when it is listened to."""

    def heard(self) -> Outbound | None:
        """The next message; None when it has ended and all is read."""

    def ended(self) -> str:
        """The way it has ended, in words."""

    def join(self, seconds: float) -> None:
        """Wait for its end, so long at most."""

    def end(self) -> None:
        """End it, whatever it does."""


class Hosting(Protocol):
    """A place in which workers are started."""

    def start(self, post: Post, job: Job) -> Host:
        """Start a worker at a post; `cores` and `gpus` of the job are as that has them."""

    def close(self) -> None:
        """Let go of what workers were started in; all have ended."""


class Processes:
    """Worker processes on this machine, each pinned to its devices."""

    def start(self, post: Post, job: Job) -> Host:
        """See `Hosting`."""
        return _Process(post, job)

    def close(self) -> None:
        """See `Hosting`."""


class _Process:
    """A process with a pipe."""

    ready, lost, keeps = True, False, False

    def __init__(self, post: Post, job: Job) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve, args=(theirs, job), name=post.name)
        with shielded(), _environment(_variables(post)):
            self.process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def ears(self) -> tuple[object, ...]:
        return self.pipe, self.process.sentinel

    def send(self, message: Inbound) -> None:
        # A message that is cut in two would make all that follows unreadable.
        with shielded(), suppress(OSError):
            self.pipe.send(message)

    def heard(self) -> Outbound | None:
        return next_message(self.pipe)

    def ended(self) -> str:
        self.process.join(1)
        code = self.process.exitcode
        if code is None:
            return "has closed its pipe"
        if code >= 0:
            return f"ended with exit code {code}"
        how = f"was ended by {signal.Signals(-code).name}"
        return f"{how}, perhaps for want of memory" if -code == signal.SIGKILL else how

    def join(self, seconds: float) -> None:
        self.process.join(seconds)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def next_message(pipe: Connection) -> Outbound | None:
    """The next message in a pipe; None where it is closed and all is read."""
    with suppress(EOFError, OSError):
        if pipe.poll():
            message: Outbound = pipe.recv()
            return message
    return None


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
