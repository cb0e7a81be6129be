from __future__ import annotations

import numpy as np

from wingbar.model.saliency import find_regions, in_image


def test_algorithm_1_on_a_map_worked_by_hand() -> None:
    """Greatest value 10: m = 1 takes what is above 8.5, which has two parts; the larger is the L of
    three nines and a ten. All five cells are turned over (10 -> 0, 9 -> 1). Greatest is then 8;
    above 6.4 is the pair at the right edge. It becomes 0 and 1; then the greatest is 4, above 3 one
    cell at the bottom left."""
    a = np.zeros((7, 7))
    a[1, 1], a[2, 1], a[3, 1], a[3, 2] = 10, 9, 9, 9
    a[5, 5] = 9  # alone
    a[0, 6], a[1, 6] = 8, 7
    a[6, 0] = 4
    before = a.copy()
    assert find_regions(a, 3) == [(1, 1, 2, 3), (6, 0, 6, 1), (0, 6, 0, 6)]
    np.testing.assert_array_equal(a, before)


def test_algorithm_1_turns_over_every_pixel_above_the_threshold() -> None:
    """5 at one cell; 4.5 diagonally to it is above 4.25 but no neighbour: both are suppressed, the
    first part wins. With a - A = 0.5 left there, m = 2 takes the 4 cells of 3 (above 2.4); m = 3
    has a = 0.5 (above 0.375)."""
    a = np.full((7, 7), 0.1)
    a[2, 2], a[3, 3] = 5, 4.5
    a[5:7, 0:2] = 3
    assert find_regions(a, 3) == [(2, 2, 2, 2), (0, 5, 1, 6), (3, 3, 3, 3)]


def test_algorithm_1_thresholds_fall_with_m() -> None:
    """0.85, 0.80, 0.75, 0.70 of the greatest value, each strictly: a row of cells of 100, 86, 85
    and so on."""
    a = np.zeros((7, 7))
    a[0, :4] = [100, 86, 85, 80]
    assert find_regions(a, 1) == [(0, 0, 1, 0)]  # 85 is not above 85
    assert find_regions(a, 2)[1] == (2, 0, 3, 0)  # of 85, 0.8 is 68


def test_a_flat_or_negative_map_gives_the_whole_picture() -> None:
    assert find_regions(np.zeros((7, 7)), 2) == [(0, 0, 6, 6)] * 2
    assert find_regions(np.full((4, 5), -1.0), 1) == [(0, 0, 4, 3)]
    assert find_regions(np.full((4, 5), 2.0), 1) == [(0, 0, 4, 3)]


def test_boxes_in_image_coordinates() -> None:
    assert in_image((1, 0, 2, 6), (7, 7), (224, 224)) == (32, 0, 96, 224)
    assert in_image((0, 1, 0, 1), (2, 4), (100, 80)) == (0, 50, 20, 100)
