from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.brute_force import brute_force, clustered, pairs
from wingbar.hamming import codes, part
from wingbar.hamming.codes import Codes
from wingbar.hamming.records import TYPICAL

PATHS: tuple[codes.Path, ...] = ("auto", "numpy", "scan", "words", "planes", "probe")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_path_finds_what_brute_force_finds(data: st.DataObject) -> None:
    b = data.draw(
        st.sampled_from([1, 3, 8, 12, 16, 17, 31, 32, 33, 48, 63, 64, 65, 130, 256, 1024])
    )
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
            codes.pack(bits),
            b,
            ids,
            compiled=True,
            planes=True,
            threads=data.draw(st.sampled_from([1, 3])),
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


@pytest.mark.parametrize(
    ("b", "centres", "flip"),
    [(48, 0, 0.5), (48, 9000, 0.05), (24, 0, 0.5), (12, 50, 0.2), (64, 5000, 0.05), (100, 50, 0.1)],
)
def test_paths_agree_on_sets_large_enough_for_all_of_them(
    b: int, centres: int, flip: float
) -> None:
    rng = np.random.default_rng(b)
    packed = codes.pack(clustered(rng, 300_000, b, centres or 300_000, flip))
    searchable = Codes(packed, b, planes=True)
    assert searchable._parts[0].compiled
    if b in (24, 48, 64, 100):
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
    """The sample that bounds a search for many neighbours sees only near codes, while most are
    far."""
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
    searchable = Codes(mixed, 48, planes=True)
    for path in ("words", "planes", "auto"):
        [found] = searchable.nearest(query, 30_000, path=path)
        [expected] = searchable.nearest(query, 30_000, path="numpy")
        np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize("k", [1, part.ROOM, part.ROOM + 1, part.MOST_ROOM + 1, 80_000, 2**70])
def test_one_query_finds_as_many_as_there_are(k: int) -> None:
    """Few and many results are written to arrays of other sizes."""
    rng = np.random.default_rng(2)
    packed = rng.integers(0, 2**12, (70_000, 1), np.uint64)
    searchable = Codes(packed, 12, compiled=True)
    for radius in (0, 4, 12):
        [found] = searchable.nearest(packed[:1], k, radius=radius)
        [expected] = searchable.nearest(packed[:1], k, radius=radius, path="numpy")
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)
        assert found.cut == expected.cut
        assert found.ids.base is None  # no larger array is kept for it


def test_a_copy_in_another_place_is_searched_there() -> None:
    """The compiled loops get addresses, which a copy must not keep."""
    packed = np.random.default_rng(4).integers(0, 2**48, (60_000, 1), np.uint64)
    searchable = Codes(packed, 48, compiled=True)
    [expected] = searchable.nearest(packed[:1], 5)
    for twin in (pickle.loads(pickle.dumps(searchable)), copy.deepcopy(searchable)):
        addresses, others = searchable._parts[0].in_memory[1], twin._parts[0].in_memory[1]
        assert addresses[1] != others[1]
        [found] = twin.nearest(packed[:1], 5)
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_queries_of_any_layout() -> None:
    rng = np.random.default_rng(3)
    packed = rng.integers(0, 2**60, (60_000, 2), np.uint64)
    searchable = Codes(packed, 124, compiled=True)
    queries = packed[:4].copy()
    [expected] = searchable.nearest(queries[1:2], 9)
    frozen = queries.copy()
    frozen.flags.writeable = False
    strided = np.zeros((4, 4), np.uint64)
    strided[:, ::2] = queries
    signed: Any = queries.astype(np.int64)
    for other in (frozen[1:2], strided[1:2, ::2], np.asfortranarray(queries)[1:2], signed[1:2]):
        [found] = searchable.nearest(other, 9)
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_any_number_of_ties_is_found() -> None:
    """All codes have the same distance, so that every list of candidates is full: it must grow, or
    the query must be searched for alone."""
    rng = np.random.default_rng(1)
    ones = np.argsort(rng.random((60_000, 48)), axis=1)[:, :7]
    bits = np.zeros((60_000, 48), bool)
    np.put_along_axis(bits, ones, True, axis=1)
    searchable = Codes(codes.pack(bits), 48, planes=True)
    query = np.zeros((3, 1), np.uint64)
    for found in (
        *searchable.nearest(query[:1], 5, ties="include"),
        *searchable.nearest(query, 5, ties="include"),
        *searchable.nearest(query[:1], 5, ties="include", path="words"),
        *searchable.nearest(query, 5, ties="include", path="probe"),
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
    assert searchable.nbytes < 50 * 300_000
    assert (
        Codes(codes.pack(np.random.default_rng(0).random((300_000, 12)) < 0.5), 12).nbytes
        < 9 * 300_000
    )


def test_buckets_larger_than_the_room_for_what_is_noted_are_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Codes that share their first 16 bits are one bucket; all of them may be among the nearest
    until k are known."""
    # what was measured on this machine may prefer another way
    monkeypatch.setattr("wingbar.hamming.codes.of_machine", lambda bits: TYPICAL)
    rng = np.random.default_rng(0)
    tails = rng.integers(0, 2**32, 200_000, np.uint64)
    packed = (rng.integers(0, 20, 200_000, np.uint64) << np.uint64(32) | tails)[:, None]
    searchable = Codes(packed, 48)
    query = packed[:1] ^ np.uint64(1)
    assert searchable.paths(query, 10, radius=1) == ["probe"]
    [found], [expected] = (
        searchable.nearest(query, 10, radius=1, path=path) for path in ("auto", "numpy")
    )
    assert pairs(found) == pairs(expected)


def test_paths_are_named_and_forced() -> None:
    packed = np.random.default_rng(0).integers(0, 2**48, (200_000, 1), np.uint64)
    by_planes, by_words = (Codes(packed, 48, planes=planes) for planes in (True, False))
    near, all_ = packed[:2], 200_000
    assert by_planes.paths(near, all_) == ["planes", "planes"]  # nothing else finds all at once
    assert by_words.paths(near, all_) == ["words", "words"]
    assert by_planes.paths(near[:1], 1, radius=1) == ["probe"]
    assert by_planes.paths(near, 1, path="scan") == ["planes", "planes"]
    assert by_planes.paths(near, 1, path="words") == ["words", "words"]
    assert by_planes.paths(near, all_, path="probe") == ["probe", "probe"]
    assert by_planes.paths(near, 1, path="numpy") == ["numpy", "numpy"]
    assert Codes(packed[:100], 48).paths(near, 1) == ["numpy", "numpy"]
    with pytest.raises(ValueError, match="no planes; make them with"):
        by_words.nearest(near, 1, path="planes")
    with pytest.raises(ValueError, match="up to 1,024"):
        Codes(np.zeros((1, 17), np.uint64), 1030, planes=True)
