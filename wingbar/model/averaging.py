"""Averaging over neighbours: what pictures of one class have in common stays, the rest cancels out.

- On the side of the gallery: Turcot & Lowe, "Better matching with fewer features", ICCV workshops
  2009; Arandjelović & Zisserman, "Three things everyone should know to improve object retrieval",
  CVPR 2012 (database-side feature augmentation).
- On the side of the query: Chum et al., "Total Recall", ICCV 2007 (average query expansion).
- Over the neighbours of the averages once more: a step of diffusion, as in Iscen et al., "Efficient
  Diffusion on Region Manifolds", CVPR 2017.
- The weight of a neighbour is its cosine to the power of POWER: Radenović, Tolias & Chum,
  "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019 (alpha query expansion).

It finds more pictures of the same class, and confuses the copies of one picture with their
neighbours. An index for classes therefore stores of each picture the average, for the code and most
of the score, and the feature as it is for the rest of it: [SCALE * average, feature] / length, so
that an average can be made again.

Shapes: M features to average, N of the gallery, k neighbours, d dim of a plain feature, b bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Packed, pack
from wingbar.model.itq import Float32, Rotation, unit

NEIGHBOURS = 10
POWER = 3
# Share of the average in a score: SCALE^2 to 1, so 80 %. A power of two, so that in float16 the two
# halves of a picture without an average are exactly multiples of each other.
SCALE = 2.0
_SUBNORMAL = 2.0**-23  # float16 is less exact below 2^-14
_QUERIES = 256  # whose cosines are in memory at a time,
_ITEMS = 65_536  # with this many of the gallery


class Neighbours(NamedTuple):
    """The nearest of each feature: rows of the gallery [M, k] and cosines [M, k], nearest first."""

    rows: NDArray[np.int64]
    cosines: Float32


def nearest(
    features: NDArray[np.floating],
    gallery: NDArray[np.floating],
    own: NDArray[np.int64] | None = None,
    count: int = NEIGHBOURS,
) -> Neighbours:
    """The `count` rows of the gallery [N, d] with the greatest cosine to each of the features
    [M, d], all of unit length; equal ones by row. `own` [M] are the rows of the features
    themselves, which are no neighbours."""
    count = min(count, len(gallery) - (own is not None))
    if count < 1:
        return Neighbours(
            np.empty((len(features), 0), np.int64), np.empty((len(features), 0), np.float32)
        )
    rows = np.empty((len(features), count), np.int64)
    cosines = np.empty((len(features), count), np.float32)
    for begin in range(0, len(features), _QUERIES):
        part = slice(begin, begin + _QUERIES)
        mine = None if own is None else own[part]
        rows[part], cosines[part] = _nearest(
            features[part].astype(np.float32), gallery, mine, count
        )
    return Neighbours(rows, cosines)


def _nearest(
    features: Float32, gallery: NDArray[np.floating], own: NDArray[np.int64] | None, count: int
) -> Neighbours:
    """`nearest` for a few features, block by block of the gallery."""
    m = len(features)
    rows, cosines = np.empty((m, 0), np.int64), np.empty((m, 0), np.float32)
    for begin in range(0, len(gallery), _ITEMS):
        block = features @ gallery[begin : begin + _ITEMS].astype(np.float32).T
        if own is not None:
            here = np.flatnonzero((own >= begin) & (own < begin + block.shape[1]))
            block[here, own[here] - begin] = -2
        first = min(count, block.shape[1])
        best = np.sort(np.argpartition(-block, first - 1, axis=1)[:, :first], axis=1)
        rows = np.concatenate([rows, begin + best], axis=1)
        cosines = np.concatenate([cosines, np.take_along_axis(block, best, 1)], axis=1)
        keep = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows, cosines = np.take_along_axis(rows, keep, 1), np.take_along_axis(cosines, keep, 1)
    return Neighbours(rows, cosines)


def averages_of(features: Float32) -> Float32:
    """The average of each of the features [N, d] over its neighbours among them."""
    return averaged(features, nearest(features, features, np.arange(len(features))), features)


def averaged(
    features: NDArray[np.floating], near: Neighbours, gallery: NDArray[np.floating]
) -> Float32:
    """Unit features [M, d] plus their neighbours in the gallery [N, d], each weighted by
    max(cosine, 0)^POWER; unit length again."""
    total = features.astype(np.float32)
    weights = np.maximum(near.cosines, 0) ** POWER
    for place in range(near.rows.shape[1]):  # one at a time: all of them would be M k d numbers
        total = total + weights[:, place, None] * gallery[near.rows[:, place]].astype(np.float32)
    return unit(total)


def averages_for_classes(plain: Float32, kept: Float32, rows: NDArray[np.int64]) -> Float32:
    """The averages [M, d] of the items in `rows` [M], of the plain features [N, d] of all items and
    the averages `kept` [N, d] of the others.

    Each is averaged with its neighbours by plain features first, and then with those that these
    averages have among all averages: a step of diffusion, which reaches what is like its
    neighbours.
    """
    mine = plain[rows]
    once = averaged(mine, nearest(mine, plain, rows), plain)
    gallery = kept.copy()
    gallery[rows] = once
    return averaged(once, nearest(once, gallery, rows), gallery)


# -- the two halves that an index for classes stores


def halves(rotation: Rotation) -> Rotation:
    """A rotation whose features are [SCALE * f, f] / length for the features f of `rotation`."""
    return rotation._replace(feature=np.hstack([SCALE * rotation.feature, rotation.feature]))


def plain_of(stored: NDArray[np.floating]) -> Float32:
    """The plain features [N, d], of unit length, of stored ones [N, 2 d]."""
    return unit(stored[:, stored.shape[1] // 2 :].astype(np.float32))


def average_of(stored: NDArray[np.floating]) -> Float32:
    """The averages [N, d], of unit length, of stored ones [N, 2 d]."""
    return unit(stored[:, : stored.shape[1] // 2].astype(np.float32))


def joined(average: Float32, plain: Float32) -> Float32:
    """What is stored of averages and plain features [M, d]: [M, 2 d], of unit length."""
    both = np.hstack([np.float32(SCALE) * average, plain])
    return (both / np.sqrt(SCALE**2 + 1)).astype(np.float32)


def without_average(stored: NDArray[np.float16]) -> NDArray[np.int64]:
    """The rows of stored features [N, 2 d] that have no average yet: their halves are those of one
    feature."""
    d = stored.shape[1] // 2
    apart = np.abs(stored[:, :d] - np.float16(SCALE) * stored[:, d:]).max(1, initial=0)
    return np.flatnonzero(apart <= _SUBNORMAL)


def codes_of_averages(rotation: Rotation, average: Float32) -> Packed:
    """The packed codes [M, w] of averages [M, d], by the rotation of an index for classes."""
    d = rotation.dim // 2
    plain = rotation.feature[:, d:].astype(np.float64)
    of_feature = np.linalg.lstsq(plain, rotation.code.astype(np.float64), rcond=None)[0]
    return pack(average.astype(np.float64) @ of_feature >= 0)
