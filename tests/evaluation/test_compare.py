from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_classes
from wingbar.data.readers import read_images
from wingbar.errors import DataError
from wingbar.evaluation.compare import compare
from wingbar.evaluation.labelled import evaluate
from wingbar.index.index import Index


def record(values: list[float], name: str = "p", **more: Any) -> dict[str, Any]:
    queries = [
        {"path": f"/{i}", "label": "a", "map": v, "rerank_map": v / 2, "feature_map": None}
        for i, v in enumerate(values)
    ]
    return {
        "protocol": name,
        "gallery": 9,
        "bits": 8,
        "gallery_codes": "network",
        "per_query": queries,
        **more,
    }


def test_differences_are_of_the_same_queries() -> None:
    found = compare(record([0.1, 0.2, 0.9]), record([0.2, 0.4, 0.9, 0.7]))
    assert found.queries == 3
    assert [d.measure for d in found.differences] == ["map", "rerank_map"]
    first = found.differences[0]
    assert (first.first, first.second, first.difference) == pytest.approx((0.4, 0.5, 0.1))
    assert first.low <= first.difference <= first.high
    assert found.notes == ("1 query was scored in only one of them and left out",)


def test_two_boxes_of_one_file_are_two_queries() -> None:
    first, second = record([0.1, 0.2]), record([0.2, 0.4])
    for side in (first, second):
        for query, box in zip(side["per_query"], ([0, 0, 5, 5], [5, 0, 5, 5]), strict=True):
            query |= {"path": "/0", "box": box}
    found = compare(first, second)
    assert (found.queries, found.notes) == (2, ())
    assert found.differences[0].difference == pytest.approx(0.15)
    del second["per_query"][1]
    assert compare(first, second).notes == ("1 query was scored in only one of them and left out",)


def test_the_interval_is_that_of_the_paired_mean() -> None:
    rng = np.random.default_rng(1)
    base = rng.random(400)
    step = rng.normal(0.02, 0.05, 400)
    [found] = [
        d
        for d in compare(record(base.tolist()), record((base + step).tolist())).differences
        if d.measure == "map"
    ]
    spread = (
        1.96 * step.std() / 20
    )  # by the central limit theorem; the differences between queries play no part
    assert (found.low, found.high) == pytest.approx(
        (step.mean() - spread, step.mean() + spread), abs=6e-4
    )
    again = compare(record(base.tolist()), record((base + step).tolist())).differences
    assert found in again
    same = compare(record(base.tolist()), record(base.tolist())).differences[0]
    assert (same.low, same.difference, same.high) == (0, 0, 0)


def test_what_makes_figures_hard_to_compare_is_said() -> None:
    found = compare(
        record([0.1, 0.2]), record([0.1, 0.2], "q", bits=12, gallery=10, gallery_codes="labels")
    )
    assert found.notes == (
        "items in the gallery: 9 and 10",
        "gallery codes: network and labels",
        "bits: 8 and 12",
        "the protocols differ: read both before the figures",
    )


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="is not an evaluation"):
        compare({"a": 1}, record([1]))
    with pytest.raises(DataError, match="share no query"):
        compare(record([]), record([1.0]))


def test_real_evaluations(shared_index_path: Path, tmp_path: Path) -> None:
    queries = read_images(write_classes(tmp_path / "q", 4, first_seed=300))
    with Index.open(shared_index_path) as index:
        plain, pool = (asdict(evaluate(index, queries, fine=fine)) for fine in ("none", "pool"))
    found = {d.measure: d for d in compare(plain, pool).differences}
    assert found["map"].difference == 0
    assert found["rerank_map"].difference == pytest.approx(pool["rerank_map"] - plain["rerank_map"])
