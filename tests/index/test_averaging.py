from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import write_classes
from wingbar.errors import ModelError, QueryError
from wingbar.hamming.codes import pack, unpack
from wingbar.images import Preprocessing
from wingbar.index.averaging import expanded
from wingbar.index.index import Index
from wingbar.index.ranking import SearchOptions
from wingbar.index.shards import Shards
from wingbar.model.averaging import (
    NEIGHBOURS,
    POWER,
    average_of,
    averages_for_classes,
    codes_of_averages,
    joined,
    plain_of,
    without_average,
)
from wingbar.model.itq import unit
from wingbar.model.model import Model, preprocessing_record, with_record

DIM = 24


def label_free_model() -> Model:
    """A model that is not fitted yet, with a network that is a random layer on 16 x 16 pixels."""
    weights = np.random.default_rng(0).standard_normal((768, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["long"]),
        helper.make_node("LpNormalization", ["long"], ["feature"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", 16, 16, 3])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", DIM])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 768]),
            helper.make_tensor("weights", TensorProto.FLOAT, [768, DIM], weights.ravel().tolist()),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    record = {
        "name": "tiny",
        "method": "itq",
        "dim": DIM,
        "fine": "pool",
        "preparation": preprocessing_record(Preprocessing(size=16)),
    }
    return Model(with_record({"model.onnx": network.SerializeToString()}, record))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "photos", 12)


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "a.wb", label_free_model())
    made.add(photos, bits=16, purpose="classes")
    return made


def twice_averaged(plain: np.ndarray) -> np.ndarray:
    """Each of the features [N, d] averaged with its neighbours, one by one, and once more."""
    for _ in range(2):
        cosines = plain @ plain.T
        np.fill_diagonal(cosines, -2)
        plain = np.stack(
            [
                one + sum(max(row[j], 0) ** POWER * plain[j] for j in np.argsort(-row)[:NEIGHBOURS])
                for one, row in zip(plain, cosines, strict=True)
            ]
        )
        plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    return plain


def all_averages(index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Codes and features as they are when all items are averaged over all of them."""
    assert index.model.rotation is not None
    plain = plain_of(index.features())
    average = twice_averaged(plain)
    return codes_of_averages(index.model.rotation, average), joined(average, plain)


def test_every_item_is_averaged_over_all_of_the_first_add(index: Index) -> None:
    packed, features = all_averages(index)
    np.testing.assert_allclose(index.features(), features, atol=2e-3)
    assert (index.codes() == packed).all(1).mean() > 0.9  # float16 can turn a bit near zero
    assert len(without_average(index.features())) == 0
    assert (index.model.dim, index.model.expand) == (2 * DIM, 10)
    assert index.verify() == []


def test_it_does_not_matter_when_batches_are_stored(
    index: Index, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingbar.index.sync.COMMIT_IMAGES", 3)
    monkeypatch.setattr("wingbar.index.refit.SAMPLE", 9)
    monkeypatch.setattr("wingbar.parallel.BATCH", 2)
    with Index.create(tmp_path / "b.wb", index.model) as other:
        other.add(photos)
        assert other.model.fingerprint == index.model.fingerprint
        np.testing.assert_array_equal(other.codes(), index.codes())
        np.testing.assert_array_equal(other.features(), index.features())


def test_a_later_item_gets_its_average_and_the_others_stay(index: Index, tmp_path: Path) -> None:
    before = index.features()
    codes = index.codes()
    more = write_classes(tmp_path / "more", 2, first_seed=500)
    index.add(more)
    np.testing.assert_array_equal(index.features()[:36], before)
    np.testing.assert_array_equal(index.codes()[:36], codes)
    stored = index.features()
    rows = np.arange(36, 42)
    average = averages_for_classes(plain_of(stored), average_of(stored), rows)
    np.testing.assert_allclose(stored[rows], joined(average, plain_of(stored)[rows]), atol=2e-3)
    index.refit()
    np.testing.assert_allclose(index.features(), all_averages(index)[1], atol=2e-3)
    assert index.model.expand == 10  # it stays an index for classes


def test_an_add_that_was_killed_before_the_averages_is_made_good(
    photos: Path, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create(tmp_path / "b.wb", label_free_model()) as other, monkeypatch.context() as m:
        m.setattr("wingbar.index.sync.average_new", _killed)
        with pytest.raises(KeyboardInterrupt):
            other.add(photos, bits=16, purpose="classes")
    with Index.open(tmp_path / "b.wb") as other:
        assert len(without_average(other.features())) == len(other) == 36
        other.add(photos)
        np.testing.assert_array_equal(other.features(), index.features())
        np.testing.assert_array_equal(other.codes(), index.codes())


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_first_item_waits_for_neighbours(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    with Index.create(tmp_path / "b.wb", label_free_model()) as index:
        index.add(files[:1], bits=8, purpose="classes")
        assert without_average(index.features()).tolist() == [0]
        index.add(files[:3])
        assert len(without_average(index.features())) < 3


def test_an_expanded_query_by_the_formula(index: Index, tmp_path: Path) -> None:
    image = write_classes(tmp_path / "q", 1, first_seed=900) / "red" / "000.jpg"
    query = index.model.encode([image])
    cosines = index.features().astype(np.float32) @ query.features[0]
    order = np.argsort(-cosines, kind="stable")[:4]
    features = query.features[0].astype(np.float64)
    logits = query.logits[0] / np.abs(query.logits[0]).mean()
    for row in order:
        weight = max(float(cosines[row]), 0.0) ** POWER
        features = features + weight * index.features()[row]
        logits = logits + weight * np.where(unpack(index.codes()[row : row + 1], 16)[0], 1, -1)
    [found] = index.expanded([query], SearchOptions(expand=4))
    np.testing.assert_allclose(found.features[0], unit(features[None])[0], atol=1e-4)
    np.testing.assert_allclose(found.logits[0], logits, atol=1e-3)
    np.testing.assert_array_equal(found.codes, pack(found.logits >= 0))
    by_hand = index.search(found, 5, expand=0)
    assert index.search(image, 5, expand=4) == by_hand
    assert index.search(query, 5) == index.search(query, 5, expand=10)
    assert index.expanded([query], SearchOptions(expand=0)) == [query]


def test_neighbours_are_found_in_all_shards(index: Index, photos: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "b.wb", index.model) as other:
        other.add(sorted((photos / "red").iterdir()))
        other.add(sorted((photos / "blue").iterdir()))
        query = index.embedding(3)
        rows = [
            (float(feature.astype(np.float32) @ query.features[0]), feature, code)
            for one in (index, other)
            for feature, code in zip(one.features(), one.codes(), strict=True)
        ]
        rows.sort(key=lambda row: -row[0])
        cosines, features, codes = (np.array(part) for part in zip(*rows[:5], strict=True))
    expected = expanded(query, features, codes, cosines.astype(np.float32))
    shards = Shards([index.path, tmp_path / "b.wb"])
    try:
        [found] = shards.find([query], SearchOptions(k=6, expand=5))
        [by_hand] = shards.find([expected], SearchOptions(k=6, expand=0))
        assert [hit.id for hit in found] == [hit.id for hit in by_hand]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in by_hand])
    finally:
        shards.close()


def test_what_does_not_fit_the_index_is_said(index: Index, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has for=classes, not copies: leave --for out"):
        index.add(photos, purpose="copies")
    with pytest.raises(ModelError, match="must be one of copies, instances, classes"):
        index.add(photos, purpose="pets")
    with pytest.raises(QueryError, match="expand must be from 0 to 200, not 999"):
        index.search(1, expand=999)
    report = index.refit(purpose="instances", codes="itq")
    assert (index.model.dim, index.model.expand, report.fitted["for"]) == (DIM, 0, "instances")
    assert index.verify() == []
    with pytest.raises(ModelError, match="has adapt=none, not labels: leave --adapt out"):
        index.add(photos, adapt="labels")
    report = index.refit(purpose="instances", codes="whitened", adapt="labels")
    assert report.fitted["adapt"] == "labels"
    vectors = Index.create(tmp_path / "v.wb", Model.of_vectors(4))
    with pytest.raises(ModelError, match="vectors are kept as they are"):
        vectors.add(vectors=np.eye(4), keys=list("abcd"), bits=2, purpose="classes")
