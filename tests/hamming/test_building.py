"""The structure over codes; its tables of substrings are tested with what searches them, in
`test_probing.py`."""

from __future__ import annotations

import numpy as np
import pytest

from wingbar.hamming import building

BITS = [(1, np.uint32), (11, np.uint32), (12, np.uint32), (32, np.uint32), (33, np.uint64)]


@pytest.mark.parametrize(("bits", "kind"), [*BITS, (48, np.uint64), (64, np.uint64)])
@pytest.mark.parametrize("distinct", [1, 7, 2000])
def test_codes_are_sorted_and_equal_ones_grouped_in_the_order_of_their_rows(
    bits: int, kind: type[np.unsignedinteger], distinct: int
) -> None:
    rng = np.random.default_rng(bits)
    drawn = rng.integers(0, 2**bits - 1, distinct, np.uint64, endpoint=True)
    drawn[0] = 2**bits - 1
    keys = drawn[rng.integers(distinct, size=2000)].astype(kind)
    before = keys.copy()
    ordered, rows = building.sort(keys, bits)
    np.testing.assert_array_equal(keys, before)
    np.testing.assert_array_equal(rows, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(ordered, np.sort(keys))
    assert (ordered.dtype, rows.dtype) == (kind, np.uint32)

    unique, starts, places = building.group(ordered, rows)
    expected, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(unique, expected)
    np.testing.assert_array_equal(places, inverse)
    np.testing.assert_array_equal(np.diff(starts), counts)
    assert starts[0] == 0
    for place, code in enumerate(unique):
        assert (keys[rows[starts[place] : starts[place + 1]]] == code).all()


def test_no_codes_have_no_groups() -> None:
    keys = np.empty(0, np.uint64)
    unique, starts, places = building.group(*building.sort(keys, 48))
    assert (len(unique), starts.tolist(), len(places)) == (0, [0], 0)


@pytest.mark.parametrize(
    ("bits", "count"), [(8, 1), (16, 1), (31, 1), (32, 2), (48, 3), (64, 4), (1024, 4)]
)
def test_as_many_substrings_as_fit_are_tabled(bits: int, count: int) -> None:
    assert building.table_count(bits) == count
