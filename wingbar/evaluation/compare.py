"""Compare two evaluations on the queries that both scored, with intervals by paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError, counted

METRICS = ("map", "rerank_map", "feature_map")  # those known of every query
_DRAWS_AT_ONCE = 1_000_000  # that are in memory together

_Query = tuple[str, str, tuple[float, ...]]  # path, label and box, () for the whole file


@dataclass(frozen=True)
class Difference:
    """One metric of both evaluations, as means over the shared queries.

    measure: the metric's name, one of METRICS.
    first, second: its means, each in [0, 1].
    difference: second minus first, in [-1, 1].
    low, high: the confidence interval of `difference`, each in [-1, 1].
    """

    measure: str
    first: float
    second: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What two evaluations share and how they differ.

    protocols: the protocol lines of both.
    queries: number of shared queries, at least 1.
    level: confidence level of the intervals, in (0, 1).
    differences: one per metric that both have.
    notes: what makes the two hard to compare, each in a sentence.
    """

    protocols: tuple[str, str]
    queries: int
    level: float
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    samples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two records of `wingbar evaluate --json`.

    Queries are paired by file, box and label. Each interval is the percentile bootstrap interval of
    the mean difference, over `samples` resamples of the shared queries (Efron & Tibshirani 1993,
    chapter 13); `level` in (0, 1). It covers the choice of queries, not that of a training seed.
    Raises DataError for anything but two such records, or when they share no query.
    """
    sides = [_by_query(record) for record in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if not shared:
        raise DataError(
            "the two evaluations share no query: run both on the same data, from the same folder"
        )
    rng = np.random.default_rng(seed)
    differences = []
    for metric in METRICS:
        values = [[side[query].get(metric) for query in shared] for side in sides]
        if any(value is None for side in values for value in side):
            continue  # one of them was made with --no-exhaustive
        a, b = (np.array(side, float) for side in values)
        low, high = _interval(b - a, samples, level, rng)
        differences.append(
            Difference(metric, float(a.mean()), float(b.mean()), float((b - a).mean()), low, high)
        )
    return Comparison(
        (first["protocol"], second["protocol"]),
        len(shared),
        level,
        tuple(differences),
        _notes(first, second, sides),
    )


def _by_query(record: Mapping[str, Any]) -> dict[_Query, Mapping[str, Any]]:
    try:
        return {
            (query["path"], query["label"], tuple(query.get("box") or ())): query
            for query in record["per_query"]
        }
    except (KeyError, TypeError):
        raise DataError(
            "this is not an evaluation: write one with wingbar evaluate INDEX DATA --json > FILE"
        ) from None


def _interval(
    values: NDArray[np.float64], samples: int, level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of values [Q]."""
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means = [
        values[rng.integers(0, len(values), (min(at_once, samples - done), len(values)))].mean(1)
        for done in range(0, samples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _notes(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    sides: list[dict[_Query, Mapping[str, Any]]],
) -> tuple[str, ...]:
    notes = []
    if alone := len(sides[0].keys() ^ sides[1].keys()):
        some = counted(alone, "query was", "queries were")
        notes.append(f"{some} scored in only one of them and left out")
    for name, words in (
        ("gallery", "items in the gallery"),
        ("gallery_codes", "gallery codes"),
        ("bits", "bits"),
    ):
        if first.get(name) != second.get(name):
            notes.append(f"{words}: {first.get(name)} and {second.get(name)}")
    if first["protocol"] != second["protocol"]:
        notes.append("the protocols differ: read both before the figures")
    return tuple(notes)
