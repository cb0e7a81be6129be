from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture, write_classes
from tests.test_measures import ap
from wingbar import codes
from wingbar.datasets import Entry, Images, read_dataset, read_images
from wingbar.errors import DataError, QueryError
from wingbar.evaluation import Side, evaluate, fine_scores
from wingbar.index import Index
from wingbar.measures import ap_bounds, expected_ap, expected_ap_at, health


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
    assert evaluate(index, boxed) == evaluate(index, replace(queries, entries=cut))
    assert evaluate(index, boxed) != evaluate(index, queries)


def test_every_number_by_brute_force(index: Index, queries: Images) -> None:
    result = evaluate(index, queries, shortlist=20)
    labels = np.array(index.labels())
    packed, features = index._store.codes(24)[1], index.features().astype(np.float32)
    code_aps, feature_aps, at, at_r, precision, empty, top1, rerank, read = [], [], [], [], [], [], [], [], []
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
        *[np.mean(values) for values in (at, at_r, precision, empty, feature_aps, top1, rerank, read)],
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
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (result.queries, result.gallery, result.bits, result.unique_codes) == (12, 60, 24, index.info().unique_codes)
    assert result.queries_in_gallery == result.queries_without_match == 0
    found_health = health(codes.unpack(packed, 24))
    assert (result.largest_bucket, result.constant_bits) == (found_health.largest_bucket, found_health.constant)
    assert result.bit_balance == (min(found_health.bit_balance), max(found_health.bit_balance))
    assert evaluate(index, queries, fine="asymmetric").features_read == 0
    assert "network codes on both sides" in result.protocol


@pytest.mark.parametrize("fine", ["none", "ties", "pool", "asymmetric"])
def test_the_reranked_order_is_the_one_that_search_shows(index: Index, queries: Images, fine: str) -> None:
    result = evaluate(index, queries, fine=fine, shortlist=60)  # type: ignore[arg-type]
    scores = []
    for entry in queries:
        hits = index.search(entry.path, 60, fine=fine, shortlist=60)  # type: ignore[arg-type]
        relevant = [hit.label == entry.label for hit in hits]
        distance = [hit.distance for hit in hits] if fine == "none" else range(60)
        scores.append(expected_ap(list(distance), relevant))
    assert result.rerank_map == pytest.approx(np.mean(scores), abs=1e-9)


def test_a_query_in_the_gallery_does_not_find_itself(index: Index, shared_photos: Path) -> None:
    own = read_images(shared_photos)
    result = evaluate(index, own)
    assert result.queries_in_gallery == 60
    assert "60 queries searched without their own copies" in result.protocol
    labels, packed = np.array(index.labels()), index._store.codes(24)[1]
    expected = []
    for row in range(60):
        others = np.arange(60) != row
        expected.append(expected_ap(codes.hamming(packed[row], packed)[others], (labels == labels[row])[others]))
    assert result.map == pytest.approx(np.mean(expected), abs=1e-9)


def test_a_gallery_that_changes_meanwhile(photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb") as index, Index.open(tmp_path / "a.wb") as other:
        index.add(photos, bits=16)
        before = evaluate(index, read_images(photos))

        def disturb(stage: str, done: int, total: int) -> None:
            other.delete([photos / "red" / "001.jpg"])

        assert evaluate(index, read_images(photos), progress=disturb) == before
        after = evaluate(index, read_images(photos))
        assert (after.gallery, after.queries) == (23, 24)


def test_fine_scores_are_those_of_the_index(shared_index_path: Path, queries: Images) -> None:
    with Index.open(shared_index_path) as index:
        labels = np.unique([str(label) for label in index.labels()], return_inverse=True)[1]
        by_label = {"blue": 0, "green": 1, "red": 2}
        stored = index.model.encode([item.path for _, item in index._store.all_items()])
        found = index.model.encode(queries.paths)
        sides = [
            Side(found.logits, found.features, np.array([by_label[str(label)] for label in queries.labels])),
            Side(stored.logits, stored.features, labels),
        ]
        scores = fine_scores(sides[0], sides[1], shortlist=20)
        for mode in ("none", "ties", "pool", "asymmetric"):
            expected = evaluate(index, queries, fine=mode, shortlist=20).rerank_map
            assert scores[mode] == pytest.approx(expected, abs=2e-3)  # stored features are float16


def test_queries_that_cannot_be_scored_are_counted(index: Index, queries: Images, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no")
    picture(1).save(tmp_path / "owl.jpg")
    entries = [*queries, Entry(tmp_path / "bad.jpg", "red"), Entry(tmp_path / "owl.jpg", "owl"), Entry(tmp_path / "owl.jpg")]
    seen = []
    result = evaluate(index, Images(entries, "mixed"), progress=lambda *step: seen.append(step))
    assert (result.queries, result.queries_without_match) == (12, 1)
    assert [Path(failure.path).name for failure in result.failed] == ["bad.jpg"]
    assert seen[-1] == ("evaluating", 14, 14)
    assert result.map == pytest.approx(evaluate(index, queries).map)


def test_what_cannot_be_evaluated(index: Index, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="queries have no labels"):
        evaluate(index, read_images(photos / "red"))
    with pytest.raises(DataError, match="same classes"):
        evaluate(index, Images([Entry(photos / "red" / "000.jpg", "owl")], "x"))
    with Index.create(tmp_path / "plain.wb") as plain:
        with pytest.raises(QueryError, match="holds no images"):
            evaluate(plain, read_images(photos))
        plain.add(photos / "red", bits=8)
        with pytest.raises(DataError, match="has a label"):
            evaluate(plain, read_images(photos))


def test_the_protocol_of_the_data_is_carried(index: Index, shared_photos: Path) -> None:
    data = read_dataset(shared_photos)
    assert evaluate(index, data.query).protocol.startswith("folder: no split, 20% of each class drawn as queries (seed 0)")
