"""Many callers, few workers: requests that arrive at the same time are handled as one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from wingbar.errors import WingbarError

Q = TypeVar("Q")  # a request
P = TypeVar("P")  # a prepared request
A = TypeVar("A")  # an answer


class BusyError(WingbarError):
    """The server is at a limit, or stopping: the caller should try again later."""


@dataclass(frozen=True)
class Answered(Generic[A]):
    """An answer and how long its stages took.

    answer: what the work returned for this request.
    queue_ms: milliseconds of waiting, for a thread and then for a worker.
    prepare_ms: milliseconds of preparation.
    work_ms: milliseconds of the batch that it was part of.
    batch_size: number of requests in that batch, at least 1.
    """

    answer: A
    queue_ms: float
    prepare_ms: float
    work_ms: float
    batch_size: int


@dataclass(frozen=True)
class _Prepared(Generic[P, A]):
    """A request in the queue; times in seconds of the performance counter."""

    value: P
    future: Future[Answered[A]]
    submitted: float
    started: float
    ready: float


class Batcher(Generic[Q, P, A]):
    """Prepares requests in parallel in the threads of a pool, then works on them in batches in
    `workers` threads of its own.

    While all workers are busy, the next batches gather. Idle workers share the queue evenly. A
    worker waits at most `gather_seconds`, and only while another request is being prepared, so a
    request that is alone never waits. `work` takes 1 to `batch_size` prepared requests and returns
    an answer for each, or an exception in its place. At most `limit` requests may be unanswered.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[Q], P],
        work: Callable[[list[P]], Sequence[A | Exception]],
        pool: Executor,
        *,
        batch_size: int,
        gather_seconds: float,
        limit: int,
        workers: int = 1,
    ) -> None:
        self._prepare, self._work, self._pool = prepare, work, pool
        self._batch_size, self._gather_seconds, self._limit = batch_size, gather_seconds, limit
        self._changed = threading.Condition()
        self._queue: deque[_Prepared[P, A]] = deque()
        self._preparing = 0  # requests that are being prepared
        self._unanswered = 0  # requests without an answer
        self._idle = workers  # workers without a batch
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Number of requests without an answer."""
        return self._unanswered

    def submit(self, request: Q) -> Future[Answered[A]]:
        """The future answer. Raises BusyError when `limit` requests are unanswered, or after
        `close`."""
        with self._changed:
            if self._closed:
                raise _stopping()
            if self._unanswered >= self._limit:
                raise BusyError(
                    f"{self._limit} requests are waiting already: try again in a moment"
                )
            self._unanswered += 1
            self._preparing += 1
        future: Future[Answered[A]] = Future()
        future.add_done_callback(self._count_answer)
        try:
            self._pool.submit(self._prepare_one, request, future, time.perf_counter())
        except RuntimeError:  # the pool is shut down
            self._drop(future, _stopping())
        return future

    def close(self) -> None:
        """Stop accepting requests, drain the queue, join the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _count_answer(self, future: Future[Answered[A]]) -> None:
        with self._changed:
            self._unanswered -= 1

    def _prepare_one(self, request: Q, future: Future[Answered[A]], submitted: float) -> None:
        started = time.perf_counter()
        if future.cancelled():
            self._drop(future, None)
            return
        try:
            value = self._prepare(request)
        except Exception as error:
            self._drop(future, error)
            return
        with self._changed:
            self._preparing -= 1
            self._queue.append(_Prepared(value, future, submitted, started, time.perf_counter()))
            self._changed.notify_all()

    def _drop(self, future: Future[Answered[A]], error: Exception | None) -> None:
        """Forget a request before it reaches the queue, with the error that its caller gets."""
        with self._changed:
            self._preparing -= 1
            self._changed.notify_all()
        if error is not None and future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _run(self) -> None:
        while batch := self._next_batch():
            batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            with self._changed:
                self._idle += 1

    def _next_batch(self) -> list[_Prepared[P, A]]:
        """A worker's share of the queue; empty once the batcher is closed and drained."""
        with self._changed:
            deadline = None
            while True:
                if not self._queue:
                    deadline = None
                    if self._closed and not self._preparing:
                        return []
                    self._changed.wait()
                    continue
                now = time.perf_counter()
                deadline = now + self._gather_seconds if deadline is None else deadline
                is_full = len(self._queue) >= self._batch_size
                if is_full or not self._preparing or now >= deadline:
                    break
                self._changed.wait(deadline - now)
            share = min(self._batch_size, -(-len(self._queue) // self._idle))
            self._idle -= 1
            return [self._queue.popleft() for _ in range(share)]

    def _answer(self, batch: list[_Prepared[P, A]]) -> None:
        start = time.perf_counter()
        answers: Sequence[A | Exception]
        try:
            answers = self._work([one.value for one in batch])
        except Exception as error:
            answers = [error] * len(batch)
        work_ms = (time.perf_counter() - start) * 1000
        for one, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                one.future.set_exception(answer)
                continue
            queue_ms = (one.started - one.submitted + start - one.ready) * 1000
            prepare_ms = (one.ready - one.started) * 1000
            one.future.set_result(Answered(answer, queue_ms, prepare_ms, work_ms, len(batch)))


def _stopping() -> BusyError:
    return BusyError("the server is stopping: try again once it is running again")
