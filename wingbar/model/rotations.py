"""Other codes than ITQ's that are fitted to features, as Rotations: random hyperplanes, principal
directions, and ITQ of the directions that labels correlate with.

They are what a learned code has to beat. Each keeps the features as they are: `feature` of the
Rotation is the identity. n images, r the length of a raw feature, b bits, y classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wingbar.model.itq import (
    Float32,
    Float64,
    Rotation,
    itq_rotation,
    principal_directions,
)

Int64 = NDArray[np.int64]

RIDGE = 1e-4  # of ITQ-CCA, times the mean variance of a feature's entries


def fit_lsh(sample: Float32, bits: int, rng: np.random.Generator) -> Rotation:
    """Random hyperplanes through the mean of a sample [n, r] (Charikar, STOC 2002): two features
    differ in a bit with the probability of their angle over pi.

    Directions are Gaussian, so that `bits` may exceed r. Raises ValueError for an empty sample or
    bits below 1.
    """
    x, mean = _centred(sample, bits, limit=None)
    return _rotation(mean, rng.standard_normal((x.shape[1], bits)))


def fit_pca(sample: Float32, bits: int, rng: np.random.Generator) -> Rotation:
    """The signs of the first `bits` principal components of a sample [n, r], without a rotation
    (PCA hashing; the PCAH of Gong & Lazebnik, CVPR 2011). Raises ValueError for an empty sample or
    bits not in 1..r."""
    x, mean = _centred(sample, bits, limit=sample.shape[1])
    return _rotation(mean, principal_directions(x, bits, rng))


def fit_itq_cca(sample: Float32, labels: Int64, bits: int, rng: np.random.Generator) -> Rotation:
    """ITQ of canonical correlation analysis with labels (Gong & Lazebnik, CVPR 2011):
    the directions w that solve

        X'Y (Y'Y + rho I)^-1 Y'X w = lambda^2 (X'X + rho I) w,

    each scaled by its lambda, then rotated by ITQ. X are the centred features [n, r], Y [n, y] says
    which class an image is of, by labels [n] int64 from 0.

    Raises ValueError for an empty sample, or bits not in 1..min(r, y - 1): y classes correlate with
    no more directions.
    """
    classes = int(labels.max(initial=0)) + 1
    x, mean = _centred(sample, bits, limit=min(sample.shape[1], classes - 1))
    rho = RIDGE * float(np.square(x).mean()) * len(x)
    counts = np.bincount(labels, minlength=classes)
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, labels, x)  # Y'X, as Y'Y is diagonal
    left = np.linalg.cholesky(x.T @ x + rho * np.eye(x.shape[1]))
    whitened = np.linalg.solve(left, (sums / np.sqrt(counts + rho)[:, None]).T)
    vectors, correlations, _ = np.linalg.svd(whitened, full_matrices=False)
    directions = np.linalg.solve(left.T, vectors[:, :bits]) * correlations[:bits]
    return _rotation(mean, directions @ itq_rotation(x @ directions, rng))


def _centred(sample: Float32, bits: int, limit: int | None) -> tuple[Float64, Float64]:
    """A sample [n, r] less its mean, and the mean."""
    if not len(sample):
        raise ValueError("codes need at least one image to be fitted to")
    if bits < 1 or (limit is not None and bits > limit):
        bound = "at least 1" if limit is None else f"from 1 to {limit}"
        raise ValueError(f"bits must be {bound}, not {bits}")
    x = sample.astype(np.float64)
    mean = x.mean(0) if len(x) > 1 else np.zeros(x.shape[1])
    return x - mean, mean


def _rotation(mean: Float64, code: Float64) -> Rotation:
    """The Rotation with these code directions [r, b], whose features are the raw ones."""
    r = len(mean)
    return Rotation(
        mean=mean.astype(np.float32),
        code=code.astype(np.float32),
        feature_mean=np.zeros(r, np.float32),
        feature=np.eye(r, dtype=np.float32),
    )
