"""What readers cache, how they apply changes by other processes, and their errors when the file is
gone."""

from __future__ import annotations

import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_classes
from tests.servers import small_index
from wingbar.errors import QueryError, StoreError
from wingbar.index import open_file
from wingbar.index.index import Index
from wingbar.index.ranking import SearchOptions
from wingbar.index.sqlite_file import remove_index
from wingbar.index.store import Store
from wingbar.serving import connections
from wingbar.serving.connections import NotFoundError, Reader, ReaderThread


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_classes(tmp_path / "photos", 3)
    small_index(tmp_path / "own.wb", tmp_path / "photos")
    return tmp_path / "own.wb"


def test_features_are_cached_until_the_index_changes(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(index, feature_bytes=2**20)
    dim = reader.index.model.dim
    asked: list[list[int]] = []
    plain = Store._feature_rows

    def counted(self: Store, ids: list[int], dim: int) -> Any:
        asked.append(list(ids))
        return plain(self, ids, dim)

    monkeypatch.setattr(Store, "_feature_rows", counted)
    first = reader.store.features([3, 1, 2], dim)
    again = reader.store.features([1, 2, 3, 4], dim)
    assert asked == [[3, 1, 2], [4]]
    assert np.array_equal(first, again[[2, 0, 1]])
    sevens = np.full(dim, 7, "<f2").tobytes()
    with closing(Store.open(index)) as other, other.writing():
        other._db.execute(
            "UPDATE features SET data = ?, crc = ? WHERE id = 2", (sevens, zlib.crc32(sevens))
        )
    assert (reader.store.features([2], dim) == 7).all()
    assert np.array_equal(reader.store.features([3], dim)[0], first[0])
    reader.index.close()


def test_the_cache_of_features_is_limited(index: Path) -> None:
    reader = Reader(index, feature_bytes=3)
    dim = reader.index.model.dim
    for ids in ([1, 2], [3, 4, 5], [1], [8, 2]):
        with closing(Store.open(index)) as plain:
            assert np.array_equal(reader.store.features(ids, dim), plain.features(ids, dim))
        assert len(reader.store._cached) == len(ids)
    with pytest.raises(StoreError, match="item 99 has no feature"):
        reader.store.features([1, 99], dim)
    reader.index.close()


def test_a_filter_leaves_the_limit_of_statements(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_file, "_STEPS", 3_000_000)
    monkeypatch.setattr(open_file, "_STEPS_PER_PAGE", 0)
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT max(i) FROM n WHERE i < 10000000"
    )
    reader = Reader(index)
    query = reader.embedding(1)
    reader.find(query, SearchOptions(where=("label=a",)), 5.0)
    with pytest.raises(StoreError), reader.store._explaining():
        reader.store._db.execute(endless).fetchone()
    too_long = pytest.raises(QueryError, match="take longer than 0 s")
    with too_long, reader._limited(["a"], 0.0), reader.store._explaining():
        reader.store._db.execute(endless).fetchone()
    reader.index.close()


def test_items_that_do_not_exist(index: Path) -> None:
    reader = Reader(index)
    with pytest.raises(NotFoundError, match="no item 99"):
        reader.row(99)
    assert reader.row(2).item == reader.item(2)
    reader.index.close()


def test_an_index_that_is_gone_or_was_replaced(
    index: Path,
) -> None:
    thread = ReaderThread(lambda: Reader(index), "test")
    assert thread.submit(Reader.refresh).result() == 9
    thread.submit(Reader.check).result()
    remove_index(index)
    with pytest.raises(StoreError, match="is gone"):
        thread.submit(Reader.check).result()
    index.write_text("not an index")
    with pytest.raises(StoreError, match="replaced by a file that is not an index"):
        thread.submit(Reader.check).result()
    assert (
        thread.submit(lambda reader: len(reader.index.searchable())).result() == 9
    )  # what is open can still be read
    index.unlink()
    small_index(index, index.parent / "photos" / "red")
    assert thread.submit(Reader.refresh).result() == 3
    with Index.open(index) as other:
        other.delete([1])
    assert thread.submit(Reader.refresh).result() == 2
    thread.close()


@pytest.mark.parametrize("count", [0, 1, 59, 60, 61, 120, 1000, 4441])
def test_spread_items_come_once_each_and_from_everywhere_first(count: int) -> None:
    ids = np.arange(count) * 3
    found = connections.spread_out(ids)
    assert sorted(found.tolist()) == ids.tolist()
    first = found[: min(count, connections.SPREAD // 2 + 1)]
    assert (np.diff(first) > 0).all()
    if count >= 120:
        assert first[-1] > ids[-1] * 0.4
