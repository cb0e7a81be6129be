"""What a search looked at: where on the picture, which characteristics, and which bits of two codes agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ImageError, ModelError
from wingbar.hamming import codes
from wingbar.index.index import Hit, Index
from wingbar.model.model import Model

REGIONS = 4  # as many as training learns from
FIRED = 5  # characteristics named


@dataclass(frozen=True)
class Characteristic:
    """One learned vector of CMBH: the class it belongs to, which of the class's it is (from 0), its cosine to the picture's
    feature, and the probability of the class, by which the code weighs it (Eq. 12)."""

    label: str
    number: int
    cosine: float
    probability: float


@dataclass(frozen=True)
class Look:
    """What the model saw in one picture.

    heat [h, w] float32: DOLG's attention (above 0), or for CMBH the mean over the channels of the map that the code comes
    from; None where the method has neither. `area` is the part of the picture on which it lies; `regions` are those of
    CMBH's Algorithm 1 on that map, in pixels of the upright picture, the strongest first (training looks at the mean of all
    stages, of which inference has the one). `fired` are the characteristics that count most for the code, CMBH's only.
    """

    size: tuple[int, int]
    area: images.Box
    heat: NDArray[np.float32] | None
    regions: tuple[images.Box, ...]
    fired: tuple[Characteristic, ...]


@dataclass(frozen=True)
class Explained:
    """A query and its hits: its code [b] bool, what the model saw in it, and for each hit which bits [b] agree and what it saw
    there, None where the file cannot be read any more."""

    code: NDArray[np.bool_]
    query: Look
    hits: Sequence[Hit]
    agree: Sequence[NDArray[np.bool_]]
    looks: Sequence[Look | None]


def explain(index: Index, query: images.Source, hits: Sequence[Hit]) -> Explained:
    """Why these `hits` of `index.search(query)` were found. Raises ImageError when the query cannot be read."""
    code = codes.unpack(index.model.encode([query]).codes, index.model.bits)[0]
    ids = np.array([hit.id for hit in hits], np.int64)
    theirs = codes.unpack(index.searchable().of(ids), index.model.bits) if len(ids) else np.empty((0, len(code)), bool)
    looks: list[Look | None] = []
    for hit in hits:
        try:
            looks.append(look(index.model, hit.path))
        except ImageError:
            looks.append(None)
    return Explained(code, look(index.model, query), hits, list(theirs == code), looks)


def look(model: Model, source: images.Source) -> Look:
    """What `model` sees in one picture. Raises ImageError when it cannot be read."""
    size = images.upright(source).size
    area = images.seen(size, model.preparation)
    shown = model.shows(source)
    if "attention" in shown:
        return Look(size, area, shown["attention"], (), ())
    if "activation" in shown:
        return Look(size, area, shown["activation"], _regions(shown["activation"], area), _fired(model, shown["scores"]))
    return Look(size, area, None, (), ())


def _regions(activation: NDArray[np.float32], area: images.Box) -> tuple[images.Box, ...]:
    try:
        from wingbar.model.regions import find_regions, in_image
    except ImportError:
        raise ModelError("the regions of CMBH need SciPy: run pip install scipy") from None
    left, top, width, height = area
    found = []
    for cells in find_regions(activation, REGIONS):
        x1, y1, x2, y2 = in_image(cells, activation.shape, (height, width))  # type: ignore[arg-type]  # numpy knows no 2-d
        found.append((left + x1, top + y1, x2 - x1, y2 - y1))
    return tuple(found)


def _fired(model: Model, scores: NDArray[np.float32]) -> tuple[Characteristic, ...]:
    """The characteristics with the greatest weighted scores (inside of Eq. 12); scores [y, k]."""
    logits = model.record["config"]["alpha"] * scores.sum(1)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    weighted = probability[:, None] * scores
    order = np.argsort(-weighted, axis=None, kind="stable")[:FIRED]
    places = [(int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in order]
    names = model.record["classes"]
    return tuple(Characteristic(names[c], j, float(scores[c, j]), float(probability[c])) for c, j in places)
