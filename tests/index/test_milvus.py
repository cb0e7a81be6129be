"""What is Milvus's own: its limits, and its missing transactions."""

from __future__ import annotations

import importlib.metadata
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.brute_force import pairs
from tests.conftest import write_classes
from tests.index.galleries import gallery, model_of
from tests.model.test_model import trained_model
from wingbar.errors import StoreError
from wingbar.index.copy import copy
from wingbar.index.engine import Url, place_of
from wingbar.index.index import Index
from wingbar.index.place import create_store, exists, open_store
from wingbar.index.ranking import SearchOptions
from wingbar.index.shards import Shards

_numbers = count()


@pytest.fixture
def url(milvus_file: Path) -> Url:
    """A name of its own for each test, in one file for all of them."""
    name = f"own_{next(_numbers)}"
    return Url("milvus", str(milvus_file), name, f"milvus:{milvus_file}/{name}", {"lite": "yes"})


def test_more_ties_than_one_answer_holds(url: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gallery(200, 12, centres=3)
    with closing(create_store(url, made.model.files)) as store:
        made.add_to(store)
        monkeypatch.setattr("wingbar.index.milvus.MOST", 25)
        for fine in ("none", "ties"):
            options = SearchOptions(k=20, shortlist=30)
            for query, found in zip(
                made.queries(3), store.search_codes(made.queries(3), options, fine), strict=True
            ):
                assert pairs(found.near) == made.expected(query, options, fine)[0]


def test_a_version_without_binary_vectors_is_refused(
    url: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.2.2")
    with pytest.raises(StoreError, match=r"milvus-lite 3\.2\.2 has no binary vectors: install"):
        Index.open(url)


def test_a_file_that_is_not_there_is_not_made_by_reading(url: Url, tmp_path: Path) -> None:
    none = Url(
        "milvus", str(tmp_path / "nix.db"), url.name, f"milvus:{tmp_path}/nix.db", {"lite": "yes"}
    )
    with pytest.raises(StoreError, match=r"no index at milvus:.*nix\.db: make one with wingbar"):
        Index.open(none)
    assert not exists(none)
    assert list(tmp_path.iterdir()) == []


def test_there_and_back_and_a_folder(url: Url, tmp_path: Path) -> None:
    photos = write_classes(tmp_path / "photos", 3)
    with Index.create(tmp_path / "a.wb", trained_model()) as file:
        file.add(photos)
    report = copy(tmp_path / "a.wb", url)
    back = copy(url, tmp_path / "b.wb")
    assert (report.items, report.checksum) == (9, back.checksum)
    with Index.open(url) as index, Index.open(tmp_path / "a.wb") as file:
        assert index.verify() == []
        for one in (index, file):
            one.delete(photos / "blue" / "000.jpg")
            assert one.add(photos).left_out == 1
            assert one.add(photos, restore=True).added == 1
        assert index.paths() == file.paths()
        np.testing.assert_array_equal(index.codes(), file.codes())
    with closing(open_store(url)) as store, pytest.raises(StoreError, match="cannot change the"):
        store.set_model(model_of(64).files)
    with Index.open(url) as index:
        assert index.verify() == []


def test_a_shard_in_milvus(url: Url, tmp_path: Path) -> None:
    made = gallery(80, 48)
    for place, rows in ((str(tmp_path / "a.wb"), range(40)), (url, range(40, 80))):
        with closing(create_store(place, made.model.files)) as store:
            made.add_to(store, list(rows))
    with closing(Shards([tmp_path / "a.wb", url])) as shards:
        [query] = made.queries(1)
        [hits] = shards.find([query], SearchOptions(k=15, fine="none"))
        expected, _ = made.expected(query, SearchOptions(k=15), "none")
        assert [(hit.distance, hit.path) for hit in hits] == [
            (distance, made.items[i - 1].path) for distance, i in expected
        ]


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_sentence(milvus_file: Path) -> None:
    with pytest.raises(
        StoreError, match=r"milvus://me@127\.0\.0\.1:1/x cannot be reached"
    ) as raised:
        Index.open(place_of("milvus://me:secret@127.0.0.1:1/x"))
    assert "secret" not in str(raised.value)
