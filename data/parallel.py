"""A function over many items in processes, in order; an item that kills its process costs itself and nothing else.

And what any worker process needs that calls decoders: an end by the clock, whatever it is stuck in.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items under way or waiting to be fetched, per process
TOO_LATE = -signal.SIGALRM  # the exit code of a process that took too long


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, crashed: Callable[[Item], Result]
) -> Iterator[Result]:
    """`work(item)` for every item, in order; `crashed(item)` where the process died of it (it is given two tries)."""
    source, waiting = iter(items), deque[tuple[Item, Future[Result] | None]]()
    pool = _pool(workers)
    try:
        while True:
            while len(waiting) < AHEAD * workers:
                try:
                    item = next(source)
                except StopIteration:
                    break
                waiting.append((item, _submit(pool, work, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                if future is None:
                    raise BrokenProcessPool
                yield future.result()
            except BrokenProcessPool:  # it says nothing about which item it was
                again = [item, *(item for item, _ in waiting)]
                waiting.clear()
                yield from (_alone(work, item, crashed) for item in again)
                pool.shutdown(wait=False)
                pool = _pool(workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends this process, whatever it is stuck in, where the block takes longer; its exit code is `TOO_LATE` then.

    The clock is the kernel's. (faulthandler's would wait for ever in a fork of a process that uses it too.)
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _alone(work: Callable[[Item], Result], item: Item, crashed: Callable[[Item], Result]) -> Result:
    with _pool(1) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            return crashed(item)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item) -> Future[Result] | None:
    try:
        return pool.submit(work, item)
    except BrokenProcessPool:
        return None


def _pool(workers: int) -> ProcessPoolExecutor:
    gc.collect()  # PyAV's dead frames must not be freed in a fork: it has not the threads that they wait for
    # as torch's data workers: forked where that is safe, for it costs nothing to start
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a process of the pool, which would wait for work for ever after its parent was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
