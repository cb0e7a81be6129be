"""Reading an index from several threads: each has a lane with a connection of its own, as SQLite
wants it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.index.filters import parse_where
from wingbar.index.index import Index
from wingbar.index.store import CHUNK, Item, Store
from wingbar.model.model import Embeddings

T = TypeVar("T")

LOOK_SECONDS = 0.5  # how often a lane looks whether another index was put in the place of its own
COLUMN_VALUES = 20  # values of a column that are named, the most frequent ones
SPREAD = 60  # items of a round through the whole index
SAMPLED = 5000  # items whose columns are looked at for that
NAME = "file"  # the column with the name that an uploaded file had


class NotFoundError(WingbarError):
    """There is no such item, or nothing to show of it."""


class Row(NamedTuple):
    """An item with its id and its code [1, w] of `bits` bits; `available` says whether its file is
    there."""

    id: int
    item: Item
    code: codes.Packed
    bits: int
    available: bool


class _Store(Store):
    """A Store that keeps features it has read, up to `most` bytes: a shortlist is then read in a
    quarter of the time."""

    most = 0

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._kept: dict[int, bytes] = {}
        self._kept_of: tuple[int, int] | None = (
            None  # the state of the file that they were read from
        )

    def _feature_rows(self, ids: Sequence[int], dim: int) -> dict[int, bytes]:
        if (version := self.version()) != self._kept_of or len(self._kept) * 2 * dim > self.most:
            self._kept, self._kept_of = {}, version
        if new := [id_ for id_ in ids if id_ not in self._kept]:
            self._kept.update(super()._feature_rows(new, dim))
        return self._kept


class Reader:
    """An index on a connection of its own, for one thread; it keeps up to `keep` bytes of features.
    Raises StoreError when it cannot be opened."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        status = path.stat() if path.exists() else None
        self.store = _Store.open(path)
        self.store.most = keep
        self.index = Index(self.store)
        self._file = None if status is None else (status.st_dev, status.st_ino)

    def is_current(self) -> bool:
        """Whether the file is still the one that was opened, and not another that was made in its
        place."""
        try:
            status = self.index.path.stat()
        except OSError:
            return True  # gone, or not to be reached for a moment: what is open can still be read
        return (status.st_dev, status.st_ino) == self._file

    def check(self) -> None:
        """Raises StoreError when the index cannot be read, or is not the one at its path any
        more."""
        path = self.index.path
        if not path.exists():
            raise StoreError(
                f"{path} is gone: bring it back, or start the server with another index"
            )
        if not self.is_current():
            raise StoreError(
                f"{path} was replaced by a file that is no index: bring it back, or start the "
                "server again"
            )
        self.store.model_fingerprint()

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be found yet."""
        return not self.index.model.gives_codes or self.store.is_empty()

    def item(self, id_: int) -> Item:
        """An item. Raises NotFoundError when there is none."""
        try:
            return self.store.items([id_])[0]
        except StoreError:
            raise NotFoundError(f"there is no item {id_}: it may have been deleted") from None

    def embedding(self, id_: int) -> Embeddings:
        """What the index knows of an item, as a query. Logits are not stored: these only say what
        the bits say."""
        self.item(id_)
        model = self.index.model
        packed = self.codes_of([id_])
        features = self.store.features([id_], model.dim).astype(np.float32)
        logits = np.where(codes.unpack(packed, model.bits), np.float32(1), np.float32(-1))
        return Embeddings(packed, features, logits, model.bits, model.name, model.fingerprint)

    def codes_of(self, ids: Sequence[int]) -> codes.Packed:
        """The codes [n, w] of items that are there."""
        return self.index.searchable().of(np.array(ids, np.int64))

    def row(self, id_: int) -> Row:
        """An item with its code, which is read from the file: for a lane that does not keep the
        codes. Raises NotFoundError."""
        item, bits = self.item(id_), self.index.model.bits
        ids, packed = self.store.codes(bits, [id_ // CHUNK])
        place = int(np.searchsorted(ids, id_))
        return Row(id_, item, packed[place : place + 1], bits, is_available(item.path))

    def rows(
        self, offset: int, limit: int, where: Sequence[str], spread: bool = False
    ) -> tuple[list[Row], int]:
        """A page of the items that fulfil the filters, by ascending id or `spread`, and how many
        there are in all."""
        conditions = parse_where(where)
        if self.is_empty:
            return [], 0
        ids = self.store.matching(conditions) if conditions else self.index.searchable().ids
        page = (spread_out(ids) if spread else ids)[offset : offset + limit].tolist()
        bits, packed = self.index.model.bits, self.codes_of(page)
        items = self.store.items(page)
        rows = [
            Row(id_, items[i], packed[i : i + 1], bits, is_available(items[i].path))
            for i, id_ in enumerate(page)
        ]
        return rows, len(ids)

    def columns(self) -> dict[str, list[str]]:
        """The most frequent values of each column, of up to SAMPLED items; columns that name every
        item apart are left out."""
        if self.is_empty:
            return {}
        ids = self.index.searchable().ids
        counts: dict[str, Counter[str]] = {}
        for item in self.store.items(ids[:: -(-len(ids) // SAMPLED)].tolist()):
            for name, value in item.columns.items():
                if name != NAME:
                    counts.setdefault(name, Counter())[value] += 1
        useful = {
            name: count
            for name, count in counts.items()
            if len(count) <= COLUMN_VALUES or len(count) < count.total()
        }
        return {
            name: [value for value, _ in count.most_common(COLUMN_VALUES)]
            for name, count in sorted(useful.items())
        }

    def refresh(self) -> int:
        """Take over what other processes changed. Returns how many items there are."""
        with self.index.snapshot():
            return 0 if self.is_empty else len(self.index.searchable())


class Lane:
    """A thread with a Reader of its own, which does one thing after the other."""

    def __init__(self, path: Path, name: str, keep: int = 0) -> None:
        self._path, self._keep = path, keep
        self._pool = ThreadPoolExecutor(1, f"wingbar-{name}")
        self._reader: Reader | None = None
        self._looked = 0.0

    async def run(self, work: Callable[[Reader], T]) -> T:
        """`work` with the lane's reader, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    def submit(self, work: Callable[[Reader], T]) -> Future[T]:
        """The same for who waits in another way."""
        return self._pool.submit(self._do, work)

    def close(self) -> None:
        """Finish what is in line and release the file."""
        self._pool.shutdown(wait=True)
        if self._reader is not None:
            self._reader.index.close()

    def _do(self, work: Callable[[Reader], T]) -> T:
        if self._reader is None:
            self._reader = Reader(self._path, self._keep)
        elif time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            if not self._reader.is_current():
                with suppress(
                    StoreError
                ):  # what is open can still be read; Reader.check says what is wrong
                    before, self._reader = self._reader, Reader(self._path, self._keep)
                    before.index.close()
        return work(self._reader)


def spread_out(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same ids [n] in rounds of SPREAD, each from the first to the last: folders are indexed
    one after the other, and the first items alone would show one of them."""
    rounds = -(-len(ids) // SPREAD)
    return np.concatenate([ids[i::rounds] for i in range(rounds)]) if rounds else ids


def is_available(path: str) -> bool:
    """Whether the file of an item is there."""
    return not path.startswith("array:") and os.path.exists(path)
