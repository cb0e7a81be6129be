"""How near two random items of a collection are to each other: the measure of chance for hits.

A distance or a cosine by itself says little, since what is near depends on the collection: photos
of one shop's shirts are closer to each other than holiday photos. So the distances and the cosines
of pairs of its own items are kept, and a hit at some distance gets the share of such pairs that are
at least as near: `p_chance`. Among N items, N p_chance are that near to a random one of them. It is
what an item of the collection finds; a picture of something else finds fewer, so for it p_chance is
an upper bound (docs/label-free.md has the measurements).

Shapes: M items of a sample, n values, b bits, d dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Packed, unpack

Float64 = NDArray[np.float64]

SAMPLE = 1000  # items whose pairs are looked at
FEWEST = 20  # items from which there is anything to say
# Shares of the pairs whose least cosine is kept. The last one is that of 50 of a full sample's
# pairs; what is beyond is on a straight line of log(share) through the last two, and so are those
# that are fewer than _FEW pairs of a smaller sample.
SHARES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
_FEW = 20  # pairs from which a share is counted and not taken from such a line
_LEAST = 1e-12
_ROUNDING = 1e-6  # of a cosine


class RandomPairs(NamedTuple):
    """The likeness of random pairs of items.

    within: share of the pairs at most r bits apart, for r = 0 .. b, [b + 1], rising to 1.
    cosines: the cosine that each of SHARES of the pairs reach at least, rising.
    """

    within: tuple[float, ...]
    cosines: tuple[float, ...]

    def of_distances(self, distances: NDArray[np.number]) -> Float64:
        """Share of random pairs at most so many bits apart, for distances [n] from 0 to b, which
        need not be whole: [n] in (0, 1]."""
        log = np.log(np.maximum(self.within, _LEAST))
        return np.exp(np.interp(distances.astype(np.float64), np.arange(len(log)), log))

    def of_cosines(self, cosines: NDArray[np.number]) -> Float64:
        """Share of random pairs with at least such a cosine, for cosines [n]: [n] in (0, 1]. NaN,
        the cosine of a damaged feature, is as unlike as can be."""
        known, log = np.array(self.cosines), np.log(SHARES)
        x = np.nan_to_num(cosines.astype(np.float64), nan=-1.0) - _ROUNDING
        step = max(float(known[-1] - known[-2]), 1e-6)
        slope = (log[-1] - log[-2]) / step
        beyond = log[-1] + slope * (x - known[-1])
        return np.exp(np.maximum(np.where(x > known[-1], beyond, np.interp(x, known, log)), -27.0))

    def of_agreements(
        self, agreements: NDArray[np.number], logits: NDArray[np.floating]
    ) -> Float64:
        """Share of random codes that agree with the logits [b] of a query at least so much (fine
        mode "asymmetric"), for agreements [n] in [-1, 1]: [n] in (0, 1].

        With logits of one size the agreement is 1 - 2 distance / b; unequal ones make that of
        random codes spread more, by the factor by which their square mean exceeds their mean.
        """
        sizes = np.abs(logits.astype(np.float64))
        spread = float(np.sqrt(np.square(sizes).mean()) / max(float(sizes.mean()), _LEAST))
        bits = len(self.within) - 1
        return self.of_distances((bits / 2) * (1 - agreements / max(spread, 1.0)))

    def record(self) -> dict[str, list[float]]:
        """What model.json keeps of it."""
        return {"within": list(self.within), "cosines": list(self.cosines)}

    @classmethod
    def from_record(cls, record: object, bits: int) -> RandomPairs | None:
        """What `record` made; None for anything else, as models have that do not know it."""
        if not isinstance(record, Mapping):
            return None
        within, cosines = _rising(record.get("within")), _rising(record.get("cosines"))
        if len(within) != bits + 1 or len(cosines) != len(SHARES):
            return None
        return cls(within, cosines)


def _rising(values: Any) -> tuple[float, ...]:
    """A list of numbers that do not fall; empty for anything else."""
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        return ()
    return tuple(map(float, values)) if values == sorted(values) else ()


def sample_of(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Which of `count` items are looked at: their positions, ascending."""
    if count <= SAMPLE:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])


def measure(packed: Packed, features: NDArray[np.floating], bits: int) -> RandomPairs | None:
    """The likeness of all pairs of a random sample of items, codes [M, w] and unit features [M, d],
    without those whose features are damaged; None for fewer than FEWEST items."""
    own = features.astype(np.float32)
    whole = np.isfinite(own).all(1)
    packed, own = packed[whole], own[whole]
    if len(packed) < FEWEST:
        return None
    pairs = np.triu_indices(len(own), 1)
    signs = 2 * unpack(packed, bits).astype(np.float32) - 1  # their products are bits - 2 distance
    distances = (bits - (signs @ signs.T)[pairs].astype(np.int64)) // 2
    counts = np.bincount(distances, minlength=bits + 1)
    cosines = np.sort((own @ own.T)[pairs]).astype(np.float64)
    return RandomPairs(tuple(_rounded(_extended(counts))), tuple(_rounded(_least_cosines(cosines))))


def _least_cosines(cosines: Float64) -> Float64:
    """The least cosine of each of SHARES of the pairs with rising `cosines` [P]."""
    shares = np.array(SHARES)
    places = (1 - shares) * (len(cosines) - 1)
    reached = np.maximum.accumulate(np.interp(places, np.arange(len(cosines)), cosines))
    last = int(np.flatnonzero(shares * len(cosines) >= _FEW)[-1])
    log = np.log(shares)
    slope = (reached[last] - reached[last - 1]) / (log[last] - log[last - 1])
    reached[last + 1 :] = reached[last] + slope * (log[last + 1 :] - log[last])
    return reached


def _extended(counts: NDArray[np.int64]) -> Float64:
    """Shares of the pairs within each distance, of their counts [b + 1] by distance; where fewer
    than _FEW are within, on a straight line of the logarithm."""
    within = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(np.cumsum(counts), _FEW))
    if 0 < first < len(within) - 1:
        ratio = min(within[first] / within[first + 1], 0.9)
        within[:first] = within[first] * ratio ** np.arange(first, 0, -1)
    return np.asarray(np.maximum(within, _LEAST))


def _rounded(values: Float64) -> list[float]:
    """To six digits, so that equal samples give equal bytes."""
    return [float(f"{value:.6g}") for value in values]
