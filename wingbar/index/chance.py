"""How alike two different pictures of an index are by chance, from pairs of its own items.

What counts as a copy depends on the gallery: a thousand photos of one shop's shirts are closer to
each other than holiday photos, and among a million items some pair is always close. So the limits
for copies are taken from the index itself:

- `radius`: distances of sampled items to all others give the share of pairs within each radius.
- `min_score`: cosines c of random pairs; atanh(c) is close to normal, and its median and quartiles,
  which a few copies do not move, give the cosine that a picture reaches with NEIGHBOURS others by
  chance.
- `copy_score`: the cosine of each sampled item and its nearest neighbour; three standard deviations
  above their median, again from the quartiles of atanh(c), few pictures that are different come so
  close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.codes import Codes, Ids

SAMPLE = 300  # items whose distances and cosines are looked at
NEIGHBOURS = 8  # neighbours by chance that `min_score` lets through, for each item
WITHIN = 0.05  # largest share of all pairs that `radius` lets through,
FEW_WITHIN = 50  # unless that is fewer than this many others for each item
FEWEST = 20  # items from which there is anything to measure
NEAR = 100  # nearest codes among which the nearest neighbour by feature is looked for
SAME = 0.999  # cosine from which a neighbour is taken for a copy and not for chance
_SCORES = (0.3, 0.95)  # bounds of min_score
_COPY_SCORES = (0.9, 0.99)  # bounds of copy_score
_QUARTILES = 1.349  # standard deviations of a normal distribution between its quartiles


@dataclass(frozen=True)
class Chance:
    """Limits for copies in an index.

    sample: number of items that were looked at; 0 for an index of fewer than FEWEST items, whose
        limits are constants.
    radius: largest distance of candidates, in bits.
    min_score: least cosine of candidates.
    copy_score: least cosine at which a picture counts as a copy without a look at its pixels.
    same_code: mean number of other items that have an item's code.
    """

    sample: int
    radius: int
    min_score: float
    copy_score: float
    same_code: float


def measure(codes: Codes, features: Callable[[Ids], NDArray[np.floating]], seed: int = 0) -> Chance:
    """The limits for the items of `codes`; `features` gives the unit features [n, d] of items."""
    count, bits = len(codes), codes.bits
    if count < FEWEST:
        return Chance(0, bits // 3, _SCORES[0], _COPY_SCORES[1], 0.0)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])
    ids = codes.ids[rows]
    packed = codes.of(ids)
    within = codes.counts(packed).sum(0).cumsum() - len(ids)  # without the items themselves
    share = within / (len(ids) * (count - 1))
    limit = max(WITHIN, FEW_WITHIN / count)
    radius = max(0, min(bits // 2, int(np.searchsorted(share, limit, "right")) - 1))

    own = features(ids).astype(np.float32)
    pairs = (own @ own.T)[np.triu_indices(len(own), 1)]
    middle, deviation = _normal(pairs[pairs < SAME])
    quantile = NormalDist().inv_cdf(1 - min(0.5, NEIGHBOURS / count))
    min_score = float(np.tanh(middle + deviation * quantile))

    nearest = []
    for i, near in enumerate(codes.nearest(packed, NEAR)):
        cosines = features(near.ids).astype(np.float32) @ own[i]
        others = cosines[(near.ids != ids[i]) & (cosines < SAME)]
        if len(others):
            nearest.append(float(others.max()))
    middle, deviation = _normal(np.array(nearest))
    copy_score = float(np.clip(np.tanh(middle + 3 * deviation), *_COPY_SCORES))
    return Chance(
        len(ids),
        radius,
        float(np.clip(min_score, _SCORES[0], min(_SCORES[1], copy_score))),
        copy_score,
        float(within[0]) / len(ids),
    )


def _normal(cosines: NDArray[np.floating]) -> tuple[float, float]:
    """Median and standard deviation of atanh of cosines, from the quartiles."""
    if not len(cosines):
        return 0.0, 0.3
    quartiles = np.percentile(np.arctanh(np.clip(cosines, -SAME, SAME)), [25, 50, 75])
    return float(quartiles[1]), max(0.02, float(quartiles[2] - quartiles[0]) / _QUARTILES)
