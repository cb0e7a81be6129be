"""Probing: a query is compared only with the codes that share a substring with it, or nearly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wingbar.hamming.compiling import inlined, popcount, prefetch
from wingbar.hamming.found import (
    ENTRIES,
    ITEMS,
    THRESHOLD,
    allowed_items,
    drop_far,
    note,
    progress_of,
    save,
)
from wingbar.hamming.records import PROBE
from wingbar.hamming.words import as_codes, distance_of, piece

WIDTH = 16  # bits of a substring, fewer for shorter codes
MOST_TABLES = 4  # substrings that are tabled
AHEAD = 64  # buckets that are on their way from memory together

MAX_PROBE_SHARE = 0.6  # probing continues while its expected cost is below this share of a scan
MAX_TRIAL_SHARE = 0.15  # and in any case until it has cost this share


# -- substrings


@inlined
def substring(codes, place, bits, table):
    """The substring of a code in a table: the `WIDTH` bits from b - WIDTH (t + 1) up."""
    width = min(bits, WIDTH)
    return np.int64(piece(codes, place, bits - width * (table + 1)) & np.uint64((1 << width) - 1))


@inlined
def sketch(codes, place, bits, table):
    """32 bits of a code beside its substring, as uint32: those below, filled up with those above
    if they are fewer. Of codes of up to 48 bits that is all the rest."""
    low = bits - min(bits, WIDTH) * (table + 1)
    first = max(0, low - 32)
    below = np.uint64(low - first)
    window = piece(codes, place, first)
    rest = (window >> (below + np.uint64(WIDTH))) << below
    return np.uint32((window & ((np.uint64(1) << below) - np.uint64(1))) | rest)


# -- what it costs


class Buckets(NamedTuple):
    """What the cost of probing depends on, for one query.

    choices: [b' + 1] float64, the number of substrings at each distance from one of b' bits.
    own: [m] float64, the number of codes in the query's own bucket of each table.
    beside: [m] float64, the number of codes in the buckets at one bit from it.
    ns_bucket: nanoseconds to look up a bucket.
    ns_candidate: nanoseconds to compare a code in it.
    """

    choices: np.ndarray
    own: np.ndarray
    beside: np.ndarray
    ns_bucket: float
    ns_candidate: float


@inlined
def _buckets(table, query, costs):
    """The sizes of the query's buckets; the codes in its own ones are fetched meanwhile."""
    tables, width = table.heads.shape[0], min(table.bits, WIDTH)
    choices = np.ones(width + 1)
    for r in range(width):
        choices[r + 1] = choices[r] * (width - r) / (r + 1)
    own_code = as_codes(table.unique, query)
    own, beside = np.zeros(tables, np.float64), np.zeros(tables, np.float64)
    for t in range(tables):
        part = substring(own_code, 0, table.bits, t)
        first, last = np.int64(table.heads[t, part]), np.int64(table.heads[t, part + 1])
        own[t] = last - first
        _prefetch_bucket(table, t, first, last)  # that will be compared in any case
        for i in range(width):
            near = part ^ (1 << i)
            beside[t] += table.heads[t, near + 1] - table.heads[t, near]
    nbytes = table.sketches.size * 4
    ns_bucket = costs.bucket[0 if nbytes <= 4 << 20 else 1 if nbytes <= 16 << 20 else 2]
    return Buckets(choices, own, beside, ns_bucket, costs.candidate)


@inlined
def _prefetch_bucket(table, t, first, last):
    size = table.starts.size - 1
    prefetch(table.sketches, t * size + first)
    prefetch(table.sketches, t * size + last - 1)


@inlined
def _ns_step(buckets, s, t):
    """Expected nanoseconds for the buckets of table t at s bits: their sizes are known for 0 and 1
    bits, and estimated by the mean of the latter beyond."""
    choices = buckets.choices
    codes = buckets.own[t] if s == 0 else buckets.beside[t] * choices[s] / choices[1]
    return buckets.ns_bucket * choices[s] + codes * buckets.ns_candidate


@inlined
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


@inlined
def _ns_ball(buckets, radius, enough):
    """The same with table 0 alone, from the start."""
    ns, s = 0.0, 0
    while s <= min(radius, buckets.choices.size - 1) and ns <= enough:
        ns += _ns_step(buckets, s, 0)
        s += 1
    return ns


# -- the search


@inlined
def probe(table, allowed, query, request, found, ns_byte):
    """Compare the query [w] only with the codes that share a substring with it, or nearly.

    Multi-index hashing (Norouzi, Punjani & Fleet, CVPR 2012): of m disjoint substrings, a code
    within m s + t bits differs by at most s bits in one of the first t + 1, or by at most s - 1 in
    one of the others. So after the buckets within s bits in tables 0..t and within s - 1 in the
    others, everything up to distance m s + t has been seen. With table 0 alone (a Hamming ball
    around the first 16 bits, whose codes lie side by side) everything up to s has.

    Each table has the sketches of its codes bucket by bucket; the codes themselves are read only
    where substring and sketch together are within the threshold.

    Returns whether all nearest items are noted in `found`; false when probing was given up because
    a scan, at `ns_byte` nanoseconds a byte, is likely to be cheaper.
    """
    heads, bits, state = table.heads, table.bits, found.state
    own = as_codes(table.unique, query)
    tables, width = heads.shape[0], min(bits, WIDTH)
    ones = (1 << width) - 1
    firsts, lasts = found.scratch[:AHEAD], found.scratch[AHEAD : 2 * AHEAD]
    near = found.scratch[2 * AHEAD : 4 * AHEAD]
    ns_scan = table.unique.size * table.unique.itemsize * ns_byte
    buckets = _buckets(table, query, request.costs)
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
            part, rest_of_query = substring(own, 0, bits, t), sketch(own, 0, bits, t)
            mask, more = (1 << s) - 1, True
            compared, entries = 0, state[ENTRIES]
            while more:
                ahead = 0
                while more and ahead < AHEAD:
                    bucket = part ^ mask
                    first, last = np.int64(heads[t, bucket]), np.int64(heads[t, bucket + 1])
                    if first < last:
                        _prefetch_bucket(table, t, first, last)
                        firsts[ahead], lasts[ahead] = first, last
                        ahead += 1
                    mask = _next_mask(mask) if s else ones + 1
                    more = mask <= ones
                count = 0
                for j in range(ahead):
                    first, last = np.int64(firsts[j]), np.int64(lasts[j])
                    compared += last - first
                    for i in range(first, last):
                        sketched = np.int64(popcount(table.sketches[t, i] ^ rest_of_query))
                        if s + sketched <= state[THRESHOLD]:
                            near[count] = i
                            count += 1
                            if count == near.size:
                                if not _has_room(found, count):
                                    return False
                                _note_near(table, allowed, query, found, near, s, t, used)
                                count = 0
                if not _has_room(found, count):
                    return False
                _note_near(table, allowed, query, found, near[:count], s, t, used)
            spent += (
                buckets.ns_bucket * buckets.choices[s]
                + compared * buckets.ns_candidate
                + request.costs.noted * max(0, state[ENTRIES] - entries)
            )
            certain = s if ball else tables * s + t
            if state[THRESHOLD] <= certain:
                return True
    return True  # every bucket of a table was seen


@inlined
def _has_room(found, count):
    """Whether `count` more codes can be noted, if need be after what is too far was dropped."""
    if found.state[ENTRIES] + count > found.places.size:
        drop_far(found)
    return found.state[ENTRIES] + count <= found.places.size


@inlined
def _note_near(table, allowed, query, found, near, s, t, used):
    """Note the codes at places `near` in the order of table t, met in step (s, t), that are within
    the threshold and were in no bucket before. They lie anywhere, so all are fetched at once."""
    unique, bits = table.unique, table.bits
    if t > 0:
        for j in range(near.size):
            prefetch(table.order, (t - 1) * (table.starts.size - 1) + np.int64(near[j]))
        for j in range(near.size):
            near[j] = table.order[t - 1, near[j]]
    for j in range(near.size):
        prefetch(unique, np.int64(near[j]))
        prefetch(table.starts, np.int64(near[j]))
    own = as_codes(unique, query)
    for j in range(near.size):
        u = np.int64(near[j])
        distance = distance_of(unique, u, query)
        new = distance <= found.state[THRESHOLD]
        for other in range(used if new else 0):
            parts = substring(unique, u, bits, other) ^ substring(own, 0, bits, other)
            differ = np.int64(popcount(np.uint64(parts)))
            if (other < t and differ <= s) or (other > t and differ < s):
                new = False
        if new:
            items = allowed_items(table, allowed, u)
            save(found, note(found, progress_of(found), u, distance, items))


@inlined
def _next_mask(mask):
    """The next greater number with as many ones (Gosper)."""
    lowest = mask & -mask
    carried = mask + lowest
    zeros = np.int64(popcount(np.uint64(lowest - 1)))
    return (((carried ^ mask) >> 2) >> zeros) | carried
