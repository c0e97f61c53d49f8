"""A sandbox for programs that models have written: each in a process of its own, with limits.

What goes in: Python programs of the standard library. What comes out: whether each ran to its end.
A program has a temporary folder, removed afterwards, and no environment, no input and no output.
Memory, time and sizes of files are limited; the kernel keeps it from the network, from starting
processes and threads, from changing files elsewhere and from other processes as far as it can
(`protections`). It may read whatever the user may read. It is a fence against mistakes and
mischief of models, not against someone who writes a program to be counted as right: that shares a
process with what reports its success.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

from hcache.errors import ConfigError, EngineError
from hcache.processes import cell
from hcache.processes.children import cores

SECONDS = 10  # of computing; three times as many may pass
GRACE = 20  # seconds that starting and clearing up may take on a busy machine
MEMORY = 1 << 30
PROTECTIONS = {
    "namespaces": "seeing other processes",
    "landlock": "changing files outside its folder",
    "filters": "the network, other processes and attributes of files",
}
"""Means of the kernel, and from what each keeps a program."""
PYTHON = (sys.executable, "-s", "-P", "-S", "-B", cell.__file__)
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # the order of sets is always the same


class Outcome(Enum):
    """The end of a program."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"


ends: Counter[Outcome] = Counter()
"""Ends of all programs that this process has run."""


def run_programs(programs: Sequence[str], seconds: int = SECONDS) -> list[Outcome]:
    """Outcomes of programs, in their order; as many run at a time as there are cores.

    Raises:
        ConfigError: this is not Linux.
        EngineError: a program could not be started, which says nothing about it.
    """
    if sys.platform != "linux":
        raise ConfigError(
            f"programs cannot be confined on {sys.platform}.",
            "Score them on Linux: hcache rescore EXPERIMENT.yaml --allow-code-execution",
        )
    with ThreadPoolExecutor(cores(), "hcache-sandbox") as pool:
        running = [pool.submit(run_program, program, seconds) for program in programs]
        try:
            outcomes = [each.result() for each in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    ends.update(outcomes)
    return outcomes


def run_program(program: str, seconds: int = SECONDS) -> Outcome:
    """The outcome of one program, after at most so many seconds of computing.

    Raises:
        EngineError: it could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="hcache-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "program.py"
        path.write_bytes(program.encode("utf-8", "surrogatepass"))
        inside = Path(folder) / "work"
        inside.mkdir()
        return _run(path, inside, seconds)


def _run(program: Path, folder: Path, seconds: int) -> Outcome:
    secret = secrets.token_hex(16).encode()
    token_read, token_write = os.pipe()
    result_read, result_write = os.pipe()
    try:
        os.write(token_write, secret)
        os.close(token_write)
        process = subprocess.Popen(
            [*PYTHON, str(program), str(folder), *map(str, (token_read, result_write)),
             str(MEMORY), str(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"HOME": str(folder), "TMPDIR": str(folder), **ENVIRONMENT},
            pass_fds=(token_read, result_write), start_new_session=True,
        )  # fmt: skip
        code = _code(process, cell.PATIENCE * seconds + GRACE)
        os.set_blocking(result_read, False)
        said = _read(result_read)
        if not said.startswith(cell.READY):
            raise EngineError(
                f"the sandbox did not start a program (exit code {code}).",
                "Free memory or end other processes, then run the same command again.",
            )
        if code == cell.TIME_IS_UP:
            return Outcome.TIMED_OUT
        return Outcome.PASSED if said == cell.READY + secret else Outcome.FAILED
    finally:
        for end in (token_read, result_read, result_write):
            os.close(end)


def _code(process: subprocess.Popen[bytes], seconds: int) -> int:
    """Exit code of a program, which ends itself in time unless something is badly wrong."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return cell.TIME_IS_UP
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 64)
    except BlockingIOError:
        return b""


def protections() -> frozenset[str]:
    """Names of the `PROTECTIONS` that the kernel grants here."""
    asked = subprocess.run([*PYTHON, "protections"], capture_output=True, text=True, check=False)
    return frozenset(asked.stdout.split())
