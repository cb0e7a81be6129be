"""Codes that were sorted together: the structure over them, and its search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.records import (
    ALL_ROWS,
    AUTO,
    NUMPY,
    PROBE,
    SCAN,
    TRY_PROBE,
    Bitmap,
    Costs,
    Distances,
    Ids,
    Nearest,
    Packed,
    Request,
    Rows,
    Table,
)

PROBED_FROM = 1 << 20  # bytes of distinct codes; fewer are scanned faster than buckets are found
THREADED_FROM = 5_000_000  # distinct codes from which one query uses several threads
BATCH_THREADED_FROM = 5_000_000  # comparisons from which a batch does
BATCH_CANDIDATES = 8_000_000  # candidates of a batch in memory at a time, 6 bytes each
BATCH_QUERIES = 1024  # most queries that are compared with the same codes at a time

S = TypeVar("S")
T = TypeVar("T")

NOTHING = Nearest(np.empty(0, np.int64), np.empty(0, np.int64), False)


@dataclass(frozen=True)
class AllowedRows:
    """The rows of one part that a search may find.

    rows: [A] int64, ascending.
    bitmap: the same as bits, [ceil(N / 64)] uint64.
    """

    rows: Rows
    bitmap: Bitmap


@dataclass(frozen=True)
class Part:
    """Codes that were sorted together. A row is the position of an item in them by ascending id.

    table: the distinct codes and their rows.
    compiled: whether the compiled loops search it.
    first_id: id of row 0.
    ids: [N] ids of the rows, in half the memory if they fit; None where they are first_id + row.
    alive: bitmap of the rows that were not removed; None while that is all of them.
    dead: number of rows that were removed.
    """

    table: Table
    compiled: bool
    first_id: int
    ids: NDArray[np.int64] | NDArray[np.uint32] | None
    alive: Bitmap | None = None
    dead: int = 0

    @classmethod
    def build(cls, codes: Packed, bits: int, ids: Ids, compiled: bool) -> Part:
        """Build a part from codes [N, w] and their ids [N] ascending."""
        count = len(codes)
        first = int(ids[0]) if count else 0
        kept: NDArray[np.int64] | NDArray[np.uint32] | None = ids
        if count == 0 or int(ids[-1]) - first == count - 1:
            kept = None
        elif first >= 0 and ids[-1] < 2**32:
            kept = ids.astype(np.uint32)
        return cls(_table(codes, bits, compiled), compiled, first, kept)

    # -- contents

    @cached_property
    def size(self) -> int:
        """U, the number of distinct codes."""
        return len(self.table.starts) - 1

    @cached_property
    def total(self) -> int:
        """N, the number of rows, including the removed ones."""
        return len(self.table.rows)

    @property
    def count(self) -> int:
        """Number of items, without the removed ones."""
        return self.total - self.dead

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all arrays."""
        arrays = (*self.table[1:], self.alive, self.ids)
        return sum(array.nbytes for array in arrays if array is not None)

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """Number of items of each distinct code, without the removed ones: [U]."""
        if self.alive is None:
            return np.diff(self.table.starts).astype(np.int64)
        return np.bincount(self.table.places[self.alive_rows()], minlength=self.size)

    @cached_property
    def remaining(self) -> AllowedRows | None:
        """The rows that a search without a filter may find; None for all."""
        return None if self.alive is None else AllowedRows(self.alive_rows(), self.alive)

    def alive_rows(self) -> Rows:
        """Rows that were not removed, ascending."""
        if self.alive is None:
            return np.arange(self.total)
        return np.flatnonzero(
            np.unpackbits(self.alive.view(np.uint8), bitorder="little")[: self.total]
        )

    def ids_of(self, rows: Rows) -> Ids:
        """The ids [n] of rows [n]."""
        if self.ids is None:
            return rows + self.first_id if self.first_id else rows
        return self.ids[rows].astype(np.int64)

    def rows_of(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows [n] of ids [n], and which of them are here and not removed: [n] bool."""
        if self.total == 0:
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        if self.ids is None:
            rows = np.asarray(ids, np.int64) - self.first_id
            here = (rows >= 0) & (rows < self.total)
            rows = np.where(here, rows, 0)
        else:
            rows = np.minimum(np.searchsorted(self.ids, ids), self.total - 1)
            here = self.ids[rows] == ids
        if self.alive is not None:
            here &= (self.alive[rows >> 6] >> (rows & 63).astype(np.uint64)) & np.uint64(1) == 1
        return rows, here

    def codes_of(self, rows: Rows) -> Packed:
        """The codes [n, w] of rows [n]."""
        places = self.table.places[rows]
        if self.table.unique.ndim == 1:
            return self.table.unique[places].astype(np.uint64)[:, None]
        return np.ascontiguousarray(self.table.unique[:, places].T)

    def allowed(self, ids: Ids) -> AllowedRows:
        """The rows of those `ids` that are here; unknown ids are ignored."""
        rows, here = self.rows_of(np.asarray(ids, np.int64))
        return AllowedRows(rows[here], _bitmap(rows[here], self.total))

    # -- changes

    def without(self, ids: Ids) -> Part:
        """The part with `ids` removed; unknown ids are ignored."""
        rows, here = self.rows_of(np.asarray(ids, np.int64))
        if not here.any():
            return self
        alive = _bitmap(np.arange(self.total), self.total) if self.alive is None else self.alive
        removed = _bitmap(rows[here], self.total)
        return replace(self, alive=alive & ~removed, dead=self.dead + int(here.sum()))

    def rebuilt(self, compiled: bool) -> Part:
        """The part rebuilt without its removed rows."""
        rows = self.alive_rows()
        return Part.build(self.codes_of(rows), self.table.bits, self.ids_of(rows), compiled)

    # -- search

    def nearest(
        self, queries: Packed, request: Request, allowed: AllowedRows | None, threads: int
    ) -> list[Nearest]:
        """The nearest items of each query [Q, w], as `request` asks, on at most `threads` threads.

        `allowed` are the rows that may be found, None for all that were not removed.
        """
        allowed = self.remaining if allowed is None else allowed
        if request.radius < 0 or not self.total or (allowed and not len(allowed.rows)):
            return [NOTHING] * len(queries)
        if not self.compiled or request.path == NUMPY:
            return [self._nearest_by_numpy(query, request, allowed) for query in queries]
        from wingbar.hamming import kernels

        if len(queries) > 1:
            return self._nearest_many(queries, request, allowed, threads)
        table, bitmap = self.table, ALL_ROWS if allowed is None else allowed.bitmap
        query = self._comparable(queries)[0]
        if allowed and request.path == AUTO and self._is_listed(len(allowed.rows), request.costs):
            found = kernels.nearest_listed(table, query, request, allowed.rows)
        elif threads > 1 and self.size >= THREADED_FROM and request.path != PROBE:
            return [self._nearest_by_threads(query, request, bitmap, threads)]
        else:
            found = kernels.nearest(table, query, request, bitmap, 0, self.size)
        return [self._result(*found)]

    def _comparable(self, queries: Packed) -> NDArray[Any]:
        """Queries copied into the one type and layout that the loops are compiled for."""
        return np.array(queries, self.table.unique.dtype, order="C")

    def _is_listed(self, count: int, costs: Costs) -> bool:
        """Whether comparing `count` rows one by one costs less than a scan."""
        return count * costs.listed_row < self.table.unique.nbytes * costs.scanned_byte

    def _result(self, rows: Rows, distances: Distances, total: int) -> Nearest:
        """The result of a kernel as a record: rows [K] of `total` become ids."""
        return Nearest(self.ids_of(rows), distances, len(rows) < total)

    def _nearest_by_threads(
        self, query: Packed, request: Request, bitmap: Bitmap, threads: int
    ) -> Nearest:
        """`nearest` for one query [w], whose scan is divided between the threads."""
        from wingbar.hamming import kernels

        if request.path == AUTO:
            trial = request._replace(path=TRY_PROBE)
            found = kernels.nearest(self.table, query, trial, bitmap, 0, self.size)
            if found[2] >= 0:
                return self._result(*found)
        plain = request._replace(path=SCAN)
        ends = np.linspace(0, self.size, threads + 1).astype(int).tolist()
        shares = _map(
            lambda span: kernels.nearest(self.table, query, plain, bitmap, *span),
            list(pairwise(ends)),
            threads,
        )
        return merge([self._result(*share) for share in shares], request)

    def _nearest_many(
        self, queries: Packed, request: Request, allowed: AllowedRows | None, threads: int
    ) -> list[Nearest]:
        """`nearest` for queries [Q, w], divided between the threads, and further so that the
        candidates of those which share a scan fit into memory."""
        from wingbar.hamming import kernels

        bitmap = ALL_ROWS if allowed is None else allowed.bitmap
        room = min(self.size, 4 * min(request.k, self.total)) + kernels.FIRST_ROOM
        count = -(-len(queries) // max(1, min(BATCH_QUERIES, BATCH_CANDIDATES // room)))
        if len(queries) * self.size >= BATCH_THREADED_FROM:
            count = max(count, min(threads, len(queries)))
        shares = _map(
            lambda share: kernels.nearest_many(self.table, share, request, bitmap, room),
            np.array_split(self._comparable(queries), count),
            threads,
        )
        results: list[Nearest] = []
        for rows, distances, begins, totals in shares:
            ids, ends = self.ids_of(rows), begins.tolist()
            for (begin, end), total in zip(pairwise(ends), totals.tolist(), strict=True):
                if total < 0:  # more candidates than there is room for
                    alone = queries[len(results)][None]
                    results += self.nearest(alone, request, allowed, threads)
                else:
                    cut = end - begin < total
                    results.append(Nearest(ids[begin:end], distances[begin:end], cut))
        return results

    def _nearest_by_numpy(
        self, query: Packed, request: Request, allowed: AllowedRows | None
    ) -> Nearest:
        """`nearest` for one query [w] without compiled loops."""
        table = self.table
        scanned = self.scan(query)
        if allowed is None:
            at_distance = np.bincount(
                scanned, weights=np.diff(table.starts), minlength=table.bits + 1
            ).astype(np.int64)
        else:
            by_row = scanned[table.places[allowed.rows]]
            at_distance = np.bincount(by_row, minlength=table.bits + 1)
        reached = np.cumsum(at_distance)
        # the distance within which there are k items, or the radius
        last = min(int(np.searchsorted(reached, request.k)), request.radius)
        if allowed is None:
            near = np.flatnonzero(scanned <= last)
            counts = (table.starts[near + 1] - table.starts[near]).astype(np.int64)
            firsts = np.repeat(table.starts[near] - (np.cumsum(counts) - counts), counts)
            rows = table.rows[firsts + np.arange(counts.sum())].astype(np.int64)
            distances = np.repeat(scanned[near], counts).astype(np.int64)
        else:
            inside = by_row <= last
            rows, distances = allowed.rows[inside], by_row[inside].astype(np.int64)
        order = np.lexsort((rows, distances))[: request.limit]
        total = int(reached[last]) if len(reached) else 0
        return Nearest(self.ids_of(rows[order]), distances[order], len(order) < total)

    def scan(self, query: Packed) -> NDArray[np.uint16]:
        """Distances of one query [w] to every distinct code: [U] uint16."""
        unique = self.table.unique
        if self.compiled:
            from wingbar.hamming import kernels

            out = np.empty(self.size, np.uint16)
            kernels.scan(unique, self._comparable(query), out)
            return out
        columns = unique[None] if unique.ndim == 1 else unique
        return np.bitwise_count(columns ^ query.astype(columns.dtype)[:, None]).sum(
            0, dtype=np.uint16
        )

    def counts(self, queries: Packed, threads: int) -> NDArray[np.int64]:
        """Number of items at each distance of each query [Q, w]: [Q, b + 1]."""
        bits = self.table.bits
        if not self.compiled:
            return np.stack(
                [np.bincount(self.scan(q), self.items, bits + 1) for q in queries]
            ).astype(np.int64)
        from wingbar.hamming import kernels

        out = np.zeros((len(queries), bits + 1), np.int64)
        count = threads if len(queries) * self.size >= BATCH_THREADED_FROM else 1
        shares = list(
            zip(
                np.array_split(self._comparable(queries), count),
                np.array_split(out, count),
                strict=True,
            )
        )
        list(
            _map(
                lambda share: kernels.counts(self.table.unique, self.items, *share), shares, threads
            )
        )
        return out


def merge(found: Sequence[Nearest], request: Request) -> Nearest:
    """The nearest items among the results of one query in several sets of codes."""
    ids = np.concatenate([one.ids for one in found])
    distances = np.concatenate([one.distances for one in found])
    order = np.lexsort((ids, distances))
    if len(order) >= request.k:
        last = int(distances[order[request.k - 1]])
        order = order[: int(np.searchsorted(distances[order], last, "right"))]
    kept = order[: request.limit]
    end = int(distances[kept[-1]]) if len(kept) else -1
    cut = (len(kept) < len(order) and int(distances[order[len(kept)]]) == end) or any(
        one.cut and int(one.distances[-1]) == end for one in found
    )
    return Nearest(ids[kept], distances[kept], cut)


def _table(codes: Packed, bits: int, compiled: bool) -> Table:
    """Sort codes [N, w] into a table."""
    one_word = codes.shape[1] == 1
    if one_word:
        dtype = np.uint32 if bits <= 32 else np.uint64
        keys = np.ascontiguousarray(codes[:, 0]).astype(dtype, copy=False)
    if compiled and one_word:
        from wingbar.hamming import kernels

        keys, rows = kernels.sort(keys, bits)
        unique, starts, places = kernels.group(keys, rows)
    else:
        order = np.argsort(keys, kind="stable") if one_word else np.lexsort(codes.T)
        columns = keys[order][None] if one_word else codes[order].T
        new = np.ones(len(codes), bool)
        new[1:] = (columns[:, 1:] != columns[:, :-1]).any(0)
        firsts = np.flatnonzero(new)
        unique = columns[:, firsts]
        unique = unique[0] if one_word else unique
        starts = np.append(firsts, len(codes)).astype(np.uint32)
        rows = order.astype(np.uint32)
        places = np.empty(len(codes), np.uint32)
        places[rows] = np.cumsum(new) - 1
    unique = _aligned(unique)
    heads, order_of = np.empty((0, 1), np.uint32), np.empty((0, 0), np.uint32)
    if compiled and one_word and unique.nbytes >= PROBED_FROM:
        from wingbar.hamming import kernels

        heads, order_of = kernels.tables(unique, bits, max(1, bits // 16))
    return Table(bits, unique, starts, rows, places, heads, order_of)


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins at a multiple of 64 bytes: vectors that straddle cache lines are slower
    to read."""
    room = np.empty(array.size + 64 // array.itemsize, array.dtype)
    shift = -room.ctypes.data % 64 // array.itemsize
    out = room[shift : shift + array.size].reshape(array.shape)
    out[...] = array
    return out


def _bitmap(rows: Rows, total: int) -> Bitmap:
    """Rows as bits: [ceil(total / 64)] uint64."""
    mask = np.zeros(-(-total // 64) * 64, bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little").view(np.uint64)


def _map(work: Callable[[S], T], shares: Sequence[S], threads: int) -> Iterable[T]:
    """`work` of each share, on several threads if there are several shares."""
    if threads == 1 or len(shares) == 1:
        return map(work, shares)
    return _pool(threads).map(work, shares)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads for searches, kept because starting them takes as long as a search."""
    return ThreadPoolExecutor(threads, "wingbar-search")
