"""Worker processes: how many there are, and how many threads each may start."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hcache.runs import workers
from hcache.runs.workers import VARIABLES, cores, worker_pool


def pools() -> tuple[int, list[dict[str, Any]], dict[str, str]]:
    """Threads of torch, every pool of a library, and the environment, in a worker."""
    import sklearn.ensemble  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    environment = {name: os.environ[name] for name in VARIABLES}
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
