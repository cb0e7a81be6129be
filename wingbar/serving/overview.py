"""What the features of a whole collection say about it: a map, on which alike pictures are close,
how unusual each is, and which are copies. Computed once and kept in the index."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 100_000  # items of an overview; of larger collections, that many evenly spaced
SAMPLE = 5000  # features from which the two directions are found
NEIGHBOURS = 15  # by feature, towards whose middle each place moves
ROUNDS = 12  # of such moves
BLOCK = 512  # features compared with all others at once
MOST_COMPARED = 10_000  # items that are compared with all others; those of more with SAMPLE of them
FEW_CHANGED = 0.1  # new items for each known one up to which the others keep their places
_BYTES = 28  # of one item in an index

Features = NDArray[np.floating]


class Overview(NamedTuple):
    """An overview of N items.

    fingerprint: that of the model of their features.
    ids: [N] int64, ascending.
    places: [N, 2] float32 in [0, 1], each axis evenly filled.
    novelty: [N] float32 in [0, 2]: 1 - the mean cosine with the NEIGHBOURS nearest others.
    stacks: [N] int64, the id of the first of the copies that an item belongs to; its own id where
        there are none before it.
    """

    fingerprint: str
    ids: NDArray[np.int64]
    places: NDArray[np.float32]
    novelty: NDArray[np.float32]
    stacks: NDArray[np.int64]


class Gallery(NamedTuple):
    """What an overview is made of.

    fingerprint: that of the model.
    ids: [N] int64, ascending.
    features: unit features [N, d].
    contents: the hash of each item's file.
    copy_score: cosine from which a picture counts as a copy.
    """

    fingerprint: str
    ids: NDArray[np.int64]
    features: Features
    contents: Sequence[bytes]
    copy_score: float


def survey(gallery: Gallery) -> Overview:
    """The overview of a gallery."""
    features = gallery.features.astype(np.float32)
    near, cosines = _neighbours(features, features)
    novelty = (1 - cosines.mean(1)) if near.shape[1] else np.zeros(len(features))
    stacks = _stacks(gallery, near, cosines)
    places = lay_out(features, near if len(features) <= MOST_COMPARED else None)
    return Overview(gallery.fingerprint, gallery.ids, places, novelty.astype(np.float32), stacks)


def fits(overview: Overview, fingerprint: str, ids: NDArray[np.int64]) -> bool:
    """Whether an overview is that of a gallery but for a few new items."""
    known = int(np.isin(ids, overview.ids).sum())
    few_are_new = len(ids) - known <= FEW_CHANGED * known
    return overview.fingerprint == fingerprint and few_are_new


def updated(overview: Overview, gallery: Gallery) -> Overview:
    """The overview with what is new, which comes between its nearest neighbours, and without what
    is gone."""
    kept = np.isin(overview.ids, gallery.ids)
    old = Overview(
        overview.fingerprint,
        overview.ids[kept],
        overview.places[kept],
        overview.novelty[kept],
        overview.stacks[kept],
    )
    row_of = {id_: row for row, id_ in enumerate(gallery.ids.tolist())}
    known = np.array([row_of[id_] for id_ in old.ids.tolist()], np.int64)
    features = gallery.features.astype(np.float32)
    is_new = np.ones(len(features), bool)
    is_new[known] = False
    near, cosines = _neighbours(features[is_new], features[known])
    count = len(gallery.ids)
    places, novelty = np.full((count, 2), 0.5, np.float32), np.zeros(count, np.float32)
    stacks = gallery.ids.copy()
    places[known], novelty[known], stacks[known] = old.places, old.novelty, old.stacks
    if near.shape[1]:
        places[is_new] = old.places[near].mean(1)
        novelty[is_new] = 1 - cosines.mean(1)
        nearest = np.take_along_axis(near, cosines.argmax(1)[:, None], 1)[:, 0]
        are_copies = cosines.max(1) >= gallery.copy_score
        stacks[is_new] = np.where(are_copies, old.stacks[nearest], gallery.ids[is_new])
    return Overview(gallery.fingerprint, gallery.ids, places, novelty, _first_of(stacks, gallery))


def lay_out(
    features: Features, near: NDArray[np.int64] | None = None, seed: int = 0
) -> NDArray[np.float32]:
    """Places [N, 2] float32 in [0, 1] for unit features [N, d].

    The first two principal components, each spread evenly by rank. With the rows `near` [N, k] of
    the nearest neighbours of each, it then moves ROUNDS times halfway to their mean, and the axes
    are spread again, so that what is alike beyond two directions comes together too.
    """
    count = len(features)
    if count < 3:
        return np.full((count, 2), 0.5, np.float32)
    rows = np.random.default_rng(seed).permutation(count)[:SAMPLE]
    sample = features[np.sort(rows)].astype(np.float32)
    middle = sample.mean(0)
    _, _, directions = np.linalg.svd(sample - middle, full_matrices=False)
    places = _spread((features.astype(np.float32) - middle) @ directions[:2].T)
    if near is not None and near.shape[1] == NEIGHBOURS:
        for _ in range(ROUNDS):
            places = _spread(0.5 * places + 0.5 * places[near].mean(1))
    return places


def to_text(overview: Overview) -> str:
    """An overview as text, for the index."""
    data = b"".join(column.tobytes() for column in overview[1:])
    return json.dumps([overview.fingerprint, base64.b64encode(data).decode()])


def from_text(text: str) -> Overview | None:
    """The overview of a text; None if it is not one."""
    try:
        fingerprint, encoded = json.loads(text)
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, TypeError):
        return None
    count = len(data) // _BYTES
    if not isinstance(fingerprint, str) or len(data) != count * _BYTES:
        return None
    ids = np.frombuffer(data, np.int64, count)
    places = np.frombuffer(data, np.float32, 2 * count, 8 * count).reshape(count, 2)
    novelty = np.frombuffer(data, np.float32, count, 16 * count)
    stacks = np.frombuffer(data, np.int64, count, 20 * count)
    is_sound = np.isfinite(places).all() and np.isfinite(novelty).all() and (np.diff(ids) > 0).all()
    return Overview(fingerprint, ids, places, novelty, stacks) if is_sound else None


def _neighbours(
    features: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows [n, k] of the NEIGHBOURS nearest `others` [m, d] of each feature [n, d] by cosine,
    and the cosines. Itself is left out where `features` are the `others`. Of more than
    MOST_COMPARED others, SAMPLE evenly spaced ones are looked at."""
    step = 1 if len(others) <= MOST_COMPARED else -(-len(others) // SAMPLE)
    looked_at = np.arange(0, len(others), step)
    some = others[looked_at]
    k = max(0, min(NEIGHBOURS, len(some) - (features is others)))
    near = np.empty((len(features), k), np.int64)
    scores = np.empty((len(features), k), np.float32)
    for start in range(0, len(features) if k else 0, BLOCK):
        cosines = features[start : start + BLOCK] @ some.T
        rows = np.arange(start, start + len(cosines))
        if features is others:
            cosines[rows[:, None] == looked_at] = -np.inf
        best = np.argpartition(cosines, -k, axis=1)[:, -k:]
        near[rows], scores[rows] = looked_at[best], np.take_along_axis(cosines, best, 1)
    return near, scores


def _stacks(
    gallery: Gallery, near: NDArray[np.int64], cosines: NDArray[np.float32]
) -> NDArray[np.int64]:
    """For each item, the id [N] of the first item that it is a copy of: one of its neighbours that
    is no copy itself, of at least the cosine `copy_score`, or one of the same content."""
    stacks = gallery.ids.copy()
    for row, others in enumerate(near.tolist()):
        alike = [
            other
            for other, cosine in zip(others, cosines[row].tolist(), strict=True)
            if other < row and cosine >= gallery.copy_score and stacks[other] == gallery.ids[other]
        ]
        if alike:
            stacks[row] = gallery.ids[min(alike)]
    return _first_of(stacks, gallery)


def _first_of(stacks: NDArray[np.int64], gallery: Gallery) -> NDArray[np.int64]:
    """Stacks [N] with items of the same content in one, each named by the first item in it."""
    first: dict[bytes, int] = {}
    same = [
        first.setdefault(content, stack)
        for content, stack in zip(gallery.contents, stacks.tolist(), strict=True)
    ]
    named: dict[int, int] = {}
    for id_, stack in zip(gallery.ids.tolist(), same, strict=True):
        named.setdefault(stack, id_)
    return np.array([named[stack] for stack in same], np.int64)


def _spread(values: Features) -> NDArray[np.float32]:
    """Each column [N] as ranks from 0 to 1."""
    ranks = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    return (ranks / max(len(values) - 1, 1)).astype(np.float32)
