"""Pack hash codes into words and search them exactly by Hamming distance.

Shapes: N items, Q queries, K results, b bits, w = ceil(b / 64) words. Codes are [N, w] uint64; bit
i of a code is bit i % 64 of word i // 64, and bits past b are zero. docs/hamming.md explains how
the search works and what was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.costs import of_machine
from wingbar.hamming.part import AllowedRows, Part, merge
from wingbar.hamming.records import (
    PATHS,
    TYPICAL,
    Asked,
    Costs,
    Distances,
    Ids,
    Nearest,
    Packed,
    Path,
    Request,
)

__all__ = [
    "COMPILED_FROM",
    "Codes",
    "Distances",
    "Filter",
    "Ids",
    "Nearest",
    "Packed",
    "Path",
    "Ties",
    "agreement",
    "hamming",
    "merge_nearest",
    "pack",
    "unpack",
    "warm_up",
    "words",
]

Ties = Literal["cut", "include"]

# NumPy searches fewer items than this in under a millisecond, so that the compiler (0.3 s to
# import) is not needed.
COMPILED_FROM = 50_000
UNLIMITED = 2**62  # a k or limit that is never reached
REMEMBERED = 64  # searches whose checked arguments are kept


def words(bits: int) -> int:
    """Number of 64-bit words of a code of `bits` bits."""
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
    """Agreement of stored codes with a query's real-valued logits: logits [b], codes [N, w] ->
    [N] float32 in [-1, 1].

    The sum of the logits, each counted as positive where the stored bit has its sign and as
    negative elsewhere, divided by the sum of their absolute values: 1 when all bits agree. A bit
    of which the query is unsure has little weight. (An asymmetric distance.)
    """
    size = float(np.abs(logits).sum())
    signs = np.where(unpack(codes, bits), np.float32(1), np.float32(-1))
    return (signs @ (logits / (size or 1.0)).astype(np.float32)).astype(np.float32)


def warm_up(bits: int) -> float:
    """Compile the loops for codes of `bits` bits, or load them if they were compiled before.

    Returns the seconds that it took.
    """
    start = time.perf_counter()
    few = np.arange(2**18, dtype=np.uint64)[:, None].repeat(words(bits), 1) & np.uint64(
        2 ** min(bits, 18) - 1
    )
    searchable = Codes(few, bits, compiled=True)
    searchable.nearest(few[:1], 1)
    searchable.nearest(few[:2], 1)
    searchable.within(few[:1], 0)
    searchable.nearest(few[:1], 1, allowed=searchable.only(np.arange(3)))
    searchable.distances(few[0])
    return time.perf_counter() - start


@dataclass(frozen=True)
class Filter:
    """The items that a search may find; made by `Codes.only`, and valid for that Codes only.

    parts: the rows that may be found in each part of the codes.
    """

    parts: tuple[AllowedRows, ...]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)


class Codes:
    """A searchable, immutable set of packed codes with their ids; `changed` returns another set.

    Learned codes take few distinct values, so each distinct code is compared once, for all items
    that have it. Items added recently are kept in a small part beside the large one, until
    `merged` combines them.
    """

    def __init__(
        self,
        codes: Packed,
        bits: int,
        ids: Ids | None = None,
        *,
        threads: int | None = None,
        compiled: bool | None = None,
        planes: bool | None = None,
    ) -> None:
        """`codes` [N, w] uint64, w = words(bits), of the items `ids` [N] int64 in ascending order
        (None: 0 to N - 1).

        `threads` is the number of threads a search may use (None: one per core); `compiled` forces
        the compiled loops on or off (None: on from COMPILED_FROM items), and `planes` whether these
        scan bit planes (None: where that is faster). Raises ValueError for other shapes, ids that
        are not ascending, or more than 2^32 - 1 codes.
        """
        if codes.ndim != 2 or codes.shape[1] != words(bits):
            raise ValueError(
                f"codes of {bits} bits are [N, {words(bits)}] words, not {codes.shape}"
            )
        if len(codes) >= 2**32:
            raise ValueError(f"{len(codes):,} codes are more than one set holds; split them")
        if planes and bits > 1024:
            raise ValueError(f"codes of {bits} bits are too long for planes, which add up to 1,024")
        ids = np.arange(len(codes)) if ids is None else np.asarray(ids, np.int64)
        if ids.shape != (len(codes),) or (np.diff(ids) <= 0).any():
            raise ValueError("ids must be one number for each code, in ascending order")
        self.bits = bits
        self.threads = threads or os.cpu_count() or 1
        self._forced = compiled
        self._planes = planes
        self._parts: tuple[Part, ...] = (self._built(codes, ids, self._compiled(len(codes))),)

    # -- contents

    def __len__(self) -> int:
        return sum(part.count for part in self._parts)

    @cached_property
    def ids(self) -> Ids:
        """All ids [N] int64, ascending."""
        return np.sort(np.concatenate([part.ids_of(part.alive_rows()) for part in self._parts]))

    @property
    def unique(self) -> int:
        """Number of distinct codes; an upper bound until the parts are merged."""
        return sum(part.size for part in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all search structures."""
        return sum(part.nbytes for part in self._parts)

    @property
    def unmerged(self) -> int:
        """Number of items outside the large part, plus the removed items still in memory: what
        `merged` would sort in or free."""
        return sum(part.count for part in self._parts[1:]) + sum(part.dead for part in self._parts)

    def of(self, ids: Ids) -> Packed:
        """The codes [n, w] of the items `ids` [n]. Raises KeyError for an unknown id."""
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
        """Which of `ids` [n] are in the set: [n] bool."""
        here = np.zeros(len(ids), bool)
        for part in self._parts:
            here |= part.rows_of(ids)[1]
        return here

    def only(self, ids: Ids) -> Filter:
        """A filter that restricts a search to the items `ids` [n] ascending; unknown ids are
        ignored."""
        return Filter(tuple(part.allowed(ids) for part in self._parts))

    # -- changes

    def changed(self, ids: Ids, codes: Packed, removed: Ids) -> Codes:
        """A set with the items `ids` [n] ascending and their codes [n, w] added, and the items
        `removed` [r] left out.

        The time grows with the size of the small part, not with that of the whole set. Raises
        ValueError for ids that are in the set already.
        """
        if self.has(ids).any():
            raise ValueError("an id cannot be added twice")
        large = self._parts[0].without(removed)
        small = [part.without(removed) for part in self._parts[1:]]
        compiled = self._compiled(large.count + sum(part.count for part in small) + len(ids))
        if compiled and not large.compiled:
            rows = large.alive_rows()
            large = self._built(large.codes_of(rows), large.ids_of(rows), compiled=True)
        small_ids, small_codes = _sorted(small, np.asarray(ids, np.int64), codes)
        parts = [large]
        if len(small_ids):
            parts.append(self._built(small_codes, small_ids, compiled))
        new = self._with_parts(parts)
        return new if compiled else new.merged()  # few enough to be rebuilt

    def merged(self) -> Codes:
        """The same items in one part, rebuilt if items were added or removed."""
        if not self.unmerged:
            return self
        none = np.empty((0, words(self.bits)), np.uint64)
        ids, codes = _sorted(self._parts, np.empty(0, np.int64), none)
        return self._with_parts([self._built(codes, ids, self._compiled(len(ids)))])

    # -- search

    def distances(self, query: Packed) -> NDArray[np.uint16]:
        """Distances in bits of one query [w] to all items, by ascending id: [N] uint16."""
        found = []
        for part in self._parts:
            rows = part.alive_rows()
            found.append((part.ids_of(rows), part.scan(query)[part.table.places[rows]]))
        if len(found) == 1:
            return found[0][1]
        ids, distances = (np.concatenate(list(column)) for column in zip(*found, strict=True))
        return distances[np.argsort(ids)]

    def counts(self, queries: Packed) -> NDArray[np.int64]:
        """Number of items at each distance from each query [Q, w]: [Q, b + 1] int64."""
        found = np.zeros((len(queries), self.bits + 1), np.int64)
        for part in self._parts:
            found += part.counts(queries, self.threads)
        return found

    def within(
        self, queries: Packed, radius: int, *, allowed: Filter | None = None, path: Path = "auto"
    ) -> list[Nearest]:
        """All items at most `radius` bits (inclusive) from each query [Q, w], nearest first."""
        return self.nearest(queries, UNLIMITED, radius=radius, allowed=allowed, path=path)

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
        """The `k` nearest items of each query [Q, w], ordered by (distance, id).

        Items must be at most `radius` bits away (inclusive; None: any) and among `allowed`. With
        ties="include" all items at the distance of the k-th are returned, so there may be more
        than `k`, but never more than `limit`. A batch is faster than its queries one by one: each
        code is read once for all of them. `path` forces one way to search; the results are always
        the same. Raises ValueError for k < 1 or queries of another length.
        """
        asked = self._asked(queries, k, radius, ties, limit, path)
        if len(self._parts) == 1:
            only = None if allowed is None else allowed.parts[0]
            return self._parts[0].nearest(queries, asked, only, self.threads)
        by_part = [
            part.nearest(
                queries, asked, None if allowed is None else allowed.parts[i], self.threads
            )
            for i, part in enumerate(self._parts)
        ]
        return [merge(found, asked.request) for found in zip(*by_part, strict=True)]

    def paths(
        self, queries: Packed, k: int, *, radius: int | None = None, path: Path = "auto"
    ) -> list[Path]:
        """How `nearest` searches for each of these queries [Q, w], asked at once: "numpy", "probe",
        "planes" or "words" (of the large part of the set)."""
        asked = self._asked(queries, k, radius, "cut", None, path)
        return self._parts[0].paths(queries, asked.request)

    # -- helpers

    def _asked(
        self,
        queries: Packed,
        k: int,
        radius: int | None,
        ties: Ties,
        limit: int | None,
        path: Path,
    ) -> Asked:
        """The checked arguments of `nearest`."""
        if queries.ndim != 2 or queries.shape[1] != self._words:
            shape = list(queries.shape[1:])
            raise ValueError(f"a query of {self.bits} bits is [{self._words}] words, not {shape}")
        question = k, radius, ties, limit, path
        asked = self._asked_before.get(question)
        if asked is not None:
            return asked
        if path == "planes" and not all(part.table.planes.shape[1] for part in self._parts):
            raise ValueError("these codes have no planes; make them with Codes(..., planes=True)")
        measured = path == "auto" and any(part.compiled for part in self._parts)
        asked = _asked(self.bits, *question, of_machine(self.bits) if measured else TYPICAL)
        if len(self._asked_before) == REMEMBERED:
            self._asked_before.clear()
        self._asked_before[question] = asked
        return asked

    @cached_property
    def _asked_before(self) -> dict[tuple[object, ...], Asked]:
        """What was asked of these codes, as checking it anew takes as long as a tenth of a
        search."""
        return {}

    @cached_property
    def _words(self) -> int:
        return words(self.bits)

    def _compiled(self, count: int) -> bool:
        """Whether `count` items are searched by the compiled loops."""
        return count >= COMPILED_FROM if self._forced is None else self._forced

    def _built(self, codes: Packed, ids: Ids, compiled: bool) -> Part:
        """A part of these codes [N, w] with their ids [N] ascending."""
        planes = compiled and (_planes_pay(self.bits) if self._planes is None else self._planes)
        return Part.build(codes, self.bits, ids, compiled, planes)

    def _with_parts(self, parts: Sequence[Part]) -> Codes:
        """A set with the same settings and other parts."""
        new = Codes.__new__(Codes)
        new.bits, new.threads = self.bits, self.threads
        new._forced, new._planes = self._forced, self._planes
        new._parts = tuple(parts)
        return new


def _asked(
    bits: int, k: int, radius: int | None, ties: Ties, limit: int | None, path: Path, costs: Costs
) -> Asked:
    """The checked arguments of `Codes.nearest` for codes of `bits` bits."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    k = min(int(k), UNLIMITED)
    most = UNLIMITED if limit is None else min(int(limit), UNLIMITED)
    most = k if ties == "cut" else max(most, k)
    within = bits if radius is None else max(-1, min(int(radius), bits))
    return Asked.of(Request(k, most, within, PATHS[path], costs))


def merge_nearest(found: Sequence[Nearest], k: int, limit: int) -> Nearest:
    """The nearest items among the results of one query in several sets of codes, which share no
    ids: the first `k` by (distance, id) and, up to `limit` in all, what ties with the last of
    them."""
    return merge(found, Request(k, limit, 0, PATHS["auto"]))


def _planes_pay(bits: int) -> bool:
    """Whether the compiled loops scan codes of `bits` bits faster by planes on this machine."""
    from wingbar.hamming import planes

    return bits <= planes.MOST_BITS and planes.pay()


def _sorted(parts: Sequence[Part], ids: Ids, codes: Packed) -> tuple[Ids, Packed]:
    """The items of several parts, and further items with `ids` [n] and `codes` [n, w], by ascending
    id."""
    rows = [part.alive_rows() for part in parts]
    all_ids = [part.ids_of(r) for part, r in zip(parts, rows, strict=True)]
    all_codes = [part.codes_of(r) for part, r in zip(parts, rows, strict=True)]
    ids, codes = np.concatenate([*all_ids, ids]), np.concatenate([*all_codes, codes])
    order = np.argsort(ids)
    return ids[order], codes[order]
