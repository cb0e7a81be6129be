"""The compiled loops of Hamming search, in a module of their own because small sets are searched
without importing the compiler.

numba keeps the machine code beside this file or in NUMBA_CACHE_DIR, so each machine compiles it
once, for its own CPU. With AVX-512 VPOPCNTDQ one instruction counts the bits of eight words;
elsewhere LLVM uses what there is (AVX2 byte shuffles, NEON cnt), with the same results.

Shapes as in `records.py`. The `allowed` rows of a search are a bitmap, [ceil(N / 64)] uint64, or
empty for all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from wingbar.hamming.records import PROBE, SCAN, TRY_PROBE

BLOCK = 256  # codes tested together for one within the threshold: 2 KiB of 64-bit words
TILE = 32_768  # codes that all queries of a batch are compared with while the L2 cache holds them
RADIX_SORT_FROM = 1500  # rows; fewer are sorted faster by comparisons than by digits
FIRST_ROOM = 1024  # noted codes for which a query has room at first, besides those for its k

# A search for at least SAMPLE_FROM_K items first compares SAMPLE_SIZE codes, to estimate how far
# the k-th item is.
SAMPLE_SIZE = 16_384
SAMPLE_FROM_K = 64

# The cost model, by the `Costs` of the machine.
MAX_PROBE_SHARE = 0.6  # probing continues while its expected cost is below this share of a scan
MAX_TRIAL_SHARE = 0.1  # and in any case until it has cost this share


@intrinsic
def _popcount(typing, word):
    """Count the ones of an unsigned word: LLVM's ctpop."""

    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), emit


def _compiled(function):
    """Compile a function on its first call and cache the result, if a folder for it is writable."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder is writable
        return numba.njit(nogil=True)(function)


def _inlined(function):
    """Compile a function into its callers; passing arrays would cost more than what it does."""
    return numba.njit(nogil=True, forceinline=True)(function)


# -- distances: codes of one word and of several have a function each, chosen at compile time


def _distance(unique, place, query):
    """Distance in bits of one distinct code to the query [w]."""


@overload(_distance, jit_options={"forceinline": True})
def _distance_of(unique, place, query):
    def one(unique, place, query):
        return np.int64(_popcount(unique[place] ^ query[0]))

    def several(unique, place, query):
        distance = types.int64(0)
        for j in range(unique.shape[0]):
            distance += np.int64(_popcount(unique[j, place] ^ query[j]))
        return distance

    return one if unique.ndim == 1 else several


@intrinsic
def _any_near(typing, codes, low, query, threshold):
    """Whether one of the BLOCK one-word codes from `low` on is within the threshold.

    Written as vectors of 64 bytes, which LLVM splits into those of the CPU: its own vectorizer uses
    only half of AVX-512 on some CPUs. Distances are below 2^32, so the minimum is taken over 32-bit
    lanes, which takes one instruction where 64 bits take two.
    """
    word = codes.dtype
    lanes = 64 // (word.bitwidth // 8)

    def emit(context, builder, signature, arguments):
        distances, vector = _distances(context, builder, signature, arguments, BLOCK // lanes)
        limit = arguments[3]
        limit = builder.trunc(limit, vector.element) if word.bitwidth < 64 else limit
        narrow = ir.VectorType(ir.IntType(32), 16)
        least = []  # four running minima, so that no instruction waits for the one before
        for i, distance in enumerate(distances):
            new = builder.bitcast(distance, narrow)
            least.append(new if i < 4 else _minimum(builder, least.pop(0), new))
        while len(least) > 1:
            least.append(_minimum(builder, least.pop(0), least.pop(0)))
        inside = builder.icmp_unsigned(
            "<=", builder.bitcast(least[0], vector), _splat(builder, limit, vector)
        )
        return builder.icmp_unsigned(
            "!=", builder.bitcast(inside, ir.IntType(lanes)), ir.Constant(ir.IntType(lanes), 0)
        )

    return types.boolean(codes, types.int64, word, types.int64), emit


@intrinsic
def _near_of_64(typing, codes, low, query, threshold):
    """Which of the 64 one-word codes from `low` on are within the threshold: bit i for code
    low + i."""
    word = codes.dtype
    lanes = 64 // (word.bitwidth // 8)

    def emit(context, builder, signature, arguments):
        distances, vector = _distances(context, builder, signature, arguments, 64 // lanes)
        limit = arguments[3]
        splat = _splat(
            builder, builder.trunc(limit, vector.element) if word.bitwidth < 64 else limit, vector
        )
        bits, long = ir.Constant(ir.IntType(64), 0), ir.IntType(64)
        for i, distance in enumerate(distances):
            inside = builder.bitcast(
                builder.icmp_unsigned("<=", distance, splat), ir.IntType(lanes)
            )
            bits = builder.or_(
                bits, builder.shl(builder.zext(inside, long), ir.Constant(long, i * lanes))
            )
        return bits

    return types.uint64(codes, types.int64, word, types.int64), emit


def _distances(context, builder, signature, arguments, count):
    """Emit the distances to arguments[2] of the codes from index arguments[1] on.

    Returns them as `count` vectors of 64 bytes, and the type of those.
    """
    array, first, query = arguments[:3]
    bits = signature.args[0].dtype.bitwidth
    vector = ir.VectorType(ir.IntType(bits), 512 // bits)
    ones = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{vector.count}i{bits}"
    )
    start = builder.gep(
        context.make_array(signature.args[0])(context, builder, array).data, [first]
    )
    pointer, splat = builder.bitcast(start, vector.as_pointer()), _splat(builder, query, vector)
    distances = []
    for i in range(count):
        loaded = builder.load(
            builder.gep(pointer, [ir.Constant(ir.IntType(64), i)]), align=bits // 8
        )
        distances.append(builder.call(ones, [builder.xor(loaded, splat)]))
    return distances, vector


def _minimum(builder, a, b):
    return builder.select(builder.icmp_unsigned("<", a, b), a, b)


def _splat(builder, value, vector):
    """A vector with the same value in every lane."""
    one = builder.insert_element(
        ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(
        one,
        ir.Constant(vector, ir.Undefined),
        ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count),
    )


def _next_near(unique, low, high, query, threshold, scratch):
    """Find the next block with a code within the threshold.

    Returns the first of low, low + BLOCK, ... whose BLOCK codes (fewer at the end) hold one, or
    `high` if none does. The contents of `scratch` [BLOCK] uint64 are overwritten.
    """


@overload(_next_near)
def _next_near_of(unique, low, high, query, threshold, scratch):
    def one(unique, low, high, query, threshold, scratch):
        q = query[0]
        while low + BLOCK <= high:
            if _any_near(unique, low, q, threshold):
                return low
            low += BLOCK
        for i in range(low, high):
            if np.int64(_popcount(unique[i] ^ q)) <= threshold:
                return low
        return high

    def several(unique, low, high, query, threshold, scratch):
        while low < high:
            size = min(BLOCK, high - low)
            for j in range(unique.shape[0]):
                codes, q = unique[j, low : low + size], query[j]
                if j == 0:
                    for i in range(size):
                        scratch[i] = _popcount(codes[i] ^ q)
                else:
                    for i in range(size):
                        scratch[i] += _popcount(codes[i] ^ q)
            least = scratch[0]
            for i in range(size):
                least = min(least, scratch[i])
            if np.int64(least) <= threshold:
                return low
            low += BLOCK
        return high

    return one if unique.ndim == 1 else several


def _near_mask(unique, low, high, query, threshold):
    """Which of the codes low <= u < high, at most 64, are within the threshold: bit i for code
    low + i."""


@overload(_near_mask)
def _near_mask_of(unique, low, high, query, threshold):
    def one(unique, low, high, query, threshold):
        if low + 64 <= high:
            return _near_of_64(unique, low, query[0], threshold)
        near = np.uint64(0)
        for i in range(low, high):
            if _distance(unique, i, query) <= threshold:
                near |= np.uint64(1) << np.uint64(i - low)
        return near

    def several(unique, low, high, query, threshold):
        near = np.uint64(0)
        for i in range(low, min(low + 64, high)):
            if _distance(unique, i, query) <= threshold:
                near |= np.uint64(1) << np.uint64(i - low)
        return near

    return one if unique.ndim == 1 else several


@_compiled
def scan(unique, query, out):
    """Distances of one query [w] to every distinct code, written to `out` [U] uint16."""
    for i in range(out.size):
        out[i] = _distance(unique, i, query)


@_compiled
def counts(unique, items, queries, out):
    """Count the items at each distance from each query.

    `items` [U] int64 is the number of items of each distinct code, `queries` is [Q, w]; the counts
    are added to `out` [Q, b + 1] int64.
    """
    for low in range(0, items.size, BLOCK):
        high = min(low + BLOCK, items.size)
        for q in range(len(queries)):
            for i in range(low, high):
                out[q, _distance(unique, i, queries[q])] += items[i]


@_compiled
def total(numbers):
    """The sum of [n] uint64, computed as fast as memory can be read."""
    sum_ = np.uint64(0)
    for i in range(numbers.size):
        sum_ += numbers[i]
    return sum_


# -- what one query has found so far

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


@_inlined
def _forget(found, threshold):
    """Drop everything noted and start again from a threshold."""
    found.histogram[:] = 0
    found.state[ENTRIES], found.state[ITEMS], found.state[THRESHOLD] = 0, 0, threshold


@_inlined
def _allowed_items(table, allowed, place):
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


@_inlined
def _note(found, progress, place, distance, items):
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


@_inlined
def _progress(found):
    return Progress(found.state[ENTRIES], found.state[ITEMS], found.state[THRESHOLD])


@_inlined
def _save(found, progress):
    found.state[ENTRIES] = progress.entries
    found.state[ITEMS] = progress.items
    found.state[THRESHOLD] = progress.threshold


@_compiled
def _drop_far(found):
    """Drop the entries beyond the threshold, which has been lowered since they were noted."""
    kept = 0
    for i in range(found.state[ENTRIES]):
        if found.distances[i] <= found.state[THRESHOLD]:
            found.places[kept], found.distances[kept] = found.places[i], found.distances[i]
            kept += 1
    found.state[ENTRIES] = kept


@_compiled
def _scan(table, allowed, query, found, low, high):
    """Compare the query with the codes low <= u < high and note the near ones.

    Returns at least `high`, or the code that it stopped before because the lists were full.
    """
    unique, progress = table.unique, _progress(found)
    while True:
        low = _next_near(unique, low, high, query, progress.threshold, found.scratch)
        if low >= high:
            break
        if progress.entries + BLOCK > found.places.size:
            _save(found, progress)
            _drop_far(found)
            progress = _progress(found)
            if progress.entries + BLOCK > found.places.size:
                break
        end = min(low + BLOCK, high)
        for group in range(low, end, 64):
            near = _near_mask(unique, group, end, query, progress.threshold)
            while near:
                u = group + np.int64(_popcount((near & (~near + np.uint64(1))) - np.uint64(1)))
                near &= near - np.uint64(1)
                distance = _distance(unique, u, query)
                if distance <= progress.threshold:
                    items = _allowed_items(table, allowed, u)
                    progress = _note(found, progress, u, distance, items)
        low = end
    _save(found, progress)
    return low


@_compiled
def _scan_all(table, allowed, query, found, low, high):
    """`_scan` to its end; returns `found`, with longer lists if they were full."""
    while True:
        low = _scan(table, allowed, query, found, low, high)
        if low >= high:
            return found
        used, room = found.state[ENTRIES], 2 * found.places.size
        places, distances = np.empty(room, np.uint32), np.empty(room, np.uint16)
        places[:used], distances[:used] = found.places[:used], found.distances[:used]
        found = Found(found.k, found.state, found.histogram, places, distances, found.scratch)


@_compiled
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
            near[i] = _distance(unique, group * stride + i, query)
        for i in range(64):
            histogram[near[i]] += 1
    expected = np.float64(k) * SAMPLE_SIZE / size
    enough = expected + 3 * np.sqrt(expected) + 2
    bound, seen = 0, histogram[0]
    while bound < table.bits and seen < enough:
        bound += 1
        seen += histogram[bound]
    return bound


# -- probing


class Buckets(NamedTuple):
    """What the cost of probing depends on, for one query.

    choices: [b' + 1] float64, the number of substrings at each distance from one of b' bits.
    own: [m] float64, the number of codes in the query's own bucket of each table.
    beside: [m] float64, the number of codes in the buckets at one bit from it.
    ns_bucket: nanoseconds to look up a bucket.
    ns_adjacent: nanoseconds to compare a code of the first table.
    ns_candidate: nanoseconds to compare a code of any other.
    """

    choices: np.ndarray
    own: np.ndarray
    beside: np.ndarray
    ns_bucket: float
    ns_adjacent: float
    ns_candidate: float


def _probe(table, allowed, query, request, found, ns_byte):
    """Compare the query only with the codes that share a substring with it, or nearly.

    Multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012): of m disjoint substrings, a code
    within m s + t bits differs by at most s bits in one of the first t + 1, or by at most s - 1 in
    one of the others. So after the buckets within s bits in tables 0..t and within s - 1 in the
    others, everything up to distance m s + t has been seen. With table 0 alone (a Hamming ball
    around the first 16 bits, whose codes lie side by side) everything up to s has.

    Returns whether all nearest items are noted in `found`; false when probing was given up because
    a scan, at `ns_byte` nanoseconds a byte, is likely to be cheaper.
    """


@overload(_probe)
def _probe_of(table, allowed, query, request, found, ns_byte):
    def none(table, allowed, query, request, found, ns_byte):
        return False

    unique = table.types[table.fields.index("unique")]
    return none if unique.ndim == 2 else _probe_words


def _probe_words(table, allowed, query, request, found, ns_byte):
    unique, heads, bits, state = table.unique, table.heads, table.bits, found.state
    tables, width = heads.shape[0], min(bits, 16)
    ones = (1 << width) - 1
    nbytes = unique.size * unique.itemsize
    ns_scan = nbytes * ns_byte
    buckets = _buckets(table, query, nbytes, request.costs)
    radius = state[THRESHOLD]
    ball = (
        tables > 1
        and radius < bits
        and _ns_ball(buckets, radius, ns_scan) < _ns_all_tables(buckets, radius, 0, 0, ns_scan)
    )
    used = 1 if ball else tables
    spent = 0.0
    for s in range(width + 1):
        for t in range(used):
            if request.path != PROBE:
                left = MAX_PROBE_SHARE * ns_scan - spent
                if ball:
                    rest = _ns_ball(buckets, state[THRESHOLD], left)
                else:
                    rest = _ns_all_tables(buckets, state[THRESHOLD], s, t, left)
                step = _ns_step(buckets, s, t)
                step += request.costs.noted * max(0, request.k - state[ITEMS])  # until k are known
                if rest > left and spent + step > MAX_TRIAL_SHARE * ns_scan:
                    return False
            part = _substring(query[0], bits - width * (t + 1), ones)
            mask = (1 << s) - 1
            compared, entries = 0, state[ENTRIES]
            while mask <= ones:
                bucket = part ^ mask
                first, last = np.int64(heads[t, bucket]), np.int64(heads[t, bucket + 1])
                compared += last - first
                if state[ENTRIES] + last - first > found.places.size:
                    _drop_far(found)
                    if state[ENTRIES] + last - first > found.places.size:
                        return False
                for i in range(first, last):
                    u = np.int64(i) if t == 0 else np.int64(table.order[t - 1, i])
                    word = unique[u] ^ query[0]
                    distance = np.int64(_popcount(word))
                    if distance <= state[THRESHOLD]:
                        new = True
                        for other in range(used):  # was it found by an earlier step?
                            differ = np.int64(
                                _popcount(
                                    np.uint64(_substring(word, bits - width * (other + 1), ones))
                                )
                            )
                            if (other < t and differ <= s) or (other > t and differ < s):
                                new = False
                        if new:
                            items = _allowed_items(table, allowed, u)
                            _save(found, _note(found, _progress(found), u, distance, items))
                if s == 0:
                    break
                mask = _next_mask(mask)
            spent += (
                buckets.ns_bucket * buckets.choices[s]
                + compared * (buckets.ns_adjacent if t == 0 else buckets.ns_candidate)
                + request.costs.noted * max(0, state[ENTRIES] - entries)
            )
            certain = s if ball else tables * s + t
            if state[THRESHOLD] <= certain:
                return True
    return True  # every bucket of a table was seen


@_inlined
def _buckets(table, query, nbytes, costs):
    """The sizes of the query's buckets, for `nbytes` bytes of codes."""
    tables, width = table.heads.shape[0], min(table.bits, 16)
    ones = (1 << width) - 1
    choices = np.ones(width + 1)
    for r in range(width):
        choices[r + 1] = choices[r] * (width - r) / (r + 1)
    own, beside = np.zeros(tables, np.float64), np.zeros(tables, np.float64)
    for t in range(tables):
        part = _substring(query[0], table.bits - width * (t + 1), ones)
        own[t] = table.heads[t, part + 1] - table.heads[t, part]
        for i in range(width):
            near = part ^ (1 << i)
            beside[t] += table.heads[t, near + 1] - table.heads[t, near]
    return Buckets(
        choices,
        own,
        beside,
        costs.bucket,
        costs.adjacent,
        costs.scattered[0 if nbytes <= 4 << 20 else 1 if nbytes <= 16 << 20 else 2],
    )


@_inlined
def _next_mask(mask):
    """The next greater number with as many ones (Gosper)."""
    lowest = mask & -mask
    carried = mask + lowest
    zeros = np.int64(_popcount(np.uint64(lowest - 1)))
    return (((carried ^ mask) >> 2) >> zeros) | carried


@_inlined
def _substring(word, shift, ones):
    """The bits of a code from `shift` up, as many as `ones` has."""
    return np.int64((np.uint64(word) >> np.uint64(shift)) & np.uint64(ones))


@_inlined
def _ns_step(buckets, s, t):
    """Expected nanoseconds for the buckets of table t at s bits: their sizes are known for 0 and 1
    bits, and estimated by the mean of the latter beyond."""
    choices = buckets.choices
    codes = buckets.own[t] if s == 0 else buckets.beside[t] * choices[s] / choices[1]
    ns_candidate = buckets.ns_adjacent if t == 0 else buckets.ns_candidate
    return buckets.ns_bucket * choices[s] + codes * ns_candidate


@_inlined
def _ns_all_tables(buckets, radius, s, t, enough):
    """Expected nanoseconds of all steps from (s, t) on until everything within `radius` has been
    seen; anything beyond `enough` is not added up further."""
    ns, tables = 0.0, buckets.own.size
    while s < buckets.choices.size and ns <= enough:
        ns += _ns_step(buckets, s, t)
        if tables * s + t >= radius:
            return ns
        t += 1
        if t == tables:
            s, t = s + 1, 0
    return ns


@_inlined
def _ns_ball(buckets, radius, enough):
    """The same with table 0 alone, from the start."""
    ns, s = 0.0, 0
    while s <= min(radius, buckets.choices.size - 1) and ns <= enough:
        ns += _ns_step(buckets, s, 0)
        s += 1
    return ns


# -- the result in order


@_compiled
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


@_compiled
def _sort_rows(rows):
    if rows.size < RADIX_SORT_FROM:
        rows.sort()
    else:
        rows[:] = sort(rows.astype(np.uint32), 32)[0]


@_compiled
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
    for i in range(found.state[ENTRIES]):
        if distances[i] <= last:
            lists[distances[i]] += 1
            if distances[i] == split and need > 0:
                candidates += min(
                    need, np.int64(starts[places[i] + 1]) - np.int64(starts[places[i]])
                )
    tied, tied_count = np.empty(candidates, np.int64), 0
    for i in range(found.state[ENTRIES]):
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
            _sort_rows(out_rows[begin:end])
        out_distances[begin:end] = d
        begin = end
    if need > 0:
        if lists[split] > 1:
            _sort_rows(tied[:tied_count])
        out_rows[begin:want] = tied[:need]
        out_distances[begin:want] = split


# -- searching


@_compiled
def nearest(table, query, request, allowed, low, high):
    """The items nearest to one query [w], as a Request asks; scans only the codes low <= u < high.

    Returns their rows [n] and distances [n] int64 ordered by (distance, row), and how many there
    would be without `limit`, or -1 if TRY_PROBE gave up.
    """
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
    if request.path != SCAN and table.heads.shape[0] > 0:
        done = _probe(table, allowed, query, request, found, request.costs.scanned_byte)
        if not done:  # what was found bounds the distance of the nearest
            _forget(found, state[THRESHOLD])
    if not done and request.path != TRY_PROBE:
        bound = state[THRESHOLD]
        if _is_sampled(table, allowed, request, high - low):
            state[THRESHOLD] = min(bound, _likely_bound(table, query, request.k))
        found = _scan_all(table, allowed, query, found, low, high)
        if state[ITEMS] < request.k and state[THRESHOLD] < bound:  # the sample was misleading
            _forget(found, bound)
            found = _scan_all(table, allowed, query, found, low, high)
    rows = np.empty(min(request.limit, state[ITEMS]), np.int64)
    distances = np.empty(rows.size, np.int64)
    _write(table, allowed, found, rows, distances)
    return rows, distances, np.int64(-1) if request.path == TRY_PROBE and not done else state[ITEMS]


@_compiled
def nearest_many(table, queries, request, allowed, room):
    """`nearest` for queries [Q, w], which share every tile of codes while it is in the cache.

    Returns the rows [n] and distances [n] of all results, one query after the other; where those
    of each query begin [Q + 1]; and their numbers without `limit` [Q], or -1 for a query with more
    than `room` candidates, which has to be searched for alone.
    """
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
    if request.path != SCAN and table.heads.shape[0] > 0:
        for q in range(count):
            own = _of_query(found, q)
            scanned[q] = not _probe(
                table, allowed, queries[q], request, own, request.costs.shared_byte
            )
            if scanned[q]:
                _forget(own, own.state[THRESHOLD])
    queue = np.flatnonzero(scanned)
    bounds = state[:, THRESHOLD].copy()
    if _is_sampled(table, allowed, request, size):
        for q in queue:
            likely = _likely_bound(table, queries[q], request.k)
            state[q, THRESHOLD] = min(bounds[q], likely)
    for low in range(0, size, TILE):
        high = min(low + TILE, size)
        for q in queue:
            if not alone[q]:
                own = _of_query(found, q)
                alone[q] = _scan(table, allowed, queries[q], own, low, high) < high
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


@_inlined
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


@_inlined
def _is_sampled(table, allowed, request, size):
    """Whether a sample bounds the distance of the k-th item before a scan of `size` codes."""
    return (
        request.k >= SAMPLE_FROM_K
        and size >= 8 * SAMPLE_SIZE
        and size == table.starts.size - 1
        and allowed.size == 0
    )


@_compiled
def nearest_listed(table, query, request, listed):
    """`nearest` for one query [w] among few rows, `listed` [A] int64 ascending, each of them
    compared by itself; returns rows [n], distances [n] and the number without `limit`."""
    distances = np.empty(listed.size, np.uint16)
    histogram = np.zeros(table.bits + 2, np.int64)
    for i in range(listed.size):
        distance = _distance(table.unique, np.int64(table.places[listed[i]]), query)
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


# -- building


@_compiled
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


@_compiled
def tables(unique, bits, count):
    """The fields `heads` and `order` of a Table for `count` substrings of one-word codes [U]."""
    width = min(bits, 16)
    size, ones = 1 << width, (1 << width) - 1
    heads = np.zeros((count, size + 1), np.uint32)
    order = np.empty((max(count - 1, 0), unique.size), np.uint32)
    fill = np.empty(size, np.int64)
    for t in range(count):
        shift = bits - width * (t + 1)
        for i in range(unique.size):
            heads[t, _substring(unique[i], shift, ones) + 1] += np.uint32(1)
        for d in range(size):
            heads[t, d + 1] += heads[t, d]
            fill[d] = heads[t, d]
        if t > 0:
            for i in range(unique.size):
                part = _substring(unique[i], shift, ones)
                order[t - 1, fill[part]] = i
                fill[part] += 1
    return heads, order
