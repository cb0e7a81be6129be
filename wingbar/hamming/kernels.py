"""The compiled loops of `codes.py`, apart so that small indexes never wait for the compiler to be
imported.

numba keeps the machine code beside this file (or in NUMBA_CACHE_DIR), so a machine compiles once.
It is made for the CPU it runs on: with AVX-512 VPOPCNTDQ eight words are counted by one
instruction, without it LLVM counts with what there is (AVX2 byte shuffles, NEON cnt) and only the
time differs.

Letters as in `codes.py`: N rows, U unique codes, Q queries, w words, m tables of 16-bit substrings.
`unique` is [U] uint32 or uint64, ascending, or [w, U] uint64 for codes longer than a word. The rows
of unique code u are rows[starts[u]:starts[u + 1]], ascending. `allowed` is a bitmap of rows,
[ceil(N / 64)] uint64, or empty for all.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

BLOCK = 256  # codes whose least distance is taken at once; 2 KiB of words
RADIX_FROM = 1500  # rows that are sorted sooner by digits than by comparing
TILE = 32_768  # codes that a batch of queries shares while they are in the second cache

SAMPLE, SAMPLED_FROM = (
    16_384,
    64,
)  # codes that say where many neighbours end, and from how many on that is asked

# What the loops cost, in nanoseconds on the machine of docs/hamming.md; only ratios matter, and
# only for the speed.
NEAR, FAR = 24 << 20, 10.0  # bytes of codes that caches hold, and a read beyond them
SCAN_BYTE = 0.025  # reading a code in order, a byte
SHARED_BYTE = 0.009  # the same when a batch of queries shares what was read
BUCKET = 4.0  # finding a bucket
HERE = 0.8  # a candidate next to the one before
THERE = 5.0  # a candidate elsewhere in memory
NOTED = 25.0  # a candidate that is near enough to be noted
LISTED = 2.0  # an allowed row looked up by itself
WORTH = 0.6  # probing goes on while all of it should cost less than so much of a scan
TRIAL = 0.1  # and while nothing is known yet, so much


@intrinsic
def _popcount(typing, word):
    """Count the ones of an unsigned word: LLVM's ctpop."""

    def emit(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return word(word), emit


def _compiled(function):
    """Compiled on first use and kept for the next process, where there is a place that can be
    written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor a home can be written
        return numba.njit(nogil=True)(function)


def _inlined(function):
    """A part of another loop: handing arrays over would cost more than what it does."""
    return numba.njit(nogil=True, forceinline=True)(function)


# -- distances; one word and several are two functions each, chosen when they are compiled


def _distance(unique, place, query):
    """Distance of one unique code to the query [w]."""


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

    Written as vectors of 64 bytes, which LLVM cuts to what the CPU has: its own vectorizer stops at
    half of AVX-512 on some CPUs. Distances are below 2^32, so the least is taken over 32-bit lanes,
    which is one instruction where 64 bits are two.
    """
    word = codes.dtype
    lanes = 64 // (word.bitwidth // 8)

    def emit(context, builder, signature, arguments):
        distances, vector = _distances(context, builder, signature, arguments, BLOCK // lanes)
        limit = arguments[3]
        limit = builder.trunc(limit, vector.element) if word.bitwidth < 64 else limit
        narrow = ir.VectorType(ir.IntType(32), 16)
        least = []  # four of them, so that one does not wait for the other
        for i, distance in enumerate(distances):
            new = builder.bitcast(distance, narrow)
            least.append(new if i < 4 else _lesser(builder, least.pop(0), new))
        while len(least) > 1:
            least.append(_lesser(builder, least.pop(0), least.pop(0)))
        inside = builder.icmp_unsigned(
            "<=", builder.bitcast(least[0], vector), _splat(builder, limit, vector)
        )
        return builder.icmp_unsigned(
            "!=", builder.bitcast(inside, ir.IntType(lanes)), ir.Constant(ir.IntType(lanes), 0)
        )

    return types.boolean(codes, types.int64, word, types.int64), emit


@intrinsic
def _near_of_64(typing, codes, low, query, threshold):
    """Which of the 64 one-word codes from `low` on are within the threshold: bit i for code low +
    i."""
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
    """Instructions for the distances of codes from arguments[1] on to arguments[2], as `count`
    vectors; and their type."""
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


def _lesser(builder, a, b):
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


def _next_near(unique, low, high, query, threshold, work):
    """The first low + i BLOCK below `high` from which BLOCK codes, or what is left, hold one within
    the threshold; or `high`. `work` [BLOCK] is scratch."""


@overload(_next_near)
def _next_near_of(unique, low, high, query, threshold, work):
    def one(unique, low, high, query, threshold, work):
        q = query[0]
        while low + BLOCK <= high:
            if _any_near(unique, low, q, threshold):
                return low
            low += BLOCK
        for i in range(low, high):
            if np.int64(_popcount(unique[i] ^ q)) <= threshold:
                return low
        return high

    def several(unique, low, high, query, threshold, work):
        while low < high:
            size = min(BLOCK, high - low)
            for j in range(unique.shape[0]):
                codes, q = unique[j, low : low + size], query[j]
                if j == 0:
                    for i in range(size):
                        work[i] = _popcount(codes[i] ^ q)
                else:
                    for i in range(size):
                        work[i] += _popcount(codes[i] ^ q)
            least = work[0]
            for i in range(size):
                least = min(least, work[i])
            if np.int64(least) <= threshold:
                return low
            low += BLOCK
        return high

    return one if unique.ndim == 1 else several


def _near_mask(unique, low, high, query, threshold):
    """Which of the codes low <= u < high, at most 64, are within the threshold: bit i for code low
    + i."""


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
    """Hamming distances to every unique code: out [U] uint16, filled in place."""
    for i in range(out.size):
        out[i] = _distance(unique, i, query)


@_compiled
def counts(unique, items, queries, out):
    """How many items are at each distance: items [U] of every unique code, queries [Q, w], out [Q,
    b + 1] added to in place."""
    for low in range(0, items.size, BLOCK):
        high = min(low + BLOCK, items.size)
        for q in range(len(queries)):
            for i in range(low, high):
                out[q, _distance(unique, i, queries[q])] += items[i]


@_compiled
def total(numbers):
    """The sum of [n] uint64, which is as fast as memory can be read."""
    sum_ = np.uint64(0)
    for i in range(numbers.size):
        sum_ += numbers[i]
    return sum_


# -- what one query has found so far
# state = [entries in places and distances, items at distance <= threshold, threshold]. The
# threshold is the least distance within which k items are known, so nothing beyond it can be among
# the k nearest; histogram [b + 1] counts items.


@_inlined
def _allowed_rows(place, starts, rows, allowed):
    """How many rows of a unique code may be found."""
    if allowed.size == 0 and rows.size + 1 == starts.size:  # no code is there twice: one read less
        return np.int64(1)
    first, last = np.int64(starts[place]), np.int64(starts[place + 1])
    if allowed.size == 0:
        return last - first
    count = 0
    for i in range(first, last):
        row = np.int64(rows[i])
        count += np.int64((allowed[row >> 6] >> np.uint64(row & 63)) & np.uint64(1))
    return count


@_inlined
def _take(place, distance, items, k, histogram, places, distances, count, total, threshold):
    """Note a unique code of so many items, if any, within the threshold, and lower the threshold
    where k items are now nearer. Gives the state anew."""
    if items == 0:
        return count, total, threshold
    places[count] = place
    distances[count] = distance
    histogram[distance] += items
    total += items
    while threshold > 0 and total - histogram[threshold] >= k:
        total -= histogram[threshold]
        threshold -= 1
    return count + 1, total, threshold


@_compiled
def _drop_far(state, places, distances):
    """Forget the entries beyond the threshold."""
    kept = 0
    for i in range(state[0]):
        if distances[i] <= state[2]:
            places[kept], distances[kept] = places[i], distances[i]
            kept += 1
    state[0] = kept


@_compiled
def _longer(numbers, used):
    """A copy of the first `used` with room for twice as many as there was."""
    longer = np.empty(2 * numbers.size, numbers.dtype)
    longer[:used] = numbers[:used]
    return longer


@_compiled
def _scan(
    unique, starts, rows, allowed, query, k, low, high, histogram, state, places, distances, work
):
    """Compare the query with the codes low <= u < high. Gives at least `high`, or how far it came
    when the lists were full. `work` [BLOCK] is scratch."""
    count, total, threshold = state[0], state[1], state[2]
    while True:
        low = _next_near(unique, low, high, query, threshold, work)
        if low >= high:
            break
        if count + BLOCK > places.size:
            state[0], state[2] = count, threshold
            _drop_far(state, places, distances)
            count = state[0]
            if count + BLOCK > places.size:
                break
        end = min(low + BLOCK, high)
        for group in range(low, end, 64):
            near = _near_mask(unique, group, end, query, threshold)
            while near:
                u = group + np.int64(_popcount((near & (~near + np.uint64(1))) - np.uint64(1)))
                near &= near - np.uint64(1)
                distance = _distance(unique, u, query)
                if distance <= threshold:
                    items = _allowed_rows(u, starts, rows, allowed)
                    count, total, threshold = _take(
                        u, distance, items, k, histogram, places, distances, count, total, threshold
                    )
        low = end
    state[0], state[1], state[2] = count, total, threshold
    return low


@_compiled
def _scan_all(
    unique, starts, rows, allowed, query, k, low, high, histogram, state, places, distances
):
    """`_scan` with lists that grow; they are given back."""
    work = np.empty(BLOCK, np.uint64)
    while True:
        low = _scan(
            unique,
            starts,
            rows,
            allowed,
            query,
            k,
            low,
            high,
            histogram,
            state,
            places,
            distances,
            work,
        )
        if low >= high:
            return places, distances
        places, distances = _longer(places, state[0]), _longer(distances, state[0])


@_compiled
def _likely_bound(unique, query, k, bits):
    """A distance within which k of the codes are almost surely: what a sample of them says, with
    three deviations to spare.

    Without it a scan for many neighbours notes most of the first codes that it meets, only to
    forget them.
    """
    size = unique.shape[unique.ndim - 1]
    histogram, near = np.zeros(bits + 1, np.int64), np.empty(64, np.int64)
    stride = size // (SAMPLE // 64)
    for group in range(SAMPLE // 64):
        for i in range(64):
            near[i] = _distance(unique, group * stride + i, query)
        for i in range(64):
            histogram[near[i]] += 1
    expected = np.float64(k) * SAMPLE / size
    enough = expected + 3 * np.sqrt(expected) + 2
    bound, seen = 0, histogram[0]
    while bound < bits and seen < enough:
        bound += 1
        seen += histogram[bound]
    return bound


# -- probing


@_inlined
def _choices(n):
    """How many ways to choose 0 .. n of n: [n + 1] float64."""
    ways = np.ones(n + 1)
    for r in range(n):
        ways[r + 1] = ways[r] * (n - r) / (r + 1)
    return ways


@_inlined
def _next_mask(mask):
    """The next greater number with as many ones (Gosper)."""
    lowest = mask & -mask
    carried = mask + lowest
    zeros = np.int64(_popcount(np.uint64(lowest - 1)))
    return (((carried ^ mask) >> 2) >> zeros) | carried


@_inlined
def _substring(word, shift, ones):
    """The 16 bits of a table in a code."""
    return np.int64((np.uint64(word) >> np.uint64(shift)) & np.uint64(ones))


def _probe(
    unique,
    starts,
    rows,
    allowed,
    heads,
    order,
    query,
    bits,
    k,
    always,
    scan_byte,
    histogram,
    state,
    places,
    distances,
):
    """Look only into buckets of codes that share a substring with the query, or nearly; whether
    that sufficed.

    Multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012): of m disjoint substrings, a code
    within m s + t bits differs by at most s bits in one of the first t + 1, or by at most s - 1 in
    one of the others. So after the buckets within s bits in tables 0..t and within s - 1 in the
    others, everything up to distance m s + t has been seen. With table 0 alone (a Hamming ball
    around the first 16 bits, whose codes lie side by side) everything up to s has.
    """


@overload(_probe)
def _probe_of(
    unique,
    starts,
    rows,
    allowed,
    heads,
    order,
    query,
    bits,
    k,
    always,
    scan_byte,
    histogram,
    state,
    places,
    distances,
):
    def none(
        unique,
        starts,
        rows,
        allowed,
        heads,
        order,
        query,
        bits,
        k,
        always,
        scan_byte,
        histogram,
        state,
        places,
        distances,
    ):
        return False

    return none if unique.ndim == 2 else _probe_words


def _probe_words(
    unique,
    starts,
    rows,
    allowed,
    heads,
    order,
    query,
    bits,
    k,
    always,
    scan_byte,
    histogram,
    state,
    places,
    distances,
):
    tables, width = heads.shape[0], min(bits, 16)
    ones, buckets = (1 << width) - 1, _choices(width)
    nbytes = unique.size * unique.itemsize
    scan_cost = nbytes * scan_byte
    there = THERE if nbytes < NEAR else FAR
    radius = state[2]
    # sizes of the bucket of each table that holds the query, and of its neighbours at one bit
    own, beside = np.zeros(tables, np.float64), np.zeros(tables, np.float64)
    for t in range(tables):
        part = _substring(query[0], bits - width * (t + 1), ones)
        own[t] = heads[t, part + 1] - heads[t, part]
        for i in range(width):
            near = part ^ (1 << i)
            beside[t] += heads[t, near + 1] - heads[t, near]
    ball = (
        tables > 1
        and radius < bits
        and _ball_cost(buckets, own, beside, radius, scan_cost)
        < _mih_cost(buckets, own, beside, radius, 0, 0, there, scan_cost)
    )
    used = 1 if ball else tables
    spent = 0.0
    for s in range(width + 1):
        for t in range(used):
            if not always:
                left = WORTH * scan_cost - spent
                if ball:
                    rest = _ball_cost(buckets, own, beside, state[2], left)
                else:
                    rest = _mih_cost(buckets, own, beside, state[2], s, t, there, left)
                step = _step_cost(buckets, own, beside, s, t, there) + NOTED * max(
                    0, k - state[1]
                )  # all are, until k are
                if rest > left and spent + step > TRIAL * scan_cost:
                    return False
            shift = bits - width * (t + 1)
            part = _substring(query[0], shift, ones)
            mask = (1 << s) - 1
            seen, noted = 0, state[0]
            while mask <= ones:
                bucket = part ^ mask
                first, last = np.int64(heads[t, bucket]), np.int64(heads[t, bucket + 1])
                seen += last - first
                if state[0] + last - first > places.size:
                    _drop_far(state, places, distances)
                    if state[0] + last - first > places.size:
                        return False
                for i in range(first, last):
                    u = np.int64(i) if t == 0 else np.int64(order[t - 1, i])
                    word = unique[u] ^ query[0]
                    distance = np.int64(_popcount(word))
                    if distance <= state[2]:
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
                            items = _allowed_rows(u, starts, rows, allowed)
                            state[0], state[1], state[2] = _take(
                                u,
                                distance,
                                items,
                                k,
                                histogram,
                                places,
                                distances,
                                state[0],
                                state[1],
                                state[2],
                            )
                if s == 0:
                    break
                mask = _next_mask(mask)
            spent += (
                BUCKET * buckets[s]
                + seen * (HERE if t == 0 else there)
                + NOTED * max(0, state[0] - noted)
            )
            certain = s if ball else tables * s + t
            if state[2] <= certain:
                return True
    return True  # every bucket of a table was seen


@_inlined
def _step_cost(buckets, own, beside, s, t, there):
    """What the buckets of table t at s bits should cost: known sizes at 0 and 1, the neighbours'
    mean beyond."""
    codes = own[t] if s == 0 else beside[t] * buckets[s] / buckets[1]
    return BUCKET * buckets[s] + codes * (HERE if t == 0 else there)


@_inlined
def _mih_cost(buckets, own, beside, radius, s, t, there, enough):
    """What all steps from (s, t) on cost until everything within `radius` has been seen, or
    something beyond `enough`."""
    cost, tables = 0.0, own.size
    while s < buckets.size and cost <= enough:
        cost += _step_cost(buckets, own, beside, s, t, there)
        if tables * s + t >= radius:
            return cost
        t += 1
        if t == tables:
            s, t = s + 1, 0
    return cost


@_inlined
def _ball_cost(buckets, own, beside, radius, enough):
    cost, s = 0.0, 0
    while s <= min(radius, buckets.size - 1) and cost <= enough:
        cost += _step_cost(buckets, own, beside, s, 0, 0.0)
        s += 1
    return cost


# -- the answer in order


@_compiled
def sort(keys, bits):
    """Codes [N] of one word in ascending order and the row of each [N] uint32; equal codes keep the
    order of their rows.

    Radix sort, 11 bits a pass.
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
    if rows.size < RADIX_FROM:
        rows.sort()
    else:
        rows[:] = sort(rows.astype(np.uint32), 32)[0]


@_compiled
def _write(starts, rows, allowed, histogram, state, places, distances, out_rows, out_distances):
    """Fill both outputs [n] with the first n items by (distance, row)."""
    want, last = out_rows.size, state[2]
    fill = np.empty(last + 2, np.int64)
    fill[0] = 0
    for d in range(last + 1):
        fill[d + 1] = fill[d] + histogram[d]
    whole = last  # distances up to here are written whole; of the next only the first `need` rows
    while whole >= 0 and fill[whole + 1] > want:
        whole -= 1
    split = whole + 1
    need = want - fill[split] if split <= last else 0
    lists, candidates = np.zeros(last + 2, np.int64), 0
    for i in range(state[0]):
        if distances[i] <= last:
            lists[distances[i]] += 1
            if distances[i] == split and need > 0:
                candidates += min(
                    need, np.int64(starts[places[i] + 1]) - np.int64(starts[places[i]])
                )
    tied, tied_count = np.empty(candidates, np.int64), 0
    for i in range(state[0]):
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


# -- one query, and many

AUTO, SCAN, PROBE, TRY = 0, 1, 2, 3  # TRY probes only where that is worth it, and does not scan


@_compiled
def nearest(
    unique, starts, rows, heads, order, allowed, query, bits, k, limit, radius, path, low, high
):
    """The k nearest items within `radius`, with what is tied with the last, the first `limit` of
    them by (distance, row): rows [n] and distances [n] int64, and how many there are without the
    limit. Only codes low <= u < high are scanned; a TRY that was not worth it gives -1."""
    histogram = np.zeros(bits + 1, np.int64)
    state = np.array([0, 0, radius])
    room = 1024 + 4 * min(k, 2048)
    places, distances = np.empty(room, np.uint32), np.empty(room, np.uint16)
    done = False
    if path != SCAN and heads.shape[0] > 0:
        done = _probe(
            unique,
            starts,
            rows,
            allowed,
            heads,
            order,
            query,
            bits,
            k,
            path == PROBE,
            SCAN_BYTE,
            histogram,
            state,
            places,
            distances,
        )
        if not done:  # what was found says how far the nearest can be; the scan starts with that
            histogram[:] = 0
            state[0], state[1] = 0, 0
    if not done and path != TRY:
        bound, whole = state[2], high - low == unique.shape[unique.ndim - 1]
        if k >= SAMPLED_FROM and high - low >= 8 * SAMPLE and whole and allowed.size == 0:
            state[2] = min(bound, _likely_bound(unique, query, k, bits))
        places, distances = _scan_all(
            unique, starts, rows, allowed, query, k, low, high, histogram, state, places, distances
        )
        if state[1] < k and state[2] < bound:  # the sample was misleading
            histogram[:] = 0
            state[0], state[1], state[2] = 0, 0, bound
            places, distances = _scan_all(
                unique,
                starts,
                rows,
                allowed,
                query,
                k,
                low,
                high,
                histogram,
                state,
                places,
                distances,
            )
    out_rows = np.empty(min(limit, state[1]), np.int64)
    out_distances = np.empty(out_rows.size, np.int64)
    _write(starts, rows, allowed, histogram, state, places, distances, out_rows, out_distances)
    return out_rows, out_distances, np.int64(-1) if path == TRY and not done else state[1]


@_compiled
def nearest_many(
    unique, starts, rows, heads, order, allowed, queries, bits, k, limit, radius, path, room
):
    """`nearest` for queries [Q, w]: the answers one after the other, where each begins [Q + 1], the
    numbers without limit [Q]; -1 there for a query with more near codes than `room`, which has to
    be asked alone."""
    count, size = queries.shape[0], unique.shape[unique.ndim - 1]
    histogram = np.zeros((count, bits + 1), np.int64)
    state = np.zeros((count, 3), np.int64)
    places, distances = np.empty((count, room), np.uint32), np.empty((count, room), np.uint16)
    waiting, alone = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    for q in range(count):
        state[q, 2] = radius
        if path != SCAN and heads.shape[0] > 0:
            done = _probe(
                unique,
                starts,
                rows,
                allowed,
                heads,
                order,
                queries[q],
                bits,
                k,
                path == PROBE,
                SHARED_BYTE,
                histogram[q],
                state[q],
                places[q],
                distances[q],
            )
            if done:
                waiting[q] = False
            else:
                histogram[q, :] = 0
                state[q, 0], state[q, 1] = 0, 0
    work = np.empty(BLOCK, np.uint64)
    queue = np.flatnonzero(waiting)
    bounds = state[:, 2].copy()
    if k >= SAMPLED_FROM and size >= 8 * SAMPLE and allowed.size == 0:
        for q in queue:
            state[q, 2] = min(bounds[q], _likely_bound(unique, queries[q], k, bits))
    for tile in range(0, size, TILE):
        tile_end = min(tile + TILE, size)
        for q in queue:
            if alone[q]:
                continue
            low = _scan(
                unique,
                starts,
                rows,
                allowed,
                queries[q],
                k,
                tile,
                tile_end,
                histogram[q],
                state[q],
                places[q],
                distances[q],
                work,
            )
            alone[q] = low < tile_end
    totals, begins = np.empty(count, np.int64), np.zeros(count + 1, np.int64)
    for q in queue:
        alone[q] = alone[q] or (
            state[q, 1] < k and state[q, 2] < bounds[q]
        )  # the sample was misleading
    for q in range(count):
        totals[q] = -1 if alone[q] else state[q, 1]
        begins[q + 1] = begins[q] + (0 if alone[q] else min(limit, state[q, 1]))
    out_rows, out_distances = np.empty(begins[count], np.int64), np.empty(begins[count], np.int64)
    for q in range(count):
        if not alone[q]:
            mine = slice(begins[q], begins[q + 1])
            _write(
                starts,
                rows,
                allowed,
                histogram[q],
                state[q],
                places[q],
                distances[q],
                out_rows[mine],
                out_distances[mine],
            )
    return out_rows, out_distances, begins, totals


@_compiled
def nearest_listed(unique, place_of_row, listed, query, bits, k, limit, radius):
    """`nearest` among few rows, `listed` [A] ascending, each looked up by itself."""
    distances = np.empty(listed.size, np.uint16)
    histogram = np.zeros(bits + 2, np.int64)
    for i in range(listed.size):
        distance = _distance(unique, np.int64(place_of_row[listed[i]]), query)
        distances[i] = distance
        histogram[distance] += 1
    last, total = -1, 0
    while last < radius and total < k:
        last += 1
        total += histogram[last]
    fill = np.zeros(bits + 2, np.int64)
    for d in range(last):
        fill[d + 1] = fill[d] + histogram[d]
    want = min(limit, total)
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
    """Sorted codes and their rows -> unique codes [U], starts [U + 1] and the place of each row
    [N], all uint32 but the first."""
    count = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            count += 1
    unique, starts = np.empty(count, keys.dtype), np.empty(count + 1, np.uint32)
    place_of_row = np.empty(keys.size, np.uint32)
    u = -1
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            u += 1
            unique[u], starts[u] = keys[i], i
        place_of_row[rows[i]] = u
    starts[count] = keys.size
    return unique, starts, place_of_row


@_compiled
def tables(unique, bits, count):
    """Where the codes with each substring are: heads [m, 2^16 + 1] and, for all tables but the
    first, whose codes lie in order already, their places [m - 1, U] sorted by substring. Substring
    t is the bits from b - 16 (t + 1) up."""
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
