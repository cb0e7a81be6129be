from __future__ import annotations

import numba
import numpy as np

from wingbar.hamming import words


@numba.njit
def piece(unique: np.ndarray, place: int, start: int) -> np.uint64:
    return words.piece(unique, place, start)  # type: ignore[no-untyped-call]


def test_a_piece_may_lie_across_words() -> None:
    number = 0x0123456789ABCDEF_FEDCBA9876543210
    one = np.array([number & (2**64 - 1)], np.uint64)
    two = np.array([[number & (2**64 - 1)], [number >> 64]], np.uint64)
    for start in (0, 1, 40, 63):
        assert int(piece(one, 0, start)) == int(one[0]) >> start
    for start in (0, 1, 40, 63, 64, 100, 127):
        assert int(piece(two, 0, start)) == number >> start & (2**64 - 1)


@numba.njit
def near_mask(
    unique: np.ndarray, low: int, high: int, query: np.ndarray, threshold: int
) -> np.uint64:
    return words._near_mask(unique, low, high, query, threshold)  # type: ignore[no-untyped-call]


def test_the_near_codes_of_64_are_those_within_the_threshold() -> None:
    """Of one word and of two, in groups of 64, fewer at the end, and one; never one after them."""
    rng = np.random.default_rng(0)
    for width in (1, 2):
        numbers = rng.integers(0, 2**63, (width, 150), np.uint64)
        query = numbers[:, 70] ^ np.uint64(1)
        distance = np.bitwise_count(numbers ^ query[:, None]).sum(0)
        unique = numbers[0] if width == 1 else numbers
        for low, high in ((0, 150), (64, 128), (64, 150), (128, 150), (70, 71), (71, 71)):
            for threshold in (0, 1, int(np.median(distance)), 64 * width):
                found = int(near_mask(unique, low, high, query, threshold))
                near = np.flatnonzero(distance[low : min(low + 64, high)] <= threshold)
                assert found == sum(1 << int(i) for i in near), (width, low, high, threshold)
