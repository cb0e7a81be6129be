from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_classes
from wingbar.data.readers import read_images
from wingbar.data.records import Images
from wingbar.evaluation.labelled import evaluate
from wingbar.index.index import Index
from wingbar.training.held_out import Side, fine_scores


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return read_images(write_classes(tmp_path_factory.mktemp("queries") / "q", 4, first_seed=300))


@pytest.mark.slow
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
