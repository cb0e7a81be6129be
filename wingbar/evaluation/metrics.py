"""Compute the metrics of rankings and of codes: pure functions, each named after its protocol.

Everywhere: `distance` [N] of integers or floats, where smaller ranks first and equal is tied, and
`relevant` [N] bool. Where the order of tied items would change a value, it is the mean over all
their orders ("expected"), in closed form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wingbar.data.records import Truth
from wingbar.hamming import codes

REFUSED_FROM = 100  # codes from which a bit that is the same in all is no accident
_BLOCK = 65_536  # codes that are float32 bits at a time

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Denominator = Literal["hits", "smaller", "relevant"]
"""What AP@k is divided by: the relevant items inside the top k (DLBHC, HashNet), the smaller of k
and all relevant items (GLDv2), or all relevant items."""


# -- average precision over ties


@dataclass(frozen=True)
class Buckets:
    """A ranking as buckets of tied items, nearest first.

    size: items of each bucket, [m], at least 1.
    hits: relevant items of each bucket, [m], at most its size.
    """

    size: Int64
    hits: Int64

    def expected_ap(self) -> float:
        """AP in [0, 1], the mean over all orders of the ties; 0 when nothing is relevant."""
        relevant = int(self.hits.sum())
        sums = _expected_sums(self.size, self.hits, _before(self.size), _before(self.hits))
        return float(sums.sum() / relevant) if relevant else 0.0

    def lowest_ap(self) -> float:
        """AP in [0, 1] with the relevant items last in every bucket."""
        return self._ap_of_runs(_before(self.size) + self.size - self.hits)

    def highest_ap(self) -> float:
        """AP in [0, 1] with the relevant items first in every bucket."""
        return self._ap_of_runs(_before(self.size))

    def _ap_of_runs(self, items_before: Int64) -> float:
        """AP when the hits of each bucket are consecutive after `items_before` items: the sum over
        i of (R + i) / (M + i), with R hits and M items before."""
        relevant = int(self.hits.sum())
        harmonic = _harmonic(items_before, items_before + self.hits)
        sums = self.hits + (_before(self.hits) - items_before) * harmonic
        return float(sums.sum() / relevant) if relevant else 0.0

    def expected_ap_at(self, k: int) -> float:
        """AP@k in [0, 1] over the hits inside the top k, the mean over all orders of the ties.

        The bucket that the cut splits has h of its hits inside with hypergeometric probability.
        """
        items_before, hits_before = _before(self.size), _before(self.hits)
        whole = items_before + self.size <= k
        done = float(
            _expected_sums(
                self.size[whole], self.hits[whole], items_before[whole], hits_before[whole]
            ).sum()
        )
        hits = int(self.hits[whole].sum())
        split = int(whole.sum())
        if split == len(self.size) or items_before[split] >= k:
            return done / hits if hits else 0.0
        inside = k - int(items_before[split])
        h, probability = _hypergeometric(int(self.size[split]), int(self.hits[split]), inside)
        ones = np.ones_like(h)
        partial = _expected_sums(
            ones * inside, h, ones * items_before[split], ones * hits_before[split]
        )
        ap = np.where(h + hits > 0, (done + partial) / np.maximum(h + hits, 1), 0.0)
        return float((probability * ap).sum())

    def expected_ap_at_r(self) -> float:
        """AP@R in [0, 1], the mean over all orders of the ties; see the function of this name."""
        relevant = int(self.hits.sum())
        return self.expected_precision_sum(relevant) / relevant if relevant else 0.0

    def expected_precision_sum(self, k: int) -> float:
        """The sum of precision at the relevant items of the top k, the mean over all orders of the
        ties."""
        items_before, hits_before = _before(self.size), _before(self.hits)
        inside = np.clip(k - items_before, 0, self.size)
        h = _harmonic(items_before, items_before + inside)
        steps = inside - (items_before + 1) * h  # sum of (t - 1) / (N + t)
        share = np.where(self.size > 1, (self.hits - 1) / np.maximum(self.size - 1, 1), 0.0)
        sums = self.hits / np.maximum(self.size, 1) * ((hits_before + 1) * h + share * steps)
        return float(np.where(self.hits > 0, sums, 0.0).sum())

    def expected_hits_at(self, k: Int64) -> Float64:
        """Relevant items in the top k for each of `k` [m], the mean over all orders of the ties: a
        split bucket contributes the same share of its hits as of its items."""
        items = np.concatenate([[0], np.cumsum(self.size)])
        hits = np.concatenate([[0], np.cumsum(self.hits)])
        return np.interp(k, items, hits)


def to_buckets(distance: ArrayLike, relevant: ArrayLike) -> Buckets:
    """The ranking by distance [N] of items of which `relevant` [N] are relevant.

    Raises ValueError on different lengths or NaN.
    """
    distances, is_relevant = np.asarray(distance), np.asarray(relevant, bool)
    if distances.shape != is_relevant.shape or distances.ndim != 1:
        raise ValueError(
            f"distance and relevant are both [N], not {distances.shape} and {is_relevant.shape}"
        )
    if np.issubdtype(distances.dtype, np.floating) and np.isnan(distances).any():
        raise ValueError("a distance is NaN, which has no place in a ranking")
    if not len(distances):
        return Buckets(np.empty(0, np.int64), np.empty(0, np.int64))
    if distances.dtype.kind in "iu" and np.can_cast(distances.dtype, np.int64):
        least, most = int(distances.min()), int(distances.max())
        if most - least < len(distances):  # counting is faster than sorting
            places = np.subtract(distances, least, dtype=np.intp)
            counts = np.bincount(places)
            hits = np.bincount(places[is_relevant], minlength=len(counts))
            return Buckets(*(each[counts > 0].astype(np.int64) for each in (counts, hits)))
    order = np.argsort(distances, kind="stable")
    ordered = distances[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    size = np.diff(np.append(starts, len(ordered)))
    hits = np.add.reduceat(is_relevant[order].astype(np.int64), starts)
    return Buckets(size.astype(np.int64), hits)


def merge_buckets(place: ArrayLike, size: ArrayLike, hits: ArrayLike) -> Buckets:
    """The ranking of groups of items, given in any order: `place` [m], where smaller ranks first,
    and their `size` [m] and `hits` [m]. Groups of equal place are merged, empty ones dropped."""
    places, group = np.unique(np.asarray(place), return_inverse=True)
    sizes = np.bincount(group, np.asarray(size), len(places)).astype(np.int64)
    relevant = np.bincount(group, np.asarray(hits), len(places)).astype(np.int64)
    return Buckets(sizes[sizes > 0], relevant[sizes > 0])


def expected_ap(distance: ArrayLike, relevant: ArrayLike) -> float:
    """Average precision averaged over every order of the ties: distance [N], relevant [N] bool ->
    float in [0, 1].

    Smaller distances rank first. 0 when nothing is relevant. Raises ValueError on different lengths
    or NaN.
    """
    return to_buckets(distance, relevant).expected_ap()


def ap_bounds(distance: ArrayLike, relevant: ArrayLike) -> tuple[float, float, float]:
    """Average precision over the orders of the ties: its mean, its lowest and its highest value,
    each in [0, 1]."""
    buckets = to_buckets(distance, relevant)
    return buckets.expected_ap(), buckets.lowest_ap(), buckets.highest_ap()


def expected_ap_at(
    distance: ArrayLike, relevant: ArrayLike, k: int, denominator: Denominator = "hits"
) -> float:
    """AP@k in [0, 1], the mean over every order of the ties: the sum of precision at the relevant
    items of the top `k`, divided by `denominator` (0 where that is 0). Raises ValueError for
    another denominator."""
    buckets = to_buckets(distance, relevant)
    if denominator == "hits":
        return buckets.expected_ap_at(k)
    if denominator not in ("smaller", "relevant"):
        raise ValueError(f"the denominator is hits, smaller or relevant, not {denominator!r}")
    total = int(buckets.hits.sum())
    divisor = min(k, total) if denominator == "smaller" else total
    return buckets.expected_precision_sum(k) / divisor if divisor else 0.0


def expected_ap_at_r(distance: ArrayLike, relevant: ArrayLike) -> float:
    """MAP@R of one query (Musgrave, Belongie & Lim, ECCV 2020), in [0, 1]: AP@k at k = R, the
    number of relevant items, divided by R."""
    return to_buckets(distance, relevant).expected_ap_at_r()


def expected_precision_at(distance: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """P@k in [0, 1]: the share of the top `k` that is relevant. Where the gallery has fewer than k
    items, the missing ones count as wrong."""
    return float(to_buckets(distance, relevant).expected_hits_at(np.array([k]))[0] / k)


def expected_recall_at(distance: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """R@k in [0, 1]: the share of the relevant items that is in the top `k`; 0 where there are
    none."""
    buckets = to_buckets(distance, relevant)
    return float(buckets.expected_hits_at(np.array([k]))[0] / max(int(buckets.hits.sum()), 1))


def _expected_sums(size: Int64, hits: Int64, items_before: Int64, hits_before: Int64) -> Float64:
    """For each bucket, the expected sum of precision at its relevant items (TALR, He et al. 2018):

    n+/n * sum over t = 1..n of (R + 1 + (t - 1)(n+ - 1)/(n - 1)) / (N + t), with the sum in closed
    form.
    """
    h = _harmonic(items_before, items_before + size)
    steps = size - (items_before + 1) * h  # sum of (t - 1) / (N + t)
    share = np.where(size > 1, (hits - 1) / np.maximum(size - 1, 1), 0.0)
    return np.asarray(hits / np.maximum(size, 1) * ((hits_before + 1) * h + share * steps))


def _hypergeometric(items: int, hits: int, drawn: int) -> tuple[Int64, Float64]:
    """Possible numbers of hits among `drawn` of `items` that hold `hits`, and their
    probabilities."""
    h = np.arange(max(0, drawn - (items - hits)), min(hits, drawn) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])

    def log_choose(n: int, k: Int64) -> Float64:
        return np.asarray(log_factorial[n] - log_factorial[k] - log_factorial[n - k])

    logs = log_choose(hits, h) + log_choose(items - hits, drawn - h)
    weights = np.exp(logs - logs.max())
    return h, weights / weights.sum()


def _before(counts: Int64) -> Int64:
    """Sum of the counts before each."""
    return np.cumsum(counts) - counts


def _harmonic(first: Int64, last: Int64) -> Float64:
    """1/(first+1) + ... + 1/last, elementwise."""
    sums = _harmonic_numbers(int(last.max(initial=0)).bit_length())
    return np.asarray(sums[last] - sums[first])


@lru_cache(maxsize=2)
def _harmonic_numbers(power: int) -> Float64:
    """H(0) .. H(2^power): [2^power + 1]."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 2**power + 1))])


# -- precision and recall


def hits_by_radius(distance: Int64, relevant: Bool, bits: int) -> tuple[Int64, Int64]:
    """Items and relevant items at most r bits away, for r = 0 .. bits: two [bits + 1]. The order of
    tied items does not matter here."""
    items = np.bincount(distance, minlength=bits + 1)
    hits = np.bincount(distance[relevant], minlength=bits + 1)
    return np.cumsum(items), np.cumsum(hits)


# -- revisited Oxford and Paris (Radenovic et al., CVPR 2018)

Setup = Literal["easy", "medium", "hard"]


def revisited_ap(order: Sequence[int], truth: Truth, setup: Setup) -> float | None:
    """AP in [0, 1] of one query's ranking of gallery rows, or None where nothing is relevant under
    the setup.

    "medium" looks for easy and hard items, "easy" and "hard" for those alone; the other kind then
    counts as junk. Junk is removed from the ranking. The area under the precision-recall curve is
    summed by trapezoids, with precision 1 at the start.
    """
    places = _places(order, truth, setup)
    if places is None:
        return None
    found, total = places
    j = np.arange(len(found))
    before = np.where(found == 0, 1.0, j / np.maximum(found, 1))
    return float(((before + (j + 1) / (found + 1)) / 2).sum() / total)


def revisited_precision_at(
    order: Sequence[int], truth: Truth, setup: Setup, k: int
) -> float | None:
    """mP@k of one query in [0, 1]: the precision of the top `k`, or of the items up to the last
    relevant one where that comes earlier. None where nothing is relevant under the setup."""
    places = _places(order, truth, setup)
    if places is None:
        return None
    found, _ = places
    if not len(found):
        return 0.0
    cut = min(int(found.max()) + 1, k)
    return float((found < cut).sum() / cut)


def _places(order: Sequence[int], truth: Truth, setup: Setup) -> tuple[Int64, int] | None:
    """Places (from 0, ascending) of the relevant items in the ranking without junk, and the number
    of relevant items in the gallery; None where there are none."""
    relevant = {
        "easy": set(truth.easy),
        "medium": {*truth.easy, *truth.hard},
        "hard": set(truth.hard),
    }[setup]
    junk = {
        "easy": {*truth.junk, *truth.hard},
        "medium": set(truth.junk),
        "hard": {*truth.junk, *truth.easy},
    }[setup]
    if not relevant:
        return None
    kept = [row for row in order if row not in junk]
    places = [place for place, row in enumerate(kept) if row in relevant]
    return np.array(places, np.int64), len(relevant)


# -- Google Landmarks v2 (Weyand et al., CVPR 2020)


def landmark_map(
    found: Mapping[str, Sequence[str]], truth: Mapping[str, Collection[str]], k: int = 100
) -> float:
    """mAP@k of the retrieval task, in [0, 1]: AP over the first `k` images found, divided by the
    smaller of k and the number of relevant images. A repeated image counts once. The mean is over
    all queries of `truth`; one without an answer counts 0."""
    total = 0.0
    for query, relevant in truth.items():
        hits, summed, seen = 0, 0.0, set[str]()
        for rank, name in enumerate(found.get(query, ())[:k], start=1):
            if name in relevant and name not in seen:
                hits += 1
                summed += hits / rank
            seen.add(name)
        total += summed / max(min(len(set(relevant)), k), 1)
    return total / len(truth) if truth else 0.0


@dataclass(frozen=True)
class Prediction:
    """The one answer to a query of the recognition task.

    query: the query's id.
    label: the predicted landmark.
    score: its confidence, any float; higher is surer.
    """

    query: str
    label: str
    score: float


def landmark_gap(predictions: Sequence[Prediction], truth: Mapping[str, Collection[str]]) -> float:
    """GAP (micro-AP) in [0, 1]: all predictions in one ranking by score, equal scores by query,
    then label; the sum of precision at the right ones, divided by the number of queries that show
    a landmark. Predictions for the other queries only push others down."""
    ordered = sorted(predictions, key=lambda p: (-p.score, p.query, p.label))
    hits, summed = 0, 0.0
    for rank, prediction in enumerate(ordered, start=1):
        if prediction.label in truth.get(prediction.query, ()):
            hits += 1
            summed += hits / rank
    with_landmark = sum(bool(labels) for labels in truth.values())
    return summed / with_landmark if with_landmark else 0.0


# -- hash health


@dataclass(frozen=True)
class Health:
    """How codes [N, b] use their bits.

    unique: number of distinct codes, 1 to N.
    largest_bucket: number of items that share the most frequent code, 1 to N.
    bit_balance: share of ones of each bit, [b] in [0, 1].
    bit_correlation: mean absolute correlation over all pairs of bits, in [0, 1]; constant bits are
        left out.
    constant: bits that are the same in every code, ascending, each from 0 to b - 1.
    """

    unique: int
    largest_bucket: int
    bit_balance: tuple[float, ...]
    bit_correlation: float
    constant: tuple[int, ...]


def health(bits: Bool) -> Health:
    """Health of codes given as bits [N, b] bool. Raises ValueError where N is 0."""
    if not len(bits):
        raise ValueError("there are no codes")
    packed = codes.pack(bits)
    distinct = packed[:, 0] if packed.shape[1] == 1 else packed
    counts = np.unique(distinct, axis=0, return_counts=True)[1]
    share = bits.mean(0)
    varies = (share > 0) & (share < 1)
    both = np.zeros((bits.shape[1], bits.shape[1]))
    for start in range(0, len(bits), _BLOCK):  # float32 sums of up to _BLOCK ones are exact
        block = bits[start : start + _BLOCK].astype(np.float32)
        both += block.T @ block
    deviation = np.sqrt(share * (1 - share))[varies]
    covariance = (both / len(bits) - np.outer(share, share))[np.ix_(varies, varies)]
    correlation = covariance / np.outer(deviation, deviation)
    pairs = np.abs(correlation)[np.triu_indices(int(varies.sum()), 1)]
    return Health(
        unique=len(counts),
        largest_bucket=int(counts.max()),
        bit_balance=tuple(share.round(6).tolist()),
        bit_correlation=float(pairs.mean()) if len(pairs) else 0.0,
        constant=tuple(np.flatnonzero(~varies).tolist()),
    )
