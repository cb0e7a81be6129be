"""Iterative quantisation (ITQ): fit binary codes to features without labels, in NumPy.

Gong & Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR
2011: centre a sample, keep the directions of largest variance (PCA), and rotate them so that taking
signs loses least.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import ModelError, one_line
from wingbar.model import arrays

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Float = TypeVar("Float", bound=np.floating)

ITERATIONS = 50  # as in the paper
# The reduced feature, chosen on training images alone (docs/label-free.md): subtracting the whole
# mean gives the best MAP and loses nearest neighbours, subtracting none does the reverse; half of
# it keeps both.
DIM = 256
CENTRING = 0.5
# Directions beyond those of the reduced feature, where none may be lost: they count little in a
# cosine, and a power of two changes no digit of a float16.
REST = 2.0**-4


class Rotation(NamedTuple):
    """The fitted map from raw features x [B, r] to code logits and reduced features:

        logits = (x - mean) @ code
        features = unit((x - feature_mean) @ feature)

    mean: [r] float32.
    code: [r, b] float32.
    feature_mean: [r] float32.
    feature: [r, d] float32. Its columns and those of `code` are orthonormal, or after whitening
        those of an orthonormal matrix times a symmetric one; where d is r, columns beyond those
        of a reduced feature are REST times as long.
    """

    mean: Float32
    code: Float32
    feature_mean: Float32
    feature: Float32

    @property
    def bits(self) -> int:
        """Length of the code."""
        return self.code.shape[1]

    @property
    def dim(self) -> int:
        """Length of the feature."""
        return self.feature.shape[1]

    def apply(self, raw: Float32) -> tuple[Float64, Float32]:
        """Raw features [B, r] -> code logits [B, b] float64 and unit features [B, d] float32.

        Summed in float64, so that an image gets the same bits alone and in a batch of any size.
        """
        x = raw.astype(np.float64)
        logits = (x - self.mean) @ self.code.astype(np.float64)
        features = unit((x - self.feature_mean) @ self.feature.astype(np.float64))
        return logits, features.astype(np.float32)

    def raw_of(self, features: NDArray[np.floating]) -> Float32:
        """The raw features x [B, r], of unit length, that `apply` made features [B, d] of, where
        `feature` can be inverted.

        With g = f feature^-1, x is feature_mean + s g for the s > 0 that gives it unit length;
        there is one, as feature_mean is a share of a mean of unit vectors, and shorter than they
        are. Raises ValueError where d is not r.
        """
        if self.feature.shape[0] != self.feature.shape[1]:
            raise ValueError(f"features of {self.dim} numbers do not tell {len(self.mean)}")
        inverse = np.linalg.inv(self.feature.astype(np.float64)).astype(np.float32)
        g = features.astype(np.float32) @ inverse
        a, b = np.square(g).sum(1), g @ self.feature_mean
        c = float(np.square(self.feature_mean).sum()) - 1
        s = (np.sqrt(np.maximum(b * b - a * c, 0)) - b) / np.maximum(a, 1e-12)
        return unit(self.feature_mean + s[:, None] * g)

    def to_bytes(self) -> bytes:
        """The content of rotation.npz; equal rotations give equal bytes."""
        return arrays.to_bytes(
            {name: array.astype("<f4") for name, array in self._asdict().items()}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Rotation:
        """Read what `to_bytes` wrote. Raises ModelError for anything else."""
        try:
            read = arrays.from_bytes(data, dict.fromkeys(cls._fields, "<f4"))
            found = cls(**{name: array.astype(np.float32) for name, array in read.items()})
            (r,), (_, bits), (_, dim) = found.mean.shape, found.code.shape, found.feature.shape
            shapes = [(r,), (r, bits), (r,), (r, dim)]
            if [array.shape for array in found] != shapes or not min(r, bits, dim):
                raise ValueError("its arrays do not fit together")
            if not all(np.isfinite(array).all() for array in found):
                raise ValueError("its numbers are not finite")
        except arrays.DAMAGED as error:
            raise ModelError(f"rotation.npz cannot be read ({one_line(error)})") from None
        return found


def fit(
    sample: Float32,
    bits: int,
    rng: np.random.Generator,
    dim: int = DIM,
    whole: bool = False,
) -> Rotation:
    """Fit a Rotation to raw features [n, r] of a sample: codes of `bits` bits, reduced features of
    length min(r, max(dim, bits)), or with `whole` of length r, of which all but these count little.

    One image is enough: directions in which the sample does not vary are drawn at random, which
    makes their bits random-hyperplane hashes. Raises ValueError when bits is not in 1..r or the
    sample is empty.
    """
    n, r = sample.shape
    if not 1 <= bits <= r:
        raise ValueError(f"bits must be from 1 to {r}, the length of the raw feature, not {bits}")
    if n == 0:
        raise ValueError("ITQ needs at least one image to be fitted to")
    x = sample.astype(np.float64)
    mean = x.mean(0) if n > 1 else np.zeros(r)  # one image centred on itself would leave nothing
    directions = feature_directions(x - mean, max(dim, bits), whole, rng)
    projected = (x - mean) @ directions[:, :bits]
    rotation = itq_rotation(projected, rng)
    return Rotation(
        mean=mean.astype(np.float32),
        code=(directions[:, :bits] @ rotation).astype(np.float32),
        feature_mean=(CENTRING * mean).astype(np.float32),
        feature=directions.astype(np.float32),
    )


def fit_codes(features: Float32, bits: int, rng: np.random.Generator) -> Rotation:
    """Fit codes of `bits` bits to unit features [n, d] and leave the features as they are: the
    `feature` of this Rotation is the identity. Raises ValueError as `fit` does."""
    return keeping_features(fit(features, bits, rng, dim=bits))


def keeping_features(rotation: Rotation) -> Rotation:
    """The same codes, with the raw features as they are: `feature` is the identity."""
    r = len(rotation.mean)
    return rotation._replace(
        feature_mean=np.zeros(r, np.float32), feature=np.eye(r, dtype=np.float32)
    )


def unit(x: NDArray[Float]) -> NDArray[Float]:
    """Rows of x [B, d] scaled to unit length; a zero row stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def feature_directions(
    centred: Float64, count: int, whole: bool, rng: np.random.Generator
) -> Float64:
    """Directions [r, min(r, count)] of a feature, of centred [n, r]; with `whole` all of them
    [r, r], those beyond `count` by REST."""
    r = centred.shape[1]
    directions = principal_directions(centred, r if whole else min(r, count), rng)
    directions[:, count:] *= REST
    return directions


def principal_directions(centred: Float64, count: int, rng: np.random.Generator) -> Float64:
    """The first `count` orthonormal directions [r, count] of centred [n, r], by decreasing
    variance; random ones beyond its rank."""
    n, r = centred.shape
    # drawn in any case, so that the generator's state does not depend on the rank
    random = rng.standard_normal((r, count))
    if n < r:
        _, spread, rows = np.linalg.svd(centred, full_matrices=False)
        variance, vectors = spread**2 / n, rows.T
    else:
        variance, vectors = np.linalg.eigh(centred.T @ centred / n)
        variance, vectors = variance[::-1], vectors[:, ::-1]
    rank = min(count, int((variance > 1e-9 * max(float(variance[0]), 1e-12)).sum()))
    found = _signed(vectors[:, :rank])
    if rank == count:
        return found
    random = random[:, rank:] - found @ (found.T @ random[:, rank:])
    return np.concatenate([found, np.linalg.qr(random)[0]], axis=1)


def _signed(vectors: Float64) -> Float64:
    """Columns with signs such that the entry of largest magnitude is positive: LAPACK leaves the
    sign open."""
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)


def itq_rotation(projected: Float64, rng: np.random.Generator) -> Float64:
    """An orthogonal matrix R [b, b] that makes ||sign(V R) - V R|| small, V being projected [n, b]
    (Eq. 2)."""
    b = projected.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((b, b)))[0]
    for _ in range(ITERATIONS):
        signs = np.where(projected @ rotation >= 0, 1.0, -1.0)  # fix R, update B
        # fix B, update R: the orthogonal Procrustes problem
        left, _, right = np.linalg.svd(projected.T @ signs)
        rotation = left @ right
    return rotation
