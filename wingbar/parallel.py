"""Batches, threads whose results keep their order, and how progress is told."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # what is going on, images done, images in all
BATCH = 16  # images a run of the network; on 2 cores larger batches gain nothing

T = TypeVar("T")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` values; the last may be shorter."""
    batch: list[T] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


S = TypeVar("S")


def in_order(values: Iterable[S], work: Callable[[S], T], threads: int) -> Iterator[T]:
    """`work` of each value by `threads` threads, results in the order of the values, a bounded
    number ahead."""
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


def no_progress(stage: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""
