"""The fine modes of a search as orders of the whole gallery, and how good each is on images in memory.

N gallery items, P of them in the shortlist, b bits, d dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar.evaluation.metrics import Buckets, Float64, Int64, expected_ap, merged_buckets
from wingbar.hamming import codes
from wingbar.index.index import FINE, SHORTLIST, TIE_CAP, Fine


@dataclass(frozen=True)
class Side:
    """Network outputs of images in memory: code logits [n, b], features [n, d] of any length, labels [n]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    labels: Int64


def fine_scores(query: Side, gallery: Side, shortlist: int = SHORTLIST) -> dict[str, float]:
    """MAP of the whole gallery in each fine mode, by which a trained model's own mode is chosen on held-out images."""
    packed = codes.pack(gallery.logits >= 0)
    searchable = codes.Codes(packed, gallery.logits.shape[1])
    units = [unit(side.features) for side in (query, gallery)]
    aps: dict[str, list[float]] = {mode: [] for mode in FINE}
    for i in range(len(query.labels)):
        relevant = gallery.labels == query.labels[i]
        if not relevant.any():
            continue
        code = codes.pack(query.logits[i : i + 1] >= 0)[0]
        hamming = searchable.distances(code).astype(np.int64)
        pool = searchable.nearest(code, shortlist, ties="include", limit=TIE_CAP * shortlist).ids
        agreement = codes.agreement(query.logits[i], packed, gallery.logits.shape[1])
        cosine = units[1] @ units[0][i]
        for mode in FINE:
            place = fine_places(mode, hamming, pool, agreement if mode == "asymmetric" else cosine)
            aps[mode].append(expected_ap(place, relevant))
    return {mode: float(np.mean(values)) if values else 0.0 for mode, values in aps.items()}


def fine_places(fine: Fine, hamming: Int64, pool: Int64, score: NDArray[np.floating]) -> Float64:
    """Places [N] (smaller is earlier, equal is tied) of the whole gallery in a fine mode.

    hamming [N]; `pool` are the rows of the shortlist; `score` [N] in [-1, 1] is what the mode orders by.
    """
    place = hamming.astype(np.float64)
    if fine == "ties":
        place[pool] -= 0.25 + score[pool].astype(np.float64) / 4  # by at most 0.5: before the rest of its distance, if any
    elif fine != "none":
        place[pool] = -3 - score[pool].astype(np.float64)  # before every distance
    return place


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [n, d] of length one."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def fine_buckets(
    fine: Fine, items: Int64, hits: Int64, distances: Int64, scores: NDArray[np.float32], right: NDArray[np.bool_]
) -> Buckets:
    """The ranking when a shortlist, of `distances`, `scores` and `right` [P], is ordered by a fine mode and the rest of the
    `items` and `hits` [b + 1] at each distance stays where it is."""
    place = fine_places(fine, distances, np.arange(len(distances)), scores)
    bins = len(items)
    rest = items - np.bincount(distances, minlength=bins)
    rest_hits = hits - np.bincount(distances[right], minlength=bins)
    return merged_buckets(
        np.concatenate([place, np.arange(bins)]),
        np.concatenate([np.ones(len(place), np.int64), rest]),
        np.concatenate([right.astype(np.int64), rest_hits]),
    )
