from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from wingbar.data.readers import read_images
from wingbar.data.records import Images
from wingbar.evaluation import scoring
from wingbar.evaluation.labelled import evaluate
from wingbar.evaluation.metrics import expected, expected_ap
from wingbar.index import ranking
from wingbar.index.index import Index
from wingbar.index.ranking import FINE, Fine
from wingbar.training.held_out import Side, fine_scores


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return read_images(write_classes(tmp_path_factory.mktemp("queries") / "q", 4, first_seed=300))


@pytest.fixture(scope="module")
def index(shared_index_path: Path) -> Index:
    return Index.open(shared_index_path)


def test_fine_scores_are_those_of_the_index(shared_index_path: Path, queries: Images) -> None:
    with Index.open(shared_index_path) as index:
        labels = np.unique([str(label) for label in index.labels()], return_inverse=True)[1]
        by_label = {"blue": 0, "green": 1, "red": 2}
        stored = index.model.encode([item.path for item in index.items()])
        found = index.model.encode(queries.paths)
        sides = [
            Side(
                found.logits,
                found.features,
                np.array([by_label[str(label)] for label in queries.labels]),
            ),
            Side(stored.logits, stored.features, labels),
        ]
        scores = fine_scores(sides[0], sides[1], shortlist=20)
        for mode in ("none", "ties", "pool", "asymmetric"):
            expected = evaluate(index, queries, fine=mode, shortlist=20).rerank_map
            assert scores[mode] == pytest.approx(expected, abs=2e-3)  # stored features are float16


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
    place[pool] = ranking.fine_places(mode, distance[pool], scores[pool])
    items, hits = (np.bincount(some, minlength=7) for some in (distance, distance[relevant]))
    groups = scoring.fine_buckets(mode, items, hits, distance[pool], scores[pool], relevant[pool])
    assert groups.size.sum() == n
    assert expected(groups) == pytest.approx(expected_ap(place, relevant), abs=1e-12)
