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
