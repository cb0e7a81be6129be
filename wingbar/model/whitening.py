"""Whitening by mutual neighbours: directions in which alike pictures differ count for less.

Mikolajczyk & Matas, "Improving Descriptors for Fast Tree Matching by Optimal Linear Projection",
ICCV 2007, whiten descriptors by the covariance S of the differences of matching pairs, and
Radenović, Tolias & Chum, ECCV 2016, do so for images: x -> S^(-1/2) x, followed by PCA. They are
given the pairs. Here nobody has named any, so two pictures that are among each other's nearest
stand in for a match. Of their pairs most are of one class, and what they differ in (pose, light,
background) says little about the others, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Pairs = NDArray[np.int64]
"""Two rows each, [m, 2], the smaller one first."""

NEIGHBOURS = 5  # among which both of a pair have each other
# What is added to S, in means of its own eigenvalues: RIDGE, and more where pairs are few beside
# the numbers of a feature. Both were chosen on training images (docs/label-free.md).
RIDGE = 0.3
RIDGE_OF_FEW = 1.0
RANDOM_PAIRS = 20_000  # that neighbours are told apart from
_BLOCK = 1024  # rows whose cosines are in memory at a time


def mutual_neighbours(features: Float64, count: int = NEIGHBOURS) -> Pairs:
    """The pairs of rows of unit features [n, d] that are among each other's `count` nearest by
    cosine, ordered by their rows."""
    n = len(features)
    count = min(count, n - 1)
    if count < 1:
        return np.empty((0, 2), np.int64)
    rows = features.astype(np.float32)
    nearest = np.empty((n, count), np.int64)
    for begin in range(0, n, _BLOCK):
        cosines = rows[begin : begin + _BLOCK] @ rows.T
        own = np.arange(len(cosines))
        cosines[own, begin + own] = -2
        nearest[begin : begin + _BLOCK] = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    one, other = np.repeat(np.arange(n), count), nearest.ravel()
    arrows = one * n + other
    is_mutual = np.isin(other * n + one, arrows) & (one < other)
    return np.stack([one[is_mutual], other[is_mutual]], axis=1)[np.argsort(arrows[is_mutual])]


def adapted(pairs: Pairs, labels: NDArray[np.int64], rng: np.random.Generator) -> Pairs:
    """`pairs` [m, 2] with what labels [n] say, -1 for none: without those of two classes, and with
    NEIGHBOURS partners of its class, drawn at random, for each labelled row.

    Where all rows are labelled, S is the within-class scatter of linear discriminant analysis
    (Fisher, 1936), but for neighbours counting twice.
    """
    one, other = labels[pairs.T]
    kept = [pairs[(one < 0) | (other < 0) | (one == other)]]
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        mine = np.repeat(rows, NEIGHBOURS)
        drawn = np.stack([mine, rng.choice(rows, len(mine))], axis=1)
        kept.append(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1))
    return np.concatenate(kept)


def whitening(x: Float64, pairs: Pairs) -> Float64:
    """S^(-1/2) [r, r], symmetric, for the covariance S of the differences of `pairs` of rows of
    x [n, r], with a ridge. Raises ValueError without a pair that differs."""
    differences = (x[pairs[:, 0]] - x[pairs[:, 1]]) / np.sqrt(2)
    covariance = differences.T @ differences / max(len(pairs), 1)
    r = x.shape[1]
    mean = float(np.trace(covariance)) / r
    if not mean > 0:
        raise ValueError("no two of the images are neighbours that differ")
    ridge = RIDGE + RIDGE_OF_FEW * r / len(pairs)
    variances, vectors = np.linalg.eigh(covariance / mean + ridge * np.eye(r))
    return np.asarray((vectors / np.sqrt(variances)) @ vectors.T)


def confusion(is_one: NDArray[np.bool_], pairs: Pairs, rng: np.random.Generator) -> float:
    """How often two random rows of the codes `is_one` [n, b] are nearer to each other than a pair
    of `pairs` [m, 2] is, equal distances counting half: in [0, 1], and 0.5 for a code that tells
    nothing. It is one minus the area under the ROC curve."""
    one, other = rng.integers(0, len(is_one), (2, RANDOM_PAIRS))
    differ = one != other
    apart = np.sort((is_one[one[differ]] != is_one[other[differ]]).sum(1))
    near = (is_one[pairs[:, 0]] != is_one[pairs[:, 1]]).sum(1)
    places = np.searchsorted(apart, near, "left") + np.searchsorted(apart, near, "right")
    return float(places.mean()) / 2 / len(apart)
