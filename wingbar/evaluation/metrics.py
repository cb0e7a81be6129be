"""What a ranking is worth: pure functions of distances and relevance, each with its protocol in its
name.

Everywhere: `distance` [N] (smaller ranks first, equal is tied; of whole numbers or floats) and
`relevant` [N] bool. Where an order of the ties would change a value, it is the mean over all their
orders ("expected"), in closed form.
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

_BLOCK = 65_536  # codes that are unpacked at a time

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Denominator = Literal["hits", "smaller", "relevant"]
"""What AP@k is divided by: the relevant items inside the top k (DLBHC, HashNet), the smaller of k
and all relevant items (GLDv2), or all relevant items."""


# -- average precision over ties


@dataclass(frozen=True)
class Buckets:
    """A ranking as groups of equal distance, nearest first: `size` [m] items each, `hits` [m] of
    them relevant."""

    size: Int64
    hits: Int64


def expected_ap(distance: ArrayLike, relevant: ArrayLike) -> float:
    """Average precision averaged over every order of the ties: distance [N], relevant [N] bool ->
    float in [0, 1].

    Smaller distances rank first. 0 when nothing is relevant. Raises ValueError on different lengths
    or NaN.
    """
    return ap_bounds(distance, relevant)[0]


def ap_bounds(distance: ArrayLike, relevant: ArrayLike) -> tuple[float, float, float]:
    """Average precision over the orders of the ties: its mean, its least and its greatest value."""
    buckets = in_buckets(np.asarray(distance), np.asarray(relevant, bool))
    return expected(buckets), least(buckets), greatest(buckets)


def expected_ap_at(
    distance: ArrayLike, relevant: ArrayLike, k: int, denominator: Denominator = "hits"
) -> float:
    """Mean over every order of the ties of AP@k, the sum of precision at the relevant items of the
    top `k` divided by `denominator` (0 where that is 0). Raises ValueError for another
    denominator."""
    buckets = in_buckets(np.asarray(distance), np.asarray(relevant, bool))
    if denominator == "hits":
        return expected_at(buckets, k)
    if denominator not in ("smaller", "relevant"):
        raise ValueError(f"the denominator is hits, smaller or relevant, not {denominator!r}")
    total = int(buckets.hits.sum())
    below = min(k, total) if denominator == "smaller" else total
    return _expected_sum_at(buckets, k) / below if below else 0.0


def expected_ap_at_r(distance: ArrayLike, relevant: ArrayLike) -> float:
    """MAP@R of one query (Musgrave, Belongie & Lim, ECCV 2020): AP@k at k = R, the number of
    relevant items, divided by R."""
    return expected_at_r(in_buckets(np.asarray(distance), np.asarray(relevant, bool)))


def expected_precision_at(distance: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """P@k: the share of the top `k` that is relevant; places that the gallery does not fill count
    as wrong."""
    return (
        expected_hits_at(
            in_buckets(np.asarray(distance), np.asarray(relevant, bool)), np.array([k])
        )[0]
        / k
    )


def expected_recall_at(distance: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """R@k: the share of the relevant items that is in the top `k`; 0 where there are none."""
    buckets = in_buckets(np.asarray(distance), np.asarray(relevant, bool))
    return float(expected_hits_at(buckets, np.array([k]))[0] / max(int(buckets.hits.sum()), 1))


def in_buckets(distance: NDArray[np.generic], relevant: Bool) -> Buckets:
    """The ranking of distance [N]. Raises ValueError on different lengths or NaN."""
    if distance.shape != relevant.shape or distance.ndim != 1:
        raise ValueError(
            f"distance and relevant are both [N], not {distance.shape} and {relevant.shape}"
        )
    if np.issubdtype(distance.dtype, np.floating) and np.isnan(distance).any():
        raise ValueError("a distance is NaN, which has no place in a ranking")
    order = np.argsort(distance, kind="stable")
    ordered = distance[order]
    starts = (
        np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        if len(ordered)
        else np.empty(0, np.int64)
    )
    size = np.diff(np.append(starts, len(ordered)))
    hits = (
        np.add.reduceat(relevant[order].astype(np.int64), starts)
        if len(starts)
        else np.empty(0, np.int64)
    )
    return Buckets(size.astype(np.int64), hits)


def merged_buckets(place: ArrayLike, size: ArrayLike, hits: ArrayLike) -> Buckets:
    """Groups of items at `place` [m], in any order, as a ranking: those of equal place become one,
    empty ones none."""
    places, of = np.unique(np.asarray(place), return_inverse=True)
    sizes = np.bincount(of, np.asarray(size), len(places)).astype(np.int64)
    relevant = np.bincount(of, np.asarray(hits), len(places)).astype(np.int64)
    return Buckets(sizes[sizes > 0], relevant[sizes > 0])


def _harmonic(first: Int64, last: Int64) -> Float64:
    """1/(first+1) + ... + 1/last, elementwise."""
    sums = _harmonic_numbers(int(last.max(initial=0)).bit_length())
    return np.asarray(sums[last] - sums[first])


@lru_cache(maxsize=2)
def _harmonic_numbers(power: int) -> Float64:
    """H(0) .. H(2^power): [2^power + 1]."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 2**power + 1))])


def _before(counts: Int64) -> Int64:
    return np.cumsum(counts) - counts


def _expected_sums(size: Int64, hits: Int64, items_before: Int64, hits_before: Int64) -> Float64:
    """For each bucket, the expected sum of precision at its relevant items (TALR, He et al. 2018):

    n+/n * sum over t = 1..n of (R + 1 + (t - 1)(n+ - 1)/(n - 1)) / (N + t), with the sum in closed
    form.
    """
    h = _harmonic(items_before, items_before + size)
    steps = size - (items_before + 1) * h  # sum of (t - 1) / (N + t)
    share = np.where(size > 1, (hits - 1) / np.maximum(size - 1, 1), 0.0)
    sums = np.where(
        size > 0, hits / np.maximum(size, 1) * ((hits_before + 1) * h + share * steps), 0.0
    )
    return np.where(hits > 0, sums, 0.0)


def expected(b: Buckets) -> float:
    """AP, the mean over all orders of the ties."""
    relevant = int(b.hits.sum())
    return (
        float(_expected_sums(b.size, b.hits, _before(b.size), _before(b.hits)).sum() / relevant)
        if relevant
        else 0.0
    )


def greatest(b: Buckets) -> float:
    """AP with the relevant items first in every bucket."""
    return _with_run_of_hits(b, _before(b.size))


def least(b: Buckets) -> float:
    """AP with the relevant items last in every bucket."""
    return _with_run_of_hits(b, _before(b.size) + b.size - b.hits)


def _with_run_of_hits(b: Buckets, items_before: Int64) -> float:
    """AP when each bucket's hits stand in a row after `items_before` items: sum over i of (R + i) /
    (M + i)."""
    relevant = int(b.hits.sum())
    if not relevant:
        return 0.0
    sums = b.hits + (_before(b.hits) - items_before) * _harmonic(
        items_before, items_before + b.hits
    )
    return float(sums.sum() / relevant)


def expected_at(b: Buckets, k: int) -> float:
    """AP@k over the hits inside, the mean over all orders: the last bucket that reaches into the
    top k gives h of its hits to it with hypergeometric probability."""
    items_before, hits_before = _before(b.size), _before(b.hits)
    whole = items_before + b.size <= k
    done = float(
        _expected_sums(b.size[whole], b.hits[whole], items_before[whole], hits_before[whole]).sum()
    )
    hits = int(b.hits[whole].sum())
    split = int(whole.sum())
    if split == len(b.size) or items_before[split] >= k:
        return done / hits if hits else 0.0
    inside = k - int(items_before[split])
    h, probability = _hypergeometric(int(b.size[split]), int(b.hits[split]), inside)
    ones = np.ones_like(h)
    partial = _expected_sums(
        ones * inside, h, ones * items_before[split], ones * hits_before[split]
    )
    ap = np.where(h + hits > 0, (done + partial) / np.maximum(h + hits, 1), 0.0)
    return float((probability * ap).sum())


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


def expected_hits_at(b: Buckets, k: Int64) -> Float64:
    """Expected numbers of relevant items in the top k, for each of `k` [m]: a tied group gives of
    its hits as of its items."""
    items = np.concatenate([[0], np.cumsum(b.size)])
    hits = np.concatenate([[0], np.cumsum(b.hits)])
    return np.interp(k, items, hits)


def expected_at_r(b: Buckets) -> float:
    """AP@R, the mean over all orders of the ties; see `expected_ap_at_r`."""
    relevant = int(b.hits.sum())
    return _expected_sum_at(b, relevant) / relevant if relevant else 0.0


def _expected_sum_at(b: Buckets, k: int) -> float:
    """Expected sum of precision at the relevant items of the top k."""
    items_before, hits_before = _before(b.size), _before(b.hits)
    inside = np.clip(k - items_before, 0, b.size)
    h = _harmonic(items_before, items_before + inside)
    steps = inside - (items_before + 1) * h  # sum of (t - 1) / (N + t)
    share = np.where(b.size > 1, (b.hits - 1) / np.maximum(b.size - 1, 1), 0.0)
    sums = b.hits / np.maximum(b.size, 1) * ((hits_before + 1) * h + share * steps)
    return float(np.where(b.hits > 0, sums, 0.0).sum())


# -- precision and recall


def hits_by_radius(distance: Int64, relevant: Bool, bits: int) -> tuple[Int64, Int64]:
    """Items and relevant items at most r bits away, for r = 0 .. bits: two [bits + 1]. No order of
    ties plays a part."""
    items = np.bincount(distance, minlength=bits + 1)
    hits = np.bincount(distance[relevant], minlength=bits + 1)
    return np.cumsum(items), np.cumsum(hits)


# -- revisited Oxford and Paris (Radenovic et al., CVPR 2018)

Setup = Literal["easy", "medium", "hard"]


def revisited_ap(order: Sequence[int], truth: Truth, setup: Setup) -> float | None:
    """AP of one query's ranking of gallery rows, or None where the setup has nothing to find for
    it.

    Medium looks for easy and hard items, easy and hard for one of them, the other counting as junk.
    Junk is taken out of the ranking; the area under precision and recall is cut into trapezoids,
    from precision 1 at the start.
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
    """mP@k of one query: precision of the top `k`, or, where the last relevant item comes before
    that, up to it."""
    places = _places(order, truth, setup)
    if places is None:
        return None
    found, _ = places
    if not len(found):
        return 0.0
    upto = min(int(found.max()) + 1, k)
    return float((found < upto).sum() / upto)


def _places(order: Sequence[int], truth: Truth, setup: Setup) -> tuple[Int64, int] | None:
    """Places (from 0) of the wanted items in the ranking without junk, ascending, and how many are
    wanted."""
    wanted = {
        "easy": set(truth.easy),
        "medium": {*truth.easy, *truth.hard},
        "hard": set(truth.hard),
    }[setup]
    junk = {
        "easy": {*truth.junk, *truth.hard},
        "medium": set(truth.junk),
        "hard": {*truth.junk, *truth.easy},
    }[setup]
    if not wanted:
        return None
    kept = [row for row in order if row not in junk]
    return np.array([place for place, row in enumerate(kept) if row in wanted], np.int64), len(
        wanted
    )


# -- Google Landmarks v2 (Weyand et al., CVPR 2020)


def landmark_map(
    found: Mapping[str, Sequence[str]], truth: Mapping[str, Collection[str]], k: int = 100
) -> float:
    """mAP@k of the retrieval task: AP over the first `k` found, divided by the smaller of k and the
    number of right images; an image that was named before does not count again; the mean is over
    the queries of `truth`, found or not."""
    total = 0.0
    for query, right in truth.items():
        hits, summed, seen = 0, 0.0, set[str]()
        for rank, name in enumerate(found.get(query, ())[:k], start=1):
            if name in right and name not in seen:
                hits += 1
                summed += hits / rank
            seen.add(name)
        total += summed / max(min(len(set(right)), k), 1)
    return total / len(truth) if truth else 0.0


@dataclass(frozen=True)
class Recognised:
    """The one answer to a query of the recognition task: its class and how sure the answer is."""

    query: str
    label: str
    score: float


def landmark_gap(answers: Sequence[Recognised], truth: Mapping[str, Collection[str]]) -> float:
    """GAP (micro-AP): all answers in one ranking by score (equal ones by query, then class); the
    sum of precision at the right ones, divided by the number of queries that have a right class.
    Queries without one only push others down."""
    ordered = sorted(answers, key=lambda a: (-a.score, a.query, a.label))
    right, summed = 0, 0.0
    for rank, answer in enumerate(ordered, start=1):
        if answer.label in truth.get(answer.query, ()):
            right += 1
            summed += right / rank
    known = sum(bool(labels) for labels in truth.values())
    return summed / known if known else 0.0


# -- hash health


@dataclass(frozen=True)
class Health:
    """How codes [N, b] use their bits.

    unique: distinct codes; largest_bucket: items of the commonest code; bit_balance [b]: share of
    ones of each bit; bit_correlation: the mean of |correlation| over pairs of bits, constant ones
    left out; constant: bits that never change.
    """

    unique: int
    largest_bucket: int
    bit_balance: tuple[float, ...]
    bit_correlation: float
    constant: tuple[int, ...]


def health(bits: Bool) -> Health:
    """Health of codes given as bits [N, b] bool. Raises ValueError without any."""
    if not len(bits):
        raise ValueError("there are no codes")
    packed = codes.pack(bits)
    _, counts = np.unique(
        packed[:, 0] if packed.shape[1] == 1 else packed, axis=0, return_counts=True
    )
    share = bits.mean(0)
    varies = (share > 0) & (share < 1)
    both = np.zeros((bits.shape[1], bits.shape[1]))
    for start in range(0, len(bits), _BLOCK):  # as float32, in which sums of so many ones are exact
        block = bits[start : start + _BLOCK].astype(np.float32)
        both += block.T @ block
    deviation = np.sqrt(share * (1 - share))[varies]
    correlation = (both / len(bits) - np.outer(share, share))[np.ix_(varies, varies)] / np.outer(
        deviation, deviation
    )
    pairs = np.abs(correlation)[np.triu_indices(int(varies.sum()), 1)]
    return Health(
        unique=len(counts),
        largest_bucket=int(counts.max()),
        bit_balance=tuple(share.round(6).tolist()),
        bit_correlation=float(pairs.mean()) if len(pairs) else 0.0,
        constant=tuple(np.flatnonzero(~varies).tolist()),
    )
