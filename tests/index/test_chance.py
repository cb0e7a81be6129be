from __future__ import annotations

import numpy as np
import pytest

from wingbar.hamming.codes import Codes, Ids, pack
from wingbar.index.chance import FEWEST, WITHIN, Chance, measure
from wingbar.model.itq import unit


def gallery(count: int, copies: int = 0, dim: int = 32, bits: int = 48) -> tuple[Codes, np.ndarray]:
    """Random features with codes of them; `copies` of the items are near copies of others."""
    rng = np.random.default_rng(count)
    features = unit(rng.standard_normal((count, dim)))
    if copies:
        noise = unit(rng.standard_normal((copies, dim))) * 0.02
        features[-copies:] = unit(features[:copies] + noise)
    directions = rng.standard_normal((dim, bits))
    return Codes(pack(features @ directions >= 0), bits), features.astype(np.float16)


def measured(count: int, copies: int = 0) -> Chance:
    codes, features = gallery(count, copies)

    def features_of(ids: Ids) -> np.ndarray:
        return features[ids]

    return measure(codes, features_of)


def test_the_radius_lets_a_small_share_of_the_pairs_through() -> None:
    codes, _ = gallery(1200)
    found = measured(1200)
    distances = np.concatenate(
        [codes.distances(codes.of(np.array([i])).ravel())[i + 1 :] for i in range(1200)]
    )
    assert (distances <= found.radius).mean() <= WITHIN * 1.2
    assert (distances <= found.radius + 1).mean() > WITHIN * 0.8
    assert found.sample == 300


def test_a_small_gallery_lets_more_through() -> None:
    """Where a few copies are a large share of all pairs, they must not become the limit."""
    assert measured(1200).radius < measured(60).radius == 24


def test_copies_do_not_move_the_limits_much() -> None:
    """A third of the gallery is copies: still they are outliers of chance."""
    clean, mixed = measured(600), measured(600, 200)
    assert mixed.min_score == pytest.approx(clean.min_score, abs=0.1)
    assert abs(mixed.radius - clean.radius) <= 2
    assert mixed.copy_score < 0.995


def test_a_larger_gallery_needs_more_likeness() -> None:
    assert measured(200).min_score < measured(5000).min_score < measured(5000).copy_score


def test_a_few_items_give_constants() -> None:
    found = measured(FEWEST - 1)
    assert (found.sample, found.radius) == (0, 16)


def test_items_that_are_all_the_same() -> None:
    codes = Codes(np.zeros((100, 1), np.uint64), 16)
    features = np.tile(np.array([1.0, 0.0]), (100, 1)).astype(np.float16)
    found = measure(codes, lambda ids: features[ids])
    assert (found.radius, found.same_code) == (0, 99.0)
    assert 0.3 <= found.min_score <= found.copy_score <= 0.99
