"""Which code each class gets, so that what a network confuses is near.

A network that is unsure between two classes gives a code somewhere between theirs, or that of the
wrong one. What is lost then depends on the codes of the classes alone: if the two codes are
neighbours, and those of other classes are further off, the right class follows at once; if they are
any two codes, it comes anywhere in the ranking.

So the codes are chosen for the network as it is. For each of n training images it says how probable
the classes are; that gives the image's code, the order in which the classes are ranked from there,
and the average precision (AP) that is to be expected if each class is the right one as often as the
network says. `assign` changes single bits of single classes, by simulated annealing (Kirkpatrick,
Gelatt & Vecchi, Science 1983), to raise the mean of this over the images.

Shapes: n images, y classes, t classes that are likely for an image, b bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wingbar.hamming.compiling import compiled

Bits = NDArray[np.bool_]

IMAGES = 1000  # that are looked at, at most: those of which the network is least sure
STEPS_PER_BIT = 20  # changes that are tried for each bit of each class,
MOST_STEPS = 200_000  # but no more than these
MOST_DISTANCES = 10**8  # between images and classes that are kept; beyond, nothing is assigned
# What an image's AP may lose at first and at last so that a change is taken about every third time,
# as a share of 1.
HOT, COLD = 0.3, 0.01


class Likely(NamedTuple):
    """What a network says of n images.

    classes: the likely classes of each, [n, t] int64, from 0, each of them once.
    shares: how probable they are, [n, t] float64, not negative; each row adds up to 1.
    """

    classes: NDArray[np.int64]
    shares: NDArray[np.float64]


def codes_by_votes(likely: Likely, codes: Bits) -> Bits:
    """The codes [n, b] of images whose classes have `codes` [y, b]: each bit is the vote of the
    likely classes, weighted by their shares; 1 if it is a draw."""
    signs = np.where(codes[likely.classes], 1.0, -1.0)
    return np.asarray(np.einsum("nt,ntb->nb", likely.shares, signs) >= 0)


def expected_ap(likely: Likely, codes: Bits, counts: NDArray[np.int64]) -> float:
    """The mean AP in [0, 1] to be expected of the images as queries, in a gallery that holds
    counts [y] images of each class, each with the code of its class in `codes` [y, b].

    The expectation is over the right class, by the shares, and over the order of ties.
    """
    state = _state(likely, codes)
    values = np.zeros(len(likely.classes))
    _values(state.distances, likely.classes, likely.shares, counts, _harmonic(counts), values)
    return float(values.mean())


def assign(
    likely: Likely, codes: Bits, counts: NDArray[np.int64], rng: np.random.Generator
) -> Bits:
    """Codes [y, b] for classes that a gallery holds counts [y] images of, which begin as `codes`:
    the best that were met by the measure of `expected_ap` on the IMAGES images that the network is
    least sure of.

    With more classes than fit (MOST_DISTANCES), or without images, they stay as they are.
    """
    unsure = np.argsort(likely.shares.max(1, initial=0), kind="stable")[:IMAGES]
    seen = Likely(likely.classes[unsure], likely.shares[unsure])
    n, (y, bits) = len(unsure), codes.shape
    if n == 0 or n * y > MOST_DISTANCES:
        return codes
    steps = min(STEPS_PER_BIT * y * bits, MOST_STEPS)
    changes = np.stack([rng.integers(0, y, steps), rng.integers(0, bits, steps)], 1)
    # a change is taken if it costs no more than this, in AP summed over the images
    allowed = -np.log(rng.random(steps)) * HOT * (COLD / HOT) ** (np.arange(steps) / steps)
    state = _state(seen, codes)
    best = state.codes.copy()
    _anneal(*state, seen.classes, seen.shares, counts, _harmonic(counts), changes, allowed, best)
    return best


class _State(NamedTuple):
    """codes: of the classes, [y, b]; own: of the images, [n, b]; distances [n, y] int64."""

    codes: Bits
    own: Bits
    distances: NDArray[np.int64]


def _state(likely: Likely, codes: Bits) -> _State:
    own = codes_by_votes(likely, codes)
    signs, own_signs = (np.where(x, 1.0, -1.0) for x in (codes, own))
    distances = np.rint((codes.shape[1] - own_signs @ signs.T) / 2).astype(np.int64)
    return _State(codes.copy(), own, distances)


def _harmonic(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 + 1/2 + ... + 1/i for i from 0 to the size of the gallery."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(counts.sum()) + 1))])


@compiled
def _value(distances, classes, shares, counts, harmonic):  # type: ignore[no-untyped-def]
    """Expected AP of one image, from its distances [y]."""
    value = 0.0
    for k in range(len(classes)):
        own, before, tied = distances[classes[k]], 0, 0
        for c in range(len(distances)):
            if distances[c] < own:
                before += counts[c]
            elif distances[c] == own:
                tied += counts[c]
        hits = counts[classes[k]]
        if hits == 0:
            continue
        # the mean over the orders of a bucket of `tied` items (evaluation/metrics.py)
        slope = (hits - 1) / (tied - 1) if tied > 1 else 0.0
        reach = harmonic[before + tied] - harmonic[before]
        value += shares[k] * ((1 - slope * (before + 1)) * reach + slope * tied) / tied
    return value


@compiled
def _values(distances, classes, shares, counts, harmonic, values):  # type: ignore[no-untyped-def]
    """`_value` of every image, into values [n]."""
    for i in range(len(values)):
        values[i] = _value(distances[i], classes[i], shares[i], counts, harmonic)


@compiled
def _flip(codes, own, distances, classes, shares, c, j, moved):  # type: ignore[no-untyped-def]
    """Change bit j of class c in codes [y, b], and with it own [n, b] and distances [n, y]; tell in
    moved [n] whose own code changed."""
    codes[c, j] = not codes[c, j]
    for i in range(len(own)):
        distances[i, c] += 1 if own[i, j] != codes[c, j] else -1
        moved[i] = False
        concerned = False
        for k in range(classes.shape[1]):
            concerned = concerned or classes[i, k] == c
        if not concerned:
            continue
        vote = 0.0
        for k in range(classes.shape[1]):
            vote += shares[i, k] if codes[classes[i, k], j] else -shares[i, k]
        if (vote >= 0) != own[i, j]:
            own[i, j] = not own[i, j]
            moved[i] = True
            for other in range(len(codes)):
                distances[i, other] += 1 if own[i, j] != codes[other, j] else -1


@compiled
def _anneal(  # type: ignore[no-untyped-def]
    codes, own, distances, classes, shares, counts, harmonic, changes, allowed, best
):
    """Try the `changes` [steps, 2] (class, bit) in turn; the best codes met end in `best`."""
    n = len(own)
    values, after = np.zeros(n), np.zeros(n)
    _values(distances, classes, shares, counts, harmonic, values)
    moved = np.zeros(n, np.bool_)
    total = highest = values.sum()
    for step in range(len(changes)):
        c, j = changes[step]
        _flip(codes, own, distances, classes, shares, c, j, moved)
        gain = 0.0
        for i in range(n):
            after[i] = values[i]
            reach = 0
            for k in range(classes.shape[1]):
                reach = max(reach, distances[i, classes[i, k]])
            # beyond all likely classes, before and after, it does not matter where a class is
            if moved[i] or distances[i, c] <= reach + 1:
                after[i] = _value(distances[i], classes[i], shares[i], counts, harmonic)
                gain += after[i] - values[i]
        if gain >= -allowed[step]:
            values[:] = after
            total += gain
            if total > highest + 1e-9:
                highest = total
                best[:] = codes
        else:
            _flip(codes, own, distances, classes, shares, c, j, moved)
