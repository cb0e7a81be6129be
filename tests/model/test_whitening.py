from __future__ import annotations

import numpy as np
import pytest

from wingbar.model.itq import unit
from wingbar.model.whitening import (
    RIDGE,
    RIDGE_OF_FEW,
    adapted,
    confusion,
    mutual_neighbours,
    whitening,
)


def clusters(each: int = 20, classes: int = 8, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Features [n, d] of classes that differ in the first half of the numbers, and vary far more,
    within each class, in the second half."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, dim)) * np.repeat([1.0, 0.0], dim // 2)
    noise = rng.standard_normal((classes, each, dim)) * np.repeat([0.2, 0.8], dim // 2)
    return (centres[:, None] + noise).reshape(-1, dim)


def test_mutual_neighbours_by_the_definition() -> None:
    x = unit(clusters())
    cosines = x @ x.T
    np.fill_diagonal(cosines, -2)
    near = [set(np.argsort(-row)[:4].tolist()) for row in cosines]
    expected = [
        [i, j] for i in range(len(x)) for j in range(i + 1, len(x)) if j in near[i] and i in near[j]
    ]
    assert mutual_neighbours(x, 4).tolist() == expected


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_neighbours_of_a_few(n: int) -> None:
    found = mutual_neighbours(unit(clusters()[:n]))
    assert len(found) == n * (n - 1) // 2  # everyone is among the nearest of all others


def test_whitening_by_the_formula() -> None:
    x = clusters()
    pairs = mutual_neighbours(unit(x))
    dim = x.shape[1]
    covariance = np.zeros((dim, dim))
    for i, j in pairs:
        difference = (x[i] - x[j]) / np.sqrt(2)
        covariance += np.outer(difference, difference) / len(pairs)
    ridge = (RIDGE + RIDGE_OF_FEW * dim / len(pairs)) * np.trace(covariance) / dim
    found = whitening(x, pairs)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    product = found @ (covariance + ridge * np.eye(dim)) @ found
    np.testing.assert_allclose(product, np.trace(covariance) / dim * np.eye(dim), atol=1e-9)


def test_whitened_neighbours_are_of_one_class_more_often() -> None:
    x = clusters()
    x -= x.mean(0)
    white = unit(x @ whitening(x, mutual_neighbours(unit(x))))

    def right(features: np.ndarray) -> float:
        pairs = mutual_neighbours(features)
        return float((pairs[:, 0] // 20 == pairs[:, 1] // 20).mean())

    assert right(white) > right(unit(x)) + 0.05


def test_labels_take_pairs_out_and_bring_others_in() -> None:
    x = unit(clusters())
    pairs = mutual_neighbours(x)
    labels = np.where(np.arange(160) < 60, np.arange(160) // 20, -1)
    found = adapted(pairs, labels, np.random.default_rng(0))
    one, other = labels[found.T]
    assert ((one == other) | (one < 0) | (other < 0)).all()
    unlabelled = [pair for pair in pairs.tolist() if labels[pair].min() < 0]
    assert [pair for pair in found.tolist() if labels[pair].min() < 0] == unlabelled
    assert (found[:, 0] < found[:, 1]).all()
    for row in range(60):  # five partners drawn, but for itself, beside those that drew it
        assert (found == row).sum() >= 3


def test_without_a_pair_that_differs() -> None:
    x = np.ones((5, 3))
    for pairs in (np.empty((0, 2), np.int64), np.array([[0, 1]])):
        with pytest.raises(ValueError, match="no two of the images"):
            whitening(x, pairs)


def test_confusion_is_the_share_of_random_pairs_that_are_nearer() -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((50, 12)) < 0.5
    pairs = np.array([[0, 1], [2, 9], [4, 7]])
    one, other = np.random.default_rng(7).integers(0, 50, (2, 20_000))
    random = [int((bits[i] != bits[j]).sum()) for i, j in zip(one, other, strict=True) if i != j]
    expected = []
    for i, j in pairs:
        own = int((bits[i] != bits[j]).sum())
        expected.append(np.mean([(d < own) + (d == own) / 2 for d in random]))
    assert confusion(bits, pairs, np.random.default_rng(7)) == pytest.approx(np.mean(expected))
    same = np.zeros((50, 12), bool)
    assert confusion(same, pairs, rng) == 0.5
