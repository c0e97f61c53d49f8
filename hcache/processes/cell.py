"""The script that runs one program of a model, in a process of its own; see `sandbox.py`.

    python -s -P -S cell.py PROGRAM FOLDER TOKEN RESULT MEMORY SECONDS

The program may write in FOLDER alone. Once it is confined, READY is written to the pipe RESULT; if
it comes to its end, so is what stands in the pipe TOKEN: an exit, an exception or a kill on the way
is no success. Whatever the kernel does not have (namespaces, Landlock, filters of system calls) is
left out; `protections` says what there is. It imports the standard library alone, and nothing of
the package.
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
GET_SECCOMP, SET_SECCOMP, FILTER = 21, 22, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock
MOUNT_SETATTR = 442
READ_ONLY, RECURSIVE, THIS_FOLDER = 1, 0x8000, -100
NO_SETUID_NO_DEVICES = 6
CAPABILITIES = 0x20080522  # version 3 of capset
FILE_BYTES = 16 << 20
FOLDER_BYTES = 64 << 20
NICE = 10
PATIENCE = 3  # seconds that may pass for each that a program may compute, on a busy machine
READY = b"."
TIME_IS_UP = 124  # exit code

REFUSED = {
    # fork vfork clone clone3, socket io_uring_setup, kill tkill tgkill; truncate chmod fchmod
    # fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat setxattr
    # lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat
    "x86_64": (
        0xC000003E, 57, 58, 56, 435, 41, 425, 62, 200, 234, 76, 90, 91, 268, 452, 92, 93, 94, 260,
        132, 235, 261, 280, 188, 189, 190, 463, 197, 198, 199, 466,
    ),
    "aarch64": (
        0xC00000B7, 220, 435, 198, 425, 129, 130, 131, 45, 52, 53, 452, 55, 54, 88, 5, 6, 7, 463,
        14, 15, 16, 466,
    ),
}  # fmt: skip
"""By processor: its number for seccomp(2), and the system calls that a program is refused."""


def main(program: str, folder: str, token: int, result: int, memory: int, seconds: int) -> bool:
    """Run the program, and leave no process of it behind; false if its time was up."""
    LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(SUBREAPER, 1, 0, 0, 0)
    apart = set_apart(folder)
    child = os.fork()
    if child == 0:
        LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        confine(folder, memory, seconds, apart)
        os.write(result, READY)
        play(program, token, result)
    in_time = ended(child, PATIENCE * seconds)
    if not apart:  # else all have ended with the first process of their namespace
        end_all()
    return in_time


def set_apart(folder: str) -> bool:
    """Move into namespaces of its own, as the same user; false if the kernel grants none.

    All files are read-only there, but for the folder, which is a small file system in memory.
    """
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(NAMESPACES) != 0:
        return False
    with contextlib.suppress(OSError):
        put("/proc/self/setgroups", "deny")
        put("/proc/self/uid_map", f"{user} {user} 1")
        put("/proc/self/gid_map", f"{group} {group} 1")
        attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
        LIBC.syscall(MOUNT_SETATTR, THIS_FOLDER, b"/", RECURSIVE, attributes, len(attributes))
        size = f"size={FOLDER_BYTES},nr_inodes=4096".encode()
        LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", NO_SETUID_NO_DEVICES, size)
    return True


def put(path: str, text: str) -> None:
    """Write a text to a file of the kernel."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def ended(child: int, seconds: int) -> bool:
    """Wait for the end of a process, which is made when its time is up; false if it was."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        status = os.waitpid(child, 0)[1]
        return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    finally:
        signal.alarm(0)


def confine(folder: str, memory: int, seconds: int, apart: bool) -> None:
    """Take from this process, and all that it starts, what a program has no need of."""
    if apart:
        LIBC.mount(b"proc", b"/proc", b"proc", 0, None)
    os.nice(NICE)
    os.chdir(folder)
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    LIBC.capset(struct.pack("Ii", CAPABILITIES, 0), bytes(24))  # none are left, not even root's
    write_only_in(folder)
    refuse_calls()


def play(program: str, token: int, result: int) -> None:
    """Run the program as a module, as OpenAI's harness does: not as `__main__`.

    Chance is the same in every run, that of sets too (PYTHONHASHSEED), and so is the outcome.
    """
    try:
        source = content(program)
        if b"random" in source:  # imported for nothing it would take a third of the time
            import random

            random.seed(0)
        module = sys.modules["program"] = type(sys)("program")
        exec(compile(source, "program.py", "exec"), module.__dict__)
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


def refuse_calls() -> None:
    """Refuse what starts processes and threads, signals to them, sockets and changes of files'
    attributes, by the numbers of system calls (seccomp)."""
    if not filters():
        return
    processor, *calls = REFUSED[os.uname().machine]
    load, equals, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000  # refuse: EPERM
    steps = [(load, 0, 0, 4), (equals, 1, 0, processor), (end, 0, 0, kill)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 1 << 30), (end, 0, 0, kill)]  # calls of x32
    for call in calls:
        steps += [(equals, 0, 1, call), (end, 0, 0, refuse)]
    steps.append((end, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    LIBC.prctl(SET_SECCOMP, FILTER, program, 0, 0)


def filters() -> bool:
    """True if the kernel filters system calls, and their numbers are known here."""
    return os.uname().machine in REFUSED and LIBC.prctl(GET_SECCOMP, 0, 0, 0, 0) >= 0


def protections() -> list[str]:
    """Names of what this kernel grants; asked in a process that may lose it all."""
    granted = {
        "namespaces": LIBC.unshare(NAMESPACES) == 0,
        "landlock": landlock() > 0,
        "filters": filters(),
    }
    return [name for name, there in granted.items() if there]


if __name__ == "__main__":
    if sys.argv[1:] == ["protections"]:
        print(" ".join(protections()))
    elif not main(*sys.argv[1:3], *map(int, sys.argv[3:])):  # type: ignore[arg-type]
        sys.exit(TIME_IS_UP)
