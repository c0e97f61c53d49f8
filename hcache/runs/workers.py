"""Worker processes: as many as there are cores for, each with its share of them.

OpenMP and BLAS start a thread for each core in every process, so that processes beside each other
wait for one another. This module is light, since a worker reads it first: libraries that load
after it take the number of their threads from the environment.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from hcache.errors import RunError
from hcache.processes.children import THREADS, cores, end_with_parent
from hcache.processes.signals import ignore_ending, shielded

T = TypeVar("T")
A = TypeVar("A")
WAKE_SECONDS = 0.5  # a wait without an end sleeps through signals where a library has SA_RESTART


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes for so many jobs; left by an error, it kills those that work.

    Raises:
        RunError: a worker has ended without a word.
    """
    workers = min(jobs, cores())
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, cores() // workers),),
    )
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a worker process was killed, perhaps for want of memory; finished runs are kept.",
                "Run the same command again, with fewer cores (`taskset`) if memory is short.",
            ) from error
        raise
    finally:
        pool.shutdown()


def submit_all(
    pool: ProcessPoolExecutor, work: Callable[[A], T], items: Iterable[A]
) -> dict[Future[T], A]:
    """Hand out work, which starts the workers; the items by the futures of their results."""
    with shielded():
        return {pool.submit(work, item): item for item in items}


def as_finished(futures: Iterable[Future[T]]) -> Iterator[Future[T]]:
    """Futures in the order in which they finish, with signals handled while waiting."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, WAKE_SECONDS, FIRST_COMPLETED)
        yield from done


def _begin(threads: int) -> None:
    """Prepare a worker: signals are for the process that hands out the jobs, to live no longer."""
    ignore_ending()
    end_with_parent()
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    import torch
    from threadpoolctl import threadpool_limits

    from hcache.data.visible import tell_of_warnings

    tell_of_warnings(partial(print, file=sys.stderr))
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of libraries that the main module had loaded before
