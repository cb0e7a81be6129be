"""A small data set that needs no download: drawn birds of eight species.

The species differ by a wing bar, an eye ring and the colour of the bill; everything else varies
freely: place, size, direction, plumage, background. So two species differ in under 2 % of the
pixels, which is what a fine-grained method is for.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SPECIES = tuple(
    "-".join(marks)
    for marks in product(("plain", "barred"), ("bare", "ringed"), ("dark", "orange"))
)
"""Names of the species of birds: wing, eye, bill."""

_OVERSAMPLING = 4  # birds are drawn this many times larger, so that edges are smooth

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""


def write_birds(
    folder: str | os.PathLike[str], train: int = 40, test: int = 10, size: int = 96, seed: int = 0
) -> Path:
    """Draw `train` and `test` pictures of each species as PNG files of `size` pixels into
    folder/train/SPECIES and folder/test/SPECIES; returns `folder`.

    No two pictures show the same bird. Raises OSError if the folder cannot be written.
    """
    root = Path(folder)
    for species, name in enumerate(SPECIES):
        for part, count, first in (("train", train, 0), ("test", test, train)):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(first, first + count):
                bird = draw_bird(species, (seed * 1_000_003 + species) * 100_003 + i, size)
                Image.fromarray(bird).save(root / part / name / f"{i:05}.png")
    return root


def draw_bird(species: int, seed: int, size: int = 96) -> NDArray[np.uint8]:
    """A picture [size, size, 3] of a bird of SPECIES[species]. The same `seed` gives the same bird
    for every species but for the marks that tell them apart.

    Raises IndexError for a species that does not exist.
    """
    wing, eye, bill = SPECIES[species].split("-")
    rng = np.random.default_rng(seed)
    side = size * _OVERSAMPLING
    picture = Image.fromarray(_background(rng, side))
    pen = ImageDraw.Draw(picture)
    unit = side * rng.uniform(0.30, 0.40)  # half of the bird's length
    x, y = side * rng.uniform(0.46, 0.54, 2)
    body, back, belly = _plumage(rng)
    tilt = rng.uniform(-0.06, 0.06)

    def at(dx: float, dy: float) -> tuple[float, float]:
        return x + unit * dx, y + unit * (dy + tilt * dx)

    def ellipse(dx: float, dy: float, rx: float, ry: float, colour: Colour) -> None:
        cx, cy = at(dx, dy)
        pen.ellipse([cx - unit * rx, cy - unit * ry, cx + unit * rx, cy + unit * ry], fill=colour)

    leg = round(unit * 0.035)
    for dx in (0.02, 0.16):
        pen.line([at(dx, 0.38), at(dx + 0.03, 0.78)], fill=(70, 55, 45), width=leg)
    pen.line([at(-1.3, 0.80), at(1.3, 0.78)], fill=(92, 70, 50), width=2 * leg)  # branch
    tail = [at(-0.55, -0.05), at(-1.12, 0.16), at(-1.08, 0.30), at(-0.50, 0.22)]
    pen.polygon(tail, fill=back)
    ellipse(0.0, 0.08, 0.62, 0.40, body)
    ellipse(0.06, 0.20, 0.46, 0.26, belly)
    ellipse(0.52, -0.30, 0.27, 0.25, body)  # head
    pen.polygon(
        [at(0.30, 0.05), at(-0.10, -0.16), at(-0.72, 0.10), at(-0.30, 0.26), at(0.10, 0.24)],
        fill=back,
    )  # wing
    if wing == "barred":
        pen.line([at(0.02, -0.07), at(-0.16, 0.20)], fill=(240, 238, 228), width=round(unit * 0.06))
    pen.polygon(
        [at(0.76, -0.35), at(1.00, -0.26), at(0.76, -0.22)],
        fill=(224, 128, 32) if bill == "orange" else (60, 52, 50),
    )
    if eye == "ringed":
        ellipse(0.58, -0.34, 0.085, 0.085, (244, 242, 232))
    ellipse(0.58, -0.34, 0.045, 0.045, (18, 16, 16))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    small = np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float64)
    return np.clip(small + rng.normal(scale=3.0, size=small.shape), 0, 255).round().astype(np.uint8)


def _background(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Blurred foliage [side, side, 3]: blobs of greens, browns and sky."""
    coarse = rng.uniform(90, 200, (6, 6, 1)) * np.array([0.85, 1.0, 0.8]) + rng.normal(
        scale=18, size=(6, 6, 3)
    )
    blobs = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(blobs.filter(ImageFilter.GaussianBlur(side / 60)))


def _plumage(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    """Colours of the body, of the back with wing and tail, and of the belly."""
    base = rng.uniform(90, 170) * np.array([1.0, rng.uniform(0.82, 1.0), rng.uniform(0.6, 0.95)])
    darker, lighter = rng.uniform(0.5, 0.7), rng.uniform(1.15, 1.4)
    return _colour(base), _colour(base * darker), _colour(base * lighter)


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = np.clip(values, 0, 225).astype(int).tolist()
    return red, green, blue
