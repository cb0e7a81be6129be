"""Whether two pictures show the same pixels: scaled, recompressed, or one of them a part of the
other.

Both pictures are made small and rid of slow changes of light. The smaller one is laid over the
larger one at every place and at several scales (normalised cross-correlation by FFT), the best
place is refined, and what lies over each other there is compared: the correlation of the details,
and the difference of the colours. Turned, mirrored and distorted copies are not recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wingbar import images

SIDE = 128  # longer side of a picture in memory, in pixels
GRID = 48  # longer side while places are searched for
SMALLEST = 0.4  # shorter sides of a part than this share of the whole are not searched for
STEP = 1.07  # between the scales that are searched
PROMISING = 0.6  # correlation on the grid from which a place is refined
CERTAIN = 0.97  # agreement of the whole frames from which no part is looked for
LIGHT = 0.12  # radius of the mean that is taken as light, as a share of the longer side
MOST_COLOUR = 0.05  # largest mean difference of colour of copies, as a share of a channel's range
MOST_STRETCH = 1.05  # ratio of aspects up to which two pictures may be one frame

Float32 = NDArray[np.float32]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue


class Overlap(NamedTuple):
    """How two pictures lie over each other.

    agreement: correlation of the details, from -1 to 1; 1 where all are the same.
    colour: mean difference of the colours, from 0 to 1.
    share: share of the larger picture's area that the other one shows; 1 for the same frame.
    """

    agreement: float
    colour: float
    share: float


NOWHERE = Overlap(-1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Small:
    """A picture made small.

    pixels: [H, W, 3] uint8, the longer side SIDE.
    size: width and height of the upright picture itself.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]

    @classmethod
    def of(cls, source: images.Source) -> Small:
        """Read a picture. Raises ImageError as `images.load` does."""
        shown, size = images.small(source, SIDE)
        return cls(np.asarray(shown), size)

    @cached_property
    def grey(self) -> Image.Image:
        """The picture in grey."""
        return Image.fromarray(self.pixels).convert("L")

    @cached_property
    def grid(self) -> Float32:
        """The details of the picture with the longer side GRID: [h, w]."""
        return _details(_resized(self.grey, GRID))

    @cached_property
    def frame(self) -> tuple[Float32, Float32]:
        """All of the picture with the longer side GRID: its details in unit length [h, w], and its
        colours [h, w, 3]."""
        colours = _colours(Image.fromarray(self.pixels), _grid_size(self.pixels), None)
        return _unit(_details(colours @ _GREY)), colours

    @cached_property
    def spectrum(self) -> NDArray[np.complex64]:
        """FFT of the grid, padded to GRID x GRID."""
        return np.fft.rfft2(self.grid, (GRID, GRID)).astype(np.complex64)

    @cached_property
    def parts(self) -> tuple[list[tuple[int, int]], NDArray[np.complex64]]:
        """The picture as a part of another one, at S scales, the largest first: height and width on
        the other one's grid, and the FFT of its details in unit length
        [S, GRID, GRID // 2 + 1]."""
        shapes, spectra = [], []
        longer = float(GRID)
        while longer >= SMALLEST * GRID:
            details = _unit(_details(_resized(self.grey, round(longer))))
            shapes.append((details.shape[0], details.shape[1]))
            spectra.append(np.conj(np.fft.rfft2(details, (GRID, GRID))).astype(np.complex64))
            longer /= STEP
        return shapes, np.stack(spectra)

    @cached_property
    def sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of the grid and of its squares over all rectangles from the corner."""
        return _integral(self.grid), _integral(np.square(self.grid))


def overlap(one: Small, other: Small) -> Overlap:
    """How two pictures lie over each other best, whichever is the larger; NOWHERE if they do
    not."""
    found = []
    aspects = sorted((one.size[0] / one.size[1], other.size[0] / other.size[1]))
    if aspects[1] / aspects[0] <= MOST_STRETCH:
        whole = (0.0, 0.0, float(one.grey.width), float(one.grey.height))
        if one.frame[0].shape == other.frame[0].shape:
            found.append(_of_frames(one.frame, other.frame, 1.0))
        else:
            found.append(_compared(one, other, whole))
        if found[0].agreement >= CERTAIN:
            return found[0]
    found += [_as_part(one, other), _as_part(other, one)]
    return max(found, key=lambda overlap: overlap.agreement)


def _as_part(whole: Small, part: Small) -> Overlap:
    """The best place of `part` in `whole`."""
    height, width = whole.grid.shape
    shapes, spectra = part.parts
    maps = np.fft.irfft2(spectra * whole.spectrum, (GRID, GRID))
    best, at = PROMISING, None
    sums, squares = whole.sums
    for shape, correlation in zip(shapes, maps, strict=True):
        h, w = shape
        if h > height or w > width:
            continue
        area = h * w
        total = _windows(sums, h, w)
        energy = np.maximum(_windows(squares, h, w) - total**2 / area, 1e-4 * area)
        matched = correlation[: height - h + 1, : width - w + 1] / np.sqrt(energy)
        place = int(matched.argmax())
        if matched.flat[place] > best:
            best = float(matched.flat[place])
            y, x = divmod(place, matched.shape[1])
            at = (x, y, w, h)
    if at is None:
        return NOWHERE
    scale = whole.grey.width / width
    x, y, w, h = (value * scale for value in at)
    # the part's own aspect, around the same middle
    aspect = part.grey.height / part.grey.width
    return _refined(whole, part, (x + w / 2, y + h / 2, w), aspect)


def _refined(
    whole: Small, part: Small, place: tuple[float, float, float], aspect: float
) -> Overlap:
    """The best place near (x and y of the middle, width), in pixels of `whole`."""

    def box_of(x: float, y: float, width: float) -> tuple[float, float, float, float]:
        width = min(width, whole.grey.width, whole.grey.height / aspect)
        height = width * aspect
        left = min(max(x - width / 2, 0.0), whole.grey.width - width)
        top = min(max(y - height / 2, 0.0), whole.grey.height - height)
        return left, top, left + width, top + height

    target = _unit(_details(_resized(part.grey, GRID)))
    size = target.shape[::-1]

    def correlation(place: tuple[float, float, float]) -> float:
        crop = whole.grey.resize(size, Image.Resampling.BILINEAR, box_of(*place))
        return float((_unit(_details(np.asarray(crop, np.float32))) * target).sum())

    best = correlation(place)
    step = 2.0
    while step > 0.3:
        moved = False
        for dx, dy, grow in (
            (step, 0, 1),
            (-step, 0, 1),
            (0, step, 1),
            (0, -step, 1),
            (0, 0, 1 + step / 50),
            (0, 0, 1 - step / 50),
        ):
            nearby = (place[0] + dx, place[1] + dy, place[2] * grow)
            found = correlation(nearby)
            if found > best:
                best, place, moved = found, nearby, True
        if not moved:
            step /= 2
    return _compared(whole, part, box_of(*place))


def _compared(whole: Small, part: Small, box: tuple[float, float, float, float]) -> Overlap:
    """A box of `whole` against all of `part`."""
    colours = _colours(Image.fromarray(whole.pixels), _grid_size(part.pixels), box)
    area = (box[2] - box[0]) * (box[3] - box[1])
    share = area / (whole.grey.width * whole.grey.height)
    return _of_frames((_unit(_details(colours @ _GREY)), colours), part.frame, share)


def _of_frames(
    one: tuple[Float32, Float32], other: tuple[Float32, Float32], share: float
) -> Overlap:
    """Two frames of equal shape laid over each other."""
    colour = float(np.abs(one[1] - other[1]).mean()) / 255
    return Overlap(float((one[0] * other[0]).sum()), colour, share)


def _grid_size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of a picture with the longer side GRID."""
    height, width = pixels.shape[:2]
    scale = GRID / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _colours(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> Float32:
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box), np.float32)


def _resized(grey: Image.Image, longer: int) -> Float32:
    scale = longer / max(grey.size)
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    return np.asarray(grey.resize(size, Image.Resampling.BILINEAR), np.float32)


def _details(grey: Float32) -> Float32:
    """Grey [h, w] without slow changes of light: less the mean of the square around each pixel."""
    radius = max(1, round(LIGHT * max(grey.shape)))
    padded = np.pad(grey, radius, mode="edge")
    means = _windows(_integral(padded), 2 * radius + 1, 2 * radius + 1) / (2 * radius + 1) ** 2
    return (grey - means).astype(np.float32)


def _unit(details: Float32) -> Float32:
    centred = details - details.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def _integral(values: Float32) -> NDArray[np.float64]:
    out = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    out[1:, 1:] = values.astype(np.float64).cumsum(0).cumsum(1)
    return out


def _windows(integral: NDArray[np.float64], h: int, w: int) -> NDArray[np.float64]:
    """Sums over every window of h x w."""
    return integral[h:, w:] - integral[:-h, w:] - integral[h:, :-w] + integral[:-h, :-w]
