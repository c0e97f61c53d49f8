"""System calls of a child process on the files of a folder, each watched, and made to fail.

The kernel itself asks before every call (seccomp(2), user notification; Linux 5.5 and later, no
privilege, no compiler, no package), so that it is all one whether Python, DuckDB or another library
makes it, and in which thread. Watched is what changes a file or makes it safe, by descriptor
(write, fsync, ftruncate …) or by path (rename, mkdir, unlink, open with O_CREAT).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38
SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]  # the number of seccomp(2)
SET_MODE_FILTER, NEW_LISTENER = 1, 8
RECEIVE, SEND, CONTINUE = 0xC0502100, 0xC0182101, 1  # ioctls of a listener, and a flag of answers
NOTICE = struct.Struct("=QII iIQ 6Q")  # id, pid, flags; number, architecture, address, arguments
ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
NUMBER_AT, FLAGS_AT = 0, 32  # in struct seccomp_data: the number of the call, its third argument

# Numbers of the calls; for one by path, which argument the path is (where it ends, of a rename).
BY_DESCRIPTOR = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "pwritev2": 328, "fsync": 74,
        "fdatasync": 75, "ftruncate": 77, "fallocate": 285,
    },
    "aarch64": {
        "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "pwritev2": 287, "fsync": 82,
        "fdatasync": 83, "ftruncate": 46, "fallocate": 47,
    },
}[platform.machine()]  # fmt: skip
BY_PATH = {
    "x86_64": {
        "rename": (82, 1), "renameat2": (316, 3), "mkdir": (83, 0), "unlink": (87, 0),
        "openat": (257, 1),
    },
    "aarch64": {"renameat": (38, 3), "mkdirat": (34, 1), "unlinkat": (35, 1), "openat": (56, 1)},
}[platform.machine()]  # fmt: skip
NAMES = {number: name for name, number in BY_DESCRIPTOR.items()}
NAMES |= {number: name for name, (number, _) in BY_PATH.items()}


@dataclass(frozen=True)
class Call:
    """A call that is about to be made."""

    place: int  # among all of the process on files of the folder, from 1
    name: str
    file: Path
    pid: int  # of the thread

    def __str__(self) -> str:
        return f"call {self.place}, {self.name} of {self.file.name}"


OnCall = Callable[[Call], int]
"""The error with which a call is to fail, or 0 for it to be made."""


def watched(work: Callable[[], object], folder: Path, on_call: OnCall) -> int:
    """Do work in a child process, asking before each of its calls; its status, as of `waitpid`."""
    near, far = socket.socketpair()
    child = os.fork()
    if child == 0:
        _do(work, near, far)
    far.close()
    _, (listener, *_), _, _ = socket.recv_fds(near, 1, 1)
    near.close()
    _answer(listener, folder, on_call)
    os.close(listener)
    return os.waitpid(child, 0)[1]


def _do(work: Callable[[], object], near: socket.socket, far: socket.socket) -> None:
    """Be watched, and do the work; never returns."""
    try:
        listener = _listen()
        near.close()
        socket.send_fds(far, [b"!"], [listener])
        os.close(listener)
        far.close()
        work()
        os._exit(0)
    finally:
        os._exit(99)


def _listen() -> int:
    """Have the kernel ask before the calls of this thread and all that come from it."""
    instructions = _filter()
    code = (ctypes.c_uint64 * len(instructions))(*instructions)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code), ctypes.addressof(code))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener: int = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "the kernel gives no user notification of seccomp(2)")
    return listener


def _filter() -> list[int]:
    """The program in the kernel: which calls it asks about."""
    opening = BY_PATH["openat"][0]
    others = [number for number in NAMES if number != opening]
    # Jumps count the instructions left out: after the tests come three for openat, then the ends.
    tests = [_code(EQUAL, number, len(others) - at + 2, 0) for at, number in enumerate(others)]
    return [
        _code(LOAD, NUMBER_AT),
        *tests,
        _code(EQUAL, opening, 0, 3),
        _code(LOAD, FLAGS_AT),
        _code(ANY_BIT, os.O_CREAT, 0, 1),
        _code(RETURN, NOTIFY),
        _code(RETURN, ALLOW),
    ]


def _code(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> int:
    return operation | if_true << 16 | if_false << 24 | value << 32


def _answer(listener: int, folder: Path, on_call: OnCall) -> None:
    """Answer until no process is left that could ask."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    place = 0
    while not poll.poll()[0][1] & select.POLLHUP:
        notice = bytearray(NOTICE.size)
        try:
            fcntl.ioctl(listener, RECEIVE, notice)
            identity, pid, _, number, _, _, *arguments = NOTICE.unpack(notice)
            file = _file_of(pid, number, arguments)
            error = 0
            if file.is_relative_to(folder) and not _in_vain(NAMES[number], file):
                place += 1
                error = on_call(Call(place, NAMES[number], file, pid))
            answer = ANSWER.pack(identity, 0, -error, 0 if error else CONTINUE)
            fcntl.ioctl(listener, SEND, bytearray(answer))
        except (FileNotFoundError, ProcessLookupError):  # whoever asked was killed
            continue


def _in_vain(name: str, file: Path) -> bool:
    """Whether a call would change nothing: what it is to make is there, or to remove is not."""
    return (
        os.path.lexists(file)
        if name.startswith("mkdir")
        else (name.startswith("unlink") and not os.path.lexists(file))
    )


def _file_of(pid: int, number: int, arguments: list[int]) -> Path:
    """The file, or whatever else, that a call is about."""
    name, process = NAMES[number], Path(f"/proc/{pid}")
    if name in BY_DESCRIPTOR:
        found = (process / "fd" / str(arguments[0] & 0xFFFFFFFF)).readlink()
        return Path(str(found).removesuffix(" (deleted)"))
    with (process / "mem").open("rb", buffering=0) as memory:
        memory.seek(arguments[BY_PATH[name][1]])
        path = memory.read(4096).split(b"\0")[0]
    return (process / "cwd").readlink() / os.fsdecode(path)
