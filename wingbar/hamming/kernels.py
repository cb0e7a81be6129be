"""The compiled loops of Hamming search, in modules of their own because small sets are searched
without importing the compiler: here what answers a query. It probes (`probing.py`) or scans, by
bit planes (`planes.py`) or by words (`words.py`), as the cost model decides.

Shapes as in `records.py`. What comes from Python has the form that numba takes over fastest, as
that is a good part of a search of some microseconds: of a Table only `unique` and the addresses of
the rest, a Request as an array of its numbers, one query as it is; and the answer for few items is
written to arrays that were made in Python. The `allowed` rows of a search are a bitmap,
[ceil(N / 64)] uint64, or empty for all rows.
"""

from __future__ import annotations

import numpy as np
from numba.np.numpy_support import carray

from wingbar.hamming import planes, words
from wingbar.hamming.building import sort
from wingbar.hamming.compiling import compiled, inlined, pointer, prefetch
from wingbar.hamming.found import BLOCK, ENTRIES, ITEMS, THRESHOLD, Found, forget
from wingbar.hamming.probing import probe
from wingbar.hamming.records import AUTO, PROBE, TRY_PROBE, WORDS, Costs, Request, Table
from wingbar.hamming.words import distance_of

TILE = 32_768  # codes that all queries of a batch are compared with while the L2 cache holds them
AHEAD = 16  # noted codes whose rows are on their way from memory while one is written
RADIX_SORT_FROM = 200  # rows; fewer are sorted faster by comparisons than by digits
FIRST_ROOM = 1024  # noted codes for which a query has room at first, besides those for its k

# A search for at least SAMPLE_FROM_K items first compares SAMPLE_SIZE codes, to estimate how far
# the k-th item is.
SAMPLE_SIZE = 16_384
SAMPLE_FROM_K = 64


@inlined
def _scan(table, allowed, query, sliced, found, low, high):
    """Note the near ones of the codes low <= u < high, by planes if the query is sliced.

    Returns at least `high`, or the code that it stopped before because the lists were full.
    """
    if len(sliced.masks):
        return planes.scan(table, allowed, sliced, found, low, high)
    return words.scan(table, allowed, query, found, low, high)


@inlined
def _planes_used(table, request):
    """The number of planes that a scan adds, or 0 if it compares words."""
    return 0 if request.path == WORDS else table.planes.shape[1]


@compiled
def _scan_all(table, allowed, query, sliced, found, low, high):
    """`_scan` to its end; returns `found`, with longer lists if they were full."""
    while True:
        low = _scan(table, allowed, query, sliced, found, low, high)
        if low >= high:
            return found
        used, room = found.state[ENTRIES], 2 * found.places.size
        places, distances = np.empty(room, np.uint32), np.empty(room, np.uint16)
        places[:used], distances[:used] = found.places[:used], found.distances[:used]
        found = Found(found.k, found.state, found.histogram, places, distances, found.scratch)


@compiled
def _likely_bound(table, query, k):
    """A distance in bits within which there almost surely are k codes: the estimate from a sample,
    plus three standard deviations.

    Without it a scan for many neighbours would note most of the first codes that it meets, only to
    drop them later.
    """
    unique = table.unique
    size = unique.shape[unique.ndim - 1]
    histogram, near = np.zeros(table.bits + 1, np.int64), np.empty(64, np.int64)
    stride = size // (SAMPLE_SIZE // 64)
    for group in range(SAMPLE_SIZE // 64):
        for i in range(64):
            near[i] = distance_of(unique, group * stride + i, query)
        for i in range(64):
            histogram[near[i]] += 1
    expected = np.float64(k) * SAMPLE_SIZE / size
    enough = expected + 3 * np.sqrt(expected) + 2
    bound, seen = 0, histogram[0]
    while bound < table.bits and seen < enough:
        bound += 1
        seen += histogram[bound]
    return bound


@compiled
def total(numbers):
    """The sum of [n] uint64, computed as fast as memory can be read."""
    sum_ = np.uint64(0)
    for i in range(numbers.size):
        sum_ += numbers[i]
    return sum_


# -- the result in order


@compiled
def _sort_rows(rows, total):
    """Sort rows below `total` in place."""
    if rows.size < RADIX_SORT_FROM:
        rows.sort()
    else:
        bits = 1
        while total >> bits:
            bits += 1
        rows[:] = sort(rows.astype(np.uint32), bits)[0]


@compiled
def _write(table, allowed, found, out_rows, out_distances):
    """Write the first n items noted, by (distance, row), to both outputs [n] int64."""
    starts, rows = table.starts, table.rows
    histogram, places, distances = found.histogram, found.places, found.distances
    want, last = out_rows.size, found.state[THRESHOLD]
    fill = np.empty(last + 2, np.int64)
    fill[0] = 0
    for d in range(last + 1):
        fill[d + 1] = fill[d] + histogram[d]
    whole = last  # distances up to here are written whole, of the next only the first `need` rows
    while whole >= 0 and fill[whole + 1] > want:
        whole -= 1
    split = whole + 1
    need = want - fill[split] if split <= last else 0
    lists, candidates = np.zeros(last + 2, np.int64), 0
    entries = found.state[ENTRIES]
    for i in range(entries):
        prefetch(starts, np.int64(places[min(i + AHEAD, entries - 1)]))
        if distances[i] <= last:
            lists[distances[i]] += 1
            if distances[i] == split and need > 0:
                candidates += min(
                    need, np.int64(starts[places[i] + 1]) - np.int64(starts[places[i]])
                )
    tied, tied_count = np.empty(candidates, np.int64), 0
    for i in range(entries):
        prefetch(rows, np.int64(starts[places[min(i + AHEAD, entries - 1)]]))
        d = np.int64(distances[i])
        if d > split or d > last or (d == split and need <= 0):
            continue
        taken, at = 0, fill[d]
        for j in range(np.int64(starts[places[i]]), np.int64(starts[places[i] + 1])):
            row = np.int64(rows[j])
            if allowed.size and not (allowed[row >> 6] >> np.uint64(row & 63)) & np.uint64(1):
                continue
            if d == split:
                tied[tied_count] = row
                tied_count += 1
                taken += 1
                if taken == need:
                    break
            else:
                out_rows[at] = row
                at += 1
        if d != split:
            fill[d] = at
    begin = 0
    for d in range(split):
        end = fill[d]
        if lists[d] > 1:
            _sort_rows(out_rows[begin:end], rows.size)
        out_distances[begin:end] = d
        begin = end
    if need > 0:
        if lists[split] > 1:
            _sort_rows(tied[:tied_count], rows.size)
        out_rows[begin:want] = tied[:need]
        out_distances[begin:want] = split


# -- searching


@inlined
def _table_at(unique, addresses):
    """The Table of these distinct codes whose other arrays are at `addresses` (Table.addresses).
    Whoever calls keeps them alive."""
    at = addresses
    return Table(
        at[0],
        unique,
        carray(pointer(at[1]), (at[2],), np.uint32),
        carray(pointer(at[3]), (at[4],), np.uint32),
        carray(pointer(at[5]), (at[6],), np.uint32),
        carray(pointer(at[7]), (at[8], at[9]), np.uint32),
        carray(pointer(at[10]), (at[11], at[12]), np.uint32),
        carray(pointer(at[13]), (at[14], at[15]), np.uint32),
        carray(pointer(at[16]), (at[17], at[18], at[19]), np.uint64),
    )


@inlined
def _request_of(numbers):
    """The Request whose numbers these are."""
    k, limit, radius, path = (
        np.int64(numbers[0]),
        np.int64(numbers[1]),
        np.int64(numbers[2]),
        np.int64(numbers[3]),
    )
    bucket = (numbers[6], numbers[7], numbers[8])
    costs = Costs(numbers[4], numbers[5], bucket, numbers[9], numbers[10], numbers[11])
    return Request(k, limit, radius, path, costs)


@compiled
def nearest(unique, addresses, query, numbers, allowed, low, high, rows, distances):
    """The items nearest to one query [w] uint64, as a Request asks; scans only the codes
    low <= u < high.

    Returns how many there would be without `limit`, or -1 if TRY_PROBE gave up. If those within the
    limit have room in `rows` and `distances` [room] int64, they are written to their beginning,
    ordered by (distance, row).
    """
    table, request = _table_at(unique, addresses), _request_of(numbers)
    query = query.astype(table.unique.dtype)
    room = FIRST_ROOM + 4 * min(request.k, 2048)
    found = Found(
        request.k,
        np.zeros(3, np.int64),
        np.zeros(table.bits + 1, np.int64),
        np.empty(room, np.uint32),
        np.empty(room, np.uint16),
        np.empty(BLOCK, np.uint64),
    )
    state = found.state
    state[THRESHOLD] = request.radius
    done = False
    if request.path in (AUTO, PROBE, TRY_PROBE) and table.heads.shape[0] > 0:
        done = probe(table, allowed, query, request, found, request.costs.scanned_byte)
        if not done:  # what was found bounds the distance of the nearest
            forget(found, state[THRESHOLD])
    if not done and request.path != TRY_PROBE:
        masks = np.zeros((_planes_used(table, request), planes.PLANE_WORDS), np.uint64)
        planes.write_masks(table.bits, query, masks)
        sliced = planes.Sliced(masks, planes.sums(query), planes.sums(query))
        bound = state[THRESHOLD]
        if _is_sampled(table, allowed, request, high - low):
            state[THRESHOLD] = min(bound, _likely_bound(table, query, request.k))
        found = _scan_all(table, allowed, query, sliced, found, low, high)
        if state[ITEMS] < request.k and state[THRESHOLD] < bound:  # the sample was misleading
            forget(found, bound)
            found = _scan_all(table, allowed, query, sliced, found, low, high)
    if request.path == TRY_PROBE and not done:
        return np.int64(-1)
    count = min(request.limit, state[ITEMS])
    if count <= rows.size:
        _write(table, allowed, found, rows[:count], distances[:count])
    return state[ITEMS]


@compiled
def nearest_many(unique, addresses, queries, numbers, allowed, room):
    """`nearest` for queries [Q, w] uint64, which share every tile of codes while the cache has it.

    Returns the rows [n] and distances [n] of all results, one query after the other; where those
    of each query begin [Q + 1]; and their numbers without `limit` [Q], or -1 for a query with more
    than `room` candidates, which has to be searched for alone.
    """
    table, request = _table_at(unique, addresses), _request_of(numbers)
    queries = queries.astype(table.unique.dtype)
    count, size = len(queries), table.starts.size - 1
    found = Found(
        request.k,
        np.zeros((count, 3), np.int64),
        np.zeros((count, table.bits + 1), np.int64),
        np.empty((count, room), np.uint32),
        np.empty((count, room), np.uint16),
        np.empty(BLOCK, np.uint64),
    )
    state = found.state
    state[:, THRESHOLD] = request.radius
    scanned, alone = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    if request.path in (AUTO, PROBE, TRY_PROBE) and table.heads.shape[0] > 0:
        for q in range(count):
            own = _of_query(found, q)
            scanned[q] = not probe(
                table, allowed, queries[q], request, own, request.costs.shared_byte
            )
            if scanned[q]:
                forget(own, own.state[THRESHOLD])
    queue = np.flatnonzero(scanned)
    bounds = state[:, THRESHOLD].copy()
    if _is_sampled(table, allowed, request, size):
        for q in queue:
            likely = _likely_bound(table, queries[q], request.k)
            state[q, THRESHOLD] = min(bounds[q], likely)
    masks = np.zeros((queue.size, _planes_used(table, request), planes.PLANE_WORDS), np.uint64)
    for i in range(queue.size):
        planes.write_masks(table.bits, queries[queue[i]], masks[i])
    start, sums = planes.sums(queries), planes.sums(queries)
    for low in range(0, size, TILE):
        high = min(low + TILE, size)
        for i in range(queue.size):
            q = queue[i]
            if not alone[q]:
                own, sliced = _of_query(found, q), planes.Sliced(masks[i], start, sums)
                alone[q] = _scan(table, allowed, queries[q], sliced, own, low, high) < high
    for q in queue:
        misled = state[q, ITEMS] < request.k and state[q, THRESHOLD] < bounds[q]
        alone[q] = alone[q] or misled
    begins, totals = np.zeros(count + 1, np.int64), np.empty(count, np.int64)
    for q in range(count):
        totals[q] = -1 if alone[q] else state[q, ITEMS]
        begins[q + 1] = begins[q] + (0 if alone[q] else min(request.limit, state[q, ITEMS]))
    rows, distances = np.empty(begins[count], np.int64), np.empty(begins[count], np.int64)
    for q in range(count):
        if not alone[q]:
            part = slice(begins[q], begins[q + 1])
            _write(table, allowed, _of_query(found, q), rows[part], distances[part])
    return rows, distances, begins, totals


@inlined
def _of_query(found, q):
    """The state of query q, from that of a batch, whose arrays have a row for each query."""
    return Found(
        found.k,
        found.state[q],
        found.histogram[q],
        found.places[q],
        found.distances[q],
        found.scratch,
    )


@inlined
def _is_sampled(table, allowed, request, size):
    """Whether a sample bounds the distance of the k-th item before a scan of `size` codes."""
    return (
        request.k >= SAMPLE_FROM_K
        and size >= 8 * SAMPLE_SIZE
        and size == table.starts.size - 1
        and allowed.size == 0
    )


@compiled
def nearest_listed(unique, addresses, query, numbers, listed):
    """`nearest` among few rows, `listed` [A] int64 ascending, each of them compared by itself."""
    table, request = _table_at(unique, addresses), _request_of(numbers)
    query = query.astype(table.unique.dtype)
    distances = np.empty(listed.size, np.uint16)
    histogram = np.zeros(table.bits + 2, np.int64)
    for i in range(listed.size):
        distance = distance_of(table.unique, np.int64(table.places[listed[i]]), query)
        distances[i] = distance
        histogram[distance] += 1
    last, total = -1, 0
    while last < request.radius and total < request.k:
        last += 1
        total += histogram[last]
    fill = np.zeros(table.bits + 2, np.int64)
    for d in range(last):
        fill[d + 1] = fill[d] + histogram[d]
    want = min(request.limit, total)
    out_rows, out_distances = np.empty(want, np.int64), np.empty(want, np.int64)
    for i in range(listed.size):
        d = np.int64(distances[i])
        if d <= last and fill[d] < want:
            out_rows[fill[d]], out_distances[fill[d]] = listed[i], d
            fill[d] += 1
    return out_rows, out_distances, total
