from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from wingbar.data import alterations
from wingbar.data.alterations import Change, copy_of, view_of

CHANGES = (
    *alterations.COPYING,
    *alterations.VIEWING,
    alterations.scaled,
    alterations.blurred,
    alterations.compressed,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("size", [(96, 72), (1, 1), (1, 9)])
def test_a_change_depends_on_the_generator_alone(change: Change, size: tuple[int, int]) -> None:
    image = picture(0, size)
    before = image.tobytes()
    once, again = (change(image, np.random.default_rng(3)) for _ in range(2))
    assert (once.mode, min(once.size) >= 1) == ("RGB", True)
    assert once.tobytes() == again.tobytes()
    assert image.tobytes() == before


def test_a_copy_stays_near_and_a_view_goes_far() -> None:
    far = []
    for seed in range(12):
        image = picture(seed)
        for alter in (copy_of, view_of):
            made = alter(image, np.random.default_rng(seed)).resize(image.size)
            far.append(np.abs(np.asarray(made, float) - np.asarray(image, float)).mean())
    copies, views = far[::2], far[1::2]
    assert max(copies) < 25 < max(views)
    assert np.mean(copies) < np.mean(views)


def test_a_crop_keeps_30_percent_and_a_trim_nearly_all() -> None:
    image = Image.new("RGB", (200, 100))
    cropped = alterations.cropped(image, np.random.default_rng(0))
    assert cropped.width * cropped.height == pytest.approx(0.3 * 200 * 100, rel=0.03)
    for seed in range(20):
        trimmed = alterations.trimmed(image, np.random.default_rng(seed))
        assert 168 <= trimmed.width <= 191
        assert 84 <= trimmed.height <= 96
