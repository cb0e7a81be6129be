"""Reading an index from several threads, each with a connection of its own, as SQLite requires."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError, StoreError, WingbarError
from wingbar.hamming import codes
from wingbar.index.filters import parse_where
from wingbar.index.index import Index, IndexInfo, store_of
from wingbar.index.kept import width
from wingbar.index.open_file import OpenFile
from wingbar.index.ranking import FailedShard, Hits, SearchOptions
from wingbar.index.store import Item, Store
from wingbar.index.tables import FIRST, Tables
from wingbar.model.model import Embeddings, Model

T = TypeVar("T")
ItemSort = Literal["name", "label", "date"]  # what the items themselves tell

COLUMN_VALUES = 20  # values listed per column, the most frequent ones
COLUMN_SAMPLE = 5000  # items whose columns are read to find those values
SPREAD = 60  # items per pass through the whole index
STEPS = 10_000  # of SQLite between two looks at the clock: a few milliseconds
FILE_COLUMN = "file"  # the column that keeps the original name of an uploaded file


class NotFoundError(WingbarError):
    """There is no such item, or its picture cannot be shown."""


class Row(NamedTuple):
    """An item as the server lists it.

    id: number of the item in the index.
    item: its record.
    code: its code [1, w] uint64.
    bits: length of the code.
    available: whether its file exists.
    """

    id: int
    item: Item
    code: codes.Packed
    bits: int
    available: bool


class Page(NamedTuple):
    """A page of the items that match all filters.

    rows: its items.
    total: number of all items that match, or of their stacks of copies.
    copies: ids of the copies that are stacked on an item, by its id.
    failed: shards that did not answer, whose items are missing.
    """

    rows: list[Row]
    total: int
    failed: Sequence[FailedShard] = ()
    copies: Mapping[int, Sequence[int]] = MappingProxyType({})


class AnyReader(Protocol):
    """What the server reads, in one thread: an index file, or several indexes as one."""

    @property
    def encoders(self) -> Sequence[str]:
        """The names of its encoders; the first answers where none is named."""

    def by(self, encoder: str | None) -> AnyReader:
        """The same by one of its encoders, None for the first. Raises QueryError for an unknown
        name."""

    @property
    def model(self) -> Model:
        """The model of what was read last."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search yet."""

    def close(self) -> None:
        """Release it."""

    def check(self) -> None:
        """Raises StoreError when something cannot be read."""

    def snapshot(self) -> AbstractContextManager[object]:
        """A consistent read snapshot, where there is one."""

    def find(self, query: Embeddings, options: SearchOptions, seconds: float) -> Hits:
        """The hits of one embedding; QueryError when filters take longer than `seconds`."""

    def find_vector(
        self, vector: NDArray[np.float32], options: SearchOptions, seconds: float
    ) -> Hits:
        """The hits of the vector [r] of a text, likewise."""

    def expanded(self, query: Embeddings, options: SearchOptions) -> Embeddings:
        """The query averaged with its neighbours, where the options or the model say so."""

    def item(self, id_: int) -> Item:
        """An item. Raises NotFoundError."""

    def embedding(self, id_: int) -> Embeddings:
        """What is stored of an item, as a query. Raises NotFoundError."""

    def codes_of(self, ids: Sequence[int]) -> codes.Packed:
        """The codes [n, w] uint64 of existing items."""

    def row(self, id_: int) -> Row:
        """An item with its code. Raises NotFoundError."""

    def page(
        self, offset: int, limit: int, where: Sequence[str], spread: bool, seconds: float
    ) -> Page:
        """A page of the items that match all filters. Raises QueryError."""

    def ids_of_paths(self, paths: Sequence[str]) -> dict[str, int]:
        """Ids of those `paths` that there are."""

    def refresh(self) -> int:
        """Apply what other processes changed. Returns the number of items."""

    def version(self) -> tuple[int, ...]:
        """Changes whenever something has."""

    def info(self) -> IndexInfo:
        """Numbers about what is searched."""

    def label_counts(self) -> dict[str, int]:
        """How many items each label has."""

    def columns(self) -> dict[str, list[str]]:
        """The most frequent values of each column."""

    def shards(self) -> Sequence[tuple[str, int | None, str | None]] | None:
        """Of several indexes: the name of each, its number of items, and why it does not answer;
        None for one index file."""


R = TypeVar("R", bound=AnyReader)


class Reader:
    """An index on a connection of its own, to be used by one thread; it caches up to
    `feature_bytes` of features. Raises StoreError when the index cannot be opened."""

    def __init__(self, path: Path, feature_bytes: int = 0) -> None:
        self.store = _CachingStore.open(path)
        self.store.max_bytes = feature_bytes
        self.index = Index(self.store)
        self._second: Reader | None = None

    @property
    def encoders(self) -> Sequence[str]:
        """The names of the encoders of the index."""
        return self.index.encoders

    def by(self, encoder: str | None) -> Reader:
        """The same index on the same connection, by one of its encoders. Raises QueryError."""
        index = self.index.encoder(encoder)
        if index is self.index:
            return self
        if self._second is None or self._second.index is not index:
            self._second = _SecondReader(index, self.store.max_bytes)
        return self._second

    def check(self) -> None:
        """Raises StoreError when the index cannot be read or its file was moved or replaced."""
        path = self.store.path
        if not path.exists():
            raise StoreError(f"{path} is gone: restore it, or start the server with another index")
        self.store.model_fingerprint()  # follows another index that was put in its place
        if self.store.is_replaced():
            raise StoreError(
                f"{path} was replaced by a file that is not an index: restore it, or restart the "
                "server"
            )

    def close(self) -> None:
        """Release the file."""
        self.index.close()

    @property
    def model(self) -> Model:
        """The model of what was read last."""
        return self.index.model

    @property
    def is_empty(self) -> bool:
        """Whether the index has nothing to search yet."""
        return self.index.is_empty

    def snapshot(self) -> AbstractContextManager[object]:
        """A consistent read snapshot of the file."""
        return self.index.snapshot()

    def find(self, query: Embeddings, options: SearchOptions, seconds: float) -> Hits:
        """The hits of one embedding; QueryError when filters take longer than `seconds`."""
        with self._limited(options.where, seconds):
            return self.index.find([query], options)[0]

    def find_vector(
        self, vector: NDArray[np.float32], options: SearchOptions, seconds: float
    ) -> Hits:
        """The hits of the vector [r] of a text; QueryError when filters take longer than
        `seconds`."""
        with self._limited(options.where, seconds):
            return self.index.find_vector(vector, options)

    def expanded(self, query: Embeddings, options: SearchOptions) -> Embeddings:
        """The query averaged with its neighbours, where the options or the model say so."""
        return self.index.expanded([query], options)[0]

    @contextmanager
    def _limited(self, where: Sequence[str], seconds: float) -> Iterator[None]:
        """Cut off filters that take longer than `seconds`, such as many patterns on many paths.
        Raises QueryError."""
        if not where:
            yield
            return
        deadline = time.monotonic() + seconds
        try:
            with self.store.ended_at(deadline, STEPS):
                yield
        except StoreError:
            if time.monotonic() <= deadline:
                raise
            raise QueryError(
                f"these {len(where)} filters take longer than {seconds:g} s on this index: use "
                "fewer of them, or filter on label instead of path"
            ) from None

    def item(self, id_: int) -> Item:
        """An item. Raises NotFoundError."""
        try:
            return self.store.items([id_])[0]
        except StoreError:
            raise NotFoundError(f"there is no item {id_}: it may have been deleted") from None

    def embedding(self, id_: int) -> Embeddings:
        """What the index stores of an item, as a query: `Index.embedding`. Raises NotFoundError."""
        self.item(id_)
        return self.index.embedding(id_)

    def codes_of(self, ids: Sequence[int]) -> codes.Packed:
        """The codes [n, w] uint64 of existing items."""
        return self.index.searchable().of(np.array(ids, np.int64))

    def row(self, id_: int) -> Row:
        """An item with its code, read from the file: for threads that keep no codes in memory.
        Raises NotFoundError."""
        item, bits = self.item(id_), self.index.model.bits
        return Row(id_, item, self.index.codes([id_]), bits, is_available(item.path))

    def page(
        self, offset: int, limit: int, where: Sequence[str], spread: bool, seconds: float
    ) -> Page:
        """A page of the items that match all filters, and the number of all that match; by
        ascending id, or with `spread` in the order of `spread_out`. Raises QueryError."""
        with self.snapshot(), self._limited(where, seconds):
            rows, total = self.rows(offset, limit, where, spread)
        return Page(rows, total)

    def arranged(
        self,
        offset: int,
        limit: int,
        where: Sequence[str],
        order: NDArray[np.int64],
        stacks: Mapping[int, int] | None,
        seconds: float,
    ) -> Page:
        """A page of the items that match all filters, in an `order` of ids; those that it lacks
        come last. With `stacks`, the stack of each id, only the first of each. Raises
        QueryError."""
        with self.snapshot(), self._limited(where, seconds):
            ids = self._matching(where)
            known = order[np.isin(order, ids)]
            ids = np.concatenate([known, ids[~np.isin(ids, known)]])
            copies: dict[int, list[int]] = {}
            if stacks is not None:
                first: dict[int, int] = {}
                for id_ in ids.tolist():
                    top = first.setdefault(stacks.get(id_, id_), id_)
                    copies.setdefault(top, []).extend([id_] if id_ != top else [])
                ids = np.array(list(first.values()), np.int64)
            page = ids[offset : offset + limit].tolist()
            rows = self._rows(page)
        return Page(rows, len(ids), copies={id_: copies[id_] for id_ in page if copies.get(id_)})

    def sorted_ids(self, sort: ItemSort) -> NDArray[np.int64]:
        """All ids by the name of the file, with numbers in it as numbers; by label; or by the time
        of the file, the newest first. What is equal is in the order of names."""
        with self.snapshot():
            items = sorted(self.store.all_items(), key=lambda one: _natural(name_of(one[1])))
        if sort == "label":
            items.sort(key=lambda one: (one[1].label is None, _natural(one[1].label or "")))
        if sort == "date":
            items.sort(key=lambda one: -one[1].mtime)
        return np.array([id_ for id_, _ in items], np.int64)

    def ids_of_paths(self, paths: Sequence[str]) -> dict[str, int]:
        """Ids of those `paths` that are in the index."""
        return self.store.ids_of_paths(paths)

    def version(self) -> tuple[int, ...]:
        """Changes whenever the file has."""
        return self.store.version()

    def info(self) -> IndexInfo:
        """Numbers about the index."""
        return self.index.info()

    def label_counts(self) -> dict[str, int]:
        """How many items each label has."""
        return self.index.label_counts()

    def shards(self) -> None:
        """It is one index."""
        return

    def rows(
        self, offset: int, limit: int, where: Sequence[str], spread: bool = False
    ) -> tuple[list[Row], int]:
        """A page of the items that match all filters, and the number of all that match; by
        ascending id, or with `spread` in the order of `spread_out`. Raises QueryError."""
        ids = self._matching(where)
        page = (spread_out(ids) if spread else ids)[offset : offset + limit].tolist()
        return self._rows(page), len(ids)

    def _matching(self, where: Sequence[str]) -> NDArray[np.int64]:
        conditions = parse_where(where)
        if self.is_empty:
            return np.empty(0, np.int64)
        return self.store.matching(conditions) if conditions else self.index.searchable().ids

    def _rows(self, page: Sequence[int]) -> list[Row]:
        if not page:
            return []
        bits, packed = self.index.model.bits, self.codes_of(page)
        items = self.store.items(page)
        return [
            Row(id_, items[i], packed[i : i + 1], bits, is_available(items[i].path))
            for i, id_ in enumerate(page)
        ]

    def columns(self) -> dict[str, list[str]]:
        """The most frequent values of each column, from a sample of COLUMN_SAMPLE items. A column
        with more than COLUMN_VALUES values, all of them different, is left out."""
        if self.is_empty:
            return {}
        ids = self.index.searchable().ids
        counts: dict[str, Counter[str]] = {}
        for item in self.store.items(ids[:: -(-len(ids) // COLUMN_SAMPLE)].tolist()):
            for name, value in item.columns.items():
                counts.setdefault(name, Counter())[value] += 1
        return useful_columns(counts)

    def refresh(self) -> int:
        """Apply what other processes changed. Returns the number of items."""
        with self.index.snapshot():
            return 0 if self.is_empty else len(self.index.searchable())


class _SecondReader(Reader):
    """What a reader's second encoder sees, on its connection."""

    def __init__(self, index: Index, feature_bytes: int) -> None:
        store = store_of(index)
        assert isinstance(store, _CachingStore)
        self.store, self.index, self._second = store, index, None
        self.store.max_bytes = feature_bytes


class ReaderThread(Generic[R]):
    """A thread with a reader of its own, which runs one piece of work after the other.

    It opens the index for the first piece of work. The store follows another index that is put in
    the place of the file.
    """

    def __init__(self, opened: Callable[[], R], name: str) -> None:
        self._opened = opened
        self._pool = ThreadPoolExecutor(1, f"wingbar-{name}")
        self._reader: R | None = None

    async def run(self, work: Callable[[R], T]) -> T:
        """The result of `work`, called in the thread with its reader."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    def submit(self, work: Callable[[R], T]) -> Future[T]:
        """`run` for callers outside an event loop."""
        return self._pool.submit(self._do, work)

    def close(self) -> None:
        """Finish the work in the queue, join the thread and release the file."""
        self._pool.shutdown(wait=True)
        if self._reader is not None:
            self._reader.close()

    def _do(self, work: Callable[[R], T]) -> T:
        if self._reader is None:
            self._reader = self._opened()
        return work(self._reader)


def useful_columns(counts: Mapping[str, Counter[str]]) -> dict[str, list[str]]:
    """The most frequent values of columns, from the counts of a sample. A column with more than
    COLUMN_VALUES values, all of them different, is left out, as is the one of uploads."""
    useful = {
        name: count
        for name, count in counts.items()
        if name != FILE_COLUMN and (len(count) <= COLUMN_VALUES or len(count) < count.total())
    }
    return {
        name: [value for value, _ in count.most_common(COLUMN_VALUES)]
        for name, count in sorted(useful.items())
    }


def spread_out(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same ids [n] in several passes over the index, each of at most SPREAD ids, evenly spaced
    from the first to the last. Folders are indexed one after the other, so the first items alone
    would show only one of them."""
    passes = -(-len(ids) // SPREAD)
    return np.concatenate([ids[i::passes] for i in range(passes)]) if passes else ids


def name_of(item: Item) -> str:
    """The original name of an uploaded file, else the file's own; never its folder."""
    return item.columns.get(FILE_COLUMN) or os.path.basename(item.path)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people do: IMG_2 before IMG_10, capitals like small letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part[-18:]), "") if part.isdecimal() else (-1, part) for part in parts]


def is_available(path: str) -> bool:
    """Whether the file of an item exists; never for a picture that was added as an array."""
    return not path.startswith("array:") and os.path.exists(path)


class _CachingStore(Store):
    """A Store that caches up to `max_bytes` of features, so that a shortlist is read four times as
    fast."""

    max_bytes = 0

    def __init__(self, file: OpenFile, tables: Tables = FIRST) -> None:
        super().__init__(file, tables)
        self._cached: dict[int, bytes] = {}
        self._cached_version: tuple[int, ...] | None = None  # of the file they were read from

    def _feature_rows(self, ids: Sequence[int], dim: int) -> dict[int, bytes]:
        version = self.version()
        is_full = len(self._cached) * width(dim, self.kept) > self.max_bytes
        if version != self._cached_version or is_full:
            self._cached, self._cached_version = {}, version
        if new := [id_ for id_ in ids if id_ not in self._cached]:
            self._cached.update(super()._feature_rows(new, dim))
        return self._cached
