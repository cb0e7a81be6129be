"""Altered copies of a picture, to measure how well the original is found by them.

Training draws its own (training/versions.py), so that no network is measured by what it was
trained with. Pictures are RGB; what is random is drawn from the generator that is given.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """30 % of the area, at a random place, with the image's aspect ratio."""
    return _part(image, float(np.sqrt(0.3)), rng)


def trimmed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """85 to 95 % of each side, at a random place."""
    return _part(image, rng.uniform(0.85, 0.95), rng)


def scaled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """0.4 of each side."""
    return image.resize(
        (max(1, int(image.width * 0.4)), max(1, int(image.height * 0.4))), Image.Resampling.BICUBIC
    )


def rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """By 10 to 40 degrees in either direction, on grey."""
    angle = rng.uniform(10, 40) * rng.choice([-1, 1])
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))


def perspective(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each corner moved inwards by up to a fifth of the width and height."""
    width, height = image.size
    corners = np.array([[0, 0], [0, height], [width, height], [width, 0]], float)
    inwards = (
        np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
        * rng.uniform(0, 0.2, (4, 2))
        * [width, height]
    )
    quad = (corners + inwards).ravel().tolist()
    return image.transform(image.size, Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def covered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A quarter of the area covered by a rectangle of one colour."""
    return cover(image, image.width // 2, image.height // 2, rng)


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian, with a standard deviation of 2 % of the short side."""
    return image.filter(ImageFilter.GaussianBlur(0.02 * min(image.size)))


def tinted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each colour made brighter or darker by up to a tenth."""
    factors = rng.uniform(0.9, 1.1, 3)
    return Image.fromarray((np.asarray(image) * factors).clip(0, 255).round().astype(np.uint8))


def compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 20."""
    return as_jpeg(image, 20)


def passed_on(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """0.4 to 0.8 of each side, as a JPEG of quality 30 to 70."""
    share = rng.uniform(0.4, 0.8)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return as_jpeg(image.resize(size, Image.Resampling.BICUBIC), int(rng.integers(30, 71)))


COPYING: tuple[Change, ...] = (trimmed, tinted, passed_on)
"""What happens to a picture on its way through the world, one after the other."""

VIEWING: tuple[Change, ...] = (cropped, rotated, perspective, covered)
"""What tells two pictures of one thing apart, as far as one picture can show it."""


def copy_of(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A copy as one meets it: all of COPYING, in their order."""
    for change in COPYING:
        image = change(image, rng)
    return image


def view_of(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another look at the same thing: one of VIEWING, drawn."""
    return VIEWING[int(rng.integers(len(VIEWING)))](image, rng)


def cover(image: Image.Image, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A rectangle of one colour, of `width` x `height` pixels, at a random place."""
    out = image.copy()
    left, top = (
        int(rng.integers(0, image.width - width + 1)),
        int(rng.integers(0, image.height - height + 1)),
    )
    out.paste(tuple(rng.integers(0, 256, 3).tolist()), (left, top, left + width, top + height))
    return out


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What is left of an image after a JPEG of this quality."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def _part(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A `share` of each side, at a random place."""
    width, height = image.width * share, image.height * share
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (int(left), int(top), int(left + width), int(top + height))
    return image.crop((*box[:2], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
