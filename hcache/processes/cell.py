"""The script that runs one program of a model, in a process of its own; see `sandbox.py`.

    python -I -S cell.py PROGRAM FOLDER TOKEN RESULT MEMORY SECONDS

The program may write in FOLDER alone. If it comes to its end, what stands in the pipe TOKEN is
passed on to the pipe RESULT: an exit, an exception or a kill on the way is no success. Whatever
the kernel does not have (namespaces, Landlock) is left out; `protections` says what there is.
It imports the standard library alone, and nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_PID, NEW_NET, NEW_IPC, NEW_MOUNTS = (1 << bit for bit in (28, 29, 30, 27, 17))
NAMESPACES = NEW_USER | NEW_PID | NEW_NET | NEW_IPC | NEW_MOUNTS
DIE_WITH_PARENT, NO_NEW_PRIVILEGES, SUBREAPER = 1, 38, 36  # of prctl
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock
PROCESSES = 64
FEWEST_PIDS = 320  # kernels take no pid_max much smaller; it binds root, whom no limit does
FILE_BYTES = 16 << 20
NICE = 19  # so that whoever ends a program gets to it past all that it has started
TIME_IS_UP = 124  # exit code


def main(program: str, folder: str, token: int, result: int, memory: int, seconds: int) -> bool:
    """Run the program, and leave no process of it behind; false if its time was up."""
    LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(SUBREAPER, 1, 0, 0, 0)
    apart = LIBC.unshare(NAMESPACES) == 0
    child = os.fork()
    if child == 0:
        LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        confine(folder, memory, seconds, apart)
        play(program, token, result)
    in_time = ended(child, seconds)
    if not apart:  # else all have ended with the first process of their namespace
        end_all()
    return in_time


def ended(child: int, seconds: int) -> bool:
    """Wait for the end of a process, which is made when its time is up; false if it was."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        os.waitpid(child, 0)
        return True
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    finally:
        signal.alarm(0)


def confine(folder: str, memory: int, seconds: int, apart: bool) -> None:
    """Take from this process, and all that it starts, what a program has no need of."""
    if apart:
        with contextlib.suppress(OSError):
            LIBC.mount(b"proc", b"/proc", b"proc", 0, None)
            pid_max = os.open("/proc/sys/kernel/pid_max", os.O_WRONLY)
            os.write(pid_max, str(FEWEST_PIDS).encode())
            os.close(pid_max)
    os.nice(NICE)
    os.chdir(folder)
    LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    write_only_in(folder)
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, PROCESSES if apart else 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def play(program: str, token: int, result: int) -> None:
    """Run the program as if it were called by its name."""
    try:
        code = compile(content(program), "program.py", "exec")
        exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
    except BaseException:
        os._exit(1)
    os.write(result, os.read(token, 64))
    os._exit(0)


def content(path: str) -> bytes:
    """The bytes of a file, read without further imports, which would take half the time."""
    file = os.open(path, os.O_RDONLY)
    parts = iter(lambda: os.read(file, 1 << 20), b"")
    try:
        return b"".join(parts)
    finally:
        os.close(file)


def end_all() -> None:
    """Kill every process that came from here; orphans are children of this one."""
    while True:
        listed = content(f"/proc/self/task/{os.getpid()}/children")
        children = [int(pid) for pid in listed.split()]
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        time.sleep(0.001)


def landlock() -> int:
    """Version of Landlock that the kernel has; 0 where it has none."""
    return max(0, int(LIBC.syscall(CREATE_RULESET, None, 0, 1)))


def write_only_in(folder: str) -> None:
    """Forbid changes of files outside a folder, TCP, and signals to others (Landlock)."""
    version = landlock()
    if not version:
        return
    changes = 1 << 1 | sum(1 << bit for bit in range(4, 13))
    changes |= 1 << 13 if version >= 2 else 0  # renames across folders
    changes |= 1 << 14 if version >= 3 else 0  # truncation
    network = 0b11 if version >= 4 else 0
    others = 0b11 if version >= 6 else 0
    attributes = struct.pack("QQQ", changes, network, others)
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = LIBC.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    LIBC.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", changes, at), 0)
    LIBC.syscall(RESTRICT_SELF, rules, 0)
    os.close(at)
    os.close(rules)


def protections() -> list[str]:
    """Names of what this kernel grants; asked in a process that may lose it all."""
    found = ["namespaces"] if LIBC.unshare(NAMESPACES) == 0 else []
    return [*found, "landlock"] if landlock() else found


if __name__ == "__main__":
    if sys.argv[1:] == ["protections"]:
        print(" ".join(protections()))
    elif not main(*sys.argv[1:3], *map(int, sys.argv[3:])):  # type: ignore[arg-type]
        sys.exit(TIME_IS_UP)
