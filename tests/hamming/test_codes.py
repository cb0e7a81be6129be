from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wingbar.hamming import codes, part
from wingbar.hamming.codes import Codes, Nearest

PATHS: tuple[codes.Path, ...] = ("auto", "numpy", "scan", "probe")
Bits = NDArray[np.bool_]


def clustered(rng: np.random.Generator, n: int, b: int, centres: int, flip: float) -> Bits:
    """Bits [n, b] around a few centres, so that codes repeat."""
    around = rng.random((centres, b)) < 0.5
    return np.asarray(around[rng.integers(centres, size=n)] ^ (rng.random((n, b)) < flip))


def brute_force(
    query: Bits,
    bits: Bits,
    ids: NDArray[np.int64],
    k: int,
    radius: int,
    keep: Bits,
    include: bool,
    limit: int,
) -> tuple[list[tuple[int, int]], bool]:
    """(distance, id) of what should be found, and whether something at the last distance is
    missing: compare every bit."""
    ranked = sorted(
        (int((row != query).sum()), int(i))
        for i, row, kept in zip(ids, bits, keep, strict=True)
        if kept
    )
    ranked = [pair for pair in ranked if pair[0] <= radius]
    tied = [pair for pair in ranked if len(ranked) <= k or pair[0] <= ranked[k - 1][0]]
    found = tied[: limit if include else k]
    return found, bool(found) and any(pair[0] == found[-1][0] for pair in tied[len(found) :])


def pairs(found: Nearest) -> list[tuple[int, int]]:
    return list(zip(found.distances.tolist(), found.ids.tolist(), strict=True))


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


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_path_is_brute_force(data: st.DataObject) -> None:
    b = data.draw(st.sampled_from([1, 3, 8, 12, 16, 17, 31, 32, 33, 48, 63, 64, 65, 130, 1024]))
    n = data.draw(st.integers(0, 700))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits = clustered(
        rng, n, b, data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0, 0.05, 0.5]))
    )
    ids = np.cumsum(rng.integers(1, data.draw(st.sampled_from([2, 4])), n)) + data.draw(
        st.sampled_from([-1, 5, 2**33])
    )
    radius = data.draw(st.one_of(st.just(b), st.integers(0, b)))
    k = data.draw(st.integers(1, n + 5))
    include = data.draw(st.booleans())
    limit = data.draw(st.one_of(st.none(), st.integers(1, n + 5)))
    keep = rng.random(n) < data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "PROBED_FROM", 0)
        patch.setattr(part, "THREADED_FROM", data.draw(st.sampled_from([0, 10**9])))
        patch.setattr(part, "BATCH_THREADED_FROM", data.draw(st.sampled_from([0, 10**9])))
        searchable = Codes(
            codes.pack(bits), b, ids, compiled=True, threads=data.draw(st.sampled_from([1, 3]))
        )
        queries = np.concatenate(
            [bits[:2] ^ (rng.random((min(n, 2), b)) < 0.1), rng.random((1, b)) < 0.5]
        )
        allowed = None if keep.all() else searchable.only(ids[keep])
        ties: codes.Ties = "include" if include else "cut"
        packed = codes.pack(queries)
        for path in PATHS:
            many = searchable.nearest(
                packed, k, radius=radius, allowed=allowed, ties=ties, limit=limit, path=path
            )
            for query, code, of_batch in zip(queries, packed, many, strict=True):
                [found] = searchable.nearest(
                    code[None], k, radius=radius, allowed=allowed, ties=ties, limit=limit, path=path
                )
                most = n if limit is None else max(limit, k)
                expected, cut = brute_force(query, bits, ids, k, radius, keep, include, most)
                assert pairs(found) == expected
                assert found.cut == cut
                assert pairs(of_batch) == expected
                assert of_batch.cut == cut
    np.testing.assert_array_equal(searchable.distances(packed[-1]), (bits != queries[-1]).sum(1))
    np.testing.assert_array_equal(searchable.of(ids), codes.pack(bits))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_items_come_and_go_and_searches_stay_exact(data: st.DataObject) -> None:
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


@pytest.mark.parametrize(
    ("b", "centres", "flip"),
    [(48, 0, 0.5), (48, 9000, 0.05), (24, 0, 0.5), (12, 50, 0.2), (64, 5000, 0.05), (100, 50, 0.1)],
)
def test_paths_agree_where_all_of_them_are_used(b: int, centres: int, flip: float) -> None:
    rng = np.random.default_rng(b)
    packed = codes.pack(clustered(rng, 300_000, b, centres or 300_000, flip))
    searchable = Codes(packed, b)
    assert searchable._parts[0].compiled
    if b in (24, 48, 64):
        assert searchable._parts[0].table.heads.size
    queries = packed[rng.integers(len(packed), size=12)]
    queries[:, 0] ^= np.uint64(5)
    for k, radius in ((10, None), (1500, None), (10**6, 3), (1, None)):
        by_path = {path: searchable.nearest(queries, k, radius=radius, path=path) for path in PATHS}
        for i, query in enumerate(queries):
            [expected] = searchable.nearest(query[None], k, radius=radius, path="numpy")
            for path in PATHS:
                for found in (
                    by_path[path][i],
                    *searchable.nearest(query[None], k, radius=radius, path=path),
                ):
                    np.testing.assert_array_equal(found.ids, expected.ids)
                    np.testing.assert_array_equal(found.distances, expected.distances)
                    assert found.cut == expected.cut


def test_a_misleading_sample_is_noticed() -> None:
    """The sample that bounds a search for many neighbours sees only near codes; the rest is far."""
    rng = np.random.default_rng(0)
    packed = np.unique(rng.integers(0, 2**48, 200_000, dtype=np.uint64))
    stride = len(packed) // 256
    near = np.zeros(len(packed), bool)
    for group in range(256):
        near[group * stride : group * stride + 64] = True
    query = np.zeros((1, 1), np.uint64)
    few = packed[near] & np.uint64(0xFFFF)  # at most 16 bits, while the others have 24 on average
    order = np.argsort(np.concatenate([few, packed[~near]]))
    mixed = np.concatenate([few, packed[~near]])[order][:, None]
    searchable = Codes(mixed, 48)
    for path in ("scan", "auto"):
        [found] = searchable.nearest(query, 30_000, path=path)
        [expected] = searchable.nearest(query, 30_000, path="numpy")
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_many_ties_fit_whatever_their_number() -> None:
    """All codes at one distance: every list of candidates has to grow or be left to the single
    search."""
    rng = np.random.default_rng(1)
    ones = np.argsort(rng.random((60_000, 48)), axis=1)[:, :7]
    bits = np.zeros((60_000, 48), bool)
    np.put_along_axis(bits, ones, True, axis=1)
    searchable = Codes(codes.pack(bits), 48)
    query = np.zeros((3, 1), np.uint64)
    for found in (
        *searchable.nearest(query[:1], 5, ties="include"),
        *searchable.nearest(query, 5, ties="include"),
    ):
        assert found.ids.tolist() == list(range(60_000))
        assert set(found.distances.tolist()) == {7}
        assert not found.cut
    [cut] = searchable.nearest(query[:1], 5)
    assert cut.ids.tolist() == [0, 1, 2, 3, 4]
    assert cut.cut


def test_memory_is_stated_and_small() -> None:
    packed = codes.pack(np.random.default_rng(0).random((300_000, 48)) < 0.5)
    searchable = Codes(packed, 48)
    assert searchable.nbytes < 32 * 300_000
    assert (
        Codes(codes.pack(np.random.default_rng(0).random((300_000, 12)) < 0.5), 12).nbytes
        < 9 * 300_000
    )


def test_small_sets_do_not_wake_the_compiler() -> None:
    script = (
        "import sys, numpy as np\nfrom wingbar.hamming.codes import Codes\n"
        "c = Codes(np.arange(49_999, dtype=np.uint64)[:, None], 48)\n"
        "c.nearest(np.zeros((2, 1), np.uint64), 3, allowed=c.only(np.arange(9)))\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["-avx512f,-avx512vpopcntdq,-avx512bw,-avx512vl", ""])
def test_cpus_without_wide_vectors_find_the_same(features: str, tmp_path: Path) -> None:
    """The loops compiled for a CPU without AVX-512, and for one without AVX at all, against
    numpy."""
    script = (
        "import numpy as np\nfrom wingbar.hamming import codes\n"
        "p = np.random.default_rng(0).integers(0, 2**40, 60_000, dtype=np.uint64)[:, None]\n"
        "for b in (30, 40):\n"
        "    c = codes.Codes(p & np.uint64(2**b - 1), b)\n"
        "    for path in ('auto', 'scan'):\n"
        "        for i in range(5):\n            q = p[i : i + 1] & np.uint64(2**b - 1)\n"
        "            assert np.array_equal(c.nearest(q, 50, path=path)[0].ids, c.nearest(q, 50, "
        "path='numpy')[0].ids)\n"
    )
    cpu = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **cpu})


def test_warming_up_compiles_once() -> None:
    codes.warm_up(48)
    assert codes.warm_up(48) < 1.0


def test_no_codes_at_all() -> None:
    for compiled in (True, False):
        empty = Codes(np.empty((0, 1), np.uint64), 48, compiled=compiled)
        [found] = empty.nearest(np.zeros((1, 1), np.uint64), 5)
        assert len(found.ids) == 0
        assert not found.cut
        assert [len(one.ids) for one in empty.nearest(np.zeros((3, 1), np.uint64), 5)] == [0, 0, 0]


def test_what_cannot_be_meant_is_refused() -> None:
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
