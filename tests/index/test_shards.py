"""Several indexes as one: exactly what one index of all items would answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.databases import Server
from tests.index.galleries import FILTERS, Gallery, gallery, model_of, passing
from wingbar.errors import QueryError, StoreError
from wingbar.index import shards as shards_module
from wingbar.index.index import Index
from wingbar.index.place import create_store
from wingbar.index.ranking import FINE, Fine, Hit, SearchOptions
from wingbar.index.shards import Shards, global_id, local_id

BITS = 48
Split = Callable[[int], int]


def make_shards(made: Gallery, places: list[str], split: Split) -> list[str]:
    """Give item i to the shard split(i); its ids there count from 1."""
    for number, place in enumerate(places):
        mine = [i for i in range(len(made)) if split(i) == number]
        with closing(create_store(place, made.model.files)) as store, store.writing():
            if mine:
                part = Gallery(
                    made.model, [made.items[i] for i in mine], made.bits[mine], made.features[mine]
                )
                store.add(part.items, packed(part), part.features.astype(np.float32), BITS)
    return places


def packed(made: Gallery) -> np.ndarray:
    return np.stack([row.code for row in made.rows()])


@pytest.fixture(scope="module")
def whole() -> Gallery:
    return gallery(240, BITS)


@pytest.fixture(scope="module")
def halves(whole: Gallery, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files: the first half of the items and the second, so that ids are in the same order."""
    folder = tmp_path_factory.mktemp("halves")
    places = [str(folder / "a.wb"), str(folder / "b.wb")]
    return make_shards(whole, places, lambda i: int(i >= 120))


def found_paths(shards: Shards, made: Gallery, options: SearchOptions, fine: Fine) -> None:
    """Compare with one index of all items: the same items in the same order, the same scores."""
    queries = made.queries(5)
    for query, hits in zip(queries, shards.find(queries, options), strict=True):
        expected, cut = made.expected(query, options, fine)
        assert hits.failed == ()
        if fine == "none":
            rows = [i - 1 for _, i in expected]
            assert [hit.path for hit in hits] == [made.items[row].path for row in rows]
            assert [hit.distance for hit in hits] == [distance for distance, _ in expected]
        else:
            assert (hits.shortlist, hits.cut) == (len(expected), cut)


@pytest.mark.parametrize("fine", FINE)
@pytest.mark.parametrize("shortlist", [1, 7, 40])
def test_two_shards_answer_as_one_index(
    whole: Gallery, halves: list[str], tmp_path: Path, fine: Fine, shortlist: int
) -> None:
    with closing(create_store(tmp_path / "one.wb", whole.model.files)) as store:
        whole.add_to(store)
    queries = whole.queries(6)
    options = SearchOptions(k=12, fine=fine, shortlist=shortlist)
    with Index.open(tmp_path / "one.wb") as one, closing(Shards(halves)) as shards:
        found_paths(shards, whole, options, fine)
        for hits, expected in zip(
            shards.find(queries, options), one.find(queries, options), strict=True
        ):
            assert [(h.distance, h.path, h.label) for h in hits] == [
                (h.distance, h.path, h.label) for h in expected
            ]
            assert (hits.shortlist, hits.cut) == (expected.shortlist, expected.cut)
            for hit, same in zip(hits, expected, strict=True):
                assert hit.score == pytest.approx(same.score, abs=1e-6)
                assert local_id(hit.id) == (same.id - 1) % 120 + 1
                assert hit.id >> shards_module.ID_BITS == (same.id > 120)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_over_shards(whole: Gallery, halves: list[str], name: str) -> None:
    where, keep = passing(whole, name)
    with closing(Shards(halves)) as shards:
        [query] = whole.queries(1)
        [hits] = shards.find([query], SearchOptions(k=300, fine="none", where=where))
        expected, _ = whole.expected(query, SearchOptions(k=300), "none", keep)
        assert [(hit.distance, hit.path) for hit in hits] == [
            (distance, whole.items[i - 1].path) for distance, i in expected
        ]
        items, total, failed = shards.page(5, 10, where)
        rows = np.flatnonzero(keep)
        assert (total, failed) == (len(rows), ())
        assert [item.path for _, item in items] == [whole.items[i].path for i in rows[5:15]]


def test_a_column_that_only_one_shard_has(whole: Gallery, tmp_path: Path) -> None:
    def with_columns(i: int) -> int:
        return int(not whole.items[i].columns)

    places = [str(tmp_path / "a.wb"), str(tmp_path / "b.wb")]
    make_shards(whole, places, with_columns)
    [query] = whole.queries(1)
    with closing(Shards(places)) as shards:
        for name in ("text", "not a text", "number", "all"):
            where, keep = passing(whole, name)
            [hits] = shards.find([query], SearchOptions(k=300, fine="none", where=where))
            assert {hit.path for hit in hits} == {whole.items[i].path for i in np.flatnonzero(keep)}
            assert shards.page(0, 1, where)[1] == keep.sum()
        with pytest.raises(QueryError, match="no item has a column 'size'"):
            shards.find([query], SearchOptions(where=["size=3"]))


def test_an_empty_shard_and_several_kinds(
    whole: Gallery, tmp_path: Path, postgres_server: Server
) -> None:
    places = [str(tmp_path / "a.wb"), postgres_server.url("shard") + "?partitions=2"]
    make_shards(whole, [*places, str(tmp_path / "empty.wb")], lambda i: int(i >= 120))
    with closing(Shards([*places, tmp_path / "empty.wb"])) as shards:
        for fine in FINE:
            options = SearchOptions(k=9, fine=fine, shortlist=20)
            found_paths(shards, whole, options, fine)
        assert shards.label_counts() == {f"class {i}": n for i, n in label_counts(whole)}
        assert shards.ids_of_paths([whole.items[130].path]) == {
            whole.items[130].path: global_id(1, 11)
        }
        assert shards.items([global_id(1, 11), 3]) == [whole.items[130], whole.items[2]]
        assert shards.embedding(global_id(1, 11)).codes == packed(whole)[130:131]
        assert [info.items for info in shards.infos().of.values()] == [120, 120, 0]


def label_counts(made: Gallery) -> list[tuple[int, int]]:
    labels = [item.label for item in made.items]
    return [(i, labels.count(f"class {i}")) for i in range(5)]


def test_a_shard_that_fails_is_named_and_comes_back(
    whole: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "DOWN_SECONDS", 0.0)
    places = [str(tmp_path / "a.wb"), str(tmp_path / "b.wb")]
    make_shards(whole, places, lambda i: int(i >= 120))
    [query] = whole.queries(1)
    options = SearchOptions(k=240, fine="none")
    with closing(Shards(places)) as shards:
        everything = shards.find([query], options)[0]
        assert len(everything) == 240
        kept = Path(places[1]).read_bytes()
        Path(places[1]).write_bytes(kept[:5000] + bytes(len(kept) - 5000))  # in its place
        [hits] = shards.find([query], options)
        assert [one.name for one in hits.failed] == [places[1]]
        assert "damaged" in hits.failed[0].reason or "not a wingbar" in hits.failed[0].reason
        assert list(hits) == map_ranks(everything)
        assert shards.refresh(keep_codes=True).of == {0: 120}
        with pytest.raises(StoreError, match=r"the shard .*b\.wb does not answer"):
            shards.items([global_id(1, 3)])
        Path(places[1]).write_bytes(kept)
        [again] = shards.find([query], options)
        assert (list(again), again.failed) == (list(everything), ())
        for place in places:
            Path(place).write_bytes(b"nothing")
        with pytest.raises(StoreError, match=r"no shard answers: .*a\.wb.*and 1 more"):
            shards.find([query], options)


def map_ranks(hits: list[Hit]) -> list[Hit]:
    """Hits of the first shard with the ranks that they have alone."""
    mine = [hit for hit in hits if hit.id < global_id(1, 0)]
    return [replace(hit, rank=rank) for rank, hit in enumerate(mine, start=1)]


def test_a_shard_that_hangs_is_named(
    halves: list[str], whole: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SECONDS", 0.5)
    go_on = threading.Event()
    with closing(Shards(halves)) as shards:
        try:
            shards._shards[1].ask(lambda index: go_on.wait(20))
            [hits] = shards.find(whole.queries(1), SearchOptions(k=5))
            assert len(hits) == 5
            [failed] = hits.failed
            assert failed.name == halves[1]
            assert failed.reason == "it has not answered for 0.5 s"
        finally:
            go_on.set()


def test_shards_of_different_models_and_names_are_refused(
    halves: list[str], whole: Gallery, tmp_path: Path
) -> None:
    with closing(create_store(tmp_path / "other.wb", model_of(BITS, "stranger").files)):
        pass
    with pytest.raises(
        StoreError, match=r"other\.wb is of stranger \(.*a\.wb of tiny \(.*need one model"
    ):
        Shards([*halves, tmp_path / "other.wb"])
    with pytest.raises(StoreError, match="is named twice"):
        Shards([halves[0], halves[0]])
    with pytest.raises(StoreError, match=r"no index at"):
        Shards([halves[0], tmp_path / "none.wb"])
    with pytest.raises(StoreError, match="name from 1"):
        Shards([])
    with closing(Shards(halves)) as shards:
        stranger = gallery(3, 24).queries(1)
        with pytest.raises(QueryError, match="the query was encoded by tiny"):
            shards.find(stranger, SearchOptions())
        with pytest.raises(QueryError, match="no shard has the number 7"):
            shards.embedding(global_id(7, 1))


def test_ids_fit_the_numbers_of_javascript() -> None:
    last = global_id(shards_module.MOST_SHARDS, 2**shards_module.ID_BITS - 1)
    assert last < 2**53
    assert global_id(0, 17) == 17
