"""Build the structure over codes: sort them, group equal ones, find substrings.

Shapes as in `records.py`.
"""

from __future__ import annotations

import numpy as np

from wingbar.hamming.compiling import compiled
from wingbar.hamming.probing import MOST_TABLES, WIDTH, sketch, substring


@compiled
def sort(keys, bits):
    """Sort codes of one word, [N] uint32 or uint64, of which the first `bits` bits are used.

    Returns them in ascending order, and the row of each [N] uint32; equal codes keep the order of
    their rows. Radix sort, 11 bits per pass.
    """
    rows = np.arange(keys.size).astype(np.uint32)
    keys = keys.copy()
    other_keys, other_rows = np.empty_like(keys), np.empty_like(rows)
    for shift in range(0, bits, 11):
        counts = np.zeros(2049, np.int64)
        for i in range(keys.size):
            counts[((np.uint64(keys[i]) >> np.uint64(shift)) & np.uint64(2047)) + np.uint64(1)] += 1
        for d in range(2048):
            counts[d + 1] += counts[d]
        for i in range(keys.size):
            digit = (np.uint64(keys[i]) >> np.uint64(shift)) & np.uint64(2047)
            at = counts[digit]
            counts[digit] = at + 1
            other_keys[at], other_rows[at] = keys[i], rows[i]
        keys, other_keys = other_keys, keys
        rows, other_rows = other_rows, rows
    return keys, rows


@compiled
def group(keys, rows):
    """Group sorted codes [N] and their rows [N] by code.

    Returns the fields `unique`, `starts` and `places` of a Table.
    """
    count = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            count += 1
    unique, starts = np.empty(count, keys.dtype), np.empty(count + 1, np.uint32)
    places = np.empty(keys.size, np.uint32)
    u = -1
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            u += 1
            unique[u], starts[u] = keys[i], i
        places[rows[i]] = u
    starts[count] = keys.size
    return unique, starts, places


def table_count(bits: int) -> int:
    """The number of substrings that are tabled."""
    return max(1, min(bits // WIDTH, MOST_TABLES))


@compiled
def tables(unique, bits, count):
    """The fields `heads`, `order` and `sketches` of a Table for `count` substrings of its codes."""
    size, values = unique.shape[unique.ndim - 1], 1 << min(bits, WIDTH)
    heads = np.zeros((count, values + 1), np.uint32)
    order = np.empty((max(count - 1, 0), size), np.uint32)
    sketches = np.empty((count, size), np.uint32)
    fill = np.empty(values, np.int64)
    for t in range(count):
        for i in range(size):
            heads[t, substring(unique, i, bits, t) + 1] += np.uint32(1)
        for d in range(values):
            heads[t, d + 1] += heads[t, d]
            fill[d] = heads[t, d]
        for i in range(size):
            part = substring(unique, i, bits, t)
            if t > 0:
                order[t - 1, fill[part]] = i
            sketches[t, fill[part]] = sketch(unique, i, bits, t)
            fill[part] += 1
    return heads, order, sketches
