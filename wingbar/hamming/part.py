"""Codes that were sorted together: the structure over them, and its search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.records import (
    ALL_ROWS,
    AUTO,
    NUMPY,
    PROBE,
    SCAN,
    TRY_PROBE,
    WORDS,
    Asked,
    Bitmap,
    Costs,
    Ids,
    Nearest,
    Packed,
    Path,
    Request,
    Rows,
    Table,
)

PROBED_FROM = 1 << 20  # bytes of distinct codes; fewer are scanned faster than buckets are found
THREADED_FROM = 5_000_000  # distinct codes from which one query uses several threads
BATCH_THREADED_FROM = 5_000_000  # comparisons from which a batch does
BATCH_CANDIDATES = 8_000_000  # candidates of a batch in memory at a time, 6 bytes each
BATCH_QUERIES = 1024  # most queries that are compared with the same codes at a time
MOST_ROOM = 1 << 16  # items that a search makes room for at once
ROOM = 4096  # items that it makes room for if it may find more than MOST_ROOM

S = TypeVar("S")
T = TypeVar("T")

# NumPy takes these faster than the classes.
INT64, UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
NOTHING = Nearest(np.empty(0, np.int64), np.empty(0, np.int64), False)


class AllowedRows(NamedTuple):
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
    def build(
        cls, codes: Packed, bits: int, ids: Ids, compiled: bool, planes: bool = False
    ) -> Part:
        """Build a part from codes [N, w] and their ids [N] ascending; with `planes` the compiled
        loops scan bit planes."""
        count = len(codes)
        first = int(ids[0]) if count else 0
        kept: NDArray[np.int64] | NDArray[np.uint32] | None = ids
        if count == 0 or int(ids[-1]) - first == count - 1:
            kept = None
        elif first >= 0 and ids[-1] < 2**32:
            kept = ids.astype(np.uint32)
        return cls(_table(codes, bits, compiled, planes), compiled, first, kept)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was worked out, as addresses are those of this process."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    # -- contents

    @cached_property
    def in_memory(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The table as the compiled loops take it: its distinct codes and the addresses of the
        rest."""
        return self.table.unique, self.table.addresses()

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

    # -- search

    def nearest(
        self, queries: Packed, asked: Asked, allowed: AllowedRows | None, threads: int
    ) -> list[Nearest]:
        """The nearest items of each query [Q, w], as asked, on at most `threads` threads.

        `allowed` are the rows that may be found, None for all that were not removed.
        """
        request = asked.request
        allowed = self.remaining if allowed is None else allowed
        if request.radius < 0 or not self.total or (allowed and not len(allowed.rows)):
            return [NOTHING] * len(queries)
        if not self.compiled or request.path == NUMPY:
            return [self._nearest_by_numpy(query, request, allowed) for query in queries]
        if len(queries) > 1:
            return self._nearest_many(queries, asked, allowed, threads)
        query = _plain(queries)[0]
        if allowed and request.path == AUTO and self._is_listed(len(allowed.rows), request.costs):
            rows, distances, total = _kernels().nearest_listed(
                *self.in_memory, query, asked.numbers, allowed.rows
            )
            return [Nearest(self.ids_of(rows), distances, len(rows) < total)]
        bitmap = ALL_ROWS if allowed is None else allowed.bitmap
        if threads > 1 and self.size >= THREADED_FROM and request.path != PROBE:
            return [self._nearest_by_threads(query, request, bitmap, threads)]
        found = self.searched(query, asked, bitmap, 0, self.size)
        return [NOTHING if found is None else found]

    def paths(self, queries: Packed, request: Request) -> list[Path]:
        """How `nearest` searches for each of the queries [Q, w], without a filter: "auto" and
        "scan" by the name of what they choose."""
        if not self.compiled or request.path == NUMPY:
            return ["numpy"] * len(queries)
        costs = request.costs
        if len(queries) > 1:  # they share a scan
            costs = costs._replace(scanned_byte=costs.shared_byte)
        trial = Asked.of(request._replace(path=TRY_PROBE, costs=costs))
        scan: Path = "planes" if self.table.planes.shape[1] and request.path != WORDS else "words"
        names: list[Path] = []
        for query in _plain(queries):
            probed = len(self.table.heads) > 0 and request.path in (AUTO, PROBE)
            if probed and request.path == AUTO:
                probed = self.searched(query, trial, ALL_ROWS, 0, 0) is not None
            names.append("probe" if probed else scan)
        return names

    def _comparable(self, queries: Packed) -> NDArray[Any]:
        """Queries in the type and layout that the loops over all distances are compiled for."""
        dtype = self.table.unique.dtype
        if queries.dtype == dtype and queries.flags.carray:
            return queries
        return np.array(queries, dtype, order="C")

    def _is_listed(self, count: int, costs: Costs) -> bool:
        """Whether comparing `count` rows one by one costs less than a scan."""
        return count * costs.listed_row < self.table.unique.nbytes * costs.scanned_byte

    def searched(
        self, query: Packed, asked: Asked, bitmap: Bitmap, low: int, high: int
    ) -> Nearest | None:
        """What the compiled loops find for a query [w] among the distinct codes low <= u < high;
        None for a trial that was given up."""
        limit, (unique, addresses) = asked.request.limit, self.in_memory
        room = limit if limit <= MOST_ROOM else ROOM
        while True:  # arrays made here take half the time of arrays made there
            rows, distances = np.empty(room, INT64), np.empty(room, INT64)
            total = _kernels().nearest(
                unique, addresses, query, asked.numbers, bitmap, low, high, rows, distances
            )
            count = total if total < limit else limit
            if count <= room:
                break
            room = count  # more than expected, so search again
        if count < room:  # a copy, as the rest would be kept as well
            rows, distances = rows[: max(0, count)].copy(), distances[: max(0, count)].copy()
        return None if total < 0 else Nearest(self.ids_of(rows), distances, count < total)

    def _nearest_by_threads(
        self, query: Packed, request: Request, bitmap: Bitmap, threads: int
    ) -> Nearest:
        """`nearest` for one query [w], whose scan is divided between the threads."""
        block = _kernels().BLOCK
        if request.path == AUTO:
            trial = Asked.of(request._replace(path=TRY_PROBE))
            found = self.searched(query, trial, bitmap, 0, self.size)
            if found is not None:
                return found
        scan = Asked.of(request._replace(path=SCAN if request.path == AUTO else request.path))
        blocks = np.linspace(0, self.size // block, threads + 1).astype(int)
        ends = [*(blocks[:-1] * block).tolist(), self.size]
        shares = _map(
            lambda span: self.searched(query, scan, bitmap, *span) or NOTHING,
            list(pairwise(ends)),
            threads,
        )
        return merge(list(shares), request)

    def _nearest_many(
        self, queries: Packed, asked: Asked, allowed: AllowedRows | None, threads: int
    ) -> list[Nearest]:
        """`nearest` for queries [Q, w], divided between the threads, and further so that the
        candidates of those which share a scan fit into memory."""
        kernels, request = _kernels(), asked.request
        bitmap = ALL_ROWS if allowed is None else allowed.bitmap
        room = min(self.size, 4 * min(request.k, self.total)) + kernels.FIRST_ROOM
        count = -(-len(queries) // max(1, min(BATCH_QUERIES, BATCH_CANDIDATES // room)))
        if len(queries) * self.size >= BATCH_THREADED_FROM:
            count = max(count, min(threads, len(queries)))
        shares = _map(
            lambda share: kernels.nearest_many(*self.in_memory, share, asked.numbers, bitmap, room),
            np.array_split(_plain(queries), count),
            threads,
        )
        results: list[Nearest] = []
        for rows, distances, begins, totals in shares:
            ids, ends = self.ids_of(rows), begins.tolist()
            for (begin, end), total in zip(pairwise(ends), totals.tolist(), strict=True):
                if total < 0:  # more candidates than there is room for
                    alone = queries[len(results)][None]
                    results += self.nearest(alone, asked, allowed, threads)
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
            from wingbar.hamming import words

            out = np.empty(self.size, np.uint16)
            words.distances(unique, self._comparable(query), out)
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
        from wingbar.hamming import words

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
            _map(lambda share: words.counts(self.table.unique, self.items, *share), shares, threads)
        )
        return out


@lru_cache
def _kernels() -> ModuleType:
    """The compiled loops; importing them once more would take a microsecond of each search."""
    from wingbar.hamming import kernels

    return kernels


def _plain(queries: Packed) -> Packed:
    """Queries in the type and layout that the loops of a search are compiled for."""
    if queries.dtype == UINT64 and queries.flags.carray:
        return queries
    return np.array(queries, UINT64, order="C")


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


def _table(codes: Packed, bits: int, compiled: bool, planes: bool) -> Table:
    """Sort codes [N, w] into a table."""
    one_word = codes.shape[1] == 1
    if one_word:
        dtype = np.uint32 if bits <= 32 else np.uint64
        keys = np.ascontiguousarray(codes[:, 0]).astype(dtype, copy=False)
    if compiled and one_word:
        from wingbar.hamming import building

        keys, rows = building.sort(keys, bits)
        unique, starts, places = building.group(keys, rows)
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
    sketches, sliced = np.empty((0, 0), np.uint32), np.empty((0, 0, 4), np.uint64)
    if compiled and unique.nbytes >= PROBED_FROM:
        from wingbar.hamming import building

        count = building.table_count(bits)
        heads, order_of, sketches = building.tables(unique, bits, count)
    if compiled and planes:
        from wingbar.hamming.planes import build, width

        sliced = _aligned(build(unique, bits, width(bits)))
    return Table(bits, unique, starts, rows, places, heads, order_of, sketches, sliced)


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
