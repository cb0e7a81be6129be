from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from wingbar.duplicates.find import is_copy
from wingbar.duplicates.pixels import NOWHERE, Small, overlap


def scene(seed: int, size: tuple[int, int] = (300, 220)) -> Image.Image:
    """A picture with shapes of many sizes, unlike any of another seed."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((size[1], size[0], 3), np.float64)
    for cells, weight in ((4, 60), (9, 40), (21, 25), (50, 15)):
        noise = rng.integers(0, 255, (cells, cells, 3)).astype(np.uint8)
        grown = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        layers += (np.asarray(grown, np.float64) - 127) * weight / 60
    return Image.fromarray((127 + layers).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def scaled(picture: Image.Image, share: float) -> Image.Image:
    size = (round(picture.width * share), round(picture.height * share))
    return picture.resize(size, Image.Resampling.BICUBIC)


WHOLE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda picture: picture,
    "smaller": lambda picture: scaled(picture, 0.3),
    "larger": lambda picture: scaled(picture, 1.8),
    "recompressed": lambda picture: jpeg(picture, 15),
    "smaller and recompressed": lambda picture: jpeg(scaled(picture, 0.5), 30),
    "sharpened": lambda picture: picture.filter(ImageFilter.SHARPEN),
}


@pytest.mark.parametrize("change", WHOLE)
def test_the_same_picture_in_another_form(change: str) -> None:
    one, other = Small.of(scene(1)), Small.of(WHOLE[change](scene(1)))
    for found in (overlap(one, other), overlap(other, one)):
        assert is_copy(found), found
        assert found.share > 0.95


@given(
    seed=st.integers(0, 50),
    share=st.floats(0.45, 0.9),
    left=st.floats(0, 1),
    top=st.floats(0, 1),
    grown=st.floats(0.5, 1.5),
)
@settings(max_examples=15, deadline=None)
def test_a_part_of_a_picture(
    seed: int, share: float, left: float, top: float, grown: float
) -> None:
    whole = scene(seed)
    width, height = round(whole.width * share), round(whole.height * share)
    x, y = round(left * (whole.width - width)), round(top * (whole.height - height))
    part = jpeg(scaled(whole.crop((x, y, x + width, y + height)), grown), 60)
    found = overlap(Small.of(part), Small.of(whole))
    assert is_copy(found), found
    assert found.share == pytest.approx(share**2, abs=0.06)


def test_a_part_of_another_shape() -> None:
    whole = scene(3)
    for box in ((20, 10, 290, 150), (100, 0, 240, 220)):
        found = overlap(Small.of(whole), Small.of(whole.crop(box)))
        area = (box[2] - box[0]) * (box[3] - box[1]) / (300 * 220)
        assert is_copy(found), (box, found)
        assert found.share == pytest.approx(area, abs=0.06)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_another_picture_is_no_copy(seed: int) -> None:
    found = overlap(Small.of(scene(seed)), Small.of(scene(seed + 20_000)))
    assert not is_copy(found), found


def test_what_is_not_recognised() -> None:
    picture = scene(5)
    changes = {
        "mirrored": picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "turned": picture.rotate(25, expand=True),
        "in other colours": Image.fromarray(np.asarray(picture)[:, :, [2, 0, 1]]),
    }
    for name, changed in changes.items():
        assert not is_copy(overlap(Small.of(picture), Small.of(changed))), name


def test_pictures_without_details() -> None:
    flat = [Small.of(Image.new("RGB", (80, 60), colour)) for colour in ("white", "black")]
    assert not is_copy(overlap(*flat))
    assert not is_copy(overlap(flat[0], Small.of(scene(1))))
    narrow = Small.of(Image.new("RGB", (2000, 3), "red"))
    assert not is_copy(overlap(narrow, Small.of(scene(1))))
    assert not is_copy(NOWHERE)
