"""Requests to end a process: what the first does, what a second does, what stays ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hcache.processes.signals import ECHO_SECONDS, ENDING, ending_signals, shielded

ROOTED = (
    "import signal, sys, time\n"
    "from hcache.processes.signals import ending_signals\n"
    "with ending_signals() as request:\n"
    "    try:\n"
    "        print('ready', flush=True); time.sleep({work})\n"
    "    except KeyboardInterrupt:\n"
    "        print('ending', flush=True); time.sleep({ending}); print('safe')\n"
    "        sys.exit(request.exit_code)\n"
    "print('done')"
)


def started(work: float, ending: float, before: str = "") -> subprocess.Popen[str]:
    """A process that works, and takes a while to end once it is asked to."""
    code = before + ROOTED.format(work=work, ending=ending)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end_of(process: subprocess.Popen[str]) -> tuple[str, int]:
    """What else a process says, and its exit code."""
    said, _ = process.communicate(timeout=600)
    return said, process.returncode


@pytest.mark.parametrize("number", ENDING)
def test_the_first_is_as_ctrl_c_in_every_signal(number: signal.Signals) -> None:
    process = started(600, 0)
    process.send_signal(number)
    assert end_of(process) == ("ending\nsafe\n", 128 + number)


@pytest.mark.parametrize("number", ENDING)
def test_the_same_again_ends_at_once(number: signal.Signals) -> None:
    process = started(600, 600)
    process.send_signal(number)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(ECHO_SECONDS + 0.1)
    process.send_signal(number)
    assert end_of(process) == ("", 128 + number)


def test_an_echo_and_other_signals_do_not_cut_the_ending_short() -> None:
    process = started(600, 2 * ECHO_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    time.sleep(ECHO_SECONDS + 0.1)
    process.send_signal(signal.SIGHUP)
    assert end_of(process) == ("safe\n", 143)


@pytest.mark.parametrize("number", ENDING)
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    ignore = f"import signal; signal.signal({int(number)}, signal.SIG_IGN)\n"
    process = started(1, 0, ignore)
    process.send_signal(number)
    assert end_of(process) == ("done\n", 0)


def test_a_wait_for_a_lock_ends_though_polars_is_there() -> None:
    code = (
        "import polars, os, signal, threading\n"
        "from hcache.processes.signals import ending_signals\n"
        "lock = threading.Lock(); lock.acquire()\n"
        "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "late = threading.Timer(60, lock.release); late.daemon = True; late.start()\n"
        "with ending_signals():\n"
        "    try:\n        lock.acquire(); print('late')\n"
        "    except KeyboardInterrupt:\n        print('ended')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ended\n"


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with pytest.raises(KeyboardInterrupt), ending_signals() as request:
        os.kill(os.getpid(), signal.SIGHUP)
    assert (request.name, request.exit_code) == ("SIGHUP", 129)
    assert [signal.getsignal(number) for number in ENDING] == before


def test_a_process_is_born_with_the_signals_held_back() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    code = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    with shielded():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert set(map(int, done.stdout.split())) >= set(map(int, ENDING))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
