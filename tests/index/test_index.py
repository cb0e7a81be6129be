from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tests.model.test_model import trained_model
from tests.small_network import DIM, small_general
from wingbar.errors import DataError, ImageError, ModelError, QueryError, StoreError
from wingbar.hamming import codes
from wingbar.index.filters import Condition, parse_where
from wingbar.index.index import Index, is_same_model
from wingbar.index.ranking import TIE_CAP, Hits
from wingbar.index.store import Store
from wingbar.model.model import Model


@pytest.fixture(scope="module")
def index(shared_index_path: Path) -> Index:
    return Index.open(shared_index_path)


def brute_force(
    index: Index, query: Path, fine: str, k: int, shortlist: int
) -> list[tuple[int, int, float]]:
    """(id, distance, cosine) of the hits, from every code and every feature of the index."""
    embedded = index.model.encode([query])
    searchable = index.searchable()
    distance = codes.hamming(embedded.codes[0], index.codes())
    cosine = index.features().astype(np.float32) @ embedded.features[0]
    rows = range(len(searchable.ids))
    by_code = sorted(rows, key=lambda i: (distance[i], i))
    if fine == "ties":
        by_code = sorted(rows, key=lambda i: (distance[i], -cosine[i], i))
    if fine == "pool":
        last = distance[by_code[min(shortlist, len(by_code)) - 1]]
        by_code = sorted((i for i in rows if distance[i] <= last), key=lambda i: (-cosine[i], i))
    return [(int(searchable.ids[i]), int(distance[i]), float(cosine[i])) for i in by_code[:k]]


@pytest.mark.parametrize("fine", ["none", "ties", "pool"])
@pytest.mark.parametrize("shortlist", [5, 30, 1000])
def test_search_is_brute_force(
    index: Index, shared_photos: Path, fine: str, shortlist: int
) -> None:
    for query in sorted(shared_photos.rglob("*.jpg"))[::13]:
        hits = index.search(query, 7, fine=fine, shortlist=max(shortlist, 7))  # type: ignore[arg-type]
        expected = brute_force(index, query, fine, 7, max(shortlist, 7))
        assert [(hit.id, hit.distance) for hit in hits] == [
            (id_, distance) for id_, distance, _ in expected
        ]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
        if fine == "none":
            assert {hit.score for hit in hits} == {None}
        else:
            scores = [hit.score for hit in hits if hit.score is not None]
            np.testing.assert_allclose(
                scores, [min(float(c), 1) for _, _, c in expected], atol=1e-5
            )
        assert hits[0].path == str(query) or fine == "none"
        assert (hits[0].label, hits[0].distance) == (query.parent.name, 0)


def test_a_file_and_its_bytes_find_the_same(index: Index, shared_photos: Path) -> None:
    query = shared_photos / "red" / "004.jpg"
    assert (
        index.search(query)
        == index.search(query.read_bytes())
        == index.search(index.model.encode([query]))
    )


def test_a_box_of_a_query_is_searched_for(index: Index, shared_photos: Path) -> None:
    query = shared_photos / "red" / "004.jpg"
    with Image.open(query) as image:
        size = image.size
        part = image.convert("RGB").crop((10, 5, 50, 45))
    assert index.search(query, box=(10, 5, 40, 40)) == index.search(part)
    assert index.search(query, box=(0, 0, *size)) == index.search(query)
    with pytest.raises(ImageError, match=r"004.jpg: the box 900,0,5,5 holds nothing"):
        index.search(query, box=(900, 0, 5, 5))
    with pytest.raises(QueryError, match="cut out of an image"):
        index.search(index.model.encode([query]), box=(0, 0, 5, 5))


def test_many_queries_are_each_alone(index: Index, shared_photos: Path) -> None:
    queries = sorted(shared_photos.rglob("*.jpg"))[:9]
    together = index.search_many(queries, 4, fine="pool")
    assert together == [index.search(query, 4, fine="pool") for query in queries]
    assert index.search_many([]) == []


def test_radius_is_inclusive(index: Index, shared_photos: Path) -> None:
    query = shared_photos / "blue" / "003.jpg"
    everything = index.search(query, 1000, fine="none")
    assert len(everything) == 60
    for radius in (0, 3, 8):
        near = index.search(query, 1000, fine="none", radius=radius)
        assert list(near) == [hit for hit in everything if hit.distance <= radius]
        assert {hit.id for hit in index.search(query, 1000, fine="pool", radius=radius)} == {
            hit.id for hit in near
        }


def test_where_filters_before_ranking(index: Index, shared_photos: Path) -> None:
    query = shared_photos / "blue" / "003.jpg"
    only = index.search(query, 5, where="label=red")
    assert len(only) == 5
    assert {hit.label for hit in only} == {"red"}
    both = index.search(query, 60, where=["label=red", "label=green", "path=*/00?.jpg"])
    assert len(both) == 20
    assert index.search(query, where="label=nothing") == []


def test_stages_are_timed_and_the_shortlist_counted(index: Index, shared_photos: Path) -> None:
    hits = index.search(shared_photos / "red" / "000.jpg", 3, shortlist=10)
    assert list(hits.milliseconds) == ["decode", "encode", "coarse", "fine", "fetch"]
    assert all(ms > 0 for ms in hits.milliseconds.values())
    assert hits.shortlist >= 10
    assert not hits.cut


def test_a_shortlist_takes_whole_ties_or_says_that_it_did_not(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", trained_model()) as index:
        index.add(
            [np.full((4, 4, 3), (200, 40, 30 + i % 2), np.uint8) + np.uint8(0) for i in range(2)]
        )
        near = [
            np.full((4 + i, 5, 3), (200, 40, 30), np.uint8) for i in range(3 * TIE_CAP)
        ]  # one code, other contents
        index.add(near)
        whole = index.search(near[0], 2, fine="pool", shortlist=5)
        assert (whole.shortlist, whole.cut) == (3 * TIE_CAP + 2, False)
        cut = index.search(near[0], 2, fine="pool", shortlist=2)
        assert (cut.shortlist, cut.cut) == (2 * TIE_CAP, True)


def test_arguments_that_cannot_be_meant(index: Index, shared_photos: Path) -> None:
    query = shared_photos / "red" / "000.jpg"
    with pytest.raises(QueryError, match="at least 1"):
        index.search(query, 0)
    with pytest.raises(QueryError, match="at least 1"):
        index.search(query, shortlist=0)
    with pytest.raises(QueryError, match="radius must be from 0 to 24"):
        index.search(query, radius=25)
    with pytest.raises(QueryError, match="fine must be one of none, ties, pool"):
        index.search(query, fine="best")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="No such file"):
        index.search("nowhere.jpg")


def test_a_query_of_another_model_is_refused_with_both_names(index: Index) -> None:
    stranger = trained_model().encode([picture(1)])
    with pytest.raises(QueryError, match=r"tiny .*general \(label-free, 24 bits"):
        index.search(stranger)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label=monarch", Condition("label", "=", "monarch")),
        (" price <= 2.5 ", Condition("price", "<=", "2.5")),
        ("path!=a=b", Condition("path", "!=", "a=b")),
        ("shelf mark=", Condition("shelf mark", "=", "")),
    ],
)
def test_filters_are_read(text: str, expected: Condition) -> None:
    assert parse_where(text) == [expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("monarch", "cannot read"), ("price<cheap", "compares numbers"), ("label<3", "text")],
)
def test_filters_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        parse_where(text)


def test_an_empty_index(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        with pytest.raises(QueryError, match="holds no images yet"):
            index.search(picture(1))
        assert index.info().items == 0
        assert index.info().bits is None
        assert index.verify() == []
        with pytest.raises(StoreError, match="nothing to fit"):
            index.refit(bits=8)


def test_a_trained_model_needs_no_fitting(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", trained_model()) as index:
        report = index.add([np.asarray(picture(i)) for i in range(5)])
        assert (report.added, report.fitted_on) == (5, 0)
        hit = index.search(picture(2), 1)[0]
        assert hit.path.startswith("array:")
        assert index.info().bits == 20
        with pytest.raises(ModelError, match="not fitted to an index"):
            index.refit()
        with pytest.raises(ModelError, match="codes of 20 bits, not 12"):
            index.add([picture(9)], bits=12)


def test_a_refit_to_codes_that_are_too_long_reads_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb", small_general("short", dim=48)) as index:
        index.add(photos, bits=8)
        monkeypatch.setattr("wingbar.images.read", None)
        with pytest.raises(ModelError, match="from 1 to 48 for short, not 64: give --bits N"):
            index.refit(bits=64)


def test_one_network_used_in_two_ways_is_two_models() -> None:
    one, cut, trained = small_general(), small_general(edge=40), trained_model()
    fitted = one.fitted(np.eye(24, DIM, dtype=np.float32), 8, 0)
    assert is_same_model(one, fitted)
    assert not is_same_model(fitted, one)
    assert not is_same_model(cut, fitted)
    assert not is_same_model(trained, trained.opened())


def test_delete_by_id_and_path(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        monkeypatch.chdir(photos)
        assert (
            index.delete([1, "red/003.jpg", str(photos / "blue" / "001.jpg"), "nowhere.jpg", 999])
            == 3
        )
        assert len(index) == 21
        found = {hit.path for hit in index.search(photos / "red" / "003.jpg", 30)}
        assert len(found) == 21
        assert str(photos / "red" / "003.jpg") not in found
        assert index.verify() == []


@pytest.mark.slow
def test_changes_by_another_process_show_up(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as first:
        first.add(photos / "red", bits=16)
        assert len(first.search(picture(0), 50)) == 8
        with Index.open(tmp_path / "a.wb") as second:
            second.add(photos / "blue")
            assert len(first.search(picture(0), 50)) == 16
            second.refit(bits=20)
        assert first.search(picture(0), 1)[0].path
        assert first.model.bits == 20


@pytest.mark.slow
def test_a_closed_index_can_be_copied(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        expected = index.search(photos / "red" / "000.jpg")
    copy = tmp_path / "elsewhere" / "b.wb"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "a.wb").read_bytes())
    os.remove(tmp_path / "a.wb")
    with Index.open(copy) as index:
        assert index.search(photos / "red" / "000.jpg") == expected


@pytest.mark.slow
def test_ties_are_ordered_over_the_whole_group(tmp_path: Path) -> None:
    stack = np.stack([np.asarray(picture(i)) for i in range(60)])
    with Index.create(tmp_path / "a.wb") as index:
        index.add(stack, bits=2)
        for i in range(0, 60, 7):
            hits = index.search(stack[i], 1, fine="ties")
            assert hits[0].score == pytest.approx(1, abs=1e-3)
            assert not hits.cut


def test_asymmetric_orders_by_agreement_of_logits_and_bits(
    index: Index, shared_photos: Path
) -> None:
    query = shared_photos / "green" / "007.jpg"
    hits = index.search(query, 60, fine="asymmetric", shortlist=60)
    embedded = index.model.encode([query])
    ids, packed = index.ids(), index.codes()
    logits, bits = embedded.logits[0].astype(float), codes.unpack(packed, 24)
    score = {}
    for id_, row in zip(ids.tolist(), bits, strict=True):
        score[id_] = float(
            sum(logit if bit else -logit for logit, bit in zip(logits, row, strict=True))
        )
    total = float(np.abs(logits).sum())
    found = [float(hit.score or 0) for hit in hits]
    np.testing.assert_allclose(found, [score[hit.id] / total for hit in hits], atol=1e-5)
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)


@pytest.mark.slow
def test_verify_and_search_while_another_process_writes(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, Index.open(tmp_path / "a.wb") as other:
        index.add(photos / "red", bits=8)
        stop = threading.Event()

        def churn() -> None:
            paths = sorted((photos / "blue").iterdir())
            while not stop.is_set():
                other.add(paths)
                other.delete(paths)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(60):
                assert index.verify() == []
                assert len(index.search(photos / "red" / "000.jpg", 50)) in (8, 16)
        finally:
            stop.set()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("merged_from", [0, 10**9])
def test_what_another_process_adds_and_deletes_is_taken_over(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged_from: int
) -> None:
    """By reading the changed chunks only, with the large part merged in the background or not at
    all."""
    monkeypatch.setattr("wingbar.index.memory.MERGED_FROM", merged_from)
    monkeypatch.setattr("wingbar.hamming.codes.COMPILED_FROM", 10)
    reads: list[Iterable[int] | None] = []
    with Index.create(tmp_path / "a.wb") as index, Index.open(tmp_path / "a.wb") as other:
        index.add(photos / "red", bits=24)
        query = photos / "blue" / "003.jpg"
        assert {hit.label for hit in index.search(query, 100)} == {None}
        whole, original = index.searchable(), Store.codes

        def watched(
            store: Store, bits: int, chunks: Iterable[int] | None = None
        ) -> tuple[codes.Ids, codes.Packed]:
            reads.append(chunks)
            return original(store, bits, chunks)

        def searched() -> Hits:
            with monkeypatch.context() as patched:
                patched.setattr(Store, "codes", watched)
                return index.search(query, 100, fine="none")

        def stored() -> tuple[codes.Ids, codes.Packed]:
            with closing(Store.open(tmp_path / "a.wb")) as store:
                return store.codes(24)

        for step in range(4):
            other.add(photos / "blue", restore=True)
            found = searched()
            assert found[0].distance == 0
            assert str(query) in {hit.path for hit in found}
            ids, packed = stored()
            assert sorted(hit.id for hit in found) == ids.tolist()
            distance = codes.hamming(index.model.encode([query]).codes[0], packed)
            assert [hit.distance for hit in found] == sorted(distance.tolist())
            other.delete(sorted((photos / "blue").iterdir())[step:])
            other.delete([sorted((photos / "red").iterdir())[step]])
            after = searched()
            assert sorted(hit.id for hit in after) == stored()[0].tolist()
            assert isinstance(index._store, Store)
            merging = index._store._memory._merging
            if merging is not None:
                merging[1].result()
        assert len(whole) == len(list((photos / "red").iterdir()))
        assert reads
        assert None not in reads  # never all of it again


@pytest.mark.slow
def test_an_index_that_was_refitted_meanwhile_is_loaded_anew(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, Index.open(tmp_path / "a.wb") as other:
        index.add(photos, bits=24)
        query = photos / "red" / "003.jpg"
        index.search(query)
        other.refit(bits=16)
        assert index.search(query, fine="none")[0].distance == 0
        assert index.searchable().bits == 16


def test_info(index: Index) -> None:
    info = index.info()
    assert (info.items, info.labels, info.bits, info.dim) == (60, 3, 24, DIM)
    assert info.unique_codes == len(np.unique(index.codes()))
    assert info.search_bytes == index.searchable().nbytes > 0
    assert isinstance(index.path, Path)
    assert info.bytes == index.path.stat().st_size
    with closing(Store.open(index.path)) as store:
        assert info.fingerprint == Model(store.model_files()).fingerprint
    assert (info.model, info.method, info.fine) == ("general", "itq", "pool")


def test_sources_that_make_no_sense(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        with pytest.raises(DataError, match="paths and pictures"):
            index.add(["a.jpg", np.zeros((4, 4, 3), np.uint8)])  # type: ignore[arg-type]
        with pytest.raises(DataError, match="there is no"):
            index.add(tmp_path / "nowhere")
        (tmp_path / "hollow").mkdir()
        (tmp_path / "hollow" / "notes.txt").touch()
        with pytest.raises(DataError, match=r"has no images, only 1 other file$"):
            index.add(tmp_path / "hollow")


def test_pictures_that_are_no_files(tmp_path: Path) -> None:
    stack = np.stack([np.asarray(picture(i)) for i in range(6)])
    with Index.create(tmp_path / "a.wb") as index:
        assert index.add(stack, bits=8).added == 6
        again = index.add(
            [*stack[:3], Image.fromarray(stack[4]), stack[5], np.asarray(picture(77))]
        )
        assert (again.added, again.unchanged) == (1, 5)
        hits = index.search(stack[2], 3)
        assert hits[0].distance == 0
        assert hits[0].score == pytest.approx(1, abs=1e-3)
        with pytest.raises(StoreError, match="added as an array"):
            index.refit()


def test_what_is_stored_is_read_by_id(shared_index_path: Path) -> None:
    with Index.open(shared_index_path) as index:
        ids, some = index.ids(), [7, 3, 60]
        rows = np.searchsorted(ids, some)
        np.testing.assert_array_equal(index.codes(some), index.codes()[rows])
        np.testing.assert_array_equal(index.features(some), index.features()[rows])
        assert index.items(some) == [index.items()[row] for row in rows]
        assert len(index.codes([])) == len(index.items([])) == 0
        np.testing.assert_array_equal(index.features(ids[:5]), index.features()[:5])  # of numpy
        for read in (index.codes, index.items):
            with pytest.raises(StoreError, match="no item 61"):
                read([1, 61])


def test_an_integer_is_the_id_of_an_item(index: Index, shared_photos: Path, tmp_path: Path) -> None:
    """Python would take it for a file descriptor and close it: here, that of the index itself."""
    opened = [(tmp_path / str(i)).open("w") for i in range(3)]
    by_id = index.search(7, 5)
    assert (by_id[0].id, by_id[0].distance) == (7, 0)
    assert by_id == index.search(np.int64(7), 5)  # type: ignore[arg-type]
    assert [(hit.id, hit.distance) for hit in by_id] == [
        (hit.id, hit.distance) for hit in index.search(by_id[0].path, 5)
    ]
    mixed = index.search_many([7, by_id[0].path, index.model.encode([by_id[0].path])], 5)
    assert [[hit.id for hit in hits] for hits in mixed] == [[hit.id for hit in by_id]] * 3
    for number in (*(file.fileno() for file in opened), 0, -1, 999, 2**70):
        if number not in range(1, 61):
            with pytest.raises(QueryError, match=f"holds no item {number}"):
                index.search(number)
        else:
            index.search(number)
    for file in opened:
        assert os.fstat(file.fileno())
        file.close()
    with pytest.raises(QueryError, match="beside an id"):
        index.search(3, box=(0, 0, 5, 5))
    with pytest.raises(DataError, match="add takes images, not int"):
        index.add([3])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="add takes images, not int"):
        index.add(3)  # type: ignore[arg-type]


def test_embeddings_are_a_sequence_that_ends(index: Index, shared_photos: Path) -> None:
    files = sorted(shared_photos.rglob("*.jpg"))[:4]
    several = index.model.encode(files)
    assert [len(one) for one in several] == [1, 1, 1, 1]
    assert np.array_equal(several[-1].codes, several[3].codes)
    assert np.array_equal(several[1:3].features, several.features[1:3])
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            several[beyond]
    expected = index.search_many(files, 3)
    assert index.search_many(several, 3) == index.search_many(list(several), 3) == expected
    with pytest.raises(QueryError, match=r"not 4 embeddings.*search_many"):
        index.search(several)
    with pytest.raises(QueryError, match="not 0 embeddings"):
        index.search(several[:0])
    with pytest.raises(QueryError, match=r"a list of 4.*search_many"):
        index.search(files)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"takes a list of queries.*use search"):
        index.search_many(str(files[0]))
    with pytest.raises(QueryError, match="takes an image or a text="):
        index.search(None)
    for made in (several, [several[0]]):
        with pytest.raises(DataError, match="add takes images, not Embeddings"):
            index.add(made)  # type: ignore[arg-type]


@pytest.mark.slow
def test_hits_are_members_of_a_set_and_score_at_most_1(index: Index, shared_photos: Path) -> None:
    for fine in ("none", "ties", "pool", "asymmetric"):
        hits = index.search_many(sorted(shared_photos.rglob("*.jpg")), 3, fine=fine)
        assert len({hit for found in hits for hit in found[:1]}) > 3
        scores = [hit.score for found in hits for hit in found if hit.score is not None]
        assert max(scores, default=0) <= 1
    assert len(set(index.items())) == 60


def test_delete_takes_one_item_and_numbers_of_numpy_and_names_what_it_did_not_find(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        monkeypatch.chdir(photos / "red")
        assert index.delete("003.jpg") == 1
        assert index.delete(Path("004.jpg")) == 1
        assert index.delete(np.int64(2)) == 1  # type: ignore[arg-type]
        assert index.delete(np.array([7, 8])) == 2
        gone = index.delete(["003.jpg", 2, 2**70, 9])
        assert (gone, gone.missing) == (1, ("003.jpg", 2, 2**70))
        with pytest.raises(QueryError, match=r"ids and paths, not float"):
            index.delete([1, 2.5])  # type: ignore[list-item]
        with pytest.raises(QueryError, match=r"ids and paths, not float"):
            index.delete(1.5)  # type: ignore[arg-type]
        assert len(index) == 18
        assert index.verify() == []
