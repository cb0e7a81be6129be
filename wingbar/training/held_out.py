"""Which fine mode suits a trained model, measured on images that were held out of its training
data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar.evaluation.metrics import Int64, expected_ap
from wingbar.hamming import codes
from wingbar.index.ranking import FINE, SHORTLIST, TIE_CAP, fine_places
from wingbar.model.itq import unit


@dataclass(frozen=True)
class Side:
    """Network outputs of images in memory: code logits [n, b], features [n, d] of any length,
    labels [n]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    labels: Int64


def fine_scores(query: Side, gallery: Side, shortlist: int = SHORTLIST) -> dict[str, float]:
    """MAP of the whole gallery in each fine mode, by which a trained model's own mode is chosen on
    held-out images."""
    packed = codes.pack(gallery.logits >= 0)
    searchable = codes.Codes(packed, gallery.logits.shape[1])
    units = [unit(side.features) for side in (query, gallery)]
    aps: dict[str, list[float]] = {mode: [] for mode in FINE}
    for i in range(len(query.labels)):
        relevant = gallery.labels == query.labels[i]
        if not relevant.any():
            continue
        code = codes.pack(query.logits[i : i + 1] >= 0)[0]
        hamming = searchable.distances(code).astype(np.float64)
        [near] = searchable.nearest(
            code[None], shortlist, ties="include", limit=TIE_CAP * shortlist
        )
        agreement = codes.agreement(query.logits[i], packed, gallery.logits.shape[1])
        cosine = units[1] @ units[0][i]
        for mode in FINE:
            scores = agreement if mode == "asymmetric" else cosine
            place = hamming.copy()
            place[near.ids] = fine_places(mode, near.distances, scores[near.ids])
            aps[mode].append(expected_ap(place, relevant))
    return {mode: float(np.mean(values)) if values else 0.0 for mode, values in aps.items()}
