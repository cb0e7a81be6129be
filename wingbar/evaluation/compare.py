"""Two evaluations side by side: differences on the queries that both scored, each with an interval
by paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbar.errors import DataError

MEASURES = ("map", "rerank_map", "feature_map")  # what is known of every query
_AT_ONCE = 1_000_000  # draws in memory together


@dataclass(frozen=True)
class Difference:
    """A measure of both evaluations over the shared queries; `low` and `high` bound `difference`,
    second minus first."""

    measure: str
    first: float
    second: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What two evaluations share and how they differ. `notes` say what makes them hard to
    compare."""

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

    Queries are paired by file and label. The interval is the percentile one of the mean difference
    over `samples` draws of the shared queries with replacement (Efron & Tibshirani 1993, chapter
    13): it says what other queries of the same kind might have shown, not what another training
    would. Raises DataError for anything but two such records, or when they share no query.
    """
    sides = [_by_query(record) for record in (first, second)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if not shared:
        raise DataError(
            "the two evaluations share no query: run both on the same data, from the same folder"
        )
    draws = np.random.default_rng(seed)
    differences = []
    for measure in MEASURES:
        values = [[side[query].get(measure) for query in shared] for side in sides]
        if any(value is None for side in values for value in side):
            continue  # the exhaustive ranking was left out
        a, b = (np.array(side, float) for side in values)
        low, high = _interval(b - a, samples, level, draws)
        differences.append(
            Difference(measure, float(a.mean()), float(b.mean()), float((b - a).mean()), low, high)
        )
    return Comparison(
        (first["protocol"], second["protocol"]),
        len(shared),
        level,
        tuple(differences),
        _notes(first, second, sides),
    )


def _by_query(record: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    try:
        return {(query["path"], query["label"]): query for query in record["per_query"]}
    except (KeyError, TypeError):
        raise DataError(
            "that is no evaluation: write one with wingbar evaluate INDEX DATA --json > FILE"
        ) from None


def _interval(
    values: NDArray[np.float64], samples: int, level: float, draws: np.random.Generator
) -> tuple[float, float]:
    rows = max(1, _AT_ONCE // len(values))
    means = [
        values[draws.integers(0, len(values), (min(rows, samples - done), len(values)))].mean(1)
        for done in range(0, samples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _notes(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    sides: list[dict[tuple[str, str], Mapping[str, Any]]],
) -> tuple[str, ...]:
    notes = []
    if alone := len(sides[0].keys() ^ sides[1].keys()):
        notes.append(f"{alone:,} queries were scored by one of them only and are left out")
    for name, words in (
        ("gallery", "items in the gallery"),
        ("gallery_codes", "gallery codes"),
        ("bits", "bits"),
    ):
        if first.get(name) != second.get(name):
            notes.append(f"{words}: {first.get(name)} and {second.get(name)}")
    if first["protocol"] != second["protocol"]:
        notes.append("the protocols are not the same: read both before the figures")
    return tuple(notes)
