from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import picture, write_classes
from wingbar import codes
from wingbar.datasets import Entry, Images, read_dataset, read_images
from wingbar.errors import DataError, QueryError
from wingbar.evaluation import Side, ap_bounds, evaluate, expected_ap, expected_ap_at, fine_scores
from wingbar.index import Index


def ap(relevant: list[bool], k: int | None = None) -> float:
    """Average precision of one order, from the definition; with k, over the hits inside the top k."""
    top = relevant[:k]
    hits, total = 0, 0.0
    for rank, is_hit in enumerate(top, 1):
        if is_hit:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def all_orders(distance: list[int], relevant: list[bool]) -> list[list[bool]]:
    """Relevance in every order that the ties allow."""
    groups = [[r for d, r in zip(distance, relevant, strict=True) if d == value] for value in sorted(set(distance))]
    return [
        list(itertools.chain(*orders)) for orders in itertools.product(*(list(itertools.permutations(group)) for group in groups))
    ]


@pytest.mark.parametrize(
    ("distance", "relevant", "expected"),
    [
        ([0, 0], [1, 0], (0.75, 0.5, 1.0)),
        ([0, 1, 1, 1, 2, 2], [1, 0, 1, 0, 1, 0], (0.7574074074, 0.6666666667, 0.8666666667)),
        ([1, 1, 1, 1, 3, 3, 3], [1, 0, 0, 1, 0, 1, 0], (0.6235449735, 0.4206349206, 0.8666666667)),
    ],
)
def test_golden_values(distance: list[int], relevant: list[int], expected: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(ap_bounds(distance, relevant), expected, atol=1e-9)
    assert expected_ap(distance, relevant) == ap_bounds(distance, relevant)[0]


rankings = st.integers(1, 7).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 3), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n))
)


@settings(max_examples=150, deadline=None)
@given(ranking=rankings)
def test_the_mean_and_the_bounds_over_all_orders(ranking: tuple[list[int], list[bool]]) -> None:
    every = [ap(order) for order in all_orders(*ranking)]
    np.testing.assert_allclose(ap_bounds(*ranking), [float(np.mean(every)), min(every), max(every)], atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(ranking=rankings, k=st.integers(1, 9))
def test_the_mean_at_k_over_all_orders(ranking: tuple[list[int], list[bool]], k: int) -> None:
    every = [ap(order, k) for order in all_orders(*ranking)]
    assert expected_ap_at(*ranking, k) == pytest.approx(np.mean(every), abs=1e-12)


def test_without_ties_it_is_the_textbook_ap() -> None:
    rng = np.random.default_rng(0)
    distance, relevant = rng.permutation(5000), rng.random(5000) < 0.1
    expected = ap(relevant[np.argsort(distance)].tolist())
    np.testing.assert_allclose(ap_bounds(distance, relevant), [expected] * 3, atol=1e-12)
    assert expected_ap_at(distance, relevant, 1000) == pytest.approx(ap(relevant[np.argsort(distance)].tolist(), 1000), abs=1e-12)


def test_large_ties_stay_exact() -> None:
    """One bucket of 100,000 items: the mean by the sum of the formula, term by term."""
    n, hits = 100_000, 137
    t = np.arange(n)
    slow = float((hits / n * (1 + t * (hits - 1) / (n - 1)) / (t + 1)).sum() / hits)
    relevant = np.arange(n) < hits
    assert expected_ap(np.zeros(n, int), relevant) == pytest.approx(slow, abs=1e-12)


def test_the_mean_at_k_of_large_ties_by_sampling() -> None:
    distance, relevant = np.repeat([0, 1, 2], [300, 2000, 500]), np.random.default_rng(1).random(2800) < 0.2
    rng = np.random.default_rng(2)
    sampled = [ap(relevant[np.lexsort((rng.random(2800), distance))].tolist(), 1000) for _ in range(400)]
    assert expected_ap_at(distance, relevant, 1000) == pytest.approx(np.mean(sampled), abs=4 * float(np.std(sampled)) / 20)


def test_edges() -> None:
    assert expected_ap([], []) == 0
    assert ap_bounds([1, 2], [False, False]) == (0, 0, 0)
    assert expected_ap([3], [True]) == 1
    assert expected_ap([0.5, -0.5], [True, False]) == 0.5
    with pytest.raises(ValueError, match="both"):
        expected_ap([1, 2], [True])
    with pytest.raises(ValueError, match="NaN"):
        expected_ap([np.nan, 1.0], [True, False])


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
    code_aps, feature_aps, at, precision, empty, top1, rerank = [], [], [], [], [], [], []
    for entry in queries:
        query = index.model.encode([entry.path])
        relevant = labels == entry.label
        distance = codes.hamming(query.codes[0], packed)
        cosine = features @ query.features[0]
        code_aps.append(ap_bounds(distance, relevant))
        at.append(expected_ap_at(distance, relevant, 1000))
        feature_aps.append(ap(relevant[np.argsort(-cosine, kind="stable")].tolist()))
        top1.append(relevant[cosine.argmax()])
        inside = distance <= 2
        precision.append(relevant[inside].mean() if inside.any() else 0)
        empty.append(not inside.any())
        pool = [hit.id for hit in index.search(entry.path, 60, fine="pool", shortlist=20)]
        assert len(pool) == 60
        tail = np.sort(distance)[19]
        key = np.where(distance <= tail, -10 - cosine, distance)
        rerank.append(expected_ap(key, relevant))
    expected = [*np.mean(code_aps, 0), *[np.mean(values) for values in (at, precision, empty, feature_aps, top1, rerank)]]
    found = [
        result.map,
        result.map_low,
        result.map_high,
        result.map_at_1000,
        result.precision_radius_2,
        result.empty_radius_2,
        result.feature_map,
        result.feature_top1,
        result.rerank_map,
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (result.queries, result.gallery, result.bits, result.unique_codes) == (12, 60, 24, index.info().unique_codes)
    assert result.queries_in_gallery == result.queries_without_match == 0
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
