"""Worker processes: how many there are, and how many threads each may start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from helpers.processes import runs

from hcache.errors import RunError
from hcache.processes.children import THREADS, cores
from hcache.runs import workers
from hcache.runs.workers import as_finished, submit_all, worker_pool


def pools() -> tuple[int, list[dict[str, Any]], dict[str, str]]:
    """Threads of torch, every pool of a library, and the environment, in a worker."""
    import sklearn.ensemble  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    environment = {name: os.environ[name] for name in THREADS}
    return torch.get_num_threads(), threadpool_info(), environment


@pytest.mark.parametrize(("count", "jobs", "threads"), [(6, 2, 3), (2, 5, 1), (5, 2, 2)])
def test_workers_share_the_cores(
    count: int, jobs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: count)
    before = dict(os.environ)
    with worker_pool(jobs) as pool:
        of_torch, found, environment = pool.submit(pools).result()
    assert of_torch == threads
    assert {one["user_api"] for one in found} >= {"openmp", "blas"}
    assert max(one["num_threads"] for one in found) <= threads  # BLAS has none beyond the machine's
    assert set(environment.values()) == {str(threads)}
    assert dict(os.environ) == before


def test_cores_are_those_that_the_process_may_use() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system ties no process to cores")
    allowed = os.sched_getaffinity(0)
    assert cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


BUSY = """
import multiprocessing, os, sys, time
import polars  # whose handler of SIGINT lets a wait without an end sleep on
from hcache.runs.workers import as_finished, submit_all, worker_pool
from hcache.processes.signals import ending_signals
if __name__ == "__main__":
    with ending_signals() as request:
        try:
            with worker_pool(2) as pool:
                list(as_finished(submit_all(pool, abs, [1, 2])))
                print(*(each.pid for each in multiprocessing.active_children()), flush=True)
                list(as_finished(submit_all(pool, time.sleep, [600, 600, 600])))
        except KeyboardInterrupt:
            sys.exit(request.exit_code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("ending", "code"),
    [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGKILL", -9)],
)
def test_no_worker_outlives_its_parent(ending: str, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids and all(map(runs, pids))
        parent.send_signal(signal.Signals[ending])
        assert parent.wait(30) == code, parent.stderr.read()
        until = time.monotonic() + 5
        while any(map(runs, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(runs, pids))


def _vanish(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_an_error_with_a_way_out() -> None:
    with pytest.raises(RunError, match="was killed") as raised, worker_pool(1) as pool:
        for future in as_finished(submit_all(pool, _vanish, [1])):
            future.result()
    assert "Run the same command again" in raised.value.hint
