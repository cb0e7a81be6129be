from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from wingbar.evaluation.verdict import verdict

FOUND = {
    "queries": 1029,
    "gallery": 4441,
    "gallery_codes": "network",
    "bits": 48,
    "map": 0.5,
    "map_low": 0.49,
    "map_high": 0.51,
    "argmax_map": 0.5,
    "argmax_accuracy": 0.7,
    "argmax_bits": 7,
    "feature_map": 0.5,
    "feature_top1": 0.85,
    "rerank_map": 0.5,
    "fine": "pool",
    "constant_bits": (),
    "largest_bucket": 3,
}


def said(**changes: Any) -> Any:
    return verdict(SimpleNamespace(**{**FOUND, **changes}))  # type: ignore[arg-type]


def test_the_headline_grades_the_nearest_picture() -> None:
    assert said().headline == (
        "Good at the nearest picture: it has the right label for 85.0% of 1,029 queries. At "
        "finding all pictures of a label, the search has MAP 0.500 of 1."
    )
    for top1, grade in ((0.95, "Excellent"), (0.8, "Good"), (0.5, "Fair"), (0.49, "Poor")):
        assert said(feature_top1=top1).headline.startswith(f"{grade} at the nearest picture: ")
    by_class = said(feature_top1=None).headline
    assert by_class.startswith("Fair at the predicted class: it is right for 70.0%")
    assert "1 query. " in said(queries=1).headline


def test_nothing_is_said_of_small_differences() -> None:
    assert (said().good, said().points, said().warnings) == (True, [], [])


@pytest.mark.parametrize(
    ("changes", "good", "text"),
    [
        (
            {"argmax_map": 0.545, "map": 0.359},
            False,
            "the codes are weaker than a plain classifier",
        ),
        ({"argmax_map": 0.4}, True, "the codes beat a plain classifier"),
        ({"feature_map": 0.6}, False, "The codes lose much of what the features know"),
        ({"rerank_map": 0.6}, True, "lifts MAP from 0.500 to 0.600"),
        ({"rerank_map": 0.4}, True, "The fine stage does harm"),
    ],
)
def test_each_point(changes: dict[str, Any], good: bool, text: str) -> None:
    found = said(**changes)
    assert found.good is good
    assert any(text in point for point in found.points)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"constant_bits": (3,)}, "1 bit is the same in all codes"),
        ({"largest_bucket": 500}, "500 of 4,441 items share one code"),
        ({"map_low": 0.4, "map_high": 0.6}, "from 0.400 to 0.600"),
        ({"gallery_codes": "labels"}, "made of its labels"),
    ],
)
def test_each_warning(changes: dict[str, Any], text: str) -> None:
    [warning] = said(**changes).warnings
    assert text in warning
