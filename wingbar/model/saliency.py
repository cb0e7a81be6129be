"""What a search looked at: where on the picture, which characteristics, and which bits of two codes
agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.errors import ModelError
from wingbar.model.model import Model


def find_regions(activation: NDArray[np.floating], count: int) -> list[tuple[int, int, int, int]]:
    """Algorithm 1: the cells x1, y1, x2, y2 (inclusive) of `count` regions of A [h, w], the
    strongest first.

    For m = 1 .. M: what is above a (0.9 - 0.05 m), a being the greatest value, and of it the
    largest connected part (cells that share a side; the first of equal ones) gives the box. Then
    every value A above the threshold becomes a - A. Where nothing is above it, which only values
    that are not positive can bring about, the box is the whole map. Raises ModelError without
    SciPy.
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise ModelError("the regions of CMBH need SciPy: run pip install scipy") from None
    values = activation.astype(np.float64)
    height, width = values.shape
    boxes = []
    for m in range(1, count + 1):
        greatest = values.max()
        above = values > greatest * (0.9 - 0.05 * m)
        parts, number = ndimage.label(above)
        if number == 0:
            boxes.append((0, 0, width - 1, height - 1))
            continue
        largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
        rows, columns = np.nonzero(parts == largest)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())))
        values = np.where(above, greatest - values, values)
    return boxes


def in_image(
    box: tuple[int, int, int, int], map_size: tuple[int, int], size: tuple[int, int]
) -> tuple[float, ...]:
    """Cells x1, y1, x2, y2 of a map of (height, width) -> x1, y1, x2, y2 in pixels of a picture of
    (height, width)."""
    across, down = size[1] / map_size[1], size[0] / map_size[0]
    return box[0] * across, box[1] * down, (box[2] + 1) * across, (box[3] + 1) * down


REGIONS = 4  # as many as training learns from
FIRED = 5  # characteristics named


@dataclass(frozen=True)
class Characteristic:
    """One learned vector of CMBH: the class it belongs to, which of the class's it is (from 0), its
    cosine to the picture's feature, and the probability of the class, by which the code weighs it
    (Eq. 12)."""

    label: str
    number: int
    cosine: float
    probability: float


@dataclass(frozen=True)
class Look:
    """What the model saw in one picture.

    heat [h, w] float32: DOLG's attention (above 0), or for CMBH the mean over the channels of the
    map that the code comes from; None where the method has neither. `area` is the part of the
    picture on which it lies; `regions` are those of CMBH's Algorithm 1 on that map, in pixels of
    the upright picture, the strongest first (training looks at the mean of all stages, of which
    inference has the one). `fired` are the characteristics that count most for the code, CMBH's
    only.
    """

    size: tuple[int, int]
    area: images.Box
    heat: NDArray[np.float32] | None
    regions: tuple[images.Box, ...]
    fired: tuple[Characteristic, ...]


def look(model: Model, source: images.Source) -> Look:
    """What `model` sees in one picture. Raises ImageError when it cannot be read."""
    size = images.upright(source).size
    area = images.crop_box(size, model.preprocessing)
    shown = model.auxiliary_outputs(source)
    if "attention" in shown:
        return Look(size, area, shown["attention"], (), ())
    if "activation" in shown:
        return Look(
            size,
            area,
            shown["activation"],
            _regions(shown["activation"], area),
            _fired(model, shown["scores"]),
        )
    return Look(size, area, None, (), ())


def _regions(activation: NDArray[np.float32], area: images.Box) -> tuple[images.Box, ...]:
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
    return tuple(
        Characteristic(names[c], j, float(scores[c, j]), float(probability[c])) for c, j in places
    )
