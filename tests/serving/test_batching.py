from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from wingbar.serving.batching import Batcher, BusyError

LONG = 30.0  # seconds that nothing here may take


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Worker:
    """Doubles numbers, when it may go on; keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.busy, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, batch: list[int]) -> Sequence[int | Exception]:
        self.batches.append(batch)
        self.busy.set()
        assert self.go_on.wait(LONG)
        return [ValueError("thirteen") if value == 13 else 2 * value for value in batch]


def batcher(
    worker: Worker,
    pool: ThreadPoolExecutor,
    prepare: Callable[[int], int] = abs,
    *,
    gather_seconds: float = 0.0,
    limit: int = 100,
) -> Batcher[int, int, int]:
    return Batcher(
        "test", prepare, worker, pool, batch_size=4, gather_seconds=gather_seconds, limit=limit
    )


def test_a_request_that_is_alone_does_not_wait(pool: ThreadPoolExecutor) -> None:
    one = batcher(Worker(), pool, gather_seconds=LONG)
    start = time.perf_counter()
    answered = one.submit(-3).result(LONG)
    assert time.perf_counter() - start < LONG / 2
    assert (answered.answer, answered.batch_size) == (6, 1)
    assert min(answered.queue_ms, answered.prepare_ms, answered.work_ms) >= 0
    one.close()


def test_requests_gather_while_all_workers_are_busy(pool: ThreadPoolExecutor) -> None:
    worker = Worker()
    worker.go_on.clear()
    many = batcher(worker, pool)
    first = many.submit(1)
    assert worker.busy.wait(LONG)
    later = [many.submit(value) for value in range(2, 8)]
    while len(many) < 7 or many._preparing:
        time.sleep(0.001)
    worker.go_on.set()
    assert [future.result(LONG).answer for future in [first, *later]] == [2, 4, 6, 8, 10, 12, 14]
    assert [len(batch) for batch in worker.batches] == [1, 4, 2]
    assert later[0].result().queue_ms > 0
    many.close()


def test_an_idle_worker_waits_for_a_request_that_is_being_prepared(
    pool: ThreadPoolExecutor,
) -> None:
    slow = threading.Event()

    def prepare(value: int) -> int:
        if value == 2:
            assert slow.wait(LONG)
        return value

    worker = Worker()
    two = batcher(worker, pool, prepare, gather_seconds=LONG)
    futures = [two.submit(2), two.submit(1)]
    time.sleep(0.05)
    assert not worker.batches
    slow.set()
    assert [future.result(LONG).batch_size for future in futures] == [2, 2]
    two.close()

    slow.clear()
    impatient = batcher(worker, pool, prepare, gather_seconds=0.01)
    late, soon = impatient.submit(2), impatient.submit(1)
    assert soon.result(LONG).batch_size == 1
    slow.set()
    assert late.result(LONG).batch_size == 1
    impatient.close()


def test_idle_workers_share_the_queue(pool: ThreadPoolExecutor) -> None:
    slow, worker = threading.Event(), Worker()

    def prepare(value: int) -> int:
        assert slow.wait(LONG)
        return value

    worker.go_on.clear()
    two: Batcher[int, int, int] = Batcher(
        "test", prepare, worker, pool, batch_size=4, gather_seconds=LONG, limit=20, workers=2
    )
    futures = [two.submit(value) for value in range(6)]
    slow.set()
    while len(worker.batches) < 2:
        time.sleep(0.001)
    worker.go_on.set()
    assert [future.result(LONG).answer for future in futures] == [0, 2, 4, 6, 8, 10]
    assert sum(len(batch) for batch in worker.batches) == 6
    assert max(len(batch) for batch in worker.batches) <= 4
    two.close()


def test_requests_beyond_the_limit_are_refused(pool: ThreadPoolExecutor) -> None:
    worker = Worker()
    worker.go_on.clear()
    few = batcher(worker, pool, limit=3)
    futures = [few.submit(value) for value in (1, 2, 3)]
    with pytest.raises(BusyError, match="3 requests are waiting already"):
        few.submit(4)
    worker.go_on.set()
    wait(futures, LONG)
    assert few.submit(4).result(LONG).answer == 8
    few.close()


def test_an_error_in_preparation_concerns_one_request_only(pool: ThreadPoolExecutor) -> None:
    def prepare(value: int) -> int:
        if value < 0:
            raise KeyError(value)
        return value

    some = batcher(Worker(), pool, prepare)
    futures = [some.submit(value) for value in (1, -1, 13, 2)]
    assert futures[0].result(LONG).answer == 2
    assert isinstance(futures[1].exception(LONG), KeyError)
    assert isinstance(futures[2].exception(LONG), ValueError)
    assert futures[3].result(LONG).answer == 4
    while len(some):  # the callbacks of the last one
        time.sleep(0.001)
    some.close()


def test_work_that_fails_fails_for_the_whole_batch_and_goes_on(pool: ThreadPoolExecutor) -> None:
    fails = [True]

    def work(batch: list[int]) -> list[int]:
        if fails.pop() if fails else False:
            raise RuntimeError("out of luck")
        return batch

    one: Batcher[int, int, int] = Batcher(
        "test", abs, work, pool, batch_size=4, gather_seconds=0, limit=10
    )
    assert isinstance(one.submit(1).exception(LONG), RuntimeError)
    assert one.submit(2).result(LONG).answer == 2
    one.close()


def test_a_cancelled_request_is_left_out(pool: ThreadPoolExecutor) -> None:
    worker = Worker()
    worker.go_on.clear()
    some = batcher(worker, pool)
    first = some.submit(1)
    assert worker.busy.wait(LONG)
    given_up, other = some.submit(2), some.submit(3)
    assert given_up.cancel()
    assert len(some) == 2
    worker.go_on.set()
    assert (first.result(LONG).answer, other.result(LONG).answer) == (2, 6)
    assert worker.batches == [[1], [3]]
    some.close()


def test_closing_drains_the_queue(pool: ThreadPoolExecutor) -> None:
    some = batcher(Worker(), pool)
    futures = [some.submit(value) for value in range(12)]
    some.close()
    assert [future.result(0).answer for future in futures] == list(range(0, 24, 2))
    with pytest.raises(BusyError, match="stopping"):
        some.submit(1)


def test_many_threads_get_their_own_answers(pool: ThreadPoolExecutor) -> None:
    some = batcher(Worker(), pool, gather_seconds=0.001, limit=1000)
    with ThreadPoolExecutor(16) as callers:
        answers = list(
            callers.map(lambda value: some.submit(value).result(LONG).answer, range(100, 600))
        )
    assert answers == list(range(200, 1200, 2))
    some.close()
