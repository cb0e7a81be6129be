from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import picture
from wingbar.data.records import Dataset, Entry, Images, Truth
from wingbar.errors import DataError
from wingbar.evaluation import metrics
from wingbar.evaluation.landmarks import evaluate_landmarks, evaluate_revisited
from wingbar.images import Part
from wingbar.index.index import Index


@pytest.fixture(scope="module")
def buildings(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 gallery pictures, 4 queries with boxes, and their easy, hard and junk rows; the third has
    nothing easy."""
    folder = tmp_path_factory.mktemp("buildings")
    for i in range(28):
        picture(i, hue=(40 * (i % 6), 120, 200 - 30 * (i % 6))).save(folder / f"{i:02}.jpg")
    gallery = [Entry(folder / f"{i:02}.jpg") for i in range(24)]
    queries = [Entry(folder / f"{i:02}.jpg", box=(10, 8, 60, 50)) for i in range(24, 28)]
    truth = [
        Truth(easy={0, 6}, hard={12}, junk={18}),
        Truth(easy={1}, hard={7, 13}, junk={}),
        Truth(easy={}, hard={2, 8, 14}, junk={20}),
        Truth(easy={3, 9, 15, 21}, hard={4}, junk={5}),
    ]
    parts = [Images(entries, "made", labelled=False) for entries in (gallery, queries, gallery)]
    return Dataset(parts[0], parts[1], parts[2], None, "made: query, gallery", truth)


@pytest.fixture(scope="module")
def index(buildings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("index") / "a.wb")
    made.add(list(reversed(buildings.gallery.paths)), bits=16)  # ids in another order than the rows
    return made


@pytest.mark.slow
def test_both_rankings_are_scored_by_the_protocol(index: Index, buildings: Dataset) -> None:
    result = evaluate_revisited(index, buildings, fine="pool", shortlist=5)
    row_of = {str(path): row for row, path in enumerate(buildings.gallery.paths)}
    stored = index.features().astype(np.float32)
    rows = np.array([row_of[path] for path in index.paths()])
    for setup in ("easy", "medium", "hard"):
        by_feature = []
        for entry, truth in zip(buildings.query, buildings.truth, strict=True):
            assert entry.box is not None
            feature = index.model.encode([Part(entry.path, entry.box)]).features[0]
            by_feature.append(
                (rows[np.argsort(-(stored @ feature), kind="stable")].tolist(), truth)
            )
        aps = [metrics.revisited_ap(order, truth, setup) for order, truth in by_feature]
        known = [ap for ap in aps if ap is not None]
        assert result.features[setup].map == pytest.approx(np.mean(known))
        assert result.features[setup].queries == len(known) == (3 if setup == "easy" else 4)
        at = [metrics.revisited_precision_at(order, truth, setup, 5) for order, truth in by_feature]
        assert result.features[setup].mp_at_5 == pytest.approx(
            np.mean([p for p in at if p is not None])
        )
    assert result.search["medium"].queries == 4
    for q, (entry, truth) in enumerate(zip(buildings.query, buildings.truth, strict=True)):
        by_code = index.search(entry.path, 24, fine="none", box=entry.box)
        pool = [row_of[hit.path] for hit in by_code if hit.distance <= by_code[4].distance]
        every = index.search(entry.path, 24, fine="pool", shortlist=24, box=entry.box)
        first = [row for row in (row_of[hit.path] for hit in every) if row in pool]
        order = first + [row for row in (row_of[hit.path] for hit in by_code) if row not in pool]
        alone = Images([entry], "one", labelled=False)
        one = evaluate_revisited(
            index,
            Dataset(alone, alone, buildings.gallery, None, "one", [truth]),
            fine="pool",
            shortlist=5,
        )
        assert one.search["medium"].map == pytest.approx(
            metrics.revisited_ap(order, truth, "medium")
        ), q
    assert "queries cut to their boxes" in result.protocol
    assert not result.notes
    assert not result.failed


def test_a_search_of_everything_in_the_pool_is_the_ranking_by_features(
    index: Index, buildings: Dataset
) -> None:
    result = evaluate_revisited(index, buildings, fine="pool", shortlist=24)
    for setup in ("easy", "medium", "hard"):
        assert result.search[setup].map == pytest.approx(result.features[setup].map)
    whole = evaluate_revisited(index, buildings, fine="pool", shortlist=24, whole_queries=True)
    assert "whole queries" in whole.protocol
    assert whole.features != result.features


@pytest.mark.slow
def test_distractors_and_what_is_missing(buildings: Dataset, tmp_path: Path) -> None:
    picture(99).save(tmp_path / "other.jpg")
    (tmp_path / "bad.jpg").write_text("no")
    with Index.create(tmp_path / "a.wb") as index:
        index.add([*buildings.gallery.paths[:20], tmp_path / "other.jpg"], bits=8)
        bad = Images([Entry(tmp_path / "bad.jpg"), *buildings.query[1:]], "made", labelled=False)
        result = evaluate_revisited(
            index, Dataset(bad, bad, buildings.gallery, None, "made", buildings.truth)
        )
    assert result.notes == (
        "4 of 24 gallery images are not in the index: never found",
        "1 item of the index is not in the gallery: distractors",
    )
    assert [Path(failure.path).name for failure in result.failed] == ["bad.jpg"]
    assert result.features["medium"].queries == 4  # the unreadable one counts 0


def test_what_cannot_be_scored(
    index: Index, buildings: Dataset, shared_index_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no easy, hard and junk lists"):
        evaluate_revisited(
            index, Dataset(buildings.train, buildings.query, buildings.gallery, None, "plain")
        )
    with (
        Index.open(shared_index_path) as other,
        pytest.raises(DataError, match="holds no image of this gallery"),
    ):
        evaluate_revisited(other, buildings)
    (tmp_path / "s.csv").write_text("id,what\n1,2\n")
    with pytest.raises(DataError, match="needs the columns id and images"):
        evaluate_landmarks(index, [], tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("id,images,Usage\nq,01,Public\n")
    with pytest.raises(DataError, match="none of the 1 queries"):
        evaluate_landmarks(index, [Path("z.jpg")], tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("id,images,Usage\nq,01\n")  # a row that ends early
    with pytest.raises(DataError, match="none of the 1 queries"):
        evaluate_landmarks(index, [Path("z.jpg")], tmp_path / "s.csv")


@pytest.mark.slow
def test_landmark_solutions(buildings: Dataset, tmp_path: Path) -> None:
    entries = [Entry(entry.path, f"L{i % 6}") for i, entry in enumerate(buildings.gallery)]
    queries = buildings.query.paths
    (tmp_path / "r.csv").write_text(
        "id,images,Usage\n24,00 06 12,Public\n25,01,Private\n26,None,Ignored\n99,03,Public\n"
    )
    (tmp_path / "l.csv").write_text(
        "id,landmarks,Usage\n24,L0,Public\n25,L5,Private\n26,,Public\n27,L3,Ignored\n"
    )
    with Index.create(tmp_path / "a.wb") as index:
        index.add(entries, bits=8)
        retrieval = evaluate_landmarks(index, queries, tmp_path / "r.csv", fine="pool")
        recognition = evaluate_landmarks(index, queries, tmp_path / "l.csv", fine="pool")
        hits = {path.stem: index.search(path, 100, fine="pool") for path in queries[:3]}
    truth = {"24": {"00", "06", "12"}, "25": {"01"}, "99": {"03"}}
    found = {name: [Path(hit.path).stem for hit in hits[name]] for name in ("24", "25")}
    assert retrieval.map_at_100 == pytest.approx(metrics.landmark_map(found, truth))
    assert (retrieval.queries, retrieval.gap) == (3, None)
    assert "1 queries without an answer count 0" in retrieval.protocol
    answers = [
        metrics.Prediction(name, str(some[0].label), some[0].score or 0.0)
        for name, some in hits.items()
    ]
    assert recognition.gap == pytest.approx(
        metrics.landmark_gap(answers, {"24": {"L0"}, "25": {"L5"}, "26": set()})
    )
    assert (recognition.queries, recognition.map_at_100) == (3, None)
