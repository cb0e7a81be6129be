from __future__ import annotations

import numpy as np
import pytest

from wingbar.hamming import codes, planes
from wingbar.hamming.codes import Codes


@pytest.mark.parametrize("b", [8, 17, 48, 64, 100, 256])
def test_planes_are_the_bits_of_the_codes(b: int) -> None:
    rng = np.random.default_rng(b)
    table = Codes(codes.pack(rng.random((600, b)) < 0.5), b, compiled=True, planes=True)._parts[0]
    unique = table.table.unique
    words = (unique[None] if unique.ndim == 1 else unique).astype(np.uint64)
    bits = codes.unpack(np.ascontiguousarray(words.T), b)
    padded = np.zeros((-(-len(bits) // 256) * 256, planes.width(b)), bool)
    padded[: len(bits), :b] = bits[:, ::-1]  # the most significant first
    expected = codes.pack(
        np.ascontiguousarray(padded.reshape(-1, 256, padded.shape[1]).transpose(0, 2, 1)).reshape(
            -1, 256
        )
    )
    np.testing.assert_array_equal(table.table.planes.reshape(-1, 4), expected)


@pytest.mark.parametrize("b", [32, 64, 127, 256])
def test_every_threshold_is_inclusive(b: int) -> None:
    """From no bit that differs to all of them: the sums overflow beyond the threshold only."""
    away = np.tril(np.ones((b + 1, b), bool), -1)  # code d is d bits away from zero
    searchable = Codes(codes.pack(away), b, compiled=True, planes=True)
    zero = np.zeros((1, codes.words(b)), np.uint64)
    for radius in range(b + 1):
        [found] = searchable.within(zero, radius, path="planes")
        assert found.distances.tolist() == list(range(radius + 1))
        assert found.ids.tolist() == list(range(radius + 1))
