"""Averages over neighbours in an index, of its items and of queries (model/averaging.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Packed, pack, unpack
from wingbar.index.engine import AnyStore
from wingbar.index.ranking import SearchOptions
from wingbar.model.averaging import (
    POWER,
    Neighbours,
    average_of,
    averaged,
    averages_for_classes,
    codes_of_averages,
    joined,
    plain_of,
    without_average,
)
from wingbar.model.model import Embeddings, Model


def average_new(store: AnyStore, model: Model) -> int:
    """Give the items of an index for classes that have no average yet the one over their nearest
    neighbours among all items there are now; returns their number. The others stay as they are.
    Inside `writing`.

    An item without a neighbour, as the first one, waits for the next time. All features are in
    memory meanwhile.
    """
    if not model.averages:
        return 0
    stored = store.all_features(model.dim)
    rows = without_average(stored)
    if not len(rows) or len(stored) < 2:
        return 0
    packed, features = averages(model, stored, rows)
    store.replace_embeddings(packed, features, store.ids()[rows], model.bits)
    return len(rows)


def averages(
    model: Model, stored: NDArray[np.floating], rows: NDArray[np.int64]
) -> tuple[Packed, NDArray[np.float32]]:
    """Codes [M, w] and features [M, 2 d] of the items in `rows` [M] of the stored features
    [N, 2 d], averaged over their neighbours."""
    assert model.rotation is not None
    plain = plain_of(stored)
    average = averages_for_classes(plain, average_of(stored), rows)
    return codes_of_averages(model.rotation, average), joined(average, plain[rows])


def first_search(options: SearchOptions, model: Model) -> SearchOptions | None:
    """The search for the neighbours that a query is averaged with, by their features among all
    items; None where it is not to be averaged."""
    count = model.expand if options.expand is None else options.expand
    return SearchOptions(k=count, fine="pool", expand=0) if count else None


def expanded(
    query: Embeddings, features: NDArray[np.floating], packed: Packed, cosines: NDArray[np.float32]
) -> Embeddings:
    """One query with its neighbours: features [k, d], codes [k, w] and cosines [k] to it.

    The feature is averaged as in `averaged`. The code is the vote of the query's logits, which
    count 1 on average, and of the neighbours' bits as -1 and 1, each with its weight.
    """
    near = Neighbours(np.arange(len(features))[None], cosines[None].astype(np.float32))
    size = float(np.abs(query.logits).mean()) or 1.0
    signs = np.where(unpack(packed, query.bits), 1.0, -1.0)
    weights = np.maximum(cosines.astype(np.float64), 0) ** POWER
    logits = query.logits.astype(np.float64) / size + weights @ signs
    return replace(
        query,
        codes=pack(logits >= 0),
        features=averaged(query.features, near, features),
        logits=logits.astype(np.float32),
    )
