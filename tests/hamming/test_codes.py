from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.brute_force import Bits, brute_force, clustered, pairs
from wingbar.hamming import codes, part
from wingbar.hamming.codes import Codes


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


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("b", [12, 48, 100])
def test_items_at_each_distance(b: int, compiled: bool) -> None:
    rng = np.random.default_rng(b)
    packed = codes.pack(clustered(rng, 3000, b, 40, 0.05))
    searchable = Codes(packed, b, compiled=compiled)
    changed = searchable.changed(np.arange(5000, 5100), packed[:100], np.arange(50, 90))
    held = np.concatenate([np.delete(packed, np.arange(50, 90), axis=0), packed[:100]])
    for found, there in (
        (searchable.counts(packed[:9]), packed),
        (changed.counts(packed[:9]), held),
    ):
        expected = [
            np.bincount(codes.hamming(query, there), minlength=b + 1) for query in packed[:9]
        ]
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_searches_stay_exact_as_items_are_added_and_removed(data: st.DataObject) -> None:
    b = data.draw(st.sampled_from([6, 20, 48, 70]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    compiled = data.draw(st.sampled_from([True, False, None]))
    bits = clustered(rng, 400, b, 5, 0.1)
    held: dict[int, Bits] = {}
    searchable = Codes(np.empty((0, codes.words(b)), np.uint64), b, compiled=compiled)
    fresh = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "PROBED_FROM", 20)
        patch.setattr(codes, "COMPILED_FROM", 150)
        for _ in range(data.draw(st.integers(1, 6))):
            count = data.draw(st.integers(0, 120))
            new = np.arange(fresh, fresh + count) * 2
            fresh += count
            some = bits[rng.integers(len(bits), size=count)]
            gone = rng.permutation([*held, 10**6])[: data.draw(st.integers(0, 100))].astype(
                np.int64
            )
            before = searchable
            searchable = searchable.changed(new, codes.pack(some), gone)
            assert len(before) == len(held)
            for id_ in gone.tolist():
                held.pop(id_, None)
            held.update(zip(new.tolist(), some, strict=True))
            if data.draw(st.booleans()):
                searchable = searchable.merged()
                assert searchable.unmerged == 0
            ids = np.array(sorted(held), np.int64)
            now = np.array([held[i] for i in ids.tolist()], bool).reshape(-1, b)
            assert searchable.ids.tolist() == ids.tolist()
            assert len(searchable) == len(held)
            query = bits[0]
            code = codes.pack(query[None])
            keep = rng.random(len(ids)) < 0.5
            for allowed, mask in (
                (None, np.ones(len(ids), bool)),
                (searchable.only(ids[keep]), keep),
            ):
                expected = brute_force(query, now, ids, 9, b, mask, False, 9)
                [found] = searchable.nearest(code, 9, allowed=allowed)
                assert (pairs(found), found.cut) == expected
                expected = brute_force(query, now, ids, 9, b, mask, True, 12)
                for found in searchable.nearest(
                    code.repeat(2, 0), 9, allowed=allowed, ties="include", limit=12
                ):
                    assert (pairs(found), found.cut) == expected
            np.testing.assert_array_equal(searchable.distances(code[0]), (now != query).sum(1))


def test_small_sets_do_not_import_the_compiler() -> None:
    script = (
        "import sys, numpy as np\nfrom wingbar.hamming.codes import Codes\n"
        "c = Codes(np.arange(49_999, dtype=np.uint64)[:, None], 48)\n"
        "c.nearest(np.zeros((2, 1), np.uint64), 3, allowed=c.only(np.arange(9)))\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_empty_set_finds_nothing() -> None:
    for compiled in (True, False):
        empty = Codes(np.empty((0, 1), np.uint64), 48, compiled=compiled)
        [found] = empty.nearest(np.zeros((1, 1), np.uint64), 5)
        assert len(found.ids) == 0
        assert not found.cut
        assert [len(one.ids) for one in empty.nearest(np.zeros((3, 1), np.uint64), 5)] == [0, 0, 0]


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2"):
        Codes(np.zeros((3, 1), np.uint64), 100)
    with pytest.raises(ValueError, match="ascending"):
        Codes(np.zeros((3, 1), np.uint64), 48, np.array([1, 1, 2]))
    three = Codes(np.zeros((3, 1), np.uint64), 48)
    with pytest.raises(ValueError, match="at least 1"):
        three.nearest(np.zeros((1, 1), np.uint64), 0)
    with pytest.raises(ValueError, match="48 bits"):
        three.nearest(np.zeros((1, 2), np.uint64), 1)
    with pytest.raises(ValueError, match="48 bits"):
        three.nearest(np.zeros(1, np.uint64), 1)
    with pytest.raises(ValueError, match="twice"):
        three.changed(np.array([2]), np.zeros((1, 1), np.uint64), np.empty(0, np.int64))
    with pytest.raises(KeyError, match="7"):
        three.of(np.array([0, 7]))
    assert len(three.within(np.zeros((1, 1), np.uint64), -1)[0].ids) == 0
