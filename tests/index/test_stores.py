"""One suite over every kind of store, against NumPy: what a search finds, and what is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.brute_force import pairs
from tests.databases import Server, has_milvus
from tests.index.galleries import DIM, FILTERS, Gallery, gallery, model_of, passing
from wingbar.errors import QueryError, StoreError
from wingbar.hamming.codes import agreement, pack
from wingbar.index.checks import verify
from wingbar.index.engine import AnyStore, Item, Removed, Url
from wingbar.index.index import Index
from wingbar.index.place import create_store, open_store
from wingbar.index.ranking import FINE, Fine, SearchOptions, rank

KINDS = ("file", "postgres", "milvus")
LENGTHS = (12, 48, 64, 100)
SMALL, LARGE = 300, 50_000

NewPlace = Callable[[str], str | Url]

_numbers = count()


@pytest.fixture(scope="module")
def new_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewPlace:
    """A path or URL of each kind at which there is nothing yet."""
    folder = tmp_path_factory.mktemp("stores")

    def place(kind: str) -> str | Url:
        name = f"birds_{next(_numbers)}"
        if kind == "file":
            return str(folder / f"{name}.wb")
        if kind == "milvus":  # one file for all, since each takes a process
            file: Path = request.getfixturevalue("milvus_file")
            return Url("milvus", str(file), name, f"milvus:{file}/{name}", {"lite": "yes"})
        server: Server = request.getfixturevalue("postgres_server")
        return server.url(name) + "?partitions=3"

    return place


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=LENGTHS)
def filled(
    request: pytest.FixtureRequest, kind: str, new_place: NewPlace
) -> Iterator[tuple[AnyStore, Gallery]]:
    """A store of each kind with a gallery of each length of codes, which no test may change."""
    made = gallery(SMALL, request.param)
    with closing(create_store(new_place(kind), made.model.files)) as store:
        made.add_to(store)
        yield store, made


@pytest.fixture
def fresh(kind: str, new_place: NewPlace) -> Iterator[AnyStore]:
    """An empty store of each kind for codes of 48 bits."""
    with closing(create_store(new_place(kind), model_of(48).files)) as store:
        yield store


def check_search(
    store: AnyStore,
    made: Gallery,
    options: SearchOptions,
    fine: Fine,
    keep: np.ndarray | None = None,
    queries: int = 4,
) -> None:
    """A search finds what NumPy finds, with the scores that NumPy has."""
    asked = made.queries(queries)
    for query, found in zip(asked, store.search_codes(asked, options, fine), strict=True):
        expected, cut = made.expected(query, options, fine, keep)
        assert pairs(found.near) == expected
        rows = found.near.ids - 1
        if fine == "none":
            assert found.scores is None
            continue
        assert found.near.cut == cut
        scores = (
            agreement(query.logits[0], pack(made.bits[rows]), query.bits)
            if fine == "asymmetric"
            else made.features[rows].astype(np.float32) @ query.features[0]
        )
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, scores, atol=2e-6)


@pytest.mark.parametrize("k", [1, 10, SMALL, SMALL + 5])
def test_the_nearest(filled: tuple[AnyStore, Gallery], k: int) -> None:
    check_search(*filled, SearchOptions(k=k), "none")


@pytest.mark.parametrize("radius", [0, 1, 5])
def test_a_radius_is_inclusive(filled: tuple[AnyStore, Gallery], radius: int) -> None:
    check_search(*filled, SearchOptions(k=20, radius=radius), "none")
    check_search(*filled, SearchOptions(k=20, radius=radius, shortlist=20), "ties")


@pytest.mark.parametrize("fine", FINE)
@pytest.mark.parametrize("shortlist", [1, 3, 40])
def test_ties_with_the_last_of_a_shortlist_are_complete(
    filled: tuple[AnyStore, Gallery], fine: Fine, shortlist: int
) -> None:
    check_search(*filled, SearchOptions(k=1, shortlist=shortlist), fine)


@pytest.mark.parametrize("name", FILTERS)
def test_filters(filled: tuple[AnyStore, Gallery], name: str) -> None:
    store, made = filled
    where, keep = passing(made, name)
    assert keep.any()
    check_search(store, made, SearchOptions(k=15, where=where), "none", keep, queries=2)
    check_search(store, made, SearchOptions(k=5, where=where, shortlist=9), "pool", keep, queries=1)


def test_what_was_stored_comes_back(filled: tuple[AnyStore, Gallery]) -> None:
    store, made = filled
    ids, packed = store.codes(made.model.bits)
    np.testing.assert_array_equal(ids, made.ids)
    np.testing.assert_array_equal(packed, pack(made.bits))
    np.testing.assert_array_equal(store.all_features(DIM), made.features)
    np.testing.assert_array_equal(store.features([7, 3], DIM), made.features[[6, 2]])
    np.testing.assert_array_equal(store.codes_of([7, 3], made.model.bits), pack(made.bits)[[6, 2]])
    assert list(store.all_items()) == list(zip(made.ids.tolist(), made.items, strict=True))
    assert store.items([7, 3]) == [made.items[6], made.items[2]]
    assert store.labels() == [item.label for item in made.items]
    assert store.paths() == [item.path for item in made.items]
    assert store.contents() == [item.content for item in made.items]
    assert store.ids().tolist() == made.ids.tolist()
    assert store.existing([0, 5, SMALL, SMALL + 1, 2**70]) == [5, SMALL]
    assert store.ids_of_paths([made.items[4].path, "/nowhere"]) == {made.items[4].path: 5}
    counts = store.label_counts()
    assert counts == {name: store.labels().count(name) for name in sorted(counts)}
    assert store.model_files() == made.model.files
    rows = store.rows(0, 7, made.model.bits, DIM) + store.rows(7, SMALL, made.model.bits, DIM)
    for row, expected in zip(rows, made.rows(), strict=True):
        assert row[:2] == expected[:2]
        np.testing.assert_array_equal(row.code, expected.code)
        np.testing.assert_array_equal(row.feature, expected.feature)
    info = store.info(made.model.bits)
    assert (info.items, info.labels) == (SMALL, 5)
    assert info.unique_codes == len(np.unique(made.bits, axis=0))
    assert store.engine
    assert verify(store.path) == []


def test_a_query_of_another_model_is_refused_with_both_names(
    filled: tuple[AnyStore, Gallery],
) -> None:
    store, made = filled
    for bits in (made.model.bits, 20):
        other = gallery(1, bits).queries(1)[0]
        stranger = model_of(bits, "stranger")
        query = type(other)(
            other.codes, other.features, other.logits, bits, "stranger", stranger.fingerprint
        )
        with pytest.raises(QueryError, match=r"by stranger \(.*by tiny \("):
            store.search_codes([query], SearchOptions(), "none")


def test_the_index_is_the_same_on_every_store(filled: tuple[AnyStore, Gallery]) -> None:
    store, made = filled
    with Index.open(os.fspath(store.path) if isinstance(store.path, Path) else store.path) as index:
        assert len(index) == SMALL
        assert index.model.fingerprint == made.model.fingerprint
        query = made.queries(1)[0]
        for fine in FINE:
            hits = index.search(query, 7, fine=fine, shortlist=30)
            [one] = store.search_codes([query], SearchOptions(k=7, shortlist=30), fine)
            ranked = rank(one.near, fine, one.scores, 7)
            assert [hit.id for hit in hits] == ranked.ids.tolist()
            assert [hit.path for hit in hits] == [made.items[i - 1].path for i in ranked.ids]
            assert hits.shortlist == ranked.shortlist
        assert index.search(12)[0].distance == 0
        assert index.why_nothing_passes("label=class 9") == (
            "no item has label=class 9: there is class 4, class 3, class 2, and 2 more"
        )
        assert index.why_nothing_passes("price>90") == (
            "no item has price>90: its numbers are 1.5 to 39.5"
        )
        with pytest.raises(QueryError, match="no item has a column 'size': filter on label, path"):
            index.search(query, where="size=3")
        searchable = index.searchable()
        assert (
            pairs(searchable.nearest(query.codes, 5)[0])
            == made.expected(query, SearchOptions(k=5), "none")[0]
        )


def test_delete_then_search_and_add_again(fresh: AnyStore) -> None:
    made = gallery(SMALL, 48)
    made.add_to(fresh)
    fresh.searchable(48)
    gone = [1, 2, 50, SMALL]
    with fresh.writing():
        assert fresh.delete([*gone, 999_999]) == len(gone)
    keep = ~np.isin(made.ids, gone)
    check_search(fresh, made, SearchOptions(k=30), "none", keep)
    check_search(fresh, made, SearchOptions(k=30, shortlist=50), "pool", keep)
    assert fresh.count() == SMALL - len(gone)
    assert fresh.searchable(48).ids.tolist() == made.ids[keep].tolist()
    with pytest.raises(StoreError, match="holds no item 50"):
        fresh.items([49, 50])
    made.add_to(fresh, [i - 1 for i in gone])
    made.add_to(fresh)  # all of it twice: nothing is doubled
    check_search(fresh, made, SearchOptions(k=30), "none")
    assert fresh.count() == SMALL
    assert verify(fresh.path) == []


def test_new_items_get_new_ids_and_a_path_is_one_item(fresh: AnyStore) -> None:
    made = gallery(6, 48)

    def put(rows: list[int], items: list[Item]) -> dict[str, int]:
        with fresh.writing():
            features = made.features[rows].astype(np.float32)
            fresh.add(items, pack(made.bits[rows]), features, 48)
        return fresh.ids_of_paths(item.path for item in made.items)

    first = put([0, 1, 2], made.items[:3])
    assert list(first.values()) == [1, 2, 3]
    assert fresh.ids_of_paths(["caf\udce9.jpg", made.items[0].path]) == {made.items[0].path: 1}
    changed = Item(made.items[1].path, "new", {}, 5, 6, b"n" * 32)
    second = put([5], [changed])
    assert second[changed.path] == 4
    assert fresh.items([4]) == [changed]
    assert fresh.ids().tolist() == [1, 3, 4]
    with fresh.writing():
        fresh.delete([4])
    assert put([3], [made.items[3]])[made.items[3].path] == 5  # an id is never used twice
    with fresh.writing():
        fresh.update({3: Item("/moved.jpg", "moved", {"a": "ü"}, 1, 2, b"m" * 32)})
    assert fresh.items([3])[0].path == "/moved.jpg"
    np.testing.assert_array_equal(fresh.codes_of([3], 48), pack(made.bits[2:3]))
    assert verify(fresh.path) == []


def test_what_was_removed_by_hand_is_kept_in_mind(fresh: AnyStore) -> None:
    made = gallery(8, 48)
    made.add_to(fresh)
    with fresh.writing():
        assert fresh.delete([2, 3, 4], by_hand=True) == 3
        fresh.delete([5])
    gone = {made.items[i].path: made.items[i] for i in (1, 2, 3)}
    assert fresh.removed() == {
        path: Removed(item.size, item.mtime, item.content) for path, item in gone.items()
    }
    made.add_to(fresh, [1])
    with fresh.writing():
        fresh.forget([made.items[2].path, "/nowhere"])
        fresh.remember({made.items[3].path: Removed(1, 2, b"r" * 32)})
    assert fresh.removed() == {made.items[3].path: Removed(1, 2, b"r" * 32)}
    assert fresh.ids_below("/photos/south") == [1, 7]
    assert fresh.ids_below("/photos/sou") == []
    assert verify(fresh.path) == []


def test_a_half_copy_is_marked(fresh: AnyStore) -> None:
    assert not fresh.is_half_copied()
    for is_half in (True, False):
        with fresh.writing():
            fresh.set_half_copied(is_half)
        assert fresh.is_half_copied() is is_half


def test_a_store_is_there_after_a_restart(fresh: AnyStore) -> None:
    made = gallery(60, 48)
    made.add_to(fresh)
    fresh.close()
    with closing(open_store(fresh.path)) as again:
        check_search(again, made, SearchOptions(k=20, shortlist=20), "ties")
        with pytest.raises(StoreError, match="exists already"):
            create_store(fresh.path, made.model.files)


def test_the_same_answers_from_every_store(new_place: NewPlace) -> None:
    compare(new_place, gallery(SMALL, 48), 10)


@pytest.mark.slow
@pytest.mark.parametrize("bits", LENGTHS)
def test_the_same_answers_from_every_store_of_50_000(new_place: NewPlace, bits: int) -> None:
    compare(new_place, gallery(LARGE, bits, centres=200), 1000 if bits == 48 else 20)


def compare(new_place: NewPlace, made: Gallery, count: int) -> None:
    """The same queries give the same (distance, id) lists in every kind of store, and the first of
    them those of NumPy."""
    queries = made.queries(count)
    answers = {}
    kinds = [kind for kind in KINDS if kind != "milvus" or has_milvus()]
    options = {fine: SearchOptions(k=20, radius=12, shortlist=20) for fine in FINE}
    for kind in kinds:
        with closing(create_store(new_place(kind), made.model.files)) as store:
            made.add_to(store)
            answers[kind] = [
                [pairs(one.near) for one in store.search_codes(queries, options[fine], fine)]
                for fine in FINE
            ]
    for kind in kinds:
        assert answers[kind] == answers["file"]
    for fine, found in zip(FINE, answers["file"], strict=True):
        for query, pairs_found in zip(queries[:5], found, strict=False):
            assert pairs_found == made.expected(query, options[fine], fine)[0]
