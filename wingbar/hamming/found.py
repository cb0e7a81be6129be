"""What a search has found so far for one query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wingbar.hamming.compiling import compiled, inlined

BLOCK = 256  # codes compared together: the lists have room for as many before each block

ENTRIES, ITEMS, THRESHOLD = 0, 1, 2  # Found.state


class Found(NamedTuple):
    """The codes noted so far for one query, as candidates for its k nearest items.

    k: number of items wanted.
    state: [3] int64: the number of ENTRIES in the two lists, the number of ITEMS within the
        threshold, and the THRESHOLD: the least distance within which k items are known, so that
        nothing beyond it can be among the k nearest.
    histogram: [b + 1] int64, the number of noted items at each distance.
    places: [room] uint32, the noted codes as indices in Table.unique; the first ENTRIES are used.
    distances: [room] uint16, their distances.
    scratch: [BLOCK] uint64, working memory that the queries of a batch share.
    """

    k: int
    state: np.ndarray
    histogram: np.ndarray
    places: np.ndarray
    distances: np.ndarray
    scratch: np.ndarray


class Progress(NamedTuple):
    """Found.state as values, which a loop keeps in registers."""

    entries: int
    items: int
    threshold: int


@inlined
def forget(found, threshold):
    """Drop everything noted and start again from a threshold."""
    found.histogram[:] = 0
    found.state[ENTRIES], found.state[ITEMS], found.state[THRESHOLD] = 0, 0, threshold


@inlined
def allowed_items(table, allowed, place):
    """The number of allowed rows of a distinct code."""
    if allowed.size == 0 and table.rows.size + 1 == table.starts.size:
        return np.int64(1)  # no code occurs twice: no need to read its bounds
    first, last = np.int64(table.starts[place]), np.int64(table.starts[place + 1])
    if allowed.size == 0:
        return last - first
    count = 0
    for i in range(first, last):
        row = np.int64(table.rows[i])
        count += np.int64((allowed[row >> 6] >> np.uint64(row & 63)) & np.uint64(1))
    return count


@inlined
def note(found, progress, place, distance, items):
    """Note a distinct code within the threshold that stands for `items` items, if any, and lower
    the threshold as soon as k items are nearer. Returns the new Progress."""
    if items == 0:
        return progress
    found.places[progress.entries] = place
    found.distances[progress.entries] = distance
    found.histogram[distance] += items
    within, threshold = progress.items + items, progress.threshold
    while threshold > 0 and within - found.histogram[threshold] >= found.k:
        within -= found.histogram[threshold]
        threshold -= 1
    return Progress(progress.entries + 1, within, threshold)


@inlined
def progress_of(found):
    """The state of `found` as values."""
    return Progress(found.state[ENTRIES], found.state[ITEMS], found.state[THRESHOLD])


@inlined
def save(found, progress):
    """Write the values back."""
    found.state[ENTRIES] = progress.entries
    found.state[ITEMS] = progress.items
    found.state[THRESHOLD] = progress.threshold


@compiled
def drop_far(found):
    """Drop the entries beyond the threshold, which has been lowered since they were noted."""
    kept = 0
    for i in range(found.state[ENTRIES]):
        if found.distances[i] <= found.state[THRESHOLD]:
            found.places[kept], found.distances[kept] = found.places[i], found.distances[i]
            kept += 1
    found.state[ENTRIES] = kept
