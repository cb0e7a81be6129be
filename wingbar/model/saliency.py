"""What a model saw in an image: where it looked, and which learned characteristics it found."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images
from wingbar.errors import ModelError
from wingbar.model.model import Model

REGIONS = 4  # regions of an image that are shown, as many as training learns from
TOO_ALIKE = 0.7  # overlap from which a region says no more than another
CELLS = 28  # places across and down whose strength is looked at to find what stands out
HALVES = np.array([0, 0.25, 0.5])  # where the halves of a picture begin, as shares of its sides
WHOLE = 0.2  # weight of the view of the whole picture; the rest is that of its halves
STANDS_OUT = 3.0  # what stands out is this many times as strong as a black image
LEAST, MOST = 0.02, 0.8  # shares of a picture that a part has
GRID = 7  # places across and down that are covered to see what matches
FIRED = 5  # characteristics of an image that are named

Cells = tuple[int, int, int, int]  # x1, y1, x2, y2 of cells of a map, all inclusive


@dataclass(frozen=True)
class Characteristic:
    """One learned vector (C-vector) of CMBH, compared with an image.

    label: the class it belongs to.
    number: which of the vectors of its class it is, from 0.
    cosine: its cosine with the image's feature, in [-1, 1].
    probability: of its class, in [0, 1]; the code weights the cosine by it (Eq. 12).
    """

    label: str
    number: int
    cosine: float
    probability: float


@dataclass(frozen=True)
class Look:
    """What a model saw in one image.

    size: width and height of the upright image, in pixels.
    area: the part of it that the model sees, in pixels.
    heat: a map [h, w] float32 that covers `area`: DOLG's attention, above 0, or for CMBH the mean
        over the channels of the map that the code comes from; None for other methods.
    regions: CMBH's regions (Algorithm 1) of that map, strongest first, in pixels of the upright
        image; () for other methods. Training finds them on the mean of all stages, of which
        inference has only one.
    fired: the characteristics that count most for CMBH's code, first the one that counts most; ()
        for other methods.
    """

    size: tuple[int, int]
    area: images.Box
    heat: NDArray[np.float32] | None
    regions: tuple[images.Box, ...]
    fired: tuple[Characteristic, ...]


@dataclass(frozen=True)
class Match:
    """Which parts of an image make it alike to another.

    size: width and height of the upright image, in pixels.
    area: the part of it that the model sees, in pixels.
    heat: a map [GRID, GRID] float32 that covers `area`: how much the cosine with the other falls
        when a part is covered, 0 or more.
    cosine: that of the two features.
    """

    size: tuple[int, int]
    area: images.Box
    heat: NDArray[np.float32]
    cosine: float


def look(model: Model, source: images.Source) -> Look:
    """What `model` sees in one image. Raises ImageError when the image cannot be read."""
    size = images.upright(source).size
    area = images.crop_box(size, model.preprocessing)
    outputs = model.auxiliary_outputs(source)
    if "attention" in outputs:
        return Look(size, area, outputs["attention"], (), ())
    if "activation" in outputs:
        activation = outputs["activation"]
        regions, fired = _regions(activation, area), _fired(model, outputs["scores"])
        return Look(size, area, activation, regions, fired)
    return Look(size, area, None, (), ())


def match(
    model: Model, network: Model, source: images.Source, other: NDArray[np.floating]
) -> Match:
    """Which parts of an image make it alike to one of the unit feature `other` [d].

    Each of GRID x GRID places is covered with the image's mean colour in turn, two cells wide and
    high, and the cosine of the features is computed again: what lowers it counts (occlusion, Zeiler
    and Fergus 2014). `network` is the model, or one with the same network, that runs. Raises
    ImageError when the image cannot be read.
    """
    size = images.upright(source).size
    area = images.crop_box(size, model.preprocessing)
    pixels = images.load(source, model.preprocessing)
    features = model.embed(network.run([pixels, *covered(pixels)])).features
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ other.astype(np.float64)
    loss = np.maximum(0, cosines[0] - cosines[1:]).reshape(GRID, GRID)
    return Match(size, area, loss.astype(np.float32), float(cosines[0]))


def covered(pixels: images.Pixels) -> list[images.Pixels]:
    """The GRID x GRID copies of an image [H, W, 3] of which each has one place covered, row by
    row."""
    height, width = pixels.shape[:2]
    colour = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    rows, columns = (np.arange(-0.5, GRID) * side / GRID for side in (height, width))
    copies = []
    for top in rows[:GRID]:
        for left in columns[:GRID]:
            copy = pixels.copy()
            bottom, right = top + 2 * height / GRID, left + 2 * width / GRID
            copy[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)] = colour
            copies.append(copy)
    return copies


def suggested_regions(seen: Look) -> tuple[images.Box, ...]:
    """Different parts of an image that may be worth a search of their own, strongest first, in
    pixels of the upright image: the regions of what a model saw, or of its map if it has none.
    Those that are nearly the whole area or nearly an earlier one are left out."""
    regions = seen.regions
    if not regions and seen.heat is not None:
        regions = _regions(seen.heat, seen.area)
    kept: list[images.Box] = []
    for region in regions:
        if all(_overlap(region, other) < TOO_ALIKE for other in (seen.area, *kept)):
            kept.append(region)
    return tuple(kept)


def standing_out(model: Model, source: images.Source) -> tuple[images.Box, ...]:
    """Up to REGIONS parts of an image to which the network of a model answers strongly, strongest
    first, in pixels of the upright image; none overlaps another. () where nothing stands out, where
    what does fills the image, and for networks that have no map of where they answer.

    Objects are found as by SCDA (Wei et al. 2017, Selective Convolutional Descriptor Aggregation):
    where the sum of a network's last map over its channels is large. The image itself and its nine
    overlapping halves are looked at, so that small things are told apart; what counts is how much
    more strongly the network answers than to a black image.
    """
    picture = images.upright(source)
    maps = model.activation(_views(picture, model.preprocessing.size))
    if maps is None:
        return ()
    black = _strength(np.repeat(maps[-1:], len(maps) - 1, 0))
    found = _strength(maps[:-1]) - black
    low, high = np.quantile(found, (0.25, 0.98))
    if high <= STANDS_OUT * np.quantile(black, 0.98):
        return ()
    height, width = picture.height, picture.width
    parts = sorted(_parts(found > (low + high) / 2), key=lambda part: -found[part].sum())
    kept: list[images.Box] = []
    for rows, columns in parts:
        cells = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
        x1, y1, x2, y2 = to_pixels(cells, found.shape, (height, width))
        box = (x1, y1, x2 - x1, y2 - y1)
        share = box[2] * box[3] / (width * height)
        is_part = len(rows) >= LEAST * found.size and share < MOST
        if is_part and not any(_overlap(box, other) for other in kept):
            kept.append(box)
    return tuple(kept[:REGIONS])


def find_regions(activation: NDArray[np.floating], count: int) -> list[Cells]:
    """CMBH's Algorithm 1: the boxes of `count` regions of a map A [h, w], strongest first.

    For m = 1 .. count: of the cells above a (0.9 - 0.05 m), where a is the maximum of A, the
    largest connected part gives the box; cells are connected that share a side, and of equally
    large parts the first one counts. Then each value A above the threshold is replaced by a - A.
    Where no cell is above the threshold, which takes a map without positive values, the box is the
    whole map. Raises ModelError when SciPy is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise ModelError("the regions of CMBH need SciPy: run pip install scipy") from None

    values = activation.astype(np.float64)
    height, width = values.shape
    boxes = []
    for m in range(1, count + 1):
        maximum = values.max()
        above = values > maximum * (0.9 - 0.05 * m)
        parts, number = ndimage.label(above)
        if number == 0:
            boxes.append((0, 0, width - 1, height - 1))
            continue
        largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
        rows, columns = np.nonzero(parts == largest)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())))
        values = np.where(above, maximum - values, values)
    return boxes


def to_pixels(
    box: Cells, map_size: tuple[int, ...], size: tuple[float, float]
) -> tuple[float, float, float, float]:
    """A box of cells of a map of (height, width) as x1, y1, x2, y2 in pixels of an image of
    (height, width), x2 and y2 exclusive."""
    x_scale, y_scale = size[1] / map_size[1], size[0] / map_size[0]
    return box[0] * x_scale, box[1] * y_scale, (box[2] + 1) * x_scale, (box[3] + 1) * y_scale


def _regions(activation: NDArray[np.float32], area: images.Box) -> tuple[images.Box, ...]:
    """The regions of a map that covers `area`, in pixels of the image."""
    left, top, width, height = area
    regions = []
    for box in find_regions(activation, REGIONS):
        x1, y1, x2, y2 = to_pixels(box, activation.shape, (height, width))
        regions.append((left + x1, top + y1, x2 - x1, y2 - y1))
    return tuple(regions)


def _views(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """A picture, its nine overlapping halves row by row, and black: [11, side, side, 3]."""
    width, height = picture.size
    boxes = [(0.0, 0.0, float(width), float(height))]
    for top in height * HALVES:
        boxes += [(left, top, left + width / 2, top + height / 2) for left in width * HALVES]
    size, bicubic = (side, side), Image.Resampling.BICUBIC
    views = [np.asarray(picture.resize(size, bicubic, box)) for box in boxes]
    return np.stack([*views, np.zeros_like(views[0])])


def _strength(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps [10, h, w] of a picture and its halves -> how strongly the network answers to each of
    CELLS x CELLS places: WHOLE of it as in the whole picture, the rest as in the halves, of which
    each counts most in its middle."""
    half = CELLS // 2
    ramp = np.minimum(np.arange(1, half + 1), np.arange(half, 0, -1))
    weight = np.outer(ramp, ramp).astype(np.float32)
    total, weights = np.zeros((2, CELLS, CELLS), np.float32)
    places = (CELLS * HALVES).astype(int)
    for i, (y, x) in enumerate(product(places, places), start=1):
        total[y : y + half, x : x + half] += weight * _resized(maps[i], half)
        weights[y : y + half, x : x + half] += weight
    return WHOLE * _resized(maps[0], CELLS) + (1 - WHOLE) * total / weights


def _resized(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A map [h, w] at [side, side]."""
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR))


def _parts(above: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows and columns of each connected part of the True cells of a map; cells are connected that
    share a side."""
    left = set(zip(*(places.tolist() for places in np.nonzero(above)), strict=True))
    parts = []
    while left:
        waiting = [min(left)]
        left.discard(waiting[0])
        part = []
        while waiting:
            row, column = waiting.pop()
            part.append((row, column))
            beside = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}
            waiting += beside & left
            left -= beside
        rows, columns = np.array(sorted(part)).T
        parts.append((rows, columns))
    return parts


def _overlap(one: images.Box, other: images.Box) -> float:
    """The area that two boxes share over the area that they cover, in [0, 1]."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def _fired(model: Model, scores: NDArray[np.float32]) -> tuple[Characteristic, ...]:
    """The FIRED characteristics with the greatest weighted scores (inside of Eq. 12), from matching
    scores [y, k] of y classes with k characteristics each."""
    logits = model.record["config"]["alpha"] * scores.sum(1)
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    weighted = probability[:, None] * scores
    order = np.argsort(-weighted, axis=None, kind="stable")[:FIRED]
    places = [divmod(int(i), scores.shape[1]) for i in order]
    names = model.record["classes"]
    return tuple(
        Characteristic(names[c], j, float(scores[c, j]), float(probability[c])) for c, j in places
    )
