"""Altered copies of an image, by which a network learns to find one image among many."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from wingbar.data.alterations import Change, as_jpeg, cover

_SHARE = 0.4  # of the versions that each change takes part in
_GREY = (128, 128, 128)


def version(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random altered copy of an RGB image: each of CHANGES, in their order, takes part in 0.4 of
    the copies."""
    for change in CHANGES:
        if rng.random() < _SHARE:
            image = change(image, rng)
    return image


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotated by up to 45 degrees in either direction, on grey."""
    angle = rng.uniform(-45, 45)
    return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=_GREY)


def distorted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each corner moved inwards by up to a fifth of the width and height."""
    width, height = image.size
    x, y = rng.uniform(0, 0.2, 4) * width, rng.uniform(0, 0.2, 4) * height
    quad = (x[0], y[0], x[1], height - y[1], width - x[2], height - y[2], width - x[3], y[3])
    return image.transform(image.size, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)


def covered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A rectangle of one colour, each of its sides 0.2 to 0.6 of the image's."""
    width, height = (max(1, int(side * rng.uniform(0.2, 0.6))) for side in image.size)
    return cover(image, width, height, rng)


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian, with a standard deviation of up to 2.5 % of the short side."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.025) * min(image.size)))


def shrunk(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To 0.3 to 1 of each side."""
    share = rng.uniform(0.3, 1)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BILINEAR)


def compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 10 to 70."""
    return as_jpeg(image, int(rng.integers(10, 71)))


CHANGES: tuple[Change, ...] = (turned, distorted, covered, blurred, shrunk, compressed)
