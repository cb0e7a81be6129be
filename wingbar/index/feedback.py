"""Queries of several pictures, and results marked right or wrong: one embedding for all of them.

Relevance feedback after J. J. Rocchio, "Relevance feedback in information retrieval" (1971), with
sums in the place of his means, as by E. Ide, "New experiments in relevance feedback" (1971), so
that every mark counts:

    q' = q + beta * sum(right) - gamma * sum(wrong)

on unit features. Logits are moved in the same way, each divided by its own mean size first, as
those of stored items are only the signs of their bits; their signs are the code of q'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError
from wingbar.hamming.codes import pack
from wingbar.model.itq import unit
from wingbar.model.model import Embeddings

BETA = 1.0  # a picture that is right counts as much as the query
GAMMA = 0.25


def moved(
    query: Embeddings,
    right: Sequence[Embeddings] = (),
    wrong: Sequence[Embeddings] = (),
    *,
    beta: float = BETA,
    gamma: float = GAMMA,
) -> Embeddings:
    """One embedding [1, ...] for a query and what is like it (`right`) or unlike it (`wrong`), all
    by one model and each of one picture. `beta` and `gamma` are at least 0; without `right` and
    `wrong` the query is returned as it is.

    Use it as a query: `index.search(moved(index.embedding(3), [index.embedding(8)]))`. Raises
    QueryError for an embedding of several pictures or of another model, or for weights below 0.
    """
    if min(beta, gamma) < 0:
        raise QueryError(f"beta and gamma must be at least 0, not {beta} and {gamma}")
    for one in (query, *right, *wrong):
        if len(one) != 1:
            raise QueryError(f"each embedding must be of one picture, not of {len(one)}")
        if one.fingerprint != query.fingerprint:
            raise QueryError(f"the embeddings are of two models, {query.model} and {one.model}")
    if not right and not wrong:
        return query
    weights = np.array([1.0, *[beta] * len(right), *[-gamma] * len(wrong)])
    every = (query, *right, *wrong)
    features = weights @ np.concatenate([one.features for one in every])
    logits = weights @ np.concatenate([_of_size_one(one.logits) for one in every])
    return replace(
        query,
        codes=pack(logits[None] >= 0),
        features=unit(features[None]).astype(np.float32),
        logits=logits[None].astype(np.float32),
    )


def _of_size_one(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [1, b] divided by the mean of their absolute values."""
    exact = logits.astype(np.float64)
    return exact / max(float(np.abs(exact).mean()), 1e-12)
