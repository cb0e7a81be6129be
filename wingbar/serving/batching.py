"""Many callers, few workers: requests that come at the same time are done together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from wingbar.errors import WingbarError

Q = TypeVar("Q")  # what a caller asks
P = TypeVar("P")  # the same, prepared
A = TypeVar("A")  # the answer


class BusyError(WingbarError):
    """As many requests are waiting as are taken on at a time."""


@dataclass(frozen=True)
class Answered(Generic[A]):
    """An answer and the milliseconds until it was there: waiting for a thread, being prepared,
    being worked on with the `together` requests of its batch."""

    answer: A
    queued: float
    prepared: float
    worked: float
    together: int


@dataclass(frozen=True)
class _Waiting(Generic[P, A]):
    """A prepared request in line; times in seconds of the performance counter."""

    value: P
    future: Future[Answered[A]]
    asked: float
    started: float
    ready: float


class Batcher(Generic[Q, P, A]):
    """Prepares requests side by side in the threads of a pool, then works on them in batches in
    `workers` threads of its own.

    While all workers are busy the next batches gather by themselves; workers that are free share
    what is there. A free worker waits at most `wait` seconds, and only while another request is
    being prepared: a request that is alone never waits. `work` takes up to `most` prepared requests
    and gives an answer for each, or an exception in its place. At most `limit` requests are taken
    on at a time.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[Q], P],
        work: Callable[[list[P]], Sequence[A | Exception]],
        pool: Executor,
        *,
        most: int,
        wait: float,
        limit: int,
        workers: int = 1,
    ) -> None:
        self.most, self.wait, self.limit = most, wait, limit
        self._prepare, self._work, self._pool = prepare, work, pool
        self._changed = threading.Condition()
        self._line: deque[_Waiting[P, A]] = deque()
        self._coming = 0  # requests that are being prepared
        self._taken = 0  # requests without an answer yet
        self._idle = workers  # that have nothing to do
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Requests that have no answer yet."""
        return self._taken

    def submit(self, request: Q) -> Future[Answered[A]]:
        """The future answer. Raises BusyError when `limit` requests are waiting already, or after
        `close`."""
        with self._changed:
            if self._closed:
                raise BusyError("the server is being stopped: try again when it runs")
            if self._taken >= self.limit:
                raise BusyError(f"{self.limit} requests are waiting already: try again in a moment")
            self._taken += 1
            self._coming += 1
        future: Future[Answered[A]] = Future()
        future.add_done_callback(self._leave)
        try:
            self._pool.submit(self._prepare_one, request, future, time.perf_counter())
        except RuntimeError:  # the pool is shut down
            self._gone_wrong(
                future, BusyError("the server is being stopped: try again when it runs")
            )
        return future

    def close(self) -> None:
        """Take nothing on any more, finish what is in line, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _leave(self, future: Future[Answered[A]]) -> None:
        with self._changed:
            self._taken -= 1

    def _prepare_one(self, request: Q, future: Future[Answered[A]], asked: float) -> None:
        started = time.perf_counter()
        if future.cancelled():  # nobody waits for it any more
            self._gone_wrong(future, None)
            return
        try:
            value = self._prepare(request)
        except Exception as error:
            self._gone_wrong(future, error)
            return
        with self._changed:
            self._coming -= 1
            self._line.append(_Waiting(value, future, asked, started, time.perf_counter()))
            self._changed.notify_all()

    def _gone_wrong(self, future: Future[Answered[A]], error: Exception | None) -> None:
        with self._changed:
            self._coming -= 1
            self._changed.notify_all()
        if error is not None and future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _run(self) -> None:
        while batch := self._next():
            batch = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            with self._changed:
                self._idle += 1

    def _next(self) -> list[_Waiting[P, A]]:
        """A worker's share of what is in line; nothing when all is done and over."""
        with self._changed:
            until = None
            while True:
                if not self._line:
                    until = None
                    if self._closed and not self._coming:
                        return []
                    self._changed.wait()
                    continue
                now = time.perf_counter()
                until = now + self.wait if until is None else until
                if not self._coming or len(self._line) >= self.most or now >= until:
                    break
                self._changed.wait(until - now)
            share = min(self.most, -(-len(self._line) // self._idle))
            self._idle -= 1
            return [self._line.popleft() for _ in range(share)]

    def _answer(self, batch: list[_Waiting[P, A]]) -> None:
        began = time.perf_counter()
        answers: Sequence[A | Exception]
        try:
            answers = self._work([waiting.value for waiting in batch])
        except Exception as error:
            answers = [error] * len(batch)
        worked = (time.perf_counter() - began) * 1000
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                waiting.future.set_exception(answer)
                continue
            queued = (waiting.started - waiting.asked + began - waiting.ready) * 1000
            prepared = (waiting.ready - waiting.started) * 1000
            waiting.future.set_result(Answered(answer, queued, prepared, worked, len(batch)))
