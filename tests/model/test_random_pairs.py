from __future__ import annotations

import numpy as np
import pytest

from wingbar.hamming.codes import pack
from wingbar.model.itq import unit
from wingbar.model.random_pairs import FEWEST, SHARES, RandomPairs, measure, sample_of

BITS = 24


def items(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits [M, b], packed codes and features [M, d] of random items."""
    features = unit(np.random.default_rng(seed).standard_normal((count, 32)))
    bits = features @ np.random.default_rng(9).standard_normal((32, BITS)) >= 0
    return bits, pack(bits), features


@pytest.fixture(scope="module")
def pairs() -> RandomPairs:
    _, packed, features = items()
    found = measure(packed, features, BITS)
    assert found is not None
    return found


def all_pairs() -> tuple[np.ndarray, np.ndarray]:
    bits, _, features = items()
    upper = np.triu_indices(len(bits), 1)
    return (bits[:, None] != bits[None]).sum(2)[upper], (features @ features.T)[upper]


def test_shares_are_those_of_all_pairs(pairs: RandomPairs) -> None:
    distances, cosines = all_pairs()
    for radius in (5, 8, 12, 20, 24):
        share = (distances <= radius).mean()
        assert pairs.of_distances(np.array([radius]))[0] == pytest.approx(share, rel=1e-4)
    for share in (0.5, 0.1, 0.01, 0.001):
        cosine = np.quantile(cosines, 1 - share)
        assert pairs.of_cosines(np.array([cosine]))[0] == pytest.approx(share, rel=0.01)
    assert pairs.of_cosines(np.array([-1.0, cosines.min()])).tolist() == [1, pytest.approx(1)]


def test_what_is_nearer_is_never_more_likely(pairs: RandomPairs) -> None:
    for p in (
        pairs.of_distances(np.arange(BITS + 1)),
        pairs.of_cosines(np.linspace(1, -1, 200)),
        pairs.of_agreements(np.linspace(1, -1, 200), np.ones(BITS)),
    ):
        assert (np.diff(p) >= 0).all()
        assert p.min() > 0
        assert p.max() <= 1


def test_other_random_items_find_the_expected_shares(pairs: RandomPairs) -> None:
    bits, _, features = items(300, seed=5)
    own_bits, _, own = items()
    distances = (bits[:, None] != own_bits[None]).sum(2)
    logits = features @ np.random.default_rng(9).standard_normal((32, BITS))
    signs = own_bits * 2.0 - 1
    agreements = (logits / np.abs(logits).sum(1, keepdims=True)) @ signs.T
    by_agreement = np.stack(
        [pairs.of_agreements(a, one) for a, one in zip(agreements, logits, strict=True)]
    )
    for share in (0.1, 0.01):
        assert (pairs.of_cosines((features @ own.T).ravel()) <= share).mean() == pytest.approx(
            share, rel=0.3
        )
        assert share / 3 < (pairs.of_distances(distances) <= share).mean() <= share * 1.3
        assert share / 3 < (by_agreement <= share).mean() < share * 3


@pytest.mark.parametrize("count", [FEWEST, 60, 300])
def test_a_few_items_promise_no_more_than_their_pairs_can_say(count: int) -> None:
    _, packed, features = items(count, seed=3)
    found = measure(packed, features, BITS)
    assert found is not None
    assert found.cosines == tuple(sorted(found.cosines))
    _, cosines = all_pairs()
    rarest = np.sort(cosines)[-20:]  # of 79,800 pairs
    shares = np.arange(20, 0, -1) / len(cosines)
    promised = found.of_cosines(rarest)
    assert (promised > shares / 5).all()
    assert promised[0] < 0.02


def test_equal_logits_agree_as_bits_do(pairs: RandomPairs) -> None:
    distances = np.arange(BITS + 1)
    np.testing.assert_allclose(
        pairs.of_agreements(1 - 2 * distances / BITS, -np.ones(BITS)),
        pairs.of_distances(distances),
    )


def test_it_is_kept_in_a_record(pairs: RandomPairs) -> None:
    assert RandomPairs.from_record(pairs.record(), BITS) == pairs
    falling = {**pairs.record(), "cosines": pairs.record()["cosines"][::-1]}
    odd: object
    for odd in (None, [], {}, {"within": [1]}, falling, {**pairs.record(), "within": ["a"] * 25}):
        assert RandomPairs.from_record(odd, BITS) is None
    assert RandomPairs.from_record(pairs.record(), BITS + 1) is None


def test_a_few_items_and_items_that_are_all_the_same() -> None:
    _, packed, features = items(FEWEST)
    assert measure(packed[1:], features[1:], BITS) is None
    same = measure(np.repeat(packed[:1], 30, 0), np.repeat(features[:1], 30, 0), BITS)
    assert same is not None
    assert same.of_distances(np.array([0])).tolist() == [1]
    assert same.of_cosines(np.array([0.5, 1.0])).tolist() == [1, pytest.approx(1, abs=1e-3)]
    assert len(same.cosines) == len(SHARES)


def test_the_sample_is_drawn_with_a_seed() -> None:
    assert sample_of(5).tolist() == [0, 1, 2, 3, 4]
    assert len(sample_of(5000)) == 1000
    assert sample_of(5000).tolist() == sample_of(5000).tolist() == sorted(sample_of(5000).tolist())


def test_a_damaged_feature_is_as_unlike_as_can_be(pairs: RandomPairs) -> None:
    found = pairs.of_cosines(np.array([0.9, np.nan], np.float32))
    assert found[0] < 0.01
    assert found[1] == 1


def test_damaged_features_are_left_out_of_the_sample(pairs: RandomPairs) -> None:
    _, packed, features = items()
    broken = features[:2].copy()
    broken[:, 3] = np.nan
    packed, features = np.concatenate([packed, packed[:2]]), np.concatenate([features, broken])
    assert measure(packed, features, BITS) == pairs
    assert measure(packed[-2:], features[-2:], BITS) is None
