from __future__ import annotations

import numpy as np
import pytest

from wingbar.evaluation.metrics import expected_ap as ap_of_ranking
from wingbar.model.class_codes import Bits, Likely, assign, codes_by_votes, expected_ap


def drawn(n: int, classes: int, bits: int) -> tuple[Likely, Bits, np.ndarray]:
    """Images with three likely classes each, codes at random, and sizes of the classes, one of
    them empty."""
    rng = np.random.default_rng(1)
    likely = np.stack([rng.permutation(classes)[:3] for _ in range(n)])
    counts = rng.integers(1, 6, classes)
    counts[0] = 0
    return (
        Likely(likely, rng.dirichlet([2, 1, 0.5], n)),
        rng.random((classes, bits)) < 0.5,
        counts,
    )


def by_hand(likely: Likely, codes: Bits, counts: np.ndarray) -> float:
    """The mean over images of the AP of each likely class, in a gallery that is written out."""
    gallery = np.repeat(np.arange(len(codes)), counts)
    mean = 0.0
    for classes, shares in zip(likely.classes, likely.shares, strict=True):
        own = []
        for j in range(codes.shape[1]):
            votes = sum(
                share if codes[c, j] else -share for c, share in zip(classes, shares, strict=True)
            )
            own.append(votes >= 0)
        distance = np.array([sum(codes[c] != own) for c in gallery], float)
        for c, share in zip(classes, shares, strict=True):
            if counts[c]:
                mean += share * ap_of_ranking(distance, gallery == c) / len(likely.classes)
    return mean


def test_expected_ap_is_that_of_the_gallery_written_out() -> None:
    likely, codes, counts = drawn(12, 6, 5)
    assert expected_ap(likely, codes, counts) == pytest.approx(by_hand(likely, codes, counts))


def test_a_sure_image_has_the_code_of_its_class() -> None:
    codes = np.array([[True, False, True], [False, False, True]])
    likely = Likely(np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert codes_by_votes(likely, codes).tolist() == [
        [False, False, True],
        [True, False, True],  # a draw is a 1
    ]


def test_classes_that_are_confused_get_codes_close_together() -> None:
    """Sixteen classes in pairs, which the network cannot tell apart from each other."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 16, 300)
    likely = Likely(np.stack([first, first ^ 1], 1), np.tile([0.55, 0.45], (300, 1)))
    counts = np.full(16, 10)
    start = rng.random((16, 8)) < 0.5
    start[3] = start[9]  # two that share a code
    found = assign(likely, start, counts, np.random.default_rng(0))
    assert expected_ap(likely, found, counts) > expected_ap(likely, start, counts) + 0.1
    distances = (found[:, None] != found[None]).sum(2)
    partner = distances[np.arange(16), np.arange(16) ^ 1]
    others = [distances[i, j] for i in range(16) for j in range(16) if j not in (i, i ^ 1)]
    assert partner.min() >= 1
    assert partner.max() < min(others)


def test_the_order_of_changes_determines_the_codes() -> None:
    likely, codes, counts = drawn(30, 6, 5)
    before = codes.copy()
    one, same = (assign(likely, codes, counts, np.random.default_rng(4)) for _ in range(2))
    assert (one == same).all()
    assert (codes == before).all()
    assert by_hand(likely, one, counts) >= by_hand(likely, codes, counts)


def test_without_images_the_codes_stay() -> None:
    _, codes, counts = drawn(1, 6, 5)
    nothing = Likely(np.zeros((0, 3), np.int64), np.zeros((0, 3)))
    assert assign(nothing, codes, counts, np.random.default_rng(0)) is codes
