from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_whitening import clusters
from wingbar.hamming.codes import pack, unpack
from wingbar.model import averaging
from wingbar.model.averaging import (
    POWER,
    averaged,
    averages_for_classes,
    codes_of_averages,
    joined,
    nearest,
    plain_of,
    without_average,
)
from wingbar.model.fitting import FitOptions, fit
from wingbar.model.itq import unit

CLASSES = FitOptions(purpose="classes", codes="whitened")


def features(n: int = 90) -> np.ndarray:
    x = clusters(each=15, classes=6)
    return unit(x[:n]).astype(np.float32)


@pytest.mark.parametrize("own", [True, False])
def test_the_nearest_by_sorting_all(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "_QUERIES", 7)
    monkeypatch.setattr(averaging, "_ITEMS", 13)
    gallery = features()
    rows = np.arange(20, 50)
    found = nearest(gallery[rows], gallery, rows if own else None, 5)
    for i, row in enumerate(rows):
        cosines = gallery @ gallery[row]
        order = [j for j in np.argsort(-cosines, kind="stable") if not own or j != row][:5]
        assert found.rows[i].tolist() == order
        np.testing.assert_allclose(found.cosines[i], cosines[order], atol=1e-6)


def test_a_gallery_of_one_has_no_neighbours() -> None:
    alone = features(1)
    assert nearest(alone, alone, np.array([0])).rows.shape == (1, 0)
    assert nearest(alone, alone).rows.tolist() == [[0]]
    np.testing.assert_allclose(averaged(alone, nearest(alone, alone, np.array([0])), alone), alone)


def test_averages_by_the_formula() -> None:
    gallery = features()
    near = nearest(gallery[:4], gallery, np.arange(4), 8)
    found = averaged(gallery[:4], near, gallery)
    for i in range(4):
        total = gallery[i].astype(np.float64)
        for row, cosine in zip(near.rows[i], near.cosines[i], strict=True):
            total = total + max(float(cosine), 0.0) ** POWER * gallery[row]
        np.testing.assert_allclose(found[i], total / np.linalg.norm(total), atol=1e-5)


def test_what_is_stored_can_be_taken_apart() -> None:
    plain = features()
    average = averaged(plain, nearest(plain, plain, np.arange(90)), plain)
    stored = joined(average, plain).astype(np.float16)
    np.testing.assert_allclose(np.linalg.norm(stored.astype(np.float32), axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(plain_of(stored), plain, atol=2e-3)
    cosines = (joined(average, plain) @ joined(plain[:1], plain[:1])[0]).ravel()
    np.testing.assert_allclose(
        cosines, 0.8 * average @ plain[0] + 0.2 * plain @ plain[0], atol=1e-5
    )


def test_items_without_an_average_are_told_apart() -> None:
    """Also where numbers are too small for float16 to be exact."""
    raw = features()
    model = fit(raw, 8, 0, CLASSES).rotation
    stored = model.apply(raw)[1]
    stored[:, [3, 19]] *= 1e-5
    stored[:, 19] = stored[:, 3] / 2
    halves = stored.astype(np.float16)
    assert without_average(halves).tolist() == list(range(90))
    plain = plain_of(halves)
    halves[10:20] = joined(
        averaged(plain[10:20], nearest(plain[10:20], plain, np.arange(10, 20)), plain),
        plain[10:20],
    )
    assert without_average(halves).tolist() == [*range(10), *range(20, 90)]


def test_codes_of_averages_are_those_that_a_picture_would_get() -> None:
    """A picture whose plain feature is its own average has the code that the rotation gives it."""
    raw = features()
    rotation = fit(raw, 8, 0, CLASSES).rotation
    logits, stored = rotation.apply(raw)
    clear = np.abs(logits) > 1e-3 * np.abs(logits).max()
    made = unpack(codes_of_averages(rotation, plain_of(stored)), 8)
    np.testing.assert_array_equal(made[clear], (logits >= 0)[clear])
    assert rotation.dim == 2 * 16


def test_averages_find_more_of_a_class() -> None:
    raw = features()
    rotation = fit(raw, 12, 0, CLASSES).rotation
    plain = plain_of(rotation.apply(raw)[1])
    average = averages_for_classes(plain, plain, np.arange(90))

    def right(packed: np.ndarray) -> float:
        signs = unpack(packed, 12) * 2.0 - 1
        order = np.argsort(-(signs @ signs.T), axis=1, kind="stable")[:, 1:11]
        return float((order // 15 == np.arange(90)[:, None] // 15).mean())

    assert right(codes_of_averages(rotation, average)) > right(pack(rotation.apply(raw)[0] >= 0))


def test_averages_of_later_items_leave_the_others_and_use_theirs() -> None:
    plain = features()
    kept = unit(plain + plain[::-1])
    rows = np.array([3, 80])
    once = averaged(plain[rows], nearest(plain[rows], plain, rows), plain)
    gallery = kept.copy()
    gallery[rows] = once
    expected = averaged(once, nearest(once, gallery, rows), gallery)
    np.testing.assert_array_equal(averages_for_classes(plain, kept, rows), expected)
    np.testing.assert_array_equal(kept, unit(plain + plain[::-1]))
