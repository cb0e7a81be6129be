from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingbar import codes
from wingbar.codes import Codes


def brute_force(
    query: np.ndarray, bits: np.ndarray, k: int, radius: int | None, allowed: np.ndarray, include: bool
) -> list[tuple[int, int]]:
    """(distance, row) of what should be found: compare every bit, sort, cut."""
    ranked = sorted((int((row != query).sum()), i) for i, row in enumerate(bits) if allowed[i])
    ranked = [pair for pair in ranked if radius is None or pair[0] <= radius]
    if include and len(ranked) > k:
        return [pair for pair in ranked if pair[0] <= ranked[k - 1][0]]
    return ranked[:k]


@pytest.mark.parametrize("b", [1, 7, 12, 31, 32, 33, 48, 63, 64, 65, 128, 200])
def test_packing_is_undone(b: int) -> None:
    bits = np.random.default_rng(b).random((50, b)) < 0.5
    packed = codes.pack(bits)
    assert packed.shape == (50, codes.words(b))
    assert packed.dtype == np.uint64
    np.testing.assert_array_equal(codes.unpack(packed, b), bits)


def test_bit_order_is_as_documented() -> None:
    bits = np.zeros((1, 70), bool)
    bits[0, [0, 3, 64]] = True
    assert codes.pack(bits).tolist() == [[0b1001, 1]]


@pytest.mark.parametrize("b", [5, 48, 64, 130])
def test_hamming_counts_differing_bits(b: int) -> None:
    bits = np.random.default_rng(b).random((40, b)) < 0.5
    packed = codes.pack(bits)
    np.testing.assert_array_equal(codes.hamming(packed[0], packed), (bits != bits[0]).sum(1))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nearest_is_brute_force(data: st.DataObject) -> None:
    b = data.draw(st.sampled_from([1, 3, 8, 12, 48, 64, 70]))
    n = data.draw(st.integers(1, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    centres = rng.random((data.draw(st.integers(1, 8)), b)) < 0.5  # few, so that codes repeat
    bits = centres[rng.integers(len(centres), size=n)] ^ (rng.random((n, b)) < data.draw(st.sampled_from([0, 0.05, 0.5])))
    query = bits[0] ^ (rng.random(b) < 0.1)
    k = data.draw(st.integers(1, n + 5))
    radius = data.draw(st.one_of(st.none(), st.integers(0, b)))
    allowed = rng.random(n) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    include = data.draw(st.booleans())
    compiled = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "COMPILED_FROM", 0 if compiled else 10**9)
        found = Codes(codes.pack(bits), b).nearest(
            codes.pack(query[None])[0], k, radius=radius, allowed=allowed, ties="include" if include else "cut"
        )
    expected = brute_force(query, bits, k, radius, allowed, include)
    assert list(zip(found.distances.tolist(), found.rows.tolist(), strict=True)) == expected
    everything = brute_force(query, bits, n, radius, allowed, True)
    tied_left_out = bool(expected) and any(pair[0] == expected[-1][0] for pair in everything[len(expected) :])
    assert found.cut == tied_left_out


def test_compiled_and_numpy_scans_agree_on_many_codes() -> None:
    rng = np.random.default_rng(0)
    for b in (48, 100):
        packed = codes.pack(rng.random((70_000, b)) < 0.5)
        searchable = Codes(packed, b)
        assert len(searchable.unique) > codes.COMPILED_FROM
        np.testing.assert_array_equal(searchable.distances(packed[5]), codes.hamming(packed[5], packed))


def test_no_codes_at_all() -> None:
    empty = Codes(np.empty((0, 1), np.uint64), 48)
    found = empty.nearest(np.zeros(1, np.uint64), 5)
    assert len(found.rows) == 0
    assert not found.cut


def test_codes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2"):
        Codes(np.zeros((3, 1), np.uint64), 100)
