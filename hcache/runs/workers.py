"""Worker processes: as many as there are cores for, each with its share of them.

OpenMP and BLAS start a thread for each core in every process, so that processes beside each other
wait for one another. This module is light, since a worker reads it first: libraries that load
after it take the number of their threads from the environment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """A pool of fresh processes for so many jobs."""
    workers = min(jobs, cores())
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, cores() // workers),),
    )


def _begin(threads: int) -> None:
    """Prepare a worker: Ctrl-C is for the process that hands out the jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of libraries that the main module had loaded before
