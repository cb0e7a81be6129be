from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wingbar.data.records import Truth
from wingbar.evaluation import metrics
from wingbar.evaluation.metrics import Prediction, ap_bounds, expected_ap, expected_ap_at


def ap(relevant: list[bool], k: int | None = None) -> float:
    """Average precision of one order, from the definition; with k, over the hits inside the top
    k."""
    top = relevant[:k]
    hits, total = 0, 0.0
    for rank, is_hit in enumerate(top, 1):
        if is_hit:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


def all_orders(distance: list[int], relevant: list[bool]) -> list[list[bool]]:
    """Relevance in every order that the ties allow."""
    groups = [
        [r for d, r in zip(distance, relevant, strict=True) if d == value]
        for value in sorted(set(distance))
    ]
    return [
        list(itertools.chain(*orders))
        for orders in itertools.product(*(list(itertools.permutations(group)) for group in groups))
    ]


@pytest.mark.parametrize(
    ("distance", "relevant", "expected"),
    [
        ([0, 0], [1, 0], (0.75, 0.5, 1.0)),
        ([0, 1, 1, 1, 2, 2], [1, 0, 1, 0, 1, 0], (0.7574074074, 0.6666666667, 0.8666666667)),
        ([1, 1, 1, 1, 3, 3, 3], [1, 0, 0, 1, 0, 1, 0], (0.6235449735, 0.4206349206, 0.8666666667)),
    ],
)
def test_golden_values(
    distance: list[int], relevant: list[int], expected: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(ap_bounds(distance, relevant), expected, atol=1e-9)
    assert expected_ap(distance, relevant) == ap_bounds(distance, relevant)[0]


rankings = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@settings(max_examples=150, deadline=None)
@given(ranking=rankings)
def test_the_mean_and_the_bounds_over_all_orders(ranking: tuple[list[int], list[bool]]) -> None:
    every = [ap(order) for order in all_orders(*ranking)]
    np.testing.assert_allclose(
        ap_bounds(*ranking), [float(np.mean(every)), min(every), max(every)], atol=1e-12
    )


@settings(max_examples=150, deadline=None)
@given(ranking=rankings, k=st.integers(1, 9))
def test_the_mean_at_k_over_all_orders(ranking: tuple[list[int], list[bool]], k: int) -> None:
    every = [ap(order, k) for order in all_orders(*ranking)]
    assert expected_ap_at(*ranking, k) == pytest.approx(np.mean(every), abs=1e-12)


def test_without_ties_it_is_the_textbook_ap() -> None:
    rng = np.random.default_rng(0)
    distance, relevant = rng.permutation(5000), rng.random(5000) < 0.1
    expected = ap(relevant[np.argsort(distance)].tolist())
    np.testing.assert_allclose(ap_bounds(distance, relevant), [expected] * 3, atol=1e-12)
    assert expected_ap_at(distance, relevant, 1000) == pytest.approx(
        ap(relevant[np.argsort(distance)].tolist(), 1000), abs=1e-12
    )


def test_map_is_that_of_independent_implementations() -> None:
    torch = pytest.importorskip("torch")
    from sklearn.metrics import average_precision_score
    from torchmetrics.functional.classification import binary_average_precision

    rng = np.random.default_rng(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(30):
            n = int(rng.integers(5, 400))
            distance, relevant = rng.permutation(n), rng.random(n) < rng.uniform(0.05, 0.9)
            relevant[rng.integers(n)] = True
            ours, near = expected_ap(distance, relevant), 1 - distance / n
            assert ours == pytest.approx(average_precision_score(relevant, near), abs=1e-9)
            theirs = binary_average_precision(
                torch.from_numpy(near), torch.from_numpy(relevant.astype(np.int64))
            )
            assert ours == pytest.approx(float(theirs), abs=1e-9)
    finally:
        torch.set_default_dtype(before)


def test_large_ties_stay_exact() -> None:
    """One bucket of 100,000 items: the mean by the sum of the formula, term by term."""
    n, hits = 100_000, 137
    t = np.arange(n)
    slow = float((hits / n * (1 + t * (hits - 1) / (n - 1)) / (t + 1)).sum() / hits)
    relevant = np.arange(n) < hits
    assert expected_ap(np.zeros(n, int), relevant) == pytest.approx(slow, abs=1e-12)


def test_the_mean_at_k_of_large_ties_by_sampling() -> None:
    distance, relevant = (
        np.repeat([0, 1, 2], [300, 2000, 500]),
        np.random.default_rng(1).random(2800) < 0.2,
    )
    rng = np.random.default_rng(2)
    sampled = [
        ap(relevant[np.lexsort((rng.random(2800), distance))].tolist(), 1000) for _ in range(400)
    ]
    assert expected_ap_at(distance, relevant, 1000) == pytest.approx(
        np.mean(sampled), abs=4 * float(np.std(sampled)) / 20
    )


def test_edges() -> None:
    assert expected_ap([], []) == 0
    assert ap_bounds([1, 2], [False, False]) == (0, 0, 0)
    assert expected_ap([3], [True]) == 1
    assert expected_ap([0.5, -0.5], [True, False]) == 0.5
    with pytest.raises(ValueError, match="both"):
        expected_ap([1, 2], [True])
    with pytest.raises(ValueError, match="NaN"):
        expected_ap([np.nan, 1.0], [True, False])


# -- the three denominators, P@k, R@k, MAP@R


def test_three_denominators_where_they_differ() -> None:
    """Right, wrong, wrong, right, wrong, right: 3 relevant. The top 2 holds one hit, at rank 1:
    1/1, 1/2 and 1/3. The top 4 holds two, with precisions 1 and 1/2: 1.5 over 2, 3 and 3. The top
    6: 1 + 1/2 + 1/2 over 3 each way."""
    distance, relevant = np.arange(6), np.array([1, 0, 0, 1, 0, 1], bool)
    kinds: tuple[metrics.Denominator, ...] = ("hits", "smaller", "relevant")
    assert [expected_ap_at(distance, relevant, 2, kind) for kind in kinds] == pytest.approx(
        [1, 1 / 2, 1 / 3]
    )
    assert [expected_ap_at(distance, relevant, 4, kind) for kind in kinds] == pytest.approx(
        [1.5 / 2, 1.5 / 3, 1.5 / 3]
    )
    assert [expected_ap_at(distance, relevant, 6, kind) for kind in kinds] == pytest.approx(
        [2 / 3] * 3
    )
    assert metrics.expected_ap_at_r(distance, relevant) == pytest.approx(
        1 / 3
    )  # k = R = 3 holds one hit
    with pytest.raises(ValueError, match="hits, smaller or relevant, not 'all'"):
        expected_ap_at(distance, relevant, 2, "all")  # type: ignore[arg-type]


def over(k: int, kind: str) -> Callable[[list[bool]], float]:
    """AP@k of one order from the definition, with a denominator."""

    def value(order: list[bool]) -> float:
        summed = sum(
            sum(order[:rank]) / rank for rank in range(1, min(k, len(order)) + 1) if order[rank - 1]
        )
        below = {"hits": sum(order[:k]), "smaller": min(k, sum(order)), "relevant": sum(order)}[
            kind
        ]
        return summed / below if below else 0.0

    return value


@settings(max_examples=150, deadline=None)
@given(ranking=rankings, k=st.integers(1, 9), kind=st.sampled_from(["hits", "smaller", "relevant"]))
def test_every_denominator_over_all_orders(
    ranking: tuple[list[int], list[bool]], k: int, kind: metrics.Denominator
) -> None:
    every = [over(k, kind)(order) for order in all_orders(*ranking)]
    assert expected_ap_at(*ranking, k, kind) == pytest.approx(np.mean(every), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(ranking=rankings, k=st.integers(1, 9))
def test_precision_and_recall_over_all_orders(
    ranking: tuple[list[int], list[bool]], k: int
) -> None:
    orders = all_orders(*ranking)
    relevant = sum(ranking[1])
    assert metrics.expected_precision_at(*ranking, k) == pytest.approx(
        np.mean([sum(o[:k]) / k for o in orders]), abs=1e-12
    )
    expected = np.mean([sum(o[:k]) / relevant for o in orders]) if relevant else 0
    assert metrics.expected_recall_at(*ranking, k) == pytest.approx(expected, abs=1e-12)
    at_r = np.mean([over(relevant, "relevant")(o) for o in orders]) if relevant else 0
    assert metrics.expected_ap_at_r(*ranking) == pytest.approx(at_r, abs=1e-12)


def test_it_is_scikit_learn_s_ap_without_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for _ in range(20):
        relevant, score = rng.random(400) < 0.2, rng.permutation(400).astype(float)
        assert expected_ap(-score, relevant) == pytest.approx(
            metrics.average_precision_score(relevant, score), abs=1e-9
        )


def test_items_by_radius() -> None:
    distance, relevant = np.array([0, 2, 2, 3]), np.array([True, False, True, True])
    items, hits = metrics.hits_by_radius(distance, relevant, 4)
    assert (items.tolist(), hits.tolist()) == ([1, 1, 3, 4, 4], [1, 1, 2, 3, 3])


# -- revisited Oxford and Paris

TRUTH = Truth(easy={0, 1}, hard={2}, junk={3})


def test_junk_is_taken_out_and_the_area_is_of_trapezoids() -> None:
    """Order: junk 3, easy 0, wrong 9, hard 2, easy 1.

    Easy: hard and junk go; 0, 9, 1: places 0 and 2. (1 + 1)/2 and (1/2 + 2/3)/2, over 2.
    Medium: 0, 9, 2, 1: places 0, 2, 3. 1, (1/2 + 2/3)/2, (2/3 + 3/4)/2, over 3.
    Hard: easy and junk go; 9, 2: place 1. (0/1 + 1/2)/2, over 1.
    """
    order = [3, 0, 9, 2, 1]
    assert metrics.revisited_ap(order, TRUTH, "easy") == pytest.approx((1 + 7 / 12) / 2)
    assert metrics.revisited_ap(order, TRUTH, "medium") == pytest.approx((1 + 7 / 12 + 17 / 24) / 3)
    assert metrics.revisited_ap(order, TRUTH, "hard") == pytest.approx(1 / 4)


def test_revisited_precision_stops_at_the_last_right_one() -> None:
    order = [0, 9, 1, 8, 7, 6]
    assert metrics.revisited_precision_at(order, TRUTH, "easy", 1) == 1
    assert metrics.revisited_precision_at(order, TRUTH, "easy", 2) == 1 / 2
    assert metrics.revisited_precision_at(order, TRUTH, "easy", 10) == pytest.approx(
        2 / 3
    )  # of 3, not of 10
    assert (
        metrics.revisited_precision_at([9, 8], TRUTH, "easy", 5) == 0
    )  # a ranking that stops before


def test_a_query_with_nothing_to_find_is_left_out() -> None:
    none = Truth(easy=(), hard={2}, junk=())
    assert metrics.revisited_ap([2, 1], none, "easy") is None
    assert metrics.revisited_precision_at([2, 1], none, "easy", 5) is None
    assert metrics.revisited_ap([2, 1], none, "medium") == 1


# -- landmarks


def test_landmark_map_by_hand() -> None:
    """q1: right at ranks 1 and 3 of three right ones, and one named twice: (1 + 2/3) / 3. q2: found
    nothing. q3: two of 200 right ones, denominator k."""
    truth = {"q1": {"a", "b", "c"}, "q2": {"x"}, "q3": {f"r{i}" for i in range(200)}}
    found = {"q1": ["a", "z", "b", "a"], "q3": ["r1", "r2"], "other": ["a"]}
    assert metrics.landmark_map(found, truth) == pytest.approx(((1 + 2 / 3) / 3 + 0 + 2 / 100) / 3)
    assert metrics.landmark_map({"q1": ["z", "a"]}, {"q1": {"a"}}, k=1) == 0
    assert metrics.landmark_map({}, {}) == 0


def test_landmark_gap_by_hand() -> None:
    """By score: q2 wrong, q3 (no landmark), q1 right at rank 3: 1/3; equal scores by query: q0
    before q1. Two have truth."""
    truth = {"q0": {"A"}, "q1": {"B"}, "q2": {"C"}, "q3": ()}
    answers = [Prediction("q1", "B", 0.5), Prediction("q2", "A", 0.9), Prediction("q3", "Z", 0.7)]
    assert metrics.landmark_gap(answers, truth) == pytest.approx((1 / 3) / 3)
    tied = [Prediction("q1", "B", 0.5), Prediction("q0", "B", 0.5)]
    assert metrics.landmark_gap(tied, truth) == pytest.approx((1 / 2) / 3)
    assert metrics.landmark_gap([], {}) == 0


# -- hash health


def test_health_by_hand() -> None:
    bits = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], bool)
    found = metrics.health(bits)
    assert (found.unique, found.largest_bucket, found.constant) == (4, 2, (0,))
    assert found.bit_balance == (1.0, 0.6, 0.4, 0.4)
    correlation = np.abs(np.corrcoef(bits[:, 1:].T.astype(float)))
    assert found.bit_correlation == pytest.approx(correlation[np.triu_indices(3, 1)].mean())
    assert metrics.health(np.zeros((3, 2), bool)).constant == (0, 1)
    with pytest.raises(ValueError, match="no codes"):
        metrics.health(np.zeros((0, 4), bool))


@given(
    st.lists(st.tuples(st.integers(-128, 127), st.booleans()), min_size=1, max_size=400),
    st.sampled_from([np.int8, np.int16, np.int64, np.uint8, np.uint32]),
)
def test_whole_distances_are_counted_as_others_are_sorted(
    items: list[tuple[int, bool]], kind: type[np.integer]
) -> None:
    least = 128 if np.issubdtype(kind, np.unsignedinteger) else 0
    distance = np.array([place + least for place, _ in items])
    relevant = np.array([hit for _, hit in items])
    counted = metrics.to_buckets(distance.astype(kind), relevant)
    by_sorting = metrics.to_buckets(distance.astype(np.float64), relevant)
    assert counted.size.tolist() == by_sorting.size.tolist()
    assert counted.hits.tolist() == by_sorting.hits.tolist()


def test_distances_too_large_to_count_are_sorted() -> None:
    for far in (np.array([2**64 - 1, 0], np.uint64), np.array([2**62, -(2**62)])):
        assert metrics.to_buckets(far, [True, False]).hits.tolist() == [0, 1]
