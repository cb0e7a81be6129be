from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import picture
from wingbar.errors import DataError, ModelError, QueryError
from wingbar.index.index import Index
from wingbar.model.itq import unit
from wingbar.model.model import Model

DIM = 24


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def keys(count: int) -> list[str]:
    return [f"k{i}" for i in range(count)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "a.wb", Model.of_vectors(DIM, "clip"))
    made.add(vectors=vectors(60), keys=keys(60), labels=["a", None] * 30, bits=16)
    return made


def test_vectors_are_found_by_vectors(index: Index) -> None:
    assert (index.model.bits, index.model.method, str(index.model)[:4]) == (16, "vectors", "clip")
    np.testing.assert_allclose(index.features(), unit(vectors(60)), atol=1e-3)
    for i, hits in enumerate(index.search_many(vectors(60)[:5] * 7, 3)):
        assert (hits[0].path, hits[0].distance) == (f"array:k{i}", 0)
        assert hits[0].score == pytest.approx(1, abs=1e-3)
    cosines = unit(vectors(60)) @ unit(vectors(1, seed=9))[0]
    best = index.search(vectors(1, seed=9)[0], 5, shortlist=60)
    assert [hit.id - 1 for hit in best] == np.argsort(-cosines, kind="stable")[:5].tolist()
    assert index.search(1, 1)[0].id == 1
    assert index.verify() == []


def test_keys_and_labels_of_an_array(tmp_path: Path) -> None:
    with Index.create(tmp_path / "a.wb", Model.of_vectors(DIM, "clip")) as index:
        x, names = vectors(4), np.array(keys(4))
        with pytest.raises(
            DataError, match=r"a label is a text or None, not np.int64.* labels=.str\(label\)"
        ):
            index.add(vectors=x, keys=names, labels=np.arange(4), bits=8)
        given = np.array(["a", "b"] * 2)
        assert index.add(vectors=x, keys=names, labels=given, bits=8).added == 4
        assert index.labels() == ["a", "b"] * 2
    with Index.create(tmp_path / "b.wb") as index:
        pictures = [np.asarray(picture(i)) for i in range(3)]
        index.add(pictures, keys=np.array(keys(3)), labels=np.array(["a", "b", "a"]), bits=8)
        assert index.labels() == ["a", "b", "a"]


def test_adding_again_updates(index: Index, tmp_path: Path) -> None:
    changed = vectors(60)
    changed[3] = vectors(1, seed=5)[0]
    labels = ["a", None] * 30
    labels[0] = "b"
    report = index.add(vectors=changed, keys=keys(60), labels=labels)
    assert (report.added, report.updated, report.unchanged) == (0, 2, 58)
    report = index.add(vectors=vectors(2, seed=7), keys=["x", "y"])
    assert (report.added, len(index), report.fitted_on) == (2, 62, 0)
    report = index.add(vectors=changed, keys=keys(60))  # without labels, they stay
    assert (report.unchanged, index.label_counts()) == (60, {"a": 29, "b": 1})
    with Index.open(tmp_path / "a.wb") as other:
        assert other.model.fingerprint == index.model.fingerprint
        assert other.search(changed[3], 1)[0].path == "array:k3"


def test_a_key_that_is_a_file_is_that_picture(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "p.jpg"
    picture(1).save(file)
    index.add(vectors=vectors(1, seed=3), keys=[str(file)])
    hit = index.search(vectors(1, seed=3)[0], 1)[0]
    assert hit.path == str(file)
    [item] = index.items([hit.id])
    assert item.size == file.stat().st_size
    assert index.add(vectors=vectors(1, seed=3), keys=[str(file)]).unchanged == 1
    assert index.add(vectors=vectors(1, seed=4), keys=[str(file)]).updated == 1


def test_codes_are_learned_again(index: Index) -> None:
    report = index.refit(bits=8)
    assert (report.items, report.bits_before, index.model.bits) == (60, 16, 8)
    assert index.search(vectors(60)[7], 1)[0].path == "array:k7"
    assert index.verify() == []


@pytest.mark.parametrize(
    ("given", "more", "reason"),
    [
        (vectors(3), {}, "vectors need keys="),
        (vectors(3), {"keys": ["a", "b"]}, "3 vectors and 2 keys"),
        (vectors(3), {"keys": ["a", "b", "a"]}, "the key 'a' is given twice"),
        (vectors(3), {"keys": ["a", "b", ""]}, "a text that is not empty"),
        (vectors(3), {"keys": keys(3), "labels": ["x"]}, "3 vectors and 1 labels"),
        (
            vectors(3)[:, 1:],
            {"keys": keys(3)},
            r"an array \[N, 24\] of numbers here, not \[3, 23\]",
        ),
        (vectors(1)[0], {"keys": ["a"]}, r"an array \[N, 24\]"),
        (vectors(2) * np.nan, {"keys": keys(2)}, "vector 0 is not finite"),
        (vectors(2) * 0, {"keys": keys(2)}, "nothing but zeros"),
        (np.array([["x"] * DIM]), {"keys": ["a"]}, "of numbers here"),
    ],
)
def test_vectors_that_do_not_fit(
    index: Index, given: np.ndarray, more: dict[str, list[str]], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        index.add(vectors=given, **more)  # type: ignore[arg-type]
    assert len(index) == 60


def test_images_and_vectors_do_not_mix(index: Index, shared_index_path: Path) -> None:
    image = np.asarray(picture(1))
    with pytest.raises(ModelError, match="holds vectors that were made elsewhere"):
        index.add([image])
    with pytest.raises(ModelError, match="has no network, only vectors"):
        index.search(image)
    with pytest.raises(DataError, match=r"add takes images, or vectors="):
        index.add()
    with pytest.raises(DataError, match=r"an array \[N, 24\]"):
        index.search(vectors(1)[0, :5])
    with Index.open(shared_index_path) as images:
        with pytest.raises(ModelError, match="is an index of images by"):
            images.add(vectors=vectors(1), keys=["a"])
        with pytest.raises(QueryError, match="not by a vector"):
            images.search(vectors(1)[0])


def test_a_model_of_vectors_is_saved_and_loaded(index: Index, tmp_path: Path) -> None:
    index.model.save(tmp_path / "m")
    loaded = Model.load(tmp_path / "m")
    assert loaded.fingerprint == index.model.fingerprint
    np.testing.assert_array_equal(
        loaded.embed(vectors(3)).codes, index.model.embed(vectors(3)).codes
    )
    for dim in (0, 2**16 + 1):
        with pytest.raises(ModelError, match="vectors have from 1 to"):
            Model.of_vectors(dim)


@pytest.mark.parametrize(("before", "after"), [(40, 400), (400, 40)])
def test_an_index_that_is_copied_over_open_ones_is_followed(
    before: int, after: int, tmp_path: Path
) -> None:
    for name, count in (("a", before), ("b", after)):
        with Index.create(tmp_path / f"{name}.wb", Model.of_vectors(DIM)) as index:
            index.add(vectors=vectors(count, seed=count), keys=keys(count), bits=16)
    query = vectors(1, seed=after)[0]
    with Index.open(tmp_path / "a.wb") as first, Index.open(tmp_path / "a.wb") as second:
        assert {len(first.search(query, 1000)), len(second.search(query, 1000))} == {before}
        shutil.copyfile(tmp_path / "b.wb", tmp_path / "a.wb")
        for index in (first, second, first):
            hits = index.search(query, 1000)
            assert (len(hits), hits[0].id) == (after, 1)
