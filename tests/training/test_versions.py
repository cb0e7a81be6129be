from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wingbar.data.alterations import Change
from wingbar.training import versions


def noise(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("change", versions.CHANGES)
def test_each_change_alters_a_copy_and_leaves_the_image(change: Change) -> None:
    image = noise()
    before = image.tobytes()
    altered = change(image, np.random.default_rng(3))
    assert altered.mode == "RGB"
    assert (altered.size, altered.tobytes()) != (image.size, before)
    assert image.tobytes() == before
    again = change(image, np.random.default_rng(3))
    assert (again.size, again.tobytes()) == (altered.size, altered.tobytes())


def test_a_cover_has_one_colour_and_the_size_it_says() -> None:
    image = noise(100, 50)
    for seed in range(20):
        altered = np.asarray(versions.covered(image, np.random.default_rng(seed)))
        changed = (altered != np.asarray(image)).any(2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert 10 <= height <= 30
        assert 20 <= width <= 60
        inside = altered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert len(np.unique(inside.reshape(-1, 3), axis=0)) == 1


def test_distortion_moves_corners_inwards_only() -> None:
    """Nothing outside the image, which would be black, comes into the picture."""
    white = Image.new("RGB", (80, 60), (255, 255, 255))
    for seed in range(20):
        altered = np.asarray(versions.distorted(white, np.random.default_rng(seed)))
        assert altered.min() == 255


def test_a_small_image_survives_every_version() -> None:
    tiny = noise(3, 2)
    for seed in range(200):
        altered = versions.version(tiny, np.random.default_rng(seed))
        assert min(altered.size) >= 1


def test_four_tenths_of_the_versions_take_part_in_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = [0, 0]

    def counted(which: int) -> Change:
        def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
            taken[which] += 1
            return image

        return change

    monkeypatch.setattr(versions, "CHANGES", (counted(0), counted(1)))
    image, rng = noise(4, 4), np.random.default_rng(0)
    for _ in range(2000):
        versions.version(image, rng)
    assert taken == pytest.approx([800, 800], abs=80)
