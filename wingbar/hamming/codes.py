"""Pack hash codes and search them exactly by Hamming distance: unique codes first, their items
second.

Shapes: N items, U unique codes, Q queries, K results, b bits, w = ceil(b / 64) words. Codes are [N,
w] uint64; bit i of a code is bit i % 64 of word i // 64, and bits past b are zero. docs/hamming.md
explains the engine and what was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.uint64]
Ids = NDArray[np.int64]
Rows = NDArray[np.int64]
Distances = NDArray[np.int64]
Ties = Literal["cut", "include"]
Path = Literal["auto", "numpy", "scan", "probe"]

# Below so many items numpy answers in under a millisecond, and the compiler (0.3 s to import) stays
# asleep.
COMPILED_FROM = 50_000
PROBED_FROM = 1 << 20  # bytes of unique codes; fewer are compared sooner than buckets are looked up
THREADED_FROM = 5_000_000  # unique codes from which one query is worth several threads
BATCH_THREADED_FROM = 5_000_000  # comparisons from which a batch is
_PATHS = {"auto": 0, "scan": 1, "probe": 2}  # as in kernels.py
_ALL = 2**62  # a k or limit that nothing reaches
_EVERY_ROW = np.empty(0, np.uint64)  # the bitmap that allows all


def words(bits: int) -> int:
    """How many 64-bit words hold a code of `bits` bits."""
    return -(-bits // 64)


def pack(bits: NDArray[np.bool_]) -> Packed:
    """Pack bits [N, b] bool into words [N, w] uint64."""
    n, b = bits.shape
    padded = np.zeros((n, words(b) * 64), bool)
    padded[:, :b] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def unpack(codes: Packed, bits: int) -> NDArray[np.bool_]:
    """The bits [N, b] bool of packed codes [N, w] uint64."""
    as_bytes = np.ascontiguousarray(codes.astype("<u8", copy=False)).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, bitorder="little")[:, :bits].astype(bool)


def hamming(query: Packed, codes: Packed) -> Distances:
    """Distances from one code to many: query [w], codes [N, w] uint64 -> [N] int64."""
    return np.bitwise_count(query ^ codes).sum(1, dtype=np.int64)


def agreement(logits: NDArray[np.floating], codes: Packed, bits: int) -> NDArray[np.float32]:
    """How well stored codes agree with a query's real-valued logits: logits [b], codes [N, w] ->
    [N] in [-1, 1].

    The sum of the logits, counted positive where the stored bit has their sign, over the sum of
    their sizes: 1 when all bits agree; a bit about which the query is unsure weighs little.
    (Asymmetric distance.)
    """
    size = float(np.abs(logits).sum())
    signs = np.where(unpack(codes, bits), np.float32(1), np.float32(-1))
    return (signs @ (logits / (size or 1.0)).astype(np.float32)).astype(np.float32)


def warm_up(bits: int) -> float:
    """Compile the loops for codes of `bits` bits, or load them where that was done before. Returns
    the seconds it took."""
    start = time.perf_counter()
    few = np.arange(2**18, dtype=np.uint64)[:, None].repeat(words(bits), 1) & np.uint64(
        2 ** min(bits, 18) - 1
    )
    searchable = Codes(few, bits, compiled=True)
    for allowed in (None, searchable.only(np.arange(3))):
        searchable.nearest(few[:1], 1, allowed=allowed)
        searchable.nearest(few[:2], 1, allowed=allowed)
    searchable.distances(few[0])
    return time.perf_counter() - start


class Nearest(NamedTuple):
    """Ids of the items found [K] and their distances in bits [K], ordered by (distance, id). `cut`
    is true when items at the last distance were left out."""

    ids: Ids
    distances: Distances
    cut: bool


@dataclass(frozen=True)
class Filter:
    """Items that a search may find, as `Codes.only` makes it; good for that Codes only."""

    parts: tuple[_Allowed, ...]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)


@dataclass(frozen=True)
class _Allowed:
    """Rows of one part, ascending, and the same as a bitmap [ceil(N / 64)] uint64."""

    rows: Rows
    bitmap: NDArray[np.uint64]


class Codes:
    """A set of packed codes with their ids that can be searched. It never changes; `changed` makes
    another from it.

    Learned codes fall on few distinct values, so each distinct code is compared once and stands for
    the list of its items. What was added last is a small part of its own beside the large one,
    until `merged` makes one of both.
    """

    def __init__(
        self,
        codes: Packed,
        bits: int,
        ids: Ids | None = None,
        *,
        threads: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        """`codes` [N, w] uint64 with w = words(bits), of the items `ids` [N] int64 ascending (0 to
        N - 1 where None).

        `threads` is how many a search may use, by default one a core; `compiled` forces the
        compiled loops on or off. Raises ValueError on other shapes, ids that are not ascending, or
        more than 2^32 - 1 codes.
        """
        if codes.ndim != 2 or codes.shape[1] != words(bits):
            raise ValueError(
                f"codes of {bits} bits are [N, {words(bits)}] words, not {codes.shape}"
            )
        if len(codes) >= 2**32:
            raise ValueError(f"{len(codes):,} codes are more than one set can hold: split them")
        ids = np.arange(len(codes)) if ids is None else np.asarray(ids, np.int64)
        if ids.shape != (len(codes),) or (np.diff(ids) <= 0).any():
            raise ValueError("ids are one ascending number for each code")
        self.bits = bits
        self.threads = threads or os.cpu_count() or 1
        self._forced = compiled
        self._set_parts([_Part.build(codes, bits, ids, self._compiled(len(codes)))])

    def _set_parts(self, parts: Sequence[_Part]) -> None:
        self._parts = tuple(parts)

    def _compiled(self, count: int) -> bool:
        return count >= COMPILED_FROM if self._forced is None else self._forced

    # -- what is in it

    def __len__(self) -> int:
        return sum(part.count for part in self._parts)

    @cached_property
    def ids(self) -> Ids:
        """All ids [N] int64, ascending."""
        return np.sort(np.concatenate([part.ids_of(part.rows_alive()) for part in self._parts]))

    @property
    def unique(self) -> int:
        """How many distinct codes there are; an upper bound while a part is not merged or items
        were deleted."""
        return sum(part.size for part in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that all search structures take."""
        return sum(part.nbytes for part in self._parts)

    @property
    def unmerged(self) -> int:
        """How many items are in the small part, or are deleted and still take room: what `merged`
        would clear up."""
        return sum(part.count for part in self._parts[1:]) + sum(part.dead for part in self._parts)

    def of(self, ids: Ids) -> Packed:
        """The codes [n, w] of items. Raises KeyError for an id that is not there."""
        out = np.empty((len(ids), words(self.bits)), np.uint64)
        missing = np.ones(len(ids), bool)
        for part in self._parts:
            rows, there = part.rows_of(ids)
            out[there] = part.codes_of(rows[there])
            missing &= ~there
        if missing.any():
            raise KeyError(int(ids[missing][0]))
        return out

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of `ids` are here: [n] bool."""
        here = np.zeros(len(ids), bool)
        for part in self._parts:
            here |= part.rows_of(ids)[1]
        return here

    def only(self, ids: Ids) -> Filter:
        """A filter that lets a search find only these items, ascending; unknown ids are passed
        over."""
        return Filter(tuple(part.allowed(ids) for part in self._parts))

    # -- changes

    def changed(self, ids: Ids, codes: Packed, removed: Ids) -> Codes:
        """A set with the items `ids` [n], ascending, and their codes [n, w] more, and those of
        `removed` [r] less.

        Costs about as much as what is in the small part then, not as much as the whole. Raises
        ValueError for ids that are there already.
        """
        if self.has(ids).any():
            raise ValueError("an id cannot be added twice")
        large = self._parts[0].without(removed)
        small_ids, small_codes = np.asarray(ids, np.int64), codes
        for part in self._parts[1:]:
            rows = part.without(removed).rows_alive()
            small_ids, small_codes = (
                np.concatenate([part.ids_of(rows), small_ids]),
                np.concatenate([part.codes_of(rows), small_codes]),
            )
        order = np.argsort(small_ids)
        new = _copy(self)
        compiled = self._compiled(large.count + len(small_ids))
        parts = [large.rebuilt(compiled=True) if compiled and not large.compiled else large]
        if len(small_ids):
            parts.append(_Part.build(small_codes[order], self.bits, small_ids[order], compiled))
        new._set_parts(parts)
        return new if compiled else new.merged()  # few enough to be made anew

    def merged(self) -> Codes:
        """The same items in one part, sorted anew where something came or went."""
        if not self.unmerged:
            return self
        rows = [part.rows_alive() for part in self._parts]
        ids = np.concatenate([part.ids_of(r) for part, r in zip(self._parts, rows, strict=True)])
        packed = np.concatenate(
            [part.codes_of(r) for part, r in zip(self._parts, rows, strict=True)]
        )
        order = np.argsort(ids)
        new = _copy(self)
        new._set_parts(
            [_Part.build(packed[order], self.bits, ids[order], self._compiled(len(ids)))]
        )
        return new

    # -- search

    def distances(self, query: Packed) -> NDArray[np.uint16]:
        """Distance of one query [w] to every item, by ascending id: [N] uint16."""
        found = []
        for part in self._parts:
            rows = part.rows_alive()
            found.append((part.ids_of(rows), part.scan(query)[part.place_of_row[rows]]))
        if len(found) == 1:
            return found[0][1]
        ids, distances = (np.concatenate(list(column)) for column in zip(*found, strict=True))
        return distances[np.argsort(ids)]

    def counts(self, queries: Packed) -> NDArray[np.int64]:
        """How many items are at each distance of each query [Q, w]: [Q, b + 1]."""
        found = np.zeros((len(queries), self.bits + 1), np.int64)
        for part in self._parts:
            found += part.counts(queries, self.threads)
        return found

    def within(
        self, queries: Packed, radius: int, *, allowed: Filter | None = None, path: Path = "auto"
    ) -> list[Nearest]:
        """All items at most `radius` bits from each query [Q, w] (inclusive), nearest first."""
        return self.nearest(queries, _ALL, radius=radius, allowed=allowed, path=path)

    def nearest(
        self,
        queries: Packed,
        k: int,
        *,
        radius: int | None = None,
        allowed: Filter | None = None,
        ties: Ties = "cut",
        limit: int | None = None,
        path: Path = "auto",
    ) -> list[Nearest]:
        """The `k` nearest items of each query [Q, w], at most `radius` bits away (inclusive), and
        only the `allowed` ones.

        With ties="include" all items at the last distance come along, so there may be more than
        `k`, but never more than `limit`. Many queries at once are faster than one by one: the codes
        are read once for all of them. `path` forces one way to search; all give the same answer.
        Raises ValueError for k < 1 or queries of another length.
        """
        k, limit, radius = self._checked(queries.shape[1:], k, radius, ties, limit)
        by_part = [
            part.nearest(
                queries,
                k,
                limit,
                radius,
                part.open_rows if allowed is None else allowed.parts[i],
                path,
                self.threads,
            )
            for i, part in enumerate(self._parts)
        ]
        if len(by_part) == 1:
            return by_part[0]
        return [_merge(list(found), k, limit) for found in zip(*by_part, strict=True)]

    def _checked(
        self, shape: tuple[int, ...], k: int, radius: int | None, ties: Ties, limit: int | None
    ) -> tuple[int, int, int]:
        if shape != (words(self.bits),):
            raise ValueError(
                f"a query of {self.bits} bits is [{words(self.bits)}] words, not {list(shape)}"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        most = k if ties == "cut" else _ALL if limit is None else max(limit, k)
        return k, most, self.bits if radius is None else max(-1, min(radius, self.bits))


def _copy(codes: Codes) -> Codes:
    """Another Codes of the same settings, still without parts."""
    new = Codes.__new__(Codes)
    new.bits, new.threads, new._forced = codes.bits, codes.threads, codes._forced
    return new


def _merge(found: Sequence[Nearest], k: int, limit: int) -> Nearest:
    """The first `limit` among the answers of several parts, with no distance beyond that of the
    k-th."""
    ids = np.concatenate([one.ids for one in found])
    distances = np.concatenate([one.distances for one in found])
    order = np.lexsort((ids, distances))
    last = int(distances[order[k - 1]]) if len(order) >= k else None
    if last is not None:
        order = order[: int(np.searchsorted(distances[order], last, "right"))]
    kept = order[:limit]
    end = int(distances[kept[-1]]) if len(kept) else -1
    cut = (len(kept) < len(order) and int(distances[order[len(kept)]]) == end) or any(
        one.cut and int(one.distances[-1]) == end for one in found
    )
    return Nearest(ids[kept], distances[kept], cut)


@dataclass(frozen=True)
class _Part:
    """Codes that were sorted together. A row is a place among them by ascending id.

    unique: [U] uint32 (b <= 32) or uint64 ascending, or [w, U] uint64 beyond 64 bits. The rows of
    unique code u are rows[starts[u]:starts[u + 1]], ascending. heads and order: see kernels.tables.
    ids: None where they are base + row.
    """

    bits: int
    compiled: bool
    total: int  # rows, the dead ones too
    base: int
    ids: Ids | None
    unique: NDArray[Any]
    starts: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    place_of_row: NDArray[np.uint32]
    heads: NDArray[np.uint32]
    order: NDArray[np.uint32]
    alive: NDArray[np.uint64] | None = (
        None  # bitmap of the rows that were not removed; None while that is all
    )
    dead: int = 0

    @classmethod
    def build(cls, codes: Packed, bits: int, ids: Ids, compiled: bool) -> _Part:
        """Codes [N, w] of ids [N] ascending."""
        count = len(codes)
        if codes.shape[1] == 1:
            keys = np.ascontiguousarray(codes[:, 0]).astype(
                np.uint32 if bits <= 32 else np.uint64, copy=False
            )
        if compiled and codes.shape[1] == 1:
            from wingbar.hamming import kernels

            keys, rows = kernels.sort(keys, bits)
            unique, starts, place_of_row = kernels.group(keys, rows)
        else:
            if codes.shape[1] == 1:
                rows = np.argsort(keys, kind="stable").astype(np.uint32)
                columns = keys[rows][None]
            else:
                rows = np.lexsort(codes.T).astype(np.uint32)
                columns = codes[rows].T
            new = np.ones(count, bool)
            new[1:] = (columns[:, 1:] != columns[:, :-1]).any(0)
            firsts = np.flatnonzero(new)
            unique = np.ascontiguousarray(columns[:, firsts])
            unique = unique[0] if codes.shape[1] == 1 else unique
            starts = np.append(firsts, count).astype(np.uint32)
            place_of_row = np.empty(count, np.uint32)
            place_of_row[rows] = np.cumsum(new) - 1
        unique = _aligned(unique)
        heads, order = np.empty((0, 1), np.uint32), np.empty((0, 0), np.uint32)
        if compiled and bits <= 64 and unique.nbytes >= PROBED_FROM:
            from wingbar.hamming import kernels

            heads, order = kernels.tables(unique, bits, max(1, bits // 16))
        base = int(ids[0]) if count else 0
        contiguous = count == 0 or int(ids[-1]) - base == count - 1
        kept = (
            None
            if contiguous
            else ids.astype(np.uint32)
            if ids[0] >= 0 and ids[-1] < 2**32
            else ids
        )
        return cls(
            bits,
            compiled,
            count,
            base,
            kept,  # type: ignore[arg-type]  # ids below 2^32 take half the room
            unique,
            starts,
            rows,
            place_of_row,
            heads,
            order,
        )

    @property
    def size(self) -> int:
        """U."""
        return len(self.starts) - 1

    @property
    def count(self) -> int:
        """Items that were not removed."""
        return self.total - self.dead

    @property
    def nbytes(self) -> int:
        arrays = (
            self.unique,
            self.starts,
            self.rows,
            self.place_of_row,
            self.heads,
            self.order,
            self.alive,
            self.ids,
        )
        return sum(array.nbytes for array in arrays if array is not None)

    @cached_property
    def open_rows(self) -> _Allowed | None:
        """The filter of a search that names none: the rows that are left, None for all."""
        return None if self.alive is None else _Allowed(self.rows_alive(), self.alive)

    def rows_alive(self) -> Rows:
        """Rows that were not removed, ascending."""
        if self.alive is None:
            return np.arange(self.total)
        return np.flatnonzero(
            np.unpackbits(self.alive.view(np.uint8), bitorder="little")[: self.total]
        )

    def ids_of(self, rows: Rows) -> Ids:
        """The ids of rows."""
        if self.ids is None:
            return rows + self.base if self.base else rows
        return self.ids[rows].astype(np.int64)

    def rows_of(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows of ids, and which of them are here and not removed."""
        if self.total == 0:
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        if self.ids is None:
            rows = np.asarray(ids, np.int64) - self.base
            here = (rows >= 0) & (rows < self.total)
            rows = np.where(here, rows, 0)
        else:
            rows = np.minimum(np.searchsorted(self.ids, ids), self.total - 1)
            here = self.ids[rows] == ids
        if self.alive is not None:
            here &= (self.alive[rows >> 6] >> (rows & 63).astype(np.uint64)) & np.uint64(1) == 1
        return rows, here

    def codes_of(self, rows: Rows) -> Packed:
        """The codes [n, w] of rows."""
        places = self.place_of_row[rows]
        if self.unique.ndim == 1:
            return self.unique[places].astype(np.uint64)[:, None]
        return np.ascontiguousarray(self.unique[:, places].T)

    def allowed(self, ids: Ids) -> _Allowed:
        """The rows of `ids` that are here."""
        rows, here = self.rows_of(np.asarray(ids, np.int64))
        kept = rows[here]
        return _Allowed(kept, _bitmap(kept, self.total))

    def without(self, ids: Ids) -> _Part:
        """The part when `ids` are removed; unknown ones are passed over."""
        rows, here = self.rows_of(np.asarray(ids, np.int64))
        if not here.any():
            return self
        removed = _bitmap(rows[here], self.total)
        alive = (
            _bitmap(np.arange(self.total), self.total) if self.alive is None else self.alive
        ) & ~removed
        return replace(self, alive=alive, dead=self.dead + int(here.sum()))

    def rebuilt(self, compiled: bool) -> _Part:
        """The part without its dead rows, made again."""
        rows = self.rows_alive()
        return _Part.build(self.codes_of(rows), self.bits, self.ids_of(rows), compiled)

    def scan(self, query: Packed) -> NDArray[np.uint16]:
        """Distance of one query [w] to every unique code: [U] uint16."""
        if self.compiled:
            from wingbar.hamming import kernels

            out = np.empty(self.size, np.uint16)
            kernels.scan(self.unique, query.astype(self.unique.dtype), out)
            return out
        columns = self.unique[None] if self.unique.ndim == 1 else self.unique
        return np.bitwise_count(columns ^ query.astype(columns.dtype)[:, None]).sum(
            0, dtype=np.uint16
        )

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """How many rows of each unique code are left: [U]."""
        if self.alive is None:
            return np.diff(self.starts).astype(np.int64)
        return np.bincount(self.place_of_row[self.rows_alive()], minlength=self.size)

    def counts(self, queries: Packed, threads: int) -> NDArray[np.int64]:
        """As `Codes.counts`."""
        if not self.compiled:
            return np.stack(
                [np.bincount(self.scan(q), self.items, self.bits + 1) for q in queries]
            ).astype(np.int64)
        from wingbar.hamming import kernels

        out = np.zeros((len(queries), self.bits + 1), np.int64)
        pieces = min(
            len(queries), threads if len(queries) * self.size >= BATCH_THREADED_FROM else 1
        )
        shares = zip(
            np.array_split(queries.astype(self.unique.dtype), pieces),
            np.array_split(out, pieces),
            strict=True,
        )
        list(
            _pool(threads).map(
                lambda share: kernels.counts(self.unique, self.items, *share), shares
            )
        )
        return out

    def _one(
        self,
        query: Packed,
        k: int,
        limit: int,
        radius: int,
        allowed: _Allowed | None,
        path: Path,
        threads: int,
    ) -> Nearest:
        """The answer for one query [w]."""
        if not self.compiled or path == "numpy":
            return self._by_numpy(query, k, limit, radius, allowed)
        from wingbar.hamming import kernels

        query = query.astype(self.unique.dtype, copy=False)
        bitmap = _EVERY_ROW
        if allowed is not None:
            bitmap = allowed.bitmap
            if (
                path == "auto"
                and len(allowed.rows) * kernels.LISTED < self.unique.nbytes * kernels.SCAN_BYTE
            ):
                rows, distances, total = kernels.nearest_listed(
                    self.unique, self.place_of_row, allowed.rows, query, self.bits, k, limit, radius
                )
                return self._answer(rows, distances, total)
        arrays = (
            self.unique,
            self.starts,
            self.rows,
            self.heads,
            self.order,
            bitmap,
            query,
            self.bits,
            k,
            limit,
            radius,
        )
        pieces = threads if self.size >= THREADED_FROM and path != "probe" else 1
        if pieces > 1 and path == "auto":
            rows, distances, total = kernels.nearest(*arrays, kernels.TRY, 0, self.size)
            if total >= 0:
                return self._answer(rows, distances, total)
        if pieces == 1:
            return self._answer(*kernels.nearest(*arrays, _PATHS[path], 0, self.size))
        ends = np.linspace(0, self.size, pieces + 1).astype(int).tolist()
        found = _pool(threads).map(
            lambda i: self._answer(*kernels.nearest(*arrays, kernels.SCAN, ends[i], ends[i + 1])),
            range(pieces),
        )
        return _merge(list(found), k, limit)

    def nearest(
        self,
        queries: Packed,
        k: int,
        limit: int,
        radius: int,
        allowed: _Allowed | None,
        path: Path,
        threads: int,
    ) -> list[Nearest]:
        """As `Codes.nearest`, `allowed` None for all rows."""
        if radius < 0 or not self.total or (allowed is not None and not len(allowed.rows)):
            return [_NOTHING] * len(queries)
        if (
            len(queries) == 1 or not self.compiled or path == "numpy"
        ):  # no batch: its loops need not be compiled
            return [self._one(query, k, limit, radius, allowed, path, threads) for query in queries]
        pieces = min(
            len(queries), threads if len(queries) * self.size >= BATCH_THREADED_FROM else 1
        )
        if pieces <= 1:
            return self._many(queries, k, limit, radius, allowed, path)
        shares = np.array_split(queries, pieces)
        done = _pool(threads).map(
            lambda share: self._many(share, k, limit, radius, allowed, path), shares
        )
        return [one for share in done for one in share]

    def _many(
        self, queries: Packed, k: int, limit: int, radius: int, allowed: _Allowed | None, path: Path
    ) -> list[Nearest]:
        from wingbar.hamming import kernels

        found: list[Nearest] = []
        bitmap = _EVERY_ROW if allowed is None else allowed.bitmap
        room = min(self.size, 4 * min(k, self.total)) + 4 * kernels.BLOCK
        step = max(1, min(1024, _ROOM // room))  # queries whose candidates are in memory together
        for first in range(0, len(queries), step):
            some = queries[first : first + step].astype(self.unique.dtype, copy=False)
            rows, distances, begins, totals = kernels.nearest_many(
                self.unique,
                self.starts,
                self.rows,
                self.heads,
                self.order,
                bitmap,
                some,
                self.bits,
                k,
                limit,
                radius,
                _PATHS[path],
                room,
            )
            ids, ends = self.ids_of(rows), begins.tolist()
            for q, total in enumerate(totals.tolist()):
                if total < 0:
                    found.append(self._one(queries[first + q], k, limit, radius, allowed, path, 1))
                else:
                    mine = slice(ends[q], ends[q + 1])
                    found.append(Nearest(ids[mine], distances[mine], ends[q + 1] - ends[q] < total))
        return found

    def _answer(self, rows: Rows, distances: Distances, total: int) -> Nearest:
        return Nearest(self.ids_of(rows), distances, len(rows) < total)

    def _by_numpy(
        self, query: Packed, k: int, limit: int, radius: int, allowed: _Allowed | None
    ) -> Nearest:
        """The same by whole arrays."""
        scanned = self.scan(query)
        if allowed is None:
            at_distance = np.bincount(
                scanned, weights=np.diff(self.starts), minlength=self.bits + 1
            ).astype(np.int64)
        else:
            by_row = scanned[self.place_of_row[allowed.rows]]
            at_distance = np.bincount(by_row, minlength=self.bits + 1)
        reached = np.cumsum(at_distance)
        last = min(
            int(np.searchsorted(reached, k)), radius
        )  # where k items are reached, or as far as it goes
        if allowed is None:
            near = np.flatnonzero(scanned <= last)
            counts = (self.starts[near + 1] - self.starts[near]).astype(np.int64)
            firsts = np.repeat(self.starts[near] - (np.cumsum(counts) - counts), counts)
            rows = self.rows[firsts + np.arange(counts.sum())].astype(np.int64)
            distances = np.repeat(scanned[near], counts).astype(np.int64)
        else:
            inside = by_row <= last
            rows, distances = allowed.rows[inside], by_row[inside].astype(np.int64)
        order = np.lexsort((rows, distances))[:limit]
        return self._answer(
            rows[order], distances[order], int(reached[last]) if len(reached) else 0
        )


_ROOM = 8_000_000  # candidates of a batch in memory at a time, 6 bytes each
_NOTHING = Nearest(np.empty(0, np.int64), np.empty(0, np.int64), False)


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers from an address that is a multiple of 64 on: vectors that straddle cache
    lines take longer."""
    room = np.empty(array.size + 64 // array.itemsize, array.dtype)
    shift = -room.ctypes.data % 64 // array.itemsize
    out = room[shift : shift + array.size].reshape(array.shape)
    out[...] = array
    return out


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads for searches, kept: starting them takes as long as a search."""
    return ThreadPoolExecutor(threads, "wingbar-search")


def _bitmap(rows: Rows, total: int) -> NDArray[np.uint64]:
    """Rows as bits: [ceil(total / 64)] uint64."""
    mask = np.zeros(-(-total // 64) * 64, bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little").view(np.uint64)
