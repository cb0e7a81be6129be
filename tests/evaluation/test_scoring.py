from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from wingbar.data.readers import read_images
from wingbar.data.records import Images
from wingbar.errors import DataError
from wingbar.evaluation.labelled import evaluate
from wingbar.evaluation.metrics import expected_ap
from wingbar.evaluation.scoring import fine_buckets
from wingbar.hamming import codes
from wingbar.images import Pixels
from wingbar.index.index import Index
from wingbar.index.ranking import FINE, Fine, fine_places
from wingbar.model.model import Embeddings


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return read_images(write_classes(tmp_path_factory.mktemp("queries") / "q", 4, first_seed=300))


@pytest.fixture(scope="module")
def index(shared_index_path: Path) -> Index:
    return Index.open(shared_index_path)


@pytest.mark.parametrize("fine", ["none", "ties", "pool", "asymmetric"])
def test_the_reranked_order_is_the_one_that_search_shows(
    index: Index, queries: Images, fine: str
) -> None:
    result = evaluate(index, queries, fine=fine, shortlist=60)  # type: ignore[arg-type]
    scores = []
    for entry in queries:
        hits = index.search(entry.path, 60, fine=fine, shortlist=60)  # type: ignore[arg-type]
        relevant = [hit.label == entry.label for hit in hits]
        distance = [hit.distance for hit in hits] if fine == "none" else range(60)
        scores.append(expected_ap(list(distance), relevant))
    assert result.rerank_map == pytest.approx(np.mean(scores), abs=1e-9)


def test_argmax_of_a_query_in_the_gallery(index: Index, shared_photos: Path) -> None:
    result = evaluate(index, read_images(shared_photos))
    labels, stored = np.array(index.labels()), index.features().astype(np.float32)
    means = np.stack([stored[labels == name].mean(0) for name in sorted(set(labels.tolist()))])
    predicted_class = (stored @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
    aps = []
    for row in range(60):
        others = np.arange(60) != row
        aps.append(
            expected_ap(
                (predicted_class != predicted_class[row])[others], (labels == labels[row])[others]
            )
        )
    assert result.argmax_map == pytest.approx(np.mean(aps), abs=1e-9)


def test_codes_of_labels_are_what_most_of_a_class_have(index: Index, queries: Images) -> None:
    entries = [replace(one, label="green") if i % 3 == 0 else one for i, one in enumerate(queries)]
    queries = replace(queries, entries=entries)  # the network errs
    honest, told = evaluate(index, queries), evaluate(index, queries, gallery_codes="labels")
    labels, bits = np.array(index.labels()), codes.unpack(index.codes(), 24)
    of_class = np.stack([bits[labels == label].mean(0) >= 0.5 for label in labels])
    aps = []
    for entry in queries:
        code = index.model.encode([entry.path]).codes[0]
        aps.append(expected_ap(codes.hamming(code, codes.pack(of_class)), labels == entry.label))
    assert told.map == pytest.approx(np.mean(aps), abs=1e-12)
    assert told.map != honest.map
    assert (told.gallery_codes, honest.gallery_codes) == ("labels", "network")
    assert "from its labels" in told.protocol
    assert told.unique_codes == honest.unique_codes  # health is of what the network gives
    with pytest.raises(DataError, match="not 'best'"):
        evaluate(index, queries, gallery_codes="best")  # type: ignore[arg-type]


def test_a_query_whose_numbers_are_not_finite(
    index: Index, queries: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = index.model.encode_pixels

    def broken(pixels: Iterable[Pixels]) -> Embeddings:
        found = encode(pixels)
        found.features[0] = np.nan
        return found

    monkeypatch.setattr(index.model, "encode_pixels", broken)
    result = evaluate(index, queries)
    assert result.queries == 11
    assert [failure.path for failure in result.failed] == [str(queries[0].path)]
    assert "not finite" in result.failed[0].reason
    assert result.notes == ("1 query could not be used: the list of failures says why",)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), mode=st.sampled_from(FINE))
def test_groups_are_the_places_of_all_items(data: st.DataObject, mode: Fine) -> None:
    n = data.draw(st.integers(1, 30))
    distance = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), np.int64)
    relevant = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(
        data.draw(st.lists(st.sampled_from([-1, -0.5, 0, 0.25, 1]), min_size=n, max_size=n)),
        np.float32,
    )
    reach = data.draw(st.integers(0, 6))
    pool = np.flatnonzero(distance <= reach)
    place = distance.astype(np.float64)
    place[pool] = fine_places(mode, distance[pool], scores[pool])
    items, hits = (np.bincount(some, minlength=7) for some in (distance, distance[relevant]))
    groups = fine_buckets(mode, items, hits, distance[pool], scores[pool], relevant[pool])
    assert groups.size.sum() == n
    assert groups.expected_ap() == pytest.approx(expected_ap(place, relevant), abs=1e-12)
