"""The notes of a search, run as plain Python, against what sorting everything gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from wingbar.hamming import found
from wingbar.hamming.found import Found, Progress

BITS = 24


def empty(k: int, room: int = 100) -> Found:
    state, histogram = np.zeros(3, np.int64), np.ones(BITS + 1, np.int64)
    places, distances = np.zeros(room, np.uint32), np.zeros(room, np.uint16)
    made = Found(k, state, histogram, places, distances, np.zeros(found.BLOCK, np.uint64))
    found.forget.py_func(made, BITS)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_distance_of_the_kth_item(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, most = int(rng.integers(1, 40)), int(rng.integers(0, BITS + 1))
    distances = rng.integers(0, BITS + 1, 60)
    items = rng.integers(0, 4, 60)  # none: a code whose rows are all filtered out
    notes = empty(k)
    found.forget.py_func(notes, most)
    progress = found.progress_of.py_func(notes)
    for place, (distance, count) in enumerate(zip(distances.tolist(), items.tolist(), strict=True)):
        if distance <= progress.threshold:  # as the loops do
            progress = found.note.py_func(notes, progress, place, distance, count)
    found.save.py_func(notes, progress)
    found.drop_far.py_func(notes)
    each = np.sort(np.repeat(distances, items))
    threshold = min(most, int(each[k - 1])) if len(each) >= k else most
    within = (distances <= threshold) & (items > 0)
    expected = Progress(int(within.sum()), int(items[within].sum()), threshold)
    assert found.progress_of.py_func(notes) == expected
    used = expected.entries
    assert notes.places[:used].tolist() == np.flatnonzero(within).tolist()
    assert notes.distances[:used].tolist() == distances[within].tolist()


def test_forgetting_leaves_nothing() -> None:
    notes = empty(2)
    progress = found.note.py_func(notes, found.progress_of.py_func(notes), 7, 3, 1)
    found.save.py_func(notes, progress)
    found.forget.py_func(notes, 5)
    assert found.progress_of.py_func(notes) == Progress(0, 0, 5)
    assert not notes.histogram.any()


@pytest.mark.parametrize("repeated", [False, True])
def test_allowed_items_are_counted_by_their_bits(repeated: bool) -> None:
    rng = np.random.default_rng(repeated)
    counts = rng.integers(1, 5, 60) if repeated else np.ones(60, int)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    rows = rng.permutation(starts[-1]).astype(np.uint32)
    allowed = rng.random(len(rows)) < 0.5
    padded = np.concatenate([allowed, np.zeros(-len(rows) % 64, bool)])
    filtered = np.packbits(padded, bitorder="little").view(np.uint64)
    table = SimpleNamespace(rows=rows, starts=starts)
    for place, count in enumerate(counts):
        mine = rows[starts[place] : starts[place + 1]]
        counted = found.allowed_items.py_func
        assert counted(table, filtered, place) == allowed[mine].sum()
        assert counted(table, filtered[:0], place) == count
