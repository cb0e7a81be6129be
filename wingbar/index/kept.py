"""How a file keeps a feature: as float16, or in half the room as int8 with a scale.

    float16   d numbers, little-endian: 2 d bytes
    int8      the greatest absolute value of those numbers as float16, little-endian, and d integers
              from -127 to 127, which are shares of it: d + 2 bytes

What is read back is float16 in either case, and the fine modes (`ranking.py`) are computed from
that. Storing again what was read back changes nothing, so that copies are equal.

Shapes: N items, d dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kept = Literal["float16", "int8"]
KEPT: tuple[Kept, ...] = ("float16", "int8")
_STEPS = 127  # of int8 on either side of zero


def width(dim: int, kept: Kept) -> int:
    """Bytes of a feature."""
    return 2 * dim if kept == "float16" else dim + 2


def to_disk(features: NDArray[np.floating], kept: Kept) -> list[bytes]:
    """Features [N, d] as bytes, one each."""
    if kept == "float16":
        return [half.tobytes() for half in features.astype("<f2")]
    halves = features.astype("<f2")
    greatest = np.abs(halves).max(1, initial=0)
    scale = np.where(greatest > 0, greatest, 1).astype(np.float32)[:, None]
    shares = np.rint(halves.astype(np.float32) * np.float32(_STEPS) / scale).astype(np.int8)
    return [one.tobytes() + row.tobytes() for one, row in zip(greatest, shares, strict=True)]


def from_disk(blobs: Sequence[bytes], dim: int, kept: Kept) -> NDArray[np.float16]:
    """Features [N, d] of their bytes."""
    data = b"".join(blobs)
    if kept == "float16":
        return np.frombuffer(data, "<f2").reshape(len(blobs), dim)
    rows = np.frombuffer(data, np.uint8).reshape(len(blobs), dim + 2)
    greatest = np.ascontiguousarray(rows[:, :2]).view("<f2").astype(np.float32)
    return (rows[:, 2:].view(np.int8) * greatest / np.float32(_STEPS)).astype("<f2")


def as_kept(features: NDArray[np.float16], kept: Kept) -> NDArray[np.float16]:
    """Features [N, d] as they are read back."""
    dim = features.shape[1]
    return features if kept == "float16" else from_disk(to_disk(features, kept), dim, kept)


def are_finite(blobs: Sequence[bytes], kept: Kept) -> bool:
    """Whether all numbers of features, given as their bytes, are finite."""
    halves = blobs if kept == "float16" else [data[:2] for data in blobs]
    # the exponent of infinity; np.isfinite takes ten times as long for float16
    return bool((np.frombuffer(b"".join(halves), "<u2") & 0x7FFF).max(initial=0) < 0x7C00)
