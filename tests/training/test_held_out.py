from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import write_classes
from tests.runs import SMALL
from wingbar.data.readers import read_images
from wingbar.data.records import Images
from wingbar.evaluation.labelled import evaluate
from wingbar.index.index import Index
from wingbar.parallel import no_progress
from wingbar.training import versions
from wingbar.training.held_out import Measured, Side, fine_scores, measure
from wingbar.training.pictures import split


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


def colours(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
    """A network without codes: the 4 x 4 mean colours."""
    parts = pixels.reshape(len(pixels), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(pixels), -1)
    return parts.astype(np.float32), None


def test_instances_are_searched_by_altered_copies(
    queries: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that are not altered are found first; altered ones are not always."""
    run = replace(SMALL, instances=True, held_out=0.5)
    parts = split(queries, run, no_progress)
    altered = measure(colours, parts, run, 8, no_progress).scores
    assert set(altered) == {"none", "ties", "pool", "asymmetric"}
    assert altered["pool"] < 1
    monkeypatch.setattr(versions, "CHANGES", ())
    assert measure(colours, parts, run, 8, no_progress).scores["pool"] == 1


def test_the_fine_mode_is_the_best_measured_else_the_one_to_expect(queries: Images) -> None:
    scores = {"none": 0.8, "ties": 0.85, "pool": 0.9, "asymmetric": 0.7}
    assert Measured(scores, None).fine(is_of_classes=True) == "pool"
    assert Measured({}, None).fine(is_of_classes=True) == "ties"
    assert Measured({}, None).fine(is_of_classes=False) == "pool"
    run = replace(SMALL, held_out=0.0)
    fitted = measure(colours, split(queries, run, no_progress), run, 8, no_progress)
    assert fitted.rotation is not None
    assert fitted.fine(is_of_classes=True) == "pool"


def test_an_item_that_shares_a_class_is_relevant() -> None:
    """Equal codes and features: every order is one tie, whose MAP is about the share of hits."""
    ones = np.ones((2, 4), np.float32)
    query = Side(ones, ones, np.array([[True, True, False], [False, False, True]]))
    several = np.array([[True, False, False], [False, False, False]])
    gallery = Side(ones, ones, several)
    found = fine_scores(query, gallery)
    assert set(found) == {"none", "ties", "pool", "asymmetric"}
    # the first query has one hit of two items, the second none; AP is the mean of 1 and 1/2
    assert found["none"] == found["pool"] == pytest.approx(0.75)
