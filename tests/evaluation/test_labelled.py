from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture, write_classes
from tests.evaluation.test_metrics import ap
from tests.index.test_averaging import label_free_model
from wingbar.data.readers import read_dataset, read_images
from wingbar.data.records import Entry, Images
from wingbar.errors import DataError, QueryError
from wingbar.evaluation.labelled import evaluate
from wingbar.evaluation.metrics import (
    ap_bounds,
    expected_ap,
    expected_ap_at,
    expected_precision_at,
    expected_recall_at,
    health,
)
from wingbar.hamming import codes
from wingbar.index.index import Index
from wingbar.index.store import Store


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return read_images(write_classes(tmp_path_factory.mktemp("queries") / "q", 4, first_seed=300))


@pytest.fixture(scope="module")
def index(shared_index_path: Path) -> Index:
    return Index.open(shared_index_path)


def test_queries_are_cut_to_their_boxes(index: Index, queries: Images, tmp_path: Path) -> None:
    boxed = replace(queries, entries=[replace(entry, box=(8, 8, 30, 30)) for entry in queries])
    cut = []
    for i, entry in enumerate(queries):
        with Image.open(entry.path) as image:
            image.convert("RGB").crop((8, 8, 38, 38)).save(tmp_path / f"{i}.png")
        cut.append(replace(entry, path=tmp_path / f"{i}.png"))
    in_box, of_files, whole = (
        evaluate(index, q) for q in (boxed, replace(queries, entries=cut), queries)
    )
    assert [q.map for q in in_box.per_query] == [q.map for q in of_files.per_query]
    assert replace(in_box, per_query=()) == replace(of_files, per_query=())
    assert [q.map for q in in_box.per_query] != [q.map for q in whole.per_query]
    assert {q.box for q in in_box.per_query} == {(8, 8, 30, 30)}
    assert {q.box for q in whole.per_query} == {None}


def test_it_is_printed_in_one_line(index: Index, queries: Images) -> None:
    found = evaluate(index, queries)
    text = str(found)
    assert text.startswith(f"MAP {found.map:.3f} ({found.map_low:.3f} to {found.map_high:.3f} by ")
    assert text.endswith(found.protocol)
    assert len(text.split(found.protocol)[0]) < 200


def test_every_number_by_brute_force(index: Index, queries: Images) -> None:
    result = evaluate(index, queries, shortlist=20)
    labels = np.array(index.labels())
    packed, features = index.codes(), index.features().astype(np.float32)
    code_aps, feature_aps, at, at_r, precision, empty, top1, rerank, read = (
        [],
        [],
        [],
        [],
        [],
        [],
        [],
        [],
        [],
    )
    for entry in queries:
        query = index.model.encode([entry.path])
        relevant = labels == entry.label
        distance = codes.hamming(query.codes[0], packed)
        cosine = features @ query.features[0]
        code_aps.append(ap_bounds(distance, relevant))
        at.append(expected_ap_at(distance, relevant, 1000))
        at_r.append(expected_ap_at(distance, relevant, int(relevant.sum()), "relevant"))
        feature_aps.append(ap(relevant[np.argsort(-cosine, kind="stable")].tolist()))
        top1.append(relevant[cosine.argmax()])
        inside = distance <= 2
        precision.append(relevant[inside].mean() if inside.any() else 0)
        empty.append(not inside.any())
        pool = [hit.id for hit in index.search(entry.path, 60, fine="pool", shortlist=20)]
        assert len(pool) == 60
        tail = np.sort(distance)[19]
        read.append((distance <= tail).mean())
        key = np.where(distance <= tail, -10 - cosine, distance)
        rerank.append(expected_ap(key, relevant))
    expected = [
        *np.mean(code_aps, 0),
        *[
            np.mean(values)
            for values in (at, at_r, precision, empty, feature_aps, top1, rerank, read)
        ],
    ]
    found = [
        result.map,
        result.map_low,
        result.map_high,
        result.map_at_1000,
        result.map_at_r,
        result.precision_radius_2,
        result.empty_radius_2,
        result.feature_map,
        result.feature_top1,
        result.rerank_map,
        result.features_read,
    ]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-6)
    assert (result.queries, result.gallery, result.bits, result.unique_codes) == (
        12,
        60,
        24,
        index.info().unique_codes,
    )
    assert result.queries_in_gallery == result.queries_without_match == 0
    found_health = health(codes.unpack(packed, 24))
    assert (result.largest_bucket, result.constant_bits) == (
        found_health.largest_bucket,
        found_health.constant,
    )
    assert result.bit_balance == (min(found_health.bit_balance), max(found_health.bit_balance))
    assert evaluate(index, queries, fine="asymmetric").features_read == 0
    assert "network codes on both sides" in result.protocol


def test_a_query_in_the_gallery_does_not_find_itself(index: Index, shared_photos: Path) -> None:
    own = read_images(shared_photos)
    result = evaluate(index, own)
    assert result.queries_in_gallery == 60
    assert "60 queries searched without their own copies" in result.protocol
    labels, packed = np.array(index.labels()), index.codes()
    expected = []
    for row in range(60):
        others = np.arange(60) != row
        expected.append(
            expected_ap(codes.hamming(packed[row], packed)[others], (labels == labels[row])[others])
        )
    assert result.map == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.slow
def test_a_gallery_that_changes_meanwhile(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, Index.open(tmp_path / "a.wb") as other:
        index.add(photos, bits=16)
        before = evaluate(index, read_images(photos))

        def disturb(stage: str, done: int, total: int) -> None:
            other.delete([photos / "red" / "001.jpg"])

        assert evaluate(index, read_images(photos), progress=disturb) == before
        after = evaluate(index, read_images(photos))
        assert (after.gallery, after.queries) == (23, 24)


def test_queries_that_cannot_be_scored_are_counted(
    index: Index, queries: Images, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_text("no")
    picture(1).save(tmp_path / "owl.jpg")
    entries = [
        *queries,
        Entry(tmp_path / "bad.jpg", "red"),
        Entry(tmp_path / "owl.jpg", "owl"),
        Entry(tmp_path / "owl.jpg"),
    ]
    seen = []
    result = evaluate(index, Images(entries, "mixed"), progress=lambda *step: seen.append(step))
    assert (result.queries, result.queries_without_match) == (12, 1)
    assert [Path(failure.path).name for failure in result.failed] == ["bad.jpg"]
    assert seen[-1] == ("evaluating", 14, 14)
    assert result.map == pytest.approx(evaluate(index, queries).map)


@pytest.mark.slow
def test_what_cannot_be_evaluated(index: Index, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="queries have no labels"):
        evaluate(index, read_images(photos / "red"))
    with pytest.raises(DataError, match="same classes"):
        evaluate(index, Images([Entry(photos / "red" / "000.jpg", "owl")], "x"))
    with pytest.raises(DataError, match=r"1 file could not be used, the first is .*gone.jpg \("):
        evaluate(index, Images([Entry(tmp_path / "gone.jpg", "red")], "x"))
    with Index.create(tmp_path / "plain.wb") as plain:
        with pytest.raises(QueryError, match="holds no images"):
            evaluate(plain, read_images(photos))
        plain.add(photos / "red", bits=8)
        with pytest.raises(DataError, match="has a label"):
            evaluate(plain, read_images(photos))


def test_the_protocol_of_the_data_is_carried(index: Index, shared_photos: Path) -> None:
    data = read_dataset(shared_photos)
    assert evaluate(index, data.query).protocol.startswith(
        "folder: no split, 20% of each class drawn as queries (seed 0)"
    )


def test_curves_health_and_argmax_by_brute_force(index: Index, queries: Images) -> None:
    result = evaluate(index, queries)
    labels, packed = np.array(index.labels()), index.codes()
    stored = index.features().astype(np.float32)
    names = sorted(set(labels.tolist()))
    means = np.stack([stored[labels == name].mean(0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    precision, recall, top, found, argmax, right = [], [], [], [], [], []
    near, far = np.zeros(25), np.zeros(25)
    for entry in queries:
        query = index.model.encode([entry.path])
        relevant = labels == entry.label
        distance = codes.hamming(query.codes[0], packed)
        radius = [distance <= r for r in range(25)]
        precision.append([relevant[inside].mean() if inside.any() else 0 for inside in radius])
        recall.append([relevant[inside].sum() / relevant.sum() for inside in radius])
        top.append([expected_precision_at(distance, relevant, k) for k in result.curves.ranks])
        found.append([expected_recall_at(distance, relevant, k) for k in result.curves.ranks])
        near += np.bincount(distance[relevant], minlength=25)
        far += np.bincount(distance[~relevant], minlength=25)
        predicted_class = int((means @ query.features[0]).argmax())
        argmax.append(expected_ap((stored @ means.T).argmax(1) != predicted_class, relevant))
        right.append(names[predicted_class] == entry.label)
    curves = result.curves
    np.testing.assert_allclose(curves.precision, np.mean(precision, 0), atol=1e-12)
    np.testing.assert_allclose(curves.recall, np.mean(recall, 0), atol=1e-12)
    np.testing.assert_allclose(curves.precision_at, np.mean(top, 0), atol=1e-12)
    np.testing.assert_allclose(curves.recall_at, np.mean(found, 0), atol=1e-12)
    np.testing.assert_allclose(curves.matching, near / near.sum(), atol=1e-12)
    np.testing.assert_allclose(curves.others, far / far.sum(), atol=1e-12)
    assert (curves.ranks[0], curves.ranks[-1]) == (1, 60)
    assert result.argmax_map == pytest.approx(np.mean(argmax), abs=1e-12)
    assert (result.argmax_accuracy, result.argmax_bits) == (np.mean(right), 2)
    assert [q.predicted_right for q in result.per_query] == [
        q.predicted == q.label for q in result.per_query
    ]
    assert np.mean([q.predicted_right for q in result.per_query]) == result.argmax_accuracy
    assert [Path(q.path) for q in result.per_query] == queries.paths
    for name in ("map", "rerank_map", "feature_map"):
        assert np.mean([getattr(q, name) for q in result.per_query]) == pytest.approx(
            getattr(result, name), abs=1e-12
        )


def test_without_all_features(index: Index, queries: Images) -> None:
    every, few = evaluate(index, queries), evaluate(index, queries, exhaustive=False)
    assert (few.feature_map, few.feature_top1) == (None, None)
    assert few == replace(
        every,
        feature_map=None,
        feature_top1=None,
        per_query=tuple(replace(q, feature_map=None) for q in every.per_query),
    )


@pytest.mark.slow
def test_what_is_left_out_is_said(photos: Path, tmp_path: Path) -> None:
    (photos / "empty").mkdir()
    with Index.create(tmp_path / "a.wb") as index:
        index.add(photos, bits=16)
        picture(5).save(tmp_path / "owl.jpg")
        index.add([tmp_path / "owl.jpg"])
        asked = [Entry(photos / "red" / f"00{i}.jpg", "red") for i in (1, 2, 1)] + [
            Entry(photos / "blue" / "003.jpg", "owl")
        ]
        result = evaluate(index, Images(asked, "some", root=photos))
    assert result.classes_empty == 1
    assert (result.queries, result.queries_repeated, result.queries_without_match) == (2, 1, 1)
    assert (result.labels_without_items, result.labels_without_queries) == (1, 2)
    assert (result.items_without_label, result.queries_in_gallery) == (1, 2)
    assert result.notes == (
        "1 query has no match in the gallery: counted, not averaged",
        "1 label of queries has no item in the gallery: owl",
        "2 labels of the gallery have no query: blue, green",
        "1 query is listed more than once: each was scored once",
        "2 queries are in the gallery too: searched without their copies",
        "1 folder of the queries is empty: empty",
        "1 item has no label: they count as wrong",
    )


@pytest.mark.slow
def test_bits_that_never_change_are_refused(tmp_path: Path) -> None:
    many = write_classes(tmp_path / "many", 34)
    with Index.create(tmp_path / "a.wb") as index:
        index.add(many, bits=8)
        ids, packed = index.ids(), index.codes()
        with closing(Store.open(tmp_path / "a.wb")) as store, store.writing():
            store.replace_embeddings(
                packed | np.uint64(9), index.features().astype(np.float32), ids, 8
            )
        with pytest.raises(
            DataError, match=r"bits 0, 3 are the same for every item .* a code of 6 bits, not of 8"
        ):
            evaluate(index, read_images(many))
        result = evaluate(index, read_images(many), keep_constant_bits=True)
        assert result.constant_bits == (0, 3)


def test_queries_are_averaged_as_the_search_does(tmp_path: Path) -> None:
    files = sorted(write_classes(tmp_path / "photos", 12).rglob("*.jpg"))
    others = sorted(write_classes(tmp_path / "queries", 2, first_seed=700).rglob("*.jpg"))
    queries = Images([Entry(path, "ab"[i % 2]) for i, path in enumerate(others)], "drawn")
    with Index.create(tmp_path / "a.wb", label_free_model()) as index:
        index.add(files, labels=["a", "b"] * 18, bits=16, purpose="classes")
        found = evaluate(index, queries)
        assert found.expand == 10
        assert "queries averaged with 10 neighbours each" in found.protocol
        assert found.per_query == evaluate(index, queries, expand=10).per_query
        plain = evaluate(index, queries, expand=0)
        assert "averaged" not in plain.protocol
        assert plain.per_query != found.per_query
        hits = index.search(queries.paths[0], 36, fine="pool", shortlist=36)
        ranked = [hit.label == found.per_query[0].label for hit in hits]
        by_search = expected_ap(np.arange(36), np.array(ranked))
        feature_map = found.per_query[0].feature_map
        assert feature_map == pytest.approx(by_search, abs=1e-6)


def test_with_several_labels_items_that_share_one_are_relevant(
    index: Index, queries: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By brute force over sets of labels."""
    kinds = ("a", "a|b", "b | c", "d", None)
    items = [kinds[i % 5] for i in range(60)]
    monkeypatch.setattr(Index, "labels", lambda self: items)
    asked = ("b|e", "c", "d|a", "e")
    several = replace(
        queries,
        entries=[replace(entry, label=asked[i % 4]) for i, entry in enumerate(queries)],
        multi_label=True,
    )
    result = evaluate(index, several, fine="pool", shortlist=20)
    packed, features = index.codes(), index.features().astype(np.float32)
    sets = [{part.strip() for part in label.split("|")} if label else set() for label in items]
    aps, by_feature, reranked = [], [], []
    for i, entry in enumerate(several):
        own = set(asked[i % 4].split("|"))
        relevant = np.array([bool(own & of) for of in sets])
        if not relevant.any():
            continue
        query = index.model.encode([entry.path])
        distance = codes.hamming(query.codes[0], packed)
        cosine = features @ query.features[0]
        tail = np.sort(distance)[19]
        aps.append(ap_bounds(distance, relevant))
        by_feature.append(expected_ap(-cosine, relevant))
        reranked.append(expected_ap(np.where(distance <= tail, -10 - cosine, distance), relevant))
    assert len(aps) == result.queries == 9
    found = [result.map, result.map_low, result.map_high]
    np.testing.assert_allclose(found, np.mean(aps, 0), atol=1e-6)
    assert result.feature_map == pytest.approx(np.mean(by_feature), abs=1e-6)
    assert result.rerank_map == pytest.approx(np.mean(reranked), abs=1e-6)
    assert "relevant items share a label with the query" in result.protocol
    assert (result.labels_without_items, result.labels_without_queries) == (1, 0)
    assert result.queries_without_match == 3  # those of e alone
    assert result.per_query[0].label == "b|e"
    assert 0 < result.argmax_map < 1


@pytest.mark.parametrize("radius", [0, 5, 11])
def test_a_radius_alone_limits_the_pool(index: Index, queries: Images, radius: int) -> None:
    """As in the paper of DLBHC: all items at most so many bits away, by their features."""
    result = evaluate(index, queries, radius=radius, shortlist=1)
    labels = np.array(index.labels())
    packed, features = index.codes(), index.features().astype(np.float32)
    aps, read = [], []
    for entry in queries:
        query = index.model.encode([entry.path])
        distance = codes.hamming(query.codes[0], packed)
        inside = distance <= radius
        key = np.where(inside, -10 - features @ query.features[0], distance)
        aps.append(expected_ap(key, labels == entry.label))
        read.append(inside.mean())
    assert result.rerank_map == pytest.approx(np.mean(aps), abs=1e-6)
    assert result.features_read == pytest.approx(np.mean(read))
    assert (result.fine, result.radius) == ("pool", radius)
    assert f"rerank=pool of all at most {radius} bit" in result.protocol
    if radius == 0:
        with pytest.raises(DataError, match="a radius is for a fine mode"):
            evaluate(index, queries, radius=2, fine="none")
