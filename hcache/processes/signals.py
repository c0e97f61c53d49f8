"""Signals that ask a command to end: SIGINT, SIGTERM and SIGHUP, all taken as Ctrl-C is.

The first raises KeyboardInterrupt in the main thread, so that whatever is finished is made safe on
the way out. The same signal again ends the process at once, which loses no more than SIGKILL does:
files are whole or absent, and replies lie in the spool. A signal that was ignored when the process
began, as under nohup, stays ignored.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = 0.5  # one request may come twice: `timeout` signals its command and then the group
Handler = Callable[[int, FrameType | None], object]
SHOW_CURSOR = b"\x1b[?25h"  # which progress bars hide


@dataclass
class EndRequest:
    """The request to end that a command has received, if any."""

    signal: signal.Signals | None = None
    time: float = 0.0

    @property
    def name(self) -> str:
        """Name of the signal, of Ctrl-C's if there was none."""
        return (self.signal or signal.SIGINT).name

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells have it."""
        return 128 + (self.signal or signal.SIGINT)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: it is the first.
        """
        if self.signal is None:
            self.signal, self.time = signal.Signals(number), time.monotonic()
            raise KeyboardInterrupt
        if number == self.signal and time.monotonic() - self.time > ECHO_SECONDS:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR)
            os._exit(self.exit_code)


@contextmanager
def ending_signals() -> Iterator[EndRequest]:
    """Take the signals for as long as a command runs.

    Setting handlers anew also undoes SA_RESTART, with which polars sets one when it is imported:
    under it a wait for a lock never wakes.
    """
    request = EndRequest()
    with _taken(request.receive):
        yield request


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Have the signals end the process on the spot, while it does what leaves nothing to make safe.

    DuckDB asks for signals while it works, but where one raises it waits for its threads, and a
    scan that finds nothing never looks up.
    """
    with _taken(_end):
        yield


@contextmanager
def _taken(handler: Handler) -> Iterator[None]:
    """Have the signals handled, but for those that the process was begun to ignore."""
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = [number for number, known in before.items() if known != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _end(number: int, frame: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"stopped by {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)


@contextmanager
def shielded() -> Iterator[None]:
    """Hold the signals back meanwhile; processes that are started then do so until they ask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_now(code: int) -> NoReturn:
    """End the process without taking the interpreter apart, which takes a second and more.

    What libraries have registered for the end is done: it ends their processes.
    """
    with suppress(OSError):  # whoever read what is printed may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def ignore_ending() -> None:
    """Leave the signals to the process that started this one; it ends this one with SIGKILL."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
