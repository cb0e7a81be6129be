"""Why a search found what it found: the bits that agree, and what the model saw in each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError
from wingbar.hamming.codes import unpack
from wingbar.index.index import Index
from wingbar.index.ranking import Hit
from wingbar.model.saliency import Look, look


@dataclass(frozen=True)
class Explained:
    """Why hits were found.

    code: the query's code [b] bool.
    query: what the model saw in the query.
    hits: the hits.
    agree: for each hit, which bits agree with the query's [b] bool.
    looks: for each hit, what the model saw in it; None where its file cannot be read any more.
    """

    code: NDArray[np.bool_]
    query: Look
    hits: Sequence[Hit]
    agree: Sequence[NDArray[np.bool_]]
    looks: Sequence[Look | None]


def explain(index: Index, query: images.Source | int, hits: Sequence[Hit]) -> Explained:
    """Why these `hits` of `index.search(query)` were found. Raises ImageError when the query cannot
    be read."""
    if isinstance(query, int):
        code = unpack(index.embedding(query).codes, index.model.bits)[0]
        query = index.items([query])[0].path
    else:
        code = unpack(index.model.encode([query]).codes, index.model.bits)[0]
    ids = np.array([hit.id for hit in hits], np.int64)
    theirs = (
        unpack(index.codes(ids), index.model.bits) if len(ids) else np.empty((0, len(code)), bool)
    )
    looks: list[Look | None] = []
    for hit in hits:
        try:
            looks.append(look(index.model, hit.path))
        except ImageError:
            looks.append(None)
    return Explained(code, look(index.model, query), hits, list(theirs == code), looks)
