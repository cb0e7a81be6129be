from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wingbar.model import rotations
from wingbar.model.itq import Rotation

Array = NDArray[np.float64]


def sample(
    n: int = 120, r: int = 9, classes: int = 6
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of drawn classes, off centre, with directions that have nothing to do with them."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    x = rng.standard_normal((classes, r))[labels] + rng.standard_normal((n, r)) + 3
    x[:, :3] += 8 * rng.standard_normal((n, 3))
    return x.astype(np.float32), labels


def test_hyperplanes_tell_angles() -> None:
    x, _ = sample(r=16)
    found = rotations.fit_lsh(x, 4000, np.random.default_rng(0))
    bits = found.apply(x)[0] >= 0
    centred = x - x.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    angle = np.arccos(np.clip(unit[0] @ unit[1:].T, -1, 1)) / np.pi
    np.testing.assert_allclose((bits[0] != bits[1:]).mean(1), angle, atol=0.03)


def test_principal_bits_are_signs_of_the_components() -> None:
    x, _ = sample()
    found = rotations.fit_pca(x, 4, np.random.default_rng(0))
    values, vectors = np.linalg.eigh(np.cov(x.astype(np.float64).T))
    components = (x - x.mean(0)) @ vectors[:, np.argsort(values)[::-1][:4]]
    np.testing.assert_allclose(np.abs(found.apply(x)[0]), np.abs(components), atol=1e-3)


def test_the_directions_of_itq_cca_solve_their_equation() -> None:
    x, labels = sample()
    found = rotations.fit_itq_cca(x, labels, 5, np.random.default_rng(0))
    centred = x.astype(np.float64) - x.mean(0)
    y = np.eye(6)[labels]
    rho = rotations.RIDGE * np.square(centred).mean() * len(x)
    within = centred.T @ centred + rho * np.eye(9)
    between = centred.T @ y @ np.linalg.inv(y.T @ y + rho * np.eye(6)) @ y.T @ centred
    values, vectors = np.linalg.eig(np.linalg.inv(within) @ between)
    order = np.argsort(values.real)[::-1][:5]
    directions = vectors[:, order].real
    directions /= np.sqrt(np.einsum("rb,rs,sb->b", directions, within, directions))
    directions *= np.sqrt(values.real[order])  # each scaled by its lambda
    # the same up to the rotation of ITQ, which both sides of the product lose
    code = found.code.astype(np.float64)
    np.testing.assert_allclose(code @ code.T, directions @ directions.T, atol=1e-7)


def test_labels_help_where_most_of_the_variance_is_something_else() -> None:
    x, labels = sample()
    rng = np.random.default_rng

    def separated(rotation: Rotation) -> float:
        """How much closer the codes of a class are than those of different classes."""
        bits = rotation.apply(x)[0] >= 0
        distance = (bits[:, None] != bits[None]).mean(2)
        same = labels[:, None] == labels[None]
        return float(distance[~same].mean() - distance[same].mean())

    supervised = separated(rotations.fit_itq_cca(x, labels, 5, rng(0)))
    assert supervised > 2 * separated(rotations.fit_pca(x, 5, rng(0)))
    assert supervised > 2 * separated(rotations.fit_lsh(x, 5, rng(0)))


def test_features_stay_as_they_are() -> None:
    x, labels = sample()
    for found in (
        rotations.fit_lsh(x, 20, np.random.default_rng(0)),
        rotations.fit_pca(x, 9, np.random.default_rng(0)),
        rotations.fit_itq_cca(x, labels, 2, np.random.default_rng(0)),
    ):
        feature = found.apply(x)[1]
        np.testing.assert_allclose(feature, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-5)
        assert Rotation.from_bytes(found.to_bytes()).bits == found.bits


def test_what_cannot_be_fitted_is_refused() -> None:
    x, labels = sample()
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="bits must be from 1 to 5, not 6"):
        rotations.fit_itq_cca(x, labels, 6, rng)
    with pytest.raises(ValueError, match="bits must be from 1 to 9, not 10"):
        rotations.fit_pca(x, 10, rng)
    with pytest.raises(ValueError, match="bits must be at least 1, not 0"):
        rotations.fit_lsh(x, 0, rng)
    with pytest.raises(ValueError, match="at least one image"):
        rotations.fit_lsh(x[:0], 4, rng)
