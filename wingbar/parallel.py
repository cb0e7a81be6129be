"""Batches, threads whose results keep their order, and the callback that reports progress."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Thread
from typing import TypeVar

LOOK_SECONDS = 0.2  # between two looks for Ctrl-C
BATCH = 16  # images per run of the network; on 2 cores larger batches gain nothing

Progress = Callable[[str, int, int], None]
"""A callable (stage, done, total) that long-running work calls now and then.

stage: what is being done, as in "indexing"; work may have several stages, one after the other
done: how much of this stage is finished, 0 to total; images, or bytes while fetching and unpacking
total: how much there is in this stage, in the same unit
"""

S = TypeVar("S")
T = TypeVar("T")


def no_progress(stage: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split `values` into lists of `size`; the last may be shorter."""
    batch: list[T] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def in_order(values: Iterable[S], work: Callable[[S], T], threads: int) -> Iterator[T]:
    """Call `work` on each value in `threads` threads, and yield the results in the order of the
    values.

    At most 4 * BATCH values are taken ahead of the result that is yielded, so `values` may be
    endless. An exception of `work` is raised when its turn comes; what has not started by then is
    cancelled.
    """
    ahead = 4 * BATCH
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                waiting.append(pool.submit(work, value))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def interruptible(work: Callable[[], T], look: Callable[[], None] | None = None) -> T:
    """The result of `work`, which runs in a thread of its own: Ctrl-C is heeded at once, where a
    library such as LAPACK would compute for seconds first. What it has begun ends by itself.

    `look` is called every LOOK_SECONDS meanwhile. An exception that it raises ends the waiting too,
    for threads that Ctrl-C does not reach.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="wingbar-work", daemon=True).start()
    while not wait([future], LOOK_SECONDS).done:
        if look is not None:
            look()
    return future.result()
