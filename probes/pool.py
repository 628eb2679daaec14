"""Work in parallel: jobs in a pool of processes, and processes of a launch that must all have succeeded to go on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

import torch
from accelerate import Accelerator

from jepa.config import ConfigError
from jepa.engines.base import agree

J = TypeVar("J")
R = TypeVar("R")


@contextmanager
def open_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Spawned processes of one thread each; None for one worker, which is this process.

    Where it is left by an error, jobs that have not begun are dropped.
    """
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run_jobs(work: Callable[[J], R], jobs: Sequence[J], pool: ProcessPoolExecutor | None) -> Iterator[tuple[int, R]]:
    """(number of the job, result) as they come."""
    if pool is None:
        yield from ((number, work(job)) for number, job in enumerate(jobs))
        return
    numbers = {pool.submit(work, job): number for number, job in enumerate(jobs)}
    yield from ((numbers[future], future.result()) for future in as_completed(numbers))


def together(accelerator: Accelerator, do: Callable[[], R]) -> R:
    """`do()` in every process of the launch, which wait for each other; where one fails, all of them end.

    Raises:
        ConfigError: in those that have not failed themselves.
    """
    try:
        result, failure = [do()], None
    except Exception as error:
        result, failure = [], error
    if agree([float(failure is not None)], accelerator.device)[0]:
        raise failure or ConfigError("another process cannot go on; it says why")
    return result[0]


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    torch.set_num_threads(1)
    threadpool_limits(1)
