from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from wingbar.parallel import batched, in_order, interruptible


def test_batches() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_work_in_order_is_ordered_bounded_and_stops_at_an_error() -> None:
    taken = []

    def values() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        if i == 200:
            raise ValueError("two hundred")
        return i * i

    results = in_order(values(), work, 3)
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert len(taken) < 100
    with pytest.raises(ValueError, match="two hundred"):
        list(results)


def test_ctrl_c_is_heeded_while_work_goes_on() -> None:
    assert interruptible(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
    gate = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def work() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        gate.wait(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    gate.set()
    assert time.monotonic() - start < 10


def test_work_in_a_thread_that_ctrl_c_does_not_reach_is_ended_by_a_look() -> None:
    gate, looks = threading.Event(), []

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interruptible(lambda: gate.wait(30), look)
    gate.set()
    assert interruptible(lambda: 42, look) == 42
