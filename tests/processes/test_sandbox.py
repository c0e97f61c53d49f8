"""The sandbox against programs that mean harm, and against HumanEval's own solutions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT

from hcache.data.metrics import program_of
from hcache.data.readers import read
from hcache.errors import EngineError
from hcache.processes import cell, sandbox
from hcache.processes.sandbox import Outcome, protections, run_program, run_programs

PASSED, FAILED, TIMED_OUT = Outcome.PASSED, Outcome.FAILED, Outcome.TIMED_OUT
HUMANEVAL = ROOT.parent / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
GRANTED = protections()
namespaces = pytest.mark.skipif("namespaces" not in GRANTED, reason="the kernel grants none")
filters = pytest.mark.skipif("filters" not in GRANTED, reason="no system calls are filtered")
landlock = pytest.mark.skipif("landlock" not in GRANTED, reason="the kernel has no Landlock")


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("import math, typing, collections, heapq\nassert math.gcd(4, 6) == 2", PASSED),
        ("assert __name__ == 'program'\nif __name__ == '__main__': raise SystemExit", PASSED),
        ("import pickle\nclass A: pass\npickle.loads(pickle.dumps(A()))", PASSED),
        ("import asyncio\nasync def one(): return 1\nassert asyncio.run(one()) == 1", PASSED),
        ("open('own', 'w').write('x'); assert open('own').read() == 'x'", PASSED),
        ("print('much' * 10_000_000)", PASSED),
        ("def f():\n    return 'ünï'\nassert len(f()) == 3", PASSED),
        ("assert 1 + 1 == 3", FAILED),
        ("def (", FAILED),
        ("\x00", FAILED),
        ("'\ud800'", FAILED),
        ("import sys; sys.exit(0)", FAILED),
        ("raise SystemExit", FAILED),
        ("import os; os._exit(0)", FAILED),
        ("import os; os.closerange(0, 256)", FAILED),
        ("import os; os.kill(os.getpid(), 15); raise KeyboardInterrupt", FAILED),
        ("input()", FAILED),
        ("import numpy", FAILED),
        ("def f(): f()\nf()", FAILED),
        ("x = [0] * 10**12", FAILED),
        ("x = bytearray(100 * 2**30)", FAILED),
        ("open('big', 'wb').write(b'x' * (17 << 20))", FAILED),
        ("import threading\nthreading.Thread(target=print).start()", FAILED),
        ("while True: pass", TIMED_OUT),
        ("while True: print('x' * 10_000)", TIMED_OUT),
        ("import time; time.sleep(60)", TIMED_OUT),
        ("import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass", TIMED_OUT),
    ],
)
def test_only_a_program_that_comes_to_its_end_has_passed(program: str, outcome: Outcome) -> None:
    assert run_program(program, seconds=3) is outcome


def test_environment_and_own_arguments_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCACHE_SECRET", "s3cret")
    program = "import os\nassert set(os.environ) <= {'HOME', 'TMPDIR', 'LANG', 'PYTHONHASHSEED'}"
    assert run_program(program) is PASSED


@pytest.mark.parametrize(
    "chance", ["list({'a', 'b', 'c', 'd', 'e'})[0]", "__import__('random').random()"]
)
def test_chance_is_the_same_in_every_run(chance: str) -> None:
    program = f"assert hash(str({chance})) % 2"
    assert len(set(run_programs([program] * 16))) == 1


def test_a_program_that_was_not_started_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PYTHON", ("false",))
    with pytest.raises(EngineError, match="did not start"):
        run_program("pass")


def test_time_is_that_of_computing() -> None:
    """On a busy machine a program has less than a core, and is no worse for it."""
    assert run_program("import time; time.sleep(1.5)", seconds=1) is PASSED


@namespaces
def test_disk_is_not_filled() -> None:
    program = """
for number in range(100):
    with open(str(number), 'wb') as file:
        file.write(b'x' * (4 << 20))
"""
    assert run_program(program) is FAILED


@filters
@pytest.mark.parametrize(
    "attempt",
    [
        "os.chmod(PATH, 0)",
        "os.chown(PATH, -1, -1)",
        "os.utime(PATH, (1, 1))",
        "os.setxattr(PATH, 'user.own', b'x')",
    ],
)
def test_attributes_of_files_are_not_changed(tmp_path: Path, attempt: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    before = victim.stat()
    assert run_program(f"import os\nPATH = {str(victim)!r}\n{attempt}") is FAILED
    assert victim.stat() == before


@filters
@pytest.mark.parametrize(
    "attempt", ["os.fork()", "os.kill(os.getpid(), 0)", "os.posix_spawn('/bin/true', ['true'], {})"]
)
def test_no_process_is_started_or_signalled(attempt: str) -> None:
    program = f"import os\ntry: {attempt}\nexcept PermissionError: pass\nelse: raise SystemExit"
    assert run_program(program) is PASSED


def test_no_right_is_left_not_even_to_root() -> None:
    program = "lines = open('/proc/self/status').read().split('\\n')\n"
    program += "caps = [line for line in lines if line.startswith('CapEff')]\n"
    program += "assert caps == ['CapEff:\\t0000000000000000']"
    assert run_program(program) is PASSED


@landlock
@pytest.mark.parametrize(
    "attempt",
    [
        "open(PATH, 'a').write('x')",
        "open(PATH, 'w')",
        "import os; os.remove(PATH)",
        "import os; os.rename(PATH, 'here')",
        "import os; os.truncate(PATH, 0)",
        "import os; os.mkdir(PATH + '.folder')",
        "import os; os.symlink('x', PATH + '.link')",
        "import os; os.link(PATH, PATH + '.link')",
        "import shutil; shutil.rmtree(os.path.dirname(PATH))",
    ],
)
def test_nothing_outside_its_folder_is_changed(tmp_path: Path, attempt: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    before = sorted(tmp_path.iterdir())
    assert run_program(f"import os\nPATH = {str(victim)!r}\n{attempt}") is FAILED
    assert victim.read_text() == "whole" and sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not GRANTED, reason="the kernel grants nothing")
def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        place = server.getsockname()
        program = f"import socket; socket.create_connection({place!r}, 2)"
        assert run_program(program) is FAILED
        with pytest.raises(TimeoutError):
            server.accept()


@namespaces
def test_other_processes_are_out_of_reach() -> None:
    with subprocess.Popen(["sleep", "30"]) as other:
        run_program(f"import os; os.kill({other.pid}, 9)")
        run_program("import os; os.kill(os.getppid(), 9)")
        run_program("import os; os.kill(-1, 9)")
        assert other.poll() is None
        other.kill()


BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(0.1)
    os._exit(0)
"""


@namespaces
@pytest.mark.parametrize("program", [BOMB, DAEMON])
def test_no_process_is_left(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_program(program, seconds=2)
    assert _processes_of(tmp_path) == []


def test_orphans_are_ended_without_namespaces_too(tmp_path: Path) -> None:
    """The script finds what has left its group, as a parent of orphans."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(cell.__file__).parent)!r})
import cell
cell.LIBC.prctl(cell.SUBREAPER, 1, 0, 0, 0)
child = os.fork()
if child == 0:
    exec({DAEMON!r})
    os._exit(0)
os.waitpid(child, 0)
cell.end_all()
"""
    command = [sys.executable, "-I", "-c", script, str(tmp_path)]
    subprocess.run(command, check=True, timeout=30)
    assert _processes_of(tmp_path) == []


def test_nothing_outlives_who_asked(tmp_path: Path) -> None:
    script = "from hcache.processes.sandbox import run_program; run_program('while True: pass', 60)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    asker = subprocess.Popen([sys.executable, "-c", script], env=environment)
    _until(lambda: len(_processes_of(tmp_path)) >= 2)
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    _until(lambda: _processes_of(tmp_path) == [])


def test_many_keep_their_order() -> None:
    programs = [f"assert {number} % 3" for number in range(12)]
    before = sandbox.ends[FAILED]
    assert run_programs(programs) == [PASSED if n % 3 else FAILED for n in range(12)]
    assert sandbox.ends[FAILED] == before + 4
    assert run_programs([]) == []


@pytest.mark.skipif(not HUMANEVAL.exists(), reason=f"{HUMANEVAL} is not here")
def test_canonical_solutions_pass_and_broken_ones_do_not() -> None:
    queries = read("humaneval", HUMANEVAL, dataset="humaneval", metrics=["pass@1"])
    assert len(queries) == 164
    bodies = [query.references[0].rstrip("\n") for query in queries]
    whole = [query.question + body for query, body in zip(queries, bodies, strict=True)]
    for answers in (bodies, whole):
        programs = [program_of(a, q.tests) for q, a in zip(queries, answers, strict=True)]
        assert set(run_programs(programs)) == {PASSED}
    broken = [program_of("    return 'no such value'", query.tests) for query in queries]
    assert set(run_programs(broken)) == {FAILED}


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes of a sandbox whose temporary files are in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = (process / "stat").read_text().rpartition(") ")[2][:1]
            except (OSError, UnicodeDecodeError):
                continue
            if str(folder) in line and state != "Z":
                found.append(line)
    return found


def _until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
