"""Pack hash codes and search them exactly by Hamming distance: unique codes first, their items second.

Shapes: N items, U unique codes, Q queries, b bits, w = ceil(b / 64) words. Codes are [N, w] uint64; bit i of a code is
bit i % 64 of word i // 64, and bits past b are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Packed = NDArray[np.uint64]
Rows = NDArray[np.int64]
Distances = NDArray[np.int64]

# Below this many unique codes numpy answers in under a millisecond, and the compiler (0.3 s to import) stays asleep.
COMPILED_FROM = 50_000


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
    """How well stored codes agree with a query's real-valued logits: logits [b], codes [N, w] -> [N] in [-1, 1].

    The sum of the logits, counted positive where the stored bit has their sign, over the sum of their sizes: 1 when
    all bits agree; a bit about which the query is unsure weighs little. (Asymmetric distance.)
    """
    size = float(np.abs(logits).sum())
    signs = np.where(unpack(codes, bits), np.float32(1), np.float32(-1))
    return (signs @ (logits / (size or 1.0)).astype(np.float32)).astype(np.float32)


@dataclass(frozen=True)
class Nearest:
    """Rows of the items found and their distances in bits, ordered by (distance, row). `cut` is true when items at
    the last distance were left out."""

    rows: Rows
    distances: Distances
    cut: bool


class Codes:
    """A set of packed codes that can be searched. Rows are positions in the array it was made from; nothing is copied back.

    Learned codes fall on few distinct values, so each distinct code is compared once and stands for the list of its rows.
    """

    def __init__(self, codes: Packed, bits: int) -> None:
        """`codes` [N, w] uint64 with w = words(bits). Raises ValueError on another shape."""
        if codes.ndim != 2 or codes.shape[1] != words(bits):
            raise ValueError(f"codes of {bits} bits are [N, {words(bits)}] words, not {codes.shape}")
        self.bits = bits
        key = codes[:, 0] if codes.shape[1] == 1 else codes
        unique, inverse = np.unique(key, axis=0, return_inverse=True)
        self.unique: Packed = unique.reshape(-1, codes.shape[1])  # [U, w]
        self.unique_of_row: Rows = inverse.reshape(-1)  # [N]
        self._rows: Rows = np.argsort(self.unique_of_row, kind="stable")  # grouped by unique code, ascending inside
        self._counts: Rows = np.bincount(self.unique_of_row, minlength=len(self.unique)).astype(np.int64)
        self._starts: Rows = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.unique_of_row)

    def of_rows(self, rows: Rows) -> Packed:
        """The codes [n, w] of rows [n]."""
        return self.unique[self.unique_of_row[rows]]

    def distances(self, query: Packed) -> NDArray[np.uint16]:
        """Distance of one query [w] to every row: [N] uint16."""
        return self._scan(query)[self.unique_of_row]

    def nearest(
        self,
        query: Packed,
        k: int,
        *,
        radius: int | None = None,
        allowed: NDArray[np.bool_] | None = None,
        ties: Literal["cut", "include"] = "cut",
    ) -> Nearest:
        """The `k` nearest rows of one query [w], within `radius` bits (inclusive) and among `allowed` [N] bool rows.

        With ties="include" all rows at the last distance come along, so there may be more than `k`.
        """
        scanned = self._scan(query)
        counts = self._counts if allowed is None else np.add.reduceat(allowed[self._rows], self._starts[:-1], dtype=np.int64)
        at_distance = np.bincount(scanned, weights=counts, minlength=self.bits + 1).astype(np.int64)
        if radius is not None:
            at_distance[radius + 1 :] = 0
        reached = np.cumsum(at_distance)
        last = min(int(np.searchsorted(reached, k)), self.bits)  # the distance at which k rows are reached, or the greatest
        if radius is not None:
            last = min(last, radius)
        rows = self._expand(np.flatnonzero(scanned <= last), allowed)
        distances = scanned[self.unique_of_row[rows]].astype(np.int64)
        order = np.lexsort((rows, distances))
        if ties == "cut":
            order = order[:k]
        return Nearest(rows[order], distances[order], cut=len(order) < int(reached[last]))

    def _scan(self, query: Packed) -> NDArray[np.uint16]:
        """Distance of one query [w] to every unique code: [U] uint16."""
        if len(self.unique) < COMPILED_FROM:
            return np.bitwise_count(query ^ self.unique).sum(1, dtype=np.uint16)
        from wingbar import kernels

        out = np.empty(len(self.unique), np.uint16)
        kernels.scan(self.unique, query, out)
        return out

    def _expand(self, unique: Rows, allowed: NDArray[np.bool_] | None) -> Rows:
        """All rows whose code is one of `unique` (positions), restricted to `allowed`."""
        counts = self._counts[unique]
        firsts = np.repeat(self._starts[unique] - (np.cumsum(counts) - counts), counts)
        rows = self._rows[firsts + np.arange(counts.sum())]
        return rows if allowed is None else rows[allowed[rows]]
