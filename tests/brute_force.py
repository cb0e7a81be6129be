"""Random codes, and what a search of them must find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Nearest

Bits = NDArray[np.bool_]


def clustered(rng: np.random.Generator, n: int, b: int, centres: int, flip: float) -> Bits:
    """Bits [n, b] around a few centres, so that codes repeat: each bit differs from its centre with
    probability `flip`."""
    around = rng.random((centres, b)) < 0.5
    return np.asarray(around[rng.integers(centres, size=n)] ^ (rng.random((n, b)) < flip))


def brute_force(
    query: Bits,
    bits: Bits,
    ids: NDArray[np.int64],
    k: int,
    radius: int,
    keep: Bits,
    include: bool,
    limit: int,
) -> tuple[list[tuple[int, int]], bool]:
    """The expected result, by comparing every bit: the (distance, id) pairs, and whether items at
    the last distance were left out."""
    ranked = sorted(
        (int((row != query).sum()), int(i))
        for i, row, kept in zip(ids, bits, keep, strict=True)
        if kept
    )
    ranked = [pair for pair in ranked if pair[0] <= radius]
    tied = [pair for pair in ranked if len(ranked) <= k or pair[0] <= ranked[k - 1][0]]
    found = tied[: limit if include else k]
    return found, bool(found) and any(pair[0] == found[-1][0] for pair in tied[len(found) :])


def pairs(found: Nearest) -> list[tuple[int, int]]:
    return list(zip(found.distances.tolist(), found.ids.tolist(), strict=True))
