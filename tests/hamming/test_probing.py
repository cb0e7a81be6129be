from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from wingbar.hamming import building, codes, probing
from wingbar.hamming.codes import Codes


@pytest.mark.parametrize("b", [20, 32, 40, 48, 64, 100, 130])
def test_tables_have_substrings_and_sketches(b: int) -> None:
    """The bits from b - 16 (t + 1) up, and 32 beside them: below as far as there are any."""
    rng = np.random.default_rng(b)
    part = Codes(codes.pack(rng.random((50, b)) < 0.5), b, compiled=True)._parts[0]
    unique = part.table.unique
    numbers = [
        sum(int(word) << (64 * j) for j, word in enumerate(np.atleast_1d(unique.T[i])))
        for i in range(part.size)
    ]
    count = building.table_count(b)
    heads, order, sketches = building.tables(unique, b, count)
    assert count == min(4, b // 16)
    for t in range(count):
        low = b - 16 * (t + 1)
        first = max(0, low - 32)
        substrings = [number >> low & 0xFFFF for number in numbers]
        place = np.argsort(substrings, kind="stable")
        if t > 0:
            np.testing.assert_array_equal(order[t - 1], place)
        np.testing.assert_array_equal(
            heads[t], np.searchsorted(np.sort(substrings), np.arange(2**16 + 1))
        )
        for i, u in enumerate(place):
            bits = [number for number in range(first, b) if not low <= number < low + 16][:32]
            expected = sum((numbers[u] >> bit & 1) << j for j, bit in enumerate(bits))
            assert sketches[t, i] == expected


def test_a_sketch_of_up_to_48_bits_is_all_the_rest() -> None:
    code = np.array([0xABCD_1234_5678], np.uint64)
    assert [probing.substring(code, 0, 48, t) for t in range(3)] == [0xABCD, 0x1234, 0x5678]
    assert [int(probing.sketch(code, 0, 48, t)) for t in range(3)] == [
        0x12345678,
        0xABCD5678,
        0xABCD1234,
    ]


@pytest.mark.parametrize("ones", [1, 2, 3, 15, 16])
def test_all_masks_of_as_many_ones_follow_each_other(ones: int) -> None:
    mask, found = (1 << ones) - 1, []
    while mask < 1 << 16:
        found.append(mask)
        mask = probing._next_mask(mask)
    expected = sorted(sum(1 << bit for bit in bits) for bits in combinations(range(16), ones))
    assert found == expected
