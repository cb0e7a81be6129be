"""A scan of codes as bit planes, for CPUs that cannot count the bits of words in a vector.

Plane j of a block holds bit j of its 256 codes, the most significant first. A distance is then a
sum of 256 bits at a time: full adders, which are five logic operations, take three planes of the
same weight to one of that weight and one of twice the weight (a carry-save adder; Muła, Kurz &
Lemire, Faster Population Counts Using AVX2 Instructions, The Computer Journal 2018). The sums
begin so high that those beyond the threshold overflow: the overflow says which codes are near. A
block ends as soon as all of its codes are too far. Codes are sorted, so the first planes of a block
are nearly constant.

The vectors are LLVM's, of 256 bits, which it splits into those of the CPU.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from wingbar.hamming.compiling import compiled, inlined, trailing_zeros
from wingbar.hamming.found import BLOCK, allowed_items, drop_far, note, progress_of, save
from wingbar.hamming.words import piece

PLANE_WORDS = BLOCK // 64  # of a plane
GROUP = 16  # planes added before the sums are looked at
LEVELS = 7, 11  # binary digits of the sums, for codes of one word and of several
MOST_BITS = 1024  # of a code; the sums of longer ones have more digits


@functools.cache
def pay() -> bool:
    """Whether a scan of planes is faster than one of words on this CPU, as measured on those with
    AVX2 and those with AVX-512 VPOPCNTDQ."""
    features = binding.get_host_cpu_features()
    return features.get("avx2", False) and not features.get("avx512vpopcntdq", False)


class Sliced(NamedTuple):
    """A query as planes, and the sums of the block that it is compared with.

    masks: [b', PLANE_WORDS] uint64: plane j is all ones where bit j of the query is set, so that
        XOR with it gives the bits that differ; b' is b rounded up to a multiple of GROUP, or 0 for
        a query that is compared with words.
    start: [LEVELS + 1, PLANE_WORDS] uint64, the digits at which the sums begin, lowest first.
    sums: the same, those of the last block that has near codes.
    """

    masks: np.ndarray
    start: np.ndarray
    sums: np.ndarray


def width(bits: int) -> int:
    """Number of planes, b', of codes of `bits` bits."""
    return -(-bits // GROUP) * GROUP


@compiled
def build(unique, bits, count):
    """The planes of codes: [ceil(U / BLOCK), count, PLANE_WORDS] uint64."""
    size = unique.shape[unique.ndim - 1]
    planes = np.zeros(((size + BLOCK - 1) // BLOCK, count, PLANE_WORDS), np.uint64)
    square = np.empty(64, np.uint64)
    for first in range(0, size, 64):
        for start in range(0, bits, 64):
            for i in range(64):
                square[i] = piece(unique, first + i, start) if first + i < size else np.uint64(0)
            _transpose(square)
            for i in range(min(64, bits - start)):
                planes[first // BLOCK, bits - 1 - start - i, first % BLOCK // 64] = square[i]
    return planes


@inlined
def _transpose(square):
    """Turn 64 words into the 64 words of their bits 0, 1, ... (Warren, Hacker's Delight, 7-3)."""
    size, mask = 32, np.uint64(0xFFFFFFFF)
    while size:
        shift, i = np.uint64(size), 0
        while i < 64:
            swapped = ((square[i] >> shift) ^ square[i + size]) & mask
            square[i] ^= swapped << shift
            square[i + size] ^= swapped
            i = (i + size + 1) & ~size
        size >>= 1
        mask ^= mask << np.uint64(size)


@inlined
def write_masks(bits, query, masks):
    """Write the planes of a query [w] to `masks` [b', PLANE_WORDS], which are zeros; nothing if b'
    is 0."""
    for j in range(bits if len(masks) else 0):
        bit = bits - 1 - j
        one = (np.uint64(query[bit >> 6]) >> np.uint64(bit & 63)) & np.uint64(1)
        masks[j] = np.uint64(0) - one


@inlined
def sums(queries):
    """Room for the sums of a block, for queries [..., w]."""
    levels = LEVELS[0] if queries.shape[queries.ndim - 1] == 1 else LEVELS[1]
    return np.empty((levels + 1, PLANE_WORDS), np.uint64)


@compiled
def scan(table, allowed, query, found, low, high):
    """Compare the query, a Sliced one, with the codes low <= u < high and note the near ones; `low`
    is a multiple of BLOCK.

    Returns at least `high`, or the code that it stopped before because the lists were full.
    """
    levels, groups = len(query.sums) - 1, len(query.masks) // GROUP
    progress = progress_of(found)
    threshold = progress.threshold
    _set_threshold(query.start, threshold)
    for block in range(low // BLOCK, (high + BLOCK - 1) // BLOCK):
        if not _has_near(table.unique, table.planes, block, query, groups):
            continue
        if progress.entries + BLOCK > found.places.size:
            save(found, progress)
            drop_far(found)
            progress = progress_of(found)
            if progress.entries + BLOCK > found.places.size:
                return block * BLOCK
        sum_at_0 = (1 << levels) - 1 - threshold
        for word in range(PLANE_WORDS):
            first = block * BLOCK + word * 64
            near = ~query.sums[levels, word]
            if high - first < 64:
                near &= (np.uint64(1) << np.uint64(max(0, high - first))) - np.uint64(1)
            if progress.threshold < threshold:
                near &= _within(query.sums, word, sum_at_0 + progress.threshold)
            while near:
                i = trailing_zeros(near)
                near &= near - np.uint64(1)
                distance = -sum_at_0
                for level in range(levels):
                    digit = (query.sums[level, word] >> i) & np.uint64(1)
                    distance += np.int64(digit << np.uint64(level))
                if distance <= progress.threshold:
                    u, before = first + np.int64(i), progress.threshold
                    items = allowed_items(table, allowed, u)
                    progress = note(found, progress, u, distance, items)
                    if progress.threshold < before:  # at first all are near, so look no further
                        near &= _within(query.sums, word, sum_at_0 + progress.threshold)
        if progress.threshold < threshold:
            threshold = progress.threshold
            _set_threshold(query.start, threshold)
    save(found, progress)
    return high


@inlined
def _within(sums, word, most):
    """Which of the 64 sums of a word that did not overflow are at most `most`."""
    below, equal = np.uint64(0), ~np.uint64(0)
    for level in range(len(sums) - 2, -1, -1):
        digit = sums[level, word]
        if (most >> level) & 1:
            below |= equal & ~digit
            equal &= digit
        else:
            equal &= ~digit
    return below | equal


@inlined
def _set_threshold(start, threshold):
    """Let the sums begin so high that those beyond the threshold overflow their digits."""
    levels = len(start) - 1
    first = (1 << levels) - 1 - threshold
    for level in range(levels + 1):
        start[level] = np.uint64(0) - np.uint64((first >> level) & 1)


def _has_near(unique, planes, block, query, groups):
    """Whether a code of the block is within the threshold; if so, query.sums are its sums."""


@overload(_has_near, jit_options={"forceinline": True})
def _has_near_of(unique, planes, block, query, groups):
    def one(unique, planes, block, query, groups):
        return _sum_one_word(planes, block, groups, query.masks, query.start, query.sums)

    def several(unique, planes, block, query, groups):
        return _sum_several(planes, block, groups, query.masks, query.start, query.sums)

    return one if unique.ndim == 1 else several


def _summing(levels: int):
    """An intrinsic that adds the planes of a block, as sums of `levels` digits and an overflow."""

    @intrinsic
    def summed(typing, planes, block, groups, masks, start, sums):
        def emit(context, builder, signature, arguments):
            vector = ir.VectorType(ir.IntType(64), PLANE_WORDS)

            def vectors(i):
                array = context.make_array(signature.args[i])(context, builder, arguments[i])
                return builder.bitcast(array.data, vector.as_pointer())

            def load(pointer, i):
                return builder.load(builder.gep(pointer, [i]), align=8)

            def constant(i):
                return ir.Constant(ir.IntType(64), i)

            block, groups = arguments[1:3]
            size = builder.mul(groups, constant(GROUP))
            first = builder.gep(vectors(0), [builder.mul(block, size)])
            masks, start, sums = (vectors(i) for i in (3, 4, 5))
            digits = [cgutils.alloca_once(builder, vector) for _ in range(levels + 1)]
            for i, digit in enumerate(digits):
                builder.store(load(start, constant(i)), digit)
            some = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(1), 0))
            with cgutils.for_range(builder, groups) as loop:
                group = builder.mul(loop.index, constant(GROUP))

                def differing(i):
                    plane = builder.add(group, constant(i))
                    return builder.xor(load(first, plane), load(masks, plane))

                added = _add_group(builder, [builder.load(digit) for digit in digits], differing)
                for digit, value in zip(digits, added, strict=True):
                    builder.store(value, digit)
                inside = builder.bitcast(builder.not_(added[-1]), ir.IntType(BLOCK))
                is_near = builder.icmp_unsigned("!=", inside, ir.Constant(inside.type, 0))
                builder.store(is_near, some)
                with builder.if_then(builder.not_(is_near)):
                    loop.do_break()
            near = builder.load(some)
            with builder.if_then(near):
                for i, digit in enumerate(digits):
                    builder.store(builder.load(digit), builder.gep(sums, [constant(i)]), align=8)
            return near

        return types.boolean(planes, types.int64, types.int64, masks, start, sums), emit

    return summed


_sum_one_word, _sum_several = (_summing(levels) for levels in LEVELS)


def _add_group(builder, digits, plane):
    """Emit the digits after GROUP planes have been added, of which `plane(i)` emits one. The last
    digit is the overflow, which is kept."""
    digits = list(digits)

    def add(level, first):
        """Add 2^(level + 1) planes from `first` on; returns the carry out of `level`."""
        if level == 0:
            two = plane(first), plane(first + 1)
        else:
            two = add(level - 1, first), add(level - 1, first + (1 << level))
        digits[level], carry = _full_adder(builder, digits[level], *two)
        return carry

    whole = GROUP.bit_length() - 1
    carry = add(whole - 1, 0)
    for level in range(whole, len(digits) - 1):
        digits[level], carry = (
            builder.xor(digits[level], carry),
            builder.and_(digits[level], carry),
        )
    digits[-1] = builder.or_(digits[-1], carry)
    return digits


def _full_adder(builder, a, b, c):
    """Emit the two digits of the sum of three."""
    differ = builder.xor(a, b)
    carry = builder.or_(builder.and_(a, b), builder.and_(differ, c))
    return builder.xor(differ, c), carry
