"""Search by a text: all items by the cosine of their raw features with the text's.

Texts are another kind of vector than pictures, though in one space with them: the texts of CLIP and
its kin are closer to each other than to any picture. Codes learned from pictures alone would send
most texts to the same few, so none are looked at: a text is compared with every item, by the very
cosine that the encoder was trained for. Stored features are whitened and centred for pictures; the
raw ones are made of them again first (`Model.raw_of`), so that the answer is exact but for the
rounding of the stored numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import QueryError
from wingbar.hamming.codes import hamming
from wingbar.index.engine import AnyStore
from wingbar.index.filters import parse_where
from wingbar.index.ranking import Ranked, SearchOptions
from wingbar.model.model import Embeddings, Model

BLOCK = 16_384  # items whose features are in memory at a time


@dataclass(frozen=True)
class Text:
    """A text that is searched for.

    text: what the pictures show, of at most LONGEST_TEXT characters.
    """

    text: str


def check_options(options: SearchOptions) -> None:
    """Raise QueryError for what a search by a text does not take."""
    given = {
        "a radius": options.radius is not None,
        f"the fine mode {options.fine}": options.fine not in (None, "pool"),
        "a box": options.box is not None,
        "distinct": options.distinct,
        "expand": bool(options.expand),
        "cut": options.cut is not None,
    }
    for name, is_given in given.items():
        if is_given:
            raise QueryError(
                f"a text is compared with all pictures by the encoder's own features, without "
                f"{name}: leave it out"
            )


def embedded(model: Model, vector: NDArray[np.float32]) -> Embeddings:
    """The vector [r] of a text as if it were a picture's. Its code is shown beside those of the
    hits, and ranks nothing."""
    return model.embed(vector[None])


def ranked_by_text(
    store: AnyStore, model: Model, vector: NDArray[np.float32], options: SearchOptions
) -> Ranked:
    """The first `options.k` items that pass the filter, by descending cosine of their raw features
    with the vector [r] of a text, equal ones by id. In a read snapshot."""
    if len(vector) != model.record["dim"]:
        raise QueryError(f"{store.path} was given another model meanwhile: search again")
    conditions = parse_where(options.where)
    ids = store.matching(conditions) if conditions else store.ids()
    best_ids, best = np.empty(0, np.int64), np.empty(0, np.float32)
    for begin in range(0, len(ids), BLOCK):
        some = ids[begin : begin + BLOCK]
        raw = model.raw_of(store.features(some.tolist(), model.dim))
        best_ids, best = _first(
            np.concatenate([best_ids, some]), np.concatenate([best, raw @ vector]), options.k
        )
    packed = store.codes_of(best_ids.tolist(), model.bits)
    distances = hamming(embedded(model, vector).codes[0], packed)
    return Ranked(best_ids, distances, best, len(ids), False)


def _first(
    ids: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ids and scores [n] of the `k` greatest, equal ones by id."""
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]
