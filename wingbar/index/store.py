"""One SQLite file that is an index: items, codes, features and the model, each row with a checksum.

Codes are kept as columns of 65,536 beside the item rows and written in the same transaction;
features sit in a table of their own, so that reading items never drags them along.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError
from wingbar.files import partial_path, remove_leftovers, taken, with_own_name
from wingbar.hamming.codes import Codes, Packed, words
from wingbar.images import is_utf8
from wingbar.index import filters
from wingbar.index.engine import NO_FILE as NO_FILE
from wingbar.index.engine import Item as Item
from wingbar.index.engine import Removed as Removed
from wingbar.index.engine import Row, Shortlist, StoreInfo, require_model
from wingbar.index.filters import Condition, parse_where
from wingbar.index.kept import KEPT, Kept, are_finite, from_disk, to_disk, width
from wingbar.index.memory import CHUNK as CHUNK
from wingbar.index.memory import CodesInMemory
from wingbar.index.open_file import APPLICATION, OpenFile
from wingbar.index.ranking import Fine, SearchOptions, coarse, stage_scores
from wingbar.index.sqlite_file import (
    connect,
    empty_stale_log,
    explained,
    identity_of,
    put_in_place,
    repair_of,
)
from wingbar.index.tables import (
    FIRST,
    FORMAT,
    ITEM_FIELDS,
    SECOND,
    ItemFields,
    Tables,
    alive_from_disk,
    are_item_fields,
    codes_from_disk,
    codes_to_disk,
    disk_bytes,
    item_crc,
    item_of_row,
    meta_crc,
    removed_crc,
    row_of_item,
    schema,
)
from wingbar.model.installed import unfinished_run
from wingbar.model.model import Embeddings

T = TypeVar("T")

_CHECKED = 128  # features that are checked together: large arrays cost more in page faults


class Store:
    """An open index file. Every error of SQLite leaves as a StoreError with the next step.

    Safe to use from several threads, which take turns. Rows are checked against their checksums
    when they are read. Before each use the store looks whether the file was replaced or changed
    behind SQLite's back, and opens it anew if so.
    """

    def __init__(self, file: OpenFile, tables: Tables = FIRST) -> None:
        self._file, self._tables = file, tables
        self._kept: tuple[int, Kept] | None = None  # and how often the file was opened anew then
        self._rows_checked = 0, 0  # the epoch, and ids up to this one, for filters
        self._also: Self | None = None
        self._memory = CodesInMemory(self)

    # -- open and close

    @classmethod
    def create(cls, path: Path, model_files: Mapping[str, bytes], kept: Kept = "float16") -> Self:
        """A new file at `path` that holds the model, and will keep features as `kept`; a path of
        `partial_path` is left to its caller when that fails. Raises StoreError when something is
        there already."""
        if path.exists():
            raise StoreError(taken(path))
        partial = partial_path(path)
        remove_leftovers(path)
        try:
            file = OpenFile(partial, connect(partial, "rwc"), is_new=True)
            store = cls(file)
            try:
                with store.writing():
                    for statement in schema(FORMAT):
                        file.db.execute(statement)
                    store._set_meta("created", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                    store._set_meta("id", os.urandom(16).hex())
                    store._set_meta("features", kept)
                    store.set_model(model_files)
                file.db.execute(f"PRAGMA application_id = {APPLICATION}")
                file.db.execute(f"PRAGMA user_version = {FORMAT}")
            finally:
                file.db.close()
            if partial != path:
                empty_stale_log(path)
                put_in_place(partial, path)
        except FileExistsError:
            raise StoreError(taken(path)) from None
        except (sqlite3.Error, OSError) as error:
            raise explained(error, path) from error
        except StoreError as error:
            raise StoreError(with_own_name(str(error), path)) from error
        finally:
            if partial != path:
                with suppress(OSError):
                    partial.unlink()
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The index at `path`, for reading and, where the file system allows it, writing. Raises
        StoreError."""
        if path.exists() and not path.is_file():
            raise StoreError(_why_no_file(path))
        if not path.is_file():
            raise StoreError(f"no index at {path}: make one with wingbar index {path} IMAGES")
        return cls(OpenFile.open(path))

    def close(self) -> None:
        """Merge the write-ahead log into the file, so that one file is the index, and close it. The
        second encoder's view of a store closes nothing."""
        if self.is_second:
            return
        for view in (self, self._also):
            if view is not None:
                view._memory.close()
        self._file.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def epoch(self) -> int:
        """Grows when another index is found in the place of the open one."""
        return self._file.epoch

    @property
    def format(self) -> int:
        """The format of the file now; another process may bring it up to FORMAT at any time."""
        return self._file.format

    def version(self) -> tuple[int, ...]:
        """Changes whenever this or another process has written to the file."""
        return self._file.version()

    def is_replaced(self) -> bool:
        """Whether another file is at the path now than the one that is open."""
        return self._file.is_replaced()

    def writing(self) -> AbstractContextManager[None]:
        """A transaction that excludes other writers; see `OpenFile.writing`."""
        return self._file.writing()

    def held(self) -> AbstractContextManager[None]:
        """A change that takes several transactions; see `OpenFile.held`."""
        return self._file.held()

    def reading(self) -> AbstractContextManager[None]:
        """A consistent read snapshot of the file."""
        return self._file.reading()

    def retried(self, work: Callable[[], T]) -> T:
        """The result of `work`: a file has no connection that can be lost."""
        return work()

    @property
    def engine(self) -> str:
        """SQLite's version."""
        return f"SQLite {sqlite3.sqlite_version}"

    @property
    def scratch(self) -> Path:
        """Beside the file."""
        return self.path

    @property
    def kept(self) -> Kept:
        """How features are kept, since the file was made."""
        with self._explaining():
            if self._kept is None or self._kept[0] != self._file.reopened:
                self._kept = self._file.reopened, self._read_kept()
            return self._kept[1]

    def _read_kept(self) -> Kept:
        if not self._has_meta("features"):
            return "float16"  # in every format before 3
        stored = self._meta("features")
        for kept in KEPT:
            if kept == stored:
                return kept
        raise self._damaged(f"features as {stored!r:.20}")

    # -- the model

    def model_files(self) -> dict[str, bytes]:
        """The files of the model by name."""
        with self._explaining():
            return dict(self._db.execute(f"SELECT name, data FROM {self._tables.model}"))

    def model_fingerprint(self) -> str:
        """sha256 of model.json, as it was stored beside it."""
        name = self._tables.fingerprint
        if self.is_second and not self._has_meta(name):
            raise StoreError(f"{self.path} has no second encoder any more: search without its name")
        return self._meta(name)

    def set_model(self, files: Mapping[str, bytes]) -> None:
        """Replace the model, writing only the files that differ. Inside `writing`."""
        stored = dict(self._db.execute(f"SELECT name, data FROM {self._tables.model}"))
        table = self._tables.model
        self._db.executemany(
            f"DELETE FROM {table} WHERE name = ?",
            [(name,) for name in stored.keys() - files.keys()],
        )
        changed = sorted((name, data) for name, data in files.items() if stored.get(name) != data)
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", changed)
        fingerprint = hashlib.sha256(files["model.json"]).hexdigest()
        self._set_meta(self._tables.fingerprint, fingerprint)

    # -- the second encoder

    @property
    def is_second(self) -> bool:
        """Whether this is the view of the second encoder: of the items that it has encoded."""
        return self._tables is SECOND

    @property
    def also(self) -> Self | None:
        """The same items by the second encoder, in the same file and the same transactions; None
        where there is none. Items that it has not encoded yet are not there."""
        if self.is_second or not self._has_meta(SECOND.fingerprint):
            return None
        if self._also is None:
            self._also = type(self)(self._file, SECOND)
        return self._also

    def set_also(self, files: Mapping[str, bytes]) -> None:
        """Take in the model of a second encoder, where there is none yet. Inside `writing`."""
        if self.also is not None:
            raise StoreError(
                f"{self.path} was given a second encoder by another process: try again"
            )
        type(self)(self._file, SECOND).set_model(files)

    def waiting(self) -> NDArray[np.int64]:
        """The ids [N] int64, ascending, of the items that this encoder has not encoded yet: none,
        but of the second encoder while it is being added."""
        with self.reading():
            rows = self._db.execute("SELECT id FROM items")
            return np.setdiff1d(np.fromiter((row[0] for row in rows), np.int64), self.ids())

    @property
    def _shown(self) -> str:
        """SQL that leaves out items that this encoder has not encoded, behind a WHERE."""
        return f" AND id IN (SELECT id FROM {self._tables.features})" if self.is_second else ""

    def identity(self) -> str:
        """A random number from when the index was made; of older indexes the time alone."""
        with self._explaining():
            return " ".join(value for _, value in identity_of(self._db))

    def copied_from(self) -> str | None:
        """What this index is a copy of, by the mark that `copy` left."""
        return self._meta("copied_from") if self._has_meta("copied_from") else None

    def set_copied_from(self, source: str) -> None:
        """Leave that mark. Inside `writing`."""
        self._set_meta("copied_from", source)

    def is_half_copied(self) -> bool:
        """Whether this is a copy that was begun and not finished."""
        return self._has_meta("half_copied") and self._meta("half_copied") == "1"

    def set_half_copied(self, is_half: bool) -> None:
        """Say so, or that it is whole. Inside `writing`."""
        self._set_meta("half_copied", "1" if is_half else "0")

    # -- write items

    def add(
        self,
        items: Sequence[Item],
        packed: Packed,
        features: NDArray[np.floating],
        bits: int,
        ids: Sequence[int] | None = None,
    ) -> None:
        """Store items with their codes [N, w] and features [N, d], replacing items of the same
        path; with `ids`, under these ids, replacing what has them. Inside `writing`. They are
        those of the first encoder; `also.replace_embeddings` gives the items those of the
        second."""
        assert not self.is_second
        old = set(self.ids_of_paths([item.path for item in items]).values())
        self.delete(old if ids is None else old.union(ids))
        self.forget(item.path for item in items)
        blobs = to_disk(features, self.kept)
        wanted = [None] * len(items) if ids is None else list(ids)
        given = []
        for id_, item, data in zip(wanted, items, blobs, strict=True):
            cursor = self._db.execute(
                "INSERT INTO items (id, path, label, columns, size, mtime, content, crc) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id_, *row_of_item(item)),
            )
            self._db.execute(
                "INSERT INTO features VALUES (?, ?, ?)", (cursor.lastrowid, data, zlib.crc32(data))
            )
            given.append(cursor.lastrowid)
        self._write_codes(np.array(given, np.int64), packed, bits)

    def update(self, changes: Mapping[int, Item]) -> None:
        """Replace the records of items by id; code and feature stay. Inside `writing`."""
        self._db.executemany(
            "UPDATE items SET path = ?, label = ?, columns = ?, size = ?, mtime = ?, "
            "content = ?, crc = ? WHERE id = ?",
            [(*row_of_item(item), id_) for id_, item in changes.items()],
        )
        self.forget(item.path for item in changes.values())

    def delete(self, ids: Iterable[int], by_hand: bool = False) -> int:
        """Remove items by id and return their number; unknown ids are skipped. `by_hand` keeps in
        mind which files they had. Inside `writing`."""
        wanted = sorted(ids)
        if by_hand:
            self._remember_items(wanted)
        removed = self._db.executemany(
            "DELETE FROM items WHERE id = ?", [(i,) for i in wanted]
        ).rowcount
        for tables in (FIRST, SECOND):
            self._drop_embeddings(tables, wanted)
        return max(removed, 0)

    def drop_embeddings(self, ids: Iterable[int]) -> None:
        """Have items wait for the second encoder again. Inside `writing`."""
        assert self.is_second
        self._drop_embeddings(self._tables, list(ids))

    def _drop_embeddings(self, tables: Tables, ids: Sequence[int]) -> None:
        self._db.executemany(f"DELETE FROM {tables.features} WHERE id = ?", [(i,) for i in ids])
        by_chunk: dict[int, list[int]] = {}
        for id_ in ids:
            by_chunk.setdefault(id_ // CHUNK, []).append(id_ % CHUNK)
        for chunk, places in by_chunk.items():
            data, alive = self._chunk(tables, chunk)
            if data:
                alive[places] = False
                self._put_chunk(tables, chunk, data, alive)

    def _remember_items(self, ids: Iterable[int]) -> None:
        rows = [
            row
            for id_ in ids
            for row in self._db.execute(
                "SELECT path, size, mtime, content FROM items WHERE id = ? AND size != ?",
                (id_, NO_FILE),
            )
        ]
        self.remember({path: Removed(*rest) for path, *rest in rows})

    def remember(self, removed: Mapping[str, Removed]) -> None:
        """Keep in mind that the items of these paths were removed by hand. Inside `writing`."""
        self._db.executemany(
            "INSERT OR REPLACE INTO removed VALUES (?, ?, ?, ?, ?)",
            [
                (path, one.size, one.mtime, one.content, removed_crc(path, one))
                for path, one in removed.items()
            ],
        )

    def forget(self, paths: Iterable[str]) -> None:
        """No longer keep in mind that items of these paths were removed. Inside `writing`."""
        if self._db.execute("SELECT 1 FROM removed LIMIT 1").fetchone():
            self._db.executemany("DELETE FROM removed WHERE path = ?", [(path,) for path in paths])

    def replace_embeddings(
        self, packed: Packed, features: NDArray[np.float32], ids: NDArray[np.int64], bits: int
    ) -> None:
        """New codes [N, w] and features [N, d] for the items `ids` [N], or the first ones of the
        second encoder. Inside `writing`."""
        blobs = to_disk(features, self.kept)
        rows = [
            (id_, blob, zlib.crc32(blob)) for id_, blob in zip(ids.tolist(), blobs, strict=True)
        ]
        self._db.executemany(
            f"INSERT OR REPLACE INTO {self._tables.features} VALUES (?, ?, ?)", rows
        )
        self._write_codes(ids, packed, bits)

    def clear_codes(self) -> None:
        """Drop all code columns, before `replace_embeddings` writes codes of another length.
        Inside `writing`."""
        self._db.execute(f"DELETE FROM {self._tables.codes}")

    # -- search

    def searchable(self, bits: int) -> Codes:
        """All codes in memory, brought up to date."""
        with self.reading():
            return self._memory.searchable(bits)

    def search_codes(
        self, queries: Sequence[Embeddings], options: SearchOptions, fine: Fine
    ) -> list[Shortlist]:
        """Both stages of a search; see `Engine.search_codes`."""
        if not queries:
            return []
        with self.reading():
            require_model(self, queries, self.model_fingerprint())
            bits = queries[0].bits
            searchable = self.searchable(bits)
            conditions = parse_where(options.where)
            allowed = searchable.only(self.matching(conditions)) if conditions else None
            start = time.perf_counter()
            packed = np.concatenate([query.codes for query in queries])
            nearest = coarse(searchable, packed, options, fine, allowed)
            coarse_ms = (time.perf_counter() - start) * 1000 / len(queries)
            found = []
            for query, near in zip(queries, nearest, strict=True):
                start = time.perf_counter()
                scores = stage_scores(self, searchable, query, near, fine)
                fine_ms = (time.perf_counter() - start) * 1000
                found.append(Shortlist(near, scores, coarse_ms, fine_ms))
            return found

    def info(self, bits: int | None) -> StoreInfo:
        """What the file holds."""
        searchable = None if bits is None else self.searchable(bits).merged()
        beside = [self.path, Path(f"{self.path}-wal")]
        return StoreInfo(
            items=self.count(),
            labels=len(self.label_counts()),
            unique_codes=searchable.unique if searchable else 0,
            search_bytes=searchable.nbytes if searchable else 0,
            bytes=sum(path.stat().st_size for path in beside if path.exists()),
        )

    def why_nothing_passes(self, conditions: Sequence[Condition]) -> str:
        """Why the filter lets nothing pass, as `filters.why_nothing_passes`."""
        with self._explaining():
            return filters.why_nothing_passes(
                conditions,
                lambda some: len(filters.matching(self._db, some)) > 0,
                lambda field: filters.values_of(self._db, field),
            )

    # -- read

    def code_marks(self) -> dict[int, int]:
        """A checksum of every chunk of codes, which changes with every insert and delete in it."""
        with self._explaining():
            return dict(self._db.execute(f"SELECT chunk, crc FROM {self._tables.codes}"))

    def codes(
        self, bits: int, chunks: Iterable[int] | None = None
    ) -> tuple[NDArray[np.int64], Packed]:
        """Ids [N] int64, ascending, and codes [N, w] uint64 of all items, or of those in
        `chunks`."""
        ids, packed = [np.empty(0, np.int64)], [np.empty((0, words(bits)), np.uint64)]
        with self._explaining():
            for wanted in sorted(self.code_marks() if chunks is None else chunks):
                row = self._db.execute(
                    f"SELECT chunk, data, alive, crc FROM {self._tables.codes} WHERE chunk = ?",
                    (wanted,),
                ).fetchone()
                if row is None:
                    continue
                chunk, data, alive_bytes, crc = row
                self._check_chunk(chunk, data, alive_bytes, crc, bits)
                column = codes_from_disk(data, bits)
                places = np.flatnonzero(alive_from_disk(alive_bytes)[: len(column)])
                ids.append(places + chunk * CHUNK)
                packed.append(column[places])
        return np.concatenate(ids), np.concatenate(packed)

    def codes_of(self, ids: Sequence[int], bits: int) -> Packed:
        """Codes [N, w] uint64 of the items `ids`, in their order. Raises StoreError for an id that
        is not there."""
        wanted = np.array(ids, np.int64)
        stored, packed = self.codes(bits, np.unique(wanted // CHUNK).tolist())
        missing = wanted[~np.isin(wanted, stored)]
        if missing.size:
            raise StoreError(f"{self.path} holds no item {missing[0]}")
        return packed[np.searchsorted(stored, wanted)]

    def rows(self, above: int, size: int, bits: int, dim: int) -> list[Row]:
        """Up to `size` items with greater ids than `above`, by ascending id."""
        with self.reading():
            found = self._item_rows(above, size)
            ids = [id_ for id_, _ in found]
            packed, features = self.codes_of(ids, bits), self.features(ids, dim)
            return [
                Row(id_, self._item(id_, row), packed[i], features[i])
                for i, (id_, row) in enumerate(found)
            ]

    def features(self, ids: Sequence[int], dim: int) -> NDArray[np.float16]:
        """Features [N, d] float16 of the items `ids`, in their order. Raises StoreError when one
        has none."""
        rows = self._feature_rows(ids, dim)
        return from_disk([rows[id_] for id_ in ids], dim, self.kept)

    def _feature_rows(self, ids: Sequence[int], dim: int) -> dict[int, bytes]:
        """The checked features of the items `ids`, as they are in the file."""
        with self._explaining():
            found = self._db.execute(  # one statement for all takes half the time of one for each
                "SELECT stored.id, data, crc FROM json_each(?) AS wanted "
                f"JOIN {self._tables.features} AS stored ON stored.id = wanted.value",
                (json.dumps(list(ids)),),
            ).fetchall()
            self._check_features(found, dim)
            rows = {id_: data for id_, data, _ in found}
            if missing := [id_ for id_ in ids if id_ not in rows]:
                raise self._damaged(f"item {missing[0]} has no feature")
        return rows

    def _check_features(self, rows: Sequence[tuple[int, bytes, int]], dim: int) -> None:
        """Raise StoreError for a feature (id, data, crc) that is not what was stored."""
        bytes_each = width(dim, self.kept)
        for first in range(0, len(rows), _CHECKED):
            block = rows[first : first + _CHECKED]
            _, blobs, crcs = zip(*block, strict=True)
            is_whole = (
                set(map(type, blobs)) == {bytes}
                and set(map(len, blobs)) == {bytes_each}
                and tuple(map(zlib.crc32, blobs)) == crcs
                and are_finite(blobs, self.kept)
            )
            if not is_whole:
                raise self._damaged_feature(block, dim)

    def _damaged_feature(self, rows: Sequence[tuple[int, bytes, int]], dim: int) -> StoreError:
        """The error that names the damaged one of these features."""
        for id_, data, crc in rows:
            if not isinstance(data, bytes) or len(data) != width(dim, self.kept):
                return self._damaged(f"item {id_} has no feature of {dim} numbers")
            if zlib.crc32(data) != crc:
                return self._damaged(f"the feature of item {id_} has a wrong checksum")
            if not are_finite([data], self.kept):
                return self._damaged(f"the feature of item {id_} is not finite")
        raise AssertionError("all of them are whole")

    def all_features(self, dim: int) -> NDArray[np.float16]:
        """Features [N, d] float16 of all items, by ascending id."""
        with self.reading():
            blocks = list(self.feature_blocks(dim, 4096))
        return np.concatenate([np.empty((0, dim), "<f2"), *blocks])

    def feature_blocks(self, dim: int, size: int) -> Iterator[NDArray[np.float16]]:
        """The same in blocks [at most size, d], so that not all of them are in memory."""
        last = -(2**63)
        while True:
            with self._explaining():
                block = self._db.execute(
                    f"SELECT id, data, crc FROM {self._tables.features} WHERE id > ? "
                    "ORDER BY id LIMIT ?",
                    (last, size),
                ).fetchall()
                self._require_ascending([last, *(row[0] for row in block)])
                self._check_features(block, dim)
            if not block:
                return
            last = block[-1][0]
            yield from_disk([data for _, data, _ in block], dim, self.kept)

    def items(self, ids: Sequence[int]) -> list[Item]:
        """The items `ids`, in their order. Raises StoreError when one is not there."""
        out = []
        with self._explaining():
            for id_ in ids:
                row = self._db.execute(
                    f"SELECT {ITEM_FIELDS}, crc FROM items WHERE id = ?", (id_,)
                ).fetchone()
                if row is None:
                    raise StoreError(f"{self.path} holds no item {id_}")
                out.append(self._item(id_, self._checked(id_, row)))
        return out

    def all_items(self) -> Iterator[tuple[int, Item]]:
        """Every item with its id, by ascending id."""
        return iter([(id_, self._item(id_, row)) for id_, row in self._item_rows()])

    def labels(self) -> list[str | None]:
        """The label of every item, by ascending id."""
        return [row[1] for _, row in self._item_rows()]

    def ids(self) -> NDArray[np.int64]:
        """The ids [N] int64 of all items, ascending."""
        with self._explaining():
            if self.is_second:
                return self._encoded_ids()
            return np.fromiter(
                (row[0] for row in self._db.execute("SELECT id FROM items ORDER BY id")), np.int64
            )

    def _encoded_ids(self) -> NDArray[np.int64]:
        """The ids [N], ascending, that have codes."""
        ids = [np.empty(0, np.int64)]
        for chunk in sorted(self.code_marks()):
            _, alive = self._chunk(self._tables, chunk)
            ids.append(np.flatnonzero(alive) + chunk * CHUNK)
        return np.concatenate(ids)

    def paths(self) -> list[str]:
        """The path of every item, by ascending id."""
        return [row[0] for _, row in self._item_rows()]

    def contents(self) -> list[bytes]:
        """The sha256 of every item's file, by ascending id."""
        return [row[5] for _, row in self._item_rows()]

    def removed(self) -> dict[str, Removed]:
        """What was removed by hand, by path."""
        found = {}
        with self.reading():
            if self.format < 2:
                return {}
            for path, size, mtime, content, crc in self._db.execute(
                "SELECT path, size, mtime, content, crc FROM removed ORDER BY path"
            ):
                one = Removed(size, mtime, content)
                if removed_crc(path, one) != crc:
                    raise self._damaged(f"the removal of {path} has a wrong checksum")
                found[str(path)] = one
        return found

    def ids_of_paths(self, paths: Iterable[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""
        found = {}
        with self._explaining():
            for path in filter(is_utf8, paths):
                row = self._db.execute(
                    f"SELECT id FROM items WHERE path = ?{self._shown}", (path,)
                ).fetchone()
                if row:
                    found[path] = int(row[0])
        return found

    def ids_below(self, folder: str) -> list[int]:
        """Ids of the items below a folder, ascending."""
        first = folder.rstrip(os.sep) + os.sep
        after = first[:-1] + chr(ord(os.sep) + 1)  # the first text that does not begin with it
        with self._explaining():
            rows = self._db.execute(
                f"SELECT id FROM items WHERE path >= ? AND path < ?{self._shown} ORDER BY id",
                (first, after),
            )
            return [int(id_) for (id_,) in rows]

    def existing(self, ids: Iterable[int]) -> list[int]:
        """Those of `ids` that are in the index."""
        query = f"SELECT 1 FROM items WHERE id = ?{self._shown}"
        with self._explaining():
            return [
                id_
                for id_ in ids
                if -(2**63) <= id_ < 2**63 and self._db.execute(query, (id_,)).fetchone()
            ]

    def count(self) -> int:
        """The number of items."""
        with self._explaining():
            if self.is_second:
                return len(self._encoded_ids())
            return int(self._db.execute("SELECT count(*) FROM items").fetchone()[0])

    def is_empty(self) -> bool:
        """Whether the index has no items."""
        with self._explaining():
            table = self._tables.features if self.is_second else "items"
            return self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None

    def matching(self, conditions: Sequence[Condition]) -> NDArray[np.int64]:
        """Ids [N], ascending, of the items that pass the filter, as `filters.matching`."""
        with self._explaining():
            self._check_rows()
            found = filters.matching(self._db, conditions)
            return np.intersect1d(found, self._encoded_ids()) if self.is_second else found

    def label_counts(self) -> dict[str, int]:
        """The number of items of each label; items without a label are left out."""
        with self._explaining():
            self._check_rows()
            rows = self._db.execute(
                f"SELECT label, count(*) FROM items WHERE label IS NOT NULL{self._shown} "
                "GROUP BY label ORDER BY label"
            )
            return dict(rows)

    @property
    def connection(self) -> sqlite3.Connection:
        """SQLite's own, for checks that read what a damaged file still has."""
        return self._db

    def ended_at(self, deadline: float, steps: int) -> AbstractContextManager[None]:
        """A context whose statements end at a deadline: `OpenFile.ended_at`."""
        return self._file.ended_at(deadline, steps)

    # -- inside

    @property
    def _db(self) -> sqlite3.Connection:
        return self._file.db

    def _explaining(self) -> AbstractContextManager[None]:
        return self._file.explaining()

    def _write_codes(self, ids: NDArray[np.int64], packed: Packed, bits: int) -> None:
        """Write codes [N, w] into the columns at the places of `ids` [N]."""
        chunks = ids // CHUNK
        for chunk in np.unique(chunks).tolist():
            mine = chunks == chunk
            places = ids[mine] % CHUNK
            data, alive = self._chunk(self._tables, chunk)
            column = codes_from_disk(data, bits)
            if len(column) <= places.max():
                more = np.zeros((int(places.max()) + 1 - len(column), packed.shape[1]), np.uint64)
                column = np.concatenate([column, more])
            column[places] = packed[mine]
            alive[places] = True
            self._put_chunk(self._tables, chunk, codes_to_disk(column, bits), alive)

    def _chunk(self, tables: Tables, chunk: int) -> tuple[bytes, NDArray[np.bool_]]:
        """The column as stored and which of its places are taken, [CHUNK] bool."""
        row = self._db.execute(
            f"SELECT data, alive, crc FROM {tables.codes} WHERE chunk = ?", (chunk,)
        ).fetchone()
        if row is None:
            return b"", np.zeros(CHUNK, bool)
        self._check_chunk(chunk, *row)  # or the damage would get a right checksum
        return row[0], alive_from_disk(row[1])

    def _check_chunk(
        self, chunk: int, data: object, alive: object, crc: object, bits: int | None = None
    ) -> None:
        """Raise StoreError for a column of codes that is not what was stored."""
        what = f"codes {chunk * CHUNK} to {(chunk + 1) * CHUNK - 1}"
        if not isinstance(data, bytes) or not isinstance(alive, bytes):
            raise self._damaged(f"{what} are no codes")
        if zlib.crc32(alive, zlib.crc32(data)) != crc:
            raise self._damaged(f"{what} have a wrong checksum")
        if len(alive) != CHUNK // 8 or not 0 <= chunk < 2**63 // CHUNK:
            raise self._damaged(f"{what} are no codes")
        if bits and (len(data) % disk_bytes(bits) or len(data) > CHUNK * disk_bytes(bits)):
            raise self._damaged(f"{what} are not whole codes of {bits} bits")

    def _put_chunk(self, tables: Tables, chunk: int, data: bytes, alive: NDArray[np.bool_]) -> None:
        alive_bytes = np.packbits(alive, bitorder="little").tobytes()
        crc = zlib.crc32(alive_bytes, zlib.crc32(data))
        self._db.execute(
            f"INSERT OR REPLACE INTO {tables.codes} VALUES (?, ?, ?, ?)",
            (chunk, data, alive_bytes, crc),
        )

    def _meta(self, name: str) -> str:
        with self._explaining():
            row = self._db.execute("SELECT value, crc FROM meta WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise self._damaged(f"no {name} in it")
            if meta_crc(name, row[0]) != row[1]:
                raise self._damaged(f"{name} has a wrong checksum")
            return str(row[0])

    def _has_meta(self, name: str) -> bool:
        with self._explaining():
            row = self._db.execute("SELECT 1 FROM meta WHERE name = ?", (name,)).fetchone()
        return row is not None

    def derived(self, name: str) -> str | None:
        """What was kept under a name by `keep_derived`; None if nothing that is sound was."""
        with self._explaining():
            row = self._db.execute(
                "SELECT value, crc FROM meta WHERE name = ?", (f"derived:{name}",)
            ).fetchone()
        is_sound = row is not None and meta_crc(f"derived:{name}", row[0]) == row[1]
        return str(row[0]) if is_sound else None

    def keep_derived(self, name: str, value: str) -> None:
        """Inside `writing`: keep what follows from the items and would take long to compute
        again."""
        self._set_meta(f"derived:{name}", value)

    def _set_meta(self, name: str, value: str) -> None:
        crc = meta_crc(name, value)
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, crc))

    def _checked(self, id_: int, row: Sequence[object]) -> ItemFields:
        """The ITEM_FIELDS of a row that ends with its crc. Raises StoreError when they are not what
        was stored."""
        fields = tuple(row[:-1])
        if item_crc(fields) != row[-1]:
            raise self._damaged(f"item {id_} has a wrong checksum")
        if are_item_fields(fields):
            return fields
        raise self._damaged(f"item {id_} is no item")

    def _item(self, id_: int, row: ItemFields) -> Item:
        item = item_of_row(row)
        if item is None:
            raise self._damaged(f"item {id_} has columns that are no text")
        return item

    def _item_rows(
        self, above: int = -(2**63), limit: int = -1, hidden: bool = False
    ) -> list[tuple[int, ItemFields]]:
        """The checked ITEM_FIELDS of all items with greater ids than `above`, or of the first
        `limit` of them, and their ids; also of those that are `hidden` since this encoder has not
        encoded them yet."""
        shown = "" if hidden else self._shown
        out = []
        last = above
        with self._explaining():
            for id_, *row in self._db.execute(
                f"SELECT id, {ITEM_FIELDS}, crc FROM items WHERE id > ?{shown} ORDER BY id LIMIT ?",
                (above, limit),
            ):
                if id_ <= last:  # a damaged tree can lead round and round
                    raise self._damaged(f"item {id_} comes after item {last}")
                last = id_
                out.append((id_, self._checked(id_, row)))
        return out

    def _check_rows(self) -> None:
        """Check the items that a filter looks at, which it does inside SQLite: once, and later
        those that have come since."""
        checked = self._rows_checked[1] if self._rows_checked[0] == self.epoch else 0
        rows = self._item_rows(checked, hidden=True)
        if not rows:
            return
        labels = sorted((row[1], id_) for id_, row in rows if row[1] is not None)
        listed = self._db.execute(
            "SELECT label, id FROM items INDEXED BY items_by_label WHERE label > '' AND id > ?",
            (checked,),
        ).fetchall()
        if [one for one in labels if one[0]] != sorted(listed):
            raise self._damaged("its list of labels is not that of its items")
        self._rows_checked = self.epoch, rows[-1][0]

    def _require_ascending(self, ids: Sequence[int]) -> None:
        if any(later <= earlier for earlier, later in pairwise(ids)):
            raise self._damaged("its rows are out of order")

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self.path} is damaged ({what}): {repair_of(self.path)}")


def _why_no_file(path: Path) -> str:
    """What to say about a place that is no file, where an index is to be."""
    if (path / "model.json").is_file():
        return f"{path} is a model, not an index: name the file of an index"
    if unfinished := unfinished_run(path):
        return unfinished
    if path.is_dir():
        return (
            f"{path} is a folder, not an index: if it holds images, make an index of them with "
            f"wingbar index {path.resolve().name or 'photos'}.wb {path}"
        )
    return f"{path} is no file, as an index is: name another place"
