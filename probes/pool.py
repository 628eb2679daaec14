"""Work in parallel: jobs in a pool of processes, and processes of a launch that must all have succeeded to go on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from jepa.config import ConfigError
from jepa.engines.base import agree

J = TypeVar("J")
R = TypeVar("R")


@contextmanager
def open_pool(workers: int, device: torch.device) -> Iterator[ProcessPoolExecutor | None]:
    """Spawned processes of one thread each, with this process's `device`; None for one worker, which is this process.

    That one has one thread as well while the pool is open: figures do not depend on `workers`. Where the pool is left
    by an error, jobs that have not begun are dropped.
    """
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with threadpool_limits(1):
                yield None
        finally:
            torch.set_num_threads(threads)
        return
    start = partial(_settle, device.index)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start) as pool:
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


def together(accelerator: Accelerator, failed: Path, do: Callable[[], R]) -> R:
    """`do()` in every process of the launch, which wait for each other; where one fails, all of them end.

    While one has failed, the file `failed` is there: `do` may look for it, so as not to go on in vain. All processes
    must see it.

    Raises:
        ConfigError: in those that have not failed themselves.
    """
    try:
        result, failure = [do()], None
    except Exception as error:
        result, failure = [], error
        failed.touch()
    if agree([float(failure is not None)], accelerator.device)[0]:
        failed.unlink(missing_ok=True)
        raise failure or elsewhere()
    return result[0]


def elsewhere() -> ConfigError:
    """What a process says that ends because another has failed."""
    return ConfigError("another process cannot go on; it says why")


def _settle(gpu: int | None) -> None:
    """In a worker, before its first job: one thread, and the GPU of the process that it works for."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    if gpu is not None:
        torch.cuda.set_device(gpu)
