from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wingbar.hamming.codes import Nearest
from wingbar.index.ranking import FINE, Fine, Ranked, fine_places, folded, rank

shortlists = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 6), min_size=n, max_size=n),
        st.lists(st.sampled_from([-1, -0.5, 0, 0.25, 1]), min_size=n, max_size=n),
    )
)


@settings(max_examples=150, deadline=None)
@given(shortlist=shortlists, mode=st.sampled_from(FINE))
def test_the_fine_modes_order_a_shortlist_as_they_say(
    shortlist: tuple[list[int], list[float]], mode: Fine
) -> None:
    """ "none" by distance; "ties" by distance, then score; the other two by score alone. Items that
    are still tied are ranked by id."""
    distances, scores = np.array(shortlist[0], np.int64), np.array(shortlist[1], np.float32)
    ids = np.arange(len(distances)) * 3 + 1
    keys = {"none": (ids, distances), "ties": (ids, -scores, distances)}
    expected = np.lexsort(keys.get(mode, (ids, -scores)))
    near = Nearest(ids, distances, cut=False)
    places = fine_places(mode, distances, scores)
    assert np.lexsort((ids, places)).tolist() == expected.tolist()
    ranked = rank(near, mode, scores)
    assert ranked.ids.tolist() == ids[expected].tolist()
    assert ranked.distances.tolist() == distances[expected].tolist()
    assert rank(near, mode, scores, k=2).ids.tolist() == ids[expected][:2].tolist()


def test_places_beside_the_items_outside_a_shortlist() -> None:
    """An item outside has its distance as its place: "ties" keeps within half a bit of that, "pool"
    and "asymmetric" are in front of all of them."""
    distances, scores = np.array([0, 3, 3]), np.array([-1, 1, -1], np.float32)
    assert fine_places("none", distances, scores).tolist() == [0, 3, 3]
    assert fine_places("ties", distances, scores).tolist() == [0, 2.5, 3]
    for mode in ("pool", "asymmetric"):
        assert fine_places(mode, distances, scores).tolist() == [-2, -4, -2]


def test_without_scores_the_order_is_that_of_the_codes() -> None:
    near = Nearest(np.array([4, 9, 2]), np.array([0, 1, 1]), cut=False)
    ranked = rank(near, "none", None, k=2)
    assert (ranked.ids.tolist(), ranked.distances.tolist()) == ([4, 9], [0, 1])
    assert (ranked.scores, ranked.shortlist, ranked.cut) == (None, 0, False)


def test_copies_are_folded_into_the_best_of_them() -> None:
    packed = np.array([[0b0000], [0b0001], [0b1111], [0b0000], [0b0001]], np.uint64)
    features = np.array([[1, 0], [0.999, 0.04], [1, 0], [0, 1], [0, 1]], np.float32)
    contents = [b"a", b"b", b"c", b"a", b"e"]
    ranked = Ranked(
        np.array([10, 11, 12, 13, 14]),
        np.arange(5),
        np.linspace(1, 0, 5, dtype=np.float32),
        5,
        False,
    )
    first, copies, are_enough = folded(ranked, 3, contents, packed, features, 1, 0.99)
    # 11 is near, 12 has another code, 13 the same content, 14 another feature
    assert first.ids.tolist() == [10, 12, 14]
    assert copies == {10: [11, 13]}
    assert are_enough
    first, copies, are_enough = folded(ranked, 4, contents, packed, features, 1, 0.99)
    assert (first.ids.tolist(), are_enough) == ([10, 12, 14], False)
    first, copies, _ = folded(ranked, 1, contents, packed, features, 1, 0.99)
    assert (first.ids.tolist(), copies) == ([10], {10: [11]})
