"""A map of the collection: a place in the plane for each picture, alike ones near each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 100_000  # items of a map; of larger collections, that many evenly spaced
SAMPLE = 5000  # features from which the two directions are found
NEIGHBOURS = 15  # by feature, towards whose middle each place moves
ROUNDS = 12  # of such moves
BLOCK = 512  # features compared with all others at once
MOST_COMPARED = 10_000  # items whose neighbours are looked for; larger maps are the PCA alone


class Map(NamedTuple):
    """A map of N items.

    ids: their ids, ascending.
    labels: the label of each, if any.
    places: [N, 2] float32 in [0, 1], each axis evenly filled.
    """

    ids: Sequence[int]
    labels: Sequence[str | None]
    places: NDArray[np.float32]


def lay_out(features: NDArray[np.floating], seed: int = 0) -> NDArray[np.float32]:
    """Places [N, 2] float32 in [0, 1] for unit features [N, d].

    The first two principal components, each spread evenly by rank. Where there are at most
    MOST_COMPARED items, each then moves ROUNDS times halfway to the mean of its NEIGHBOURS nearest
    by cosine, and the axes are spread again, so that what is alike beyond two directions comes
    together too.
    """
    count = len(features)
    if count < 3:
        return np.full((count, 2), 0.5, np.float32)
    rows = np.random.default_rng(seed).permutation(count)[:SAMPLE]
    sample = features[np.sort(rows)].astype(np.float32)
    middle = sample.mean(0)
    _, _, directions = np.linalg.svd(sample - middle, full_matrices=False)
    places = _spread((features.astype(np.float32) - middle) @ directions[:2].T)
    if NEIGHBOURS < count <= MOST_COMPARED:
        near = _neighbours(features.astype(np.float32))
        for _ in range(ROUNDS):
            places = _spread(0.5 * places + 0.5 * places[near].mean(1))
    return places


def _neighbours(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows [N, NEIGHBOURS] of the nearest others by cosine."""
    out = np.empty((len(features), NEIGHBOURS), np.int64)
    for start in range(0, len(features), BLOCK):
        cosines = features[start : start + BLOCK] @ features.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        out[start : start + BLOCK] = np.argpartition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    return out


def _spread(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each column [N] as ranks from 0 to 1."""
    ranks = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    return (ranks / max(len(values) - 1, 1)).astype(np.float32)
