"""A scan of codes as words: XOR, population count and minimum over blocks of codes.

With AVX-512 VPOPCNTDQ one instruction counts the bits of eight words; elsewhere LLVM uses what
there is (AVX2 byte shuffles, NEON cnt), with the same results.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from wingbar.hamming.compiling import compiled, popcount, trailing_zeros
from wingbar.hamming.found import BLOCK, allowed_items, drop_far, note, progress_of, save

# -- codes of one word and of several have a function each, chosen at compile time


def distance_of(unique, place, query):
    """Distance in bits of one distinct code to the query [w]."""


@overload(distance_of, jit_options={"forceinline": True})
def _distance_of(unique, place, query):
    def one(unique, place, query):
        return np.int64(popcount(unique[place] ^ query[0]))

    def several(unique, place, query):
        distance = types.int64(0)
        for j in range(unique.shape[0]):
            distance += np.int64(popcount(unique[j, place] ^ query[j]))
        return distance

    return one if unique.ndim == 1 else several


def piece(unique, place, start):
    """The 64 bits of one distinct code from bit `start` up, as a word; zeros beyond its last."""


@overload(piece, jit_options={"forceinline": True})
def _piece_of(unique, place, start):
    def one(unique, place, start):
        return np.uint64(unique[place]) >> np.uint64(start)

    def several(unique, place, start):
        word, shift = start >> 6, start & 63
        bits = unique[word, place] >> np.uint64(shift)
        if shift > 0 and word + 1 < unique.shape[0]:
            bits |= unique[word + 1, place] << np.uint64(64 - shift)
        return bits

    return one if unique.ndim == 1 else several


def as_codes(unique, query):
    """A query [w] as a set of one code, in the layout of `unique`."""


@overload(as_codes, jit_options={"forceinline": True})
def _as_codes_of(unique, query):
    def one(unique, query):
        return query

    def several(unique, query):
        return query.reshape((query.size, 1))

    return one if unique.ndim == 1 else several


# -- blocks of codes


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
            if np.int64(popcount(unique[i] ^ q)) <= threshold:
                return low
        return high

    def several(unique, low, high, query, threshold, scratch):
        while low < high:
            size = min(BLOCK, high - low)
            for j in range(unique.shape[0]):
                codes, q = unique[j, low : low + size], query[j]
                if j == 0:
                    for i in range(size):
                        scratch[i] = popcount(codes[i] ^ q)
                else:
                    for i in range(size):
                        scratch[i] += popcount(codes[i] ^ q)
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
            if distance_of(unique, i, query) <= threshold:
                near |= np.uint64(1) << np.uint64(i - low)
        return near

    def several(unique, low, high, query, threshold):
        near = np.uint64(0)
        for i in range(low, min(low + 64, high)):
            if distance_of(unique, i, query) <= threshold:
                near |= np.uint64(1) << np.uint64(i - low)
        return near

    return one if unique.ndim == 1 else several


@compiled
def scan(table, allowed, query, found, low, high):
    """Compare the query with the codes low <= u < high and note the near ones.

    Returns at least `high`, or the code that it stopped before because the lists were full.
    """
    unique, progress = table.unique, progress_of(found)
    while True:
        low = _next_near(unique, low, high, query, progress.threshold, found.scratch)
        if low >= high:
            break
        if progress.entries + BLOCK > found.places.size:
            save(found, progress)
            drop_far(found)
            progress = progress_of(found)
            if progress.entries + BLOCK > found.places.size:
                break
        end = min(low + BLOCK, high)
        for group in range(low, end, 64):
            near = _near_mask(unique, group, end, query, progress.threshold)
            while near:
                u = group + np.int64(trailing_zeros(near))
                near &= near - np.uint64(1)
                distance = distance_of(unique, u, query)
                if distance <= progress.threshold:
                    items = allowed_items(table, allowed, u)
                    progress = note(found, progress, u, distance, items)
        low = end
    save(found, progress)
    return low


@compiled
def distances(unique, query, out):
    """Distances of one query [w] to every distinct code, written to `out` [U] uint16."""
    for i in range(out.size):
        out[i] = distance_of(unique, i, query)


@compiled
def counts(unique, items, queries, out):
    """Count the items at each distance from each query.

    `items` [U] int64 is the number of items of each distinct code, `queries` is [Q, w]; the counts
    are added to `out` [Q, b + 1] int64.
    """
    for low in range(0, items.size, BLOCK):
        high = min(low + BLOCK, items.size)
        for q in range(len(queries)):
            for i in range(low, high):
                out[q, distance_of(unique, i, queries[q])] += items[i]
