"""The landmark protocols through an index: revisited Oxford and Paris, and Google Landmarks v2.

Their formulas are in measures.py; here are the rankings that they are fed with.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from wingbar import images
from wingbar.data.records import Dataset, Truth
from wingbar.errors import DataError, ImageError
from wingbar.evaluation.metrics import (
    Recognised,
    Setup,
    landmark_gap,
    landmark_map,
    revisited_ap,
    revisited_precision_at,
)
from wingbar.images import Failure
from wingbar.index.index import Index
from wingbar.index.ranking import SHORTLIST, Fine, SearchOptions, coarse, rank
from wingbar.parallel import Progress

RANKS = (1, 5, 10)
_EVERYTHING = 2**31  # a k that nothing reaches


@dataclass(frozen=True)
class Scores:
    """One ranking under one setup: mean AP and mP@1, 5 and 10 over the `queries` that have
    something to find."""

    map: float
    mp_at_1: float
    mp_at_5: float
    mp_at_10: float
    queries: int


@dataclass(frozen=True)
class Revisited:
    """Revisited Oxford or Paris. `features`: the whole gallery by cosine; `search`: as the index
    searches, the `shortlist` in the order of its fine mode and the rest by Hamming distance. Each
    by setup: "easy", "medium", "hard"."""

    protocol: str
    queries: int
    gallery: int
    fine: str
    shortlist: int
    features: Mapping[str, Scores]
    search: Mapping[str, Scores]
    notes: tuple[str, ...]
    failed: tuple[Failure, ...]


def evaluate_revisited(
    index: Index,
    data: Dataset,
    *,
    fine: Fine | None = None,
    shortlist: int = SHORTLIST,
    whole_queries: bool = False,
    progress: Progress | None = None,
) -> Revisited:
    """Score `index`, which holds the gallery of `data`, by the protocol of Radenovic et al. (CVPR
    2018).

    Queries are cut to their boxes unless `whole_queries`. Items of the index that are no part of
    the gallery are distractors: they push others down. A query that cannot be read finds nothing
    and counts 0. Raises DataError when `data` has no such ground truth or the index holds nothing
    of its gallery.
    """
    if not data.truth:
        raise DataError(
            f"{data.protocol} has no easy, hard and junk lists: this protocol is for ROxford5k "
            "and RParis6k"
        )
    options = SearchOptions(k=shortlist, fine=fine, shortlist=shortlist)
    with index.snapshot():
        mode = index.fine_of(options)
        searchable, features = index.searchable(), index.features().astype(np.float32)
        rows, here = _rows_of_gallery(index, data)
        failed: list[Failure] = []
        by_feature: list[Sequence[int]] = []
        by_search: list[Sequence[int]] = []
        for i, entry in enumerate(data.query):
            source: images.Source = (
                entry.path
                if entry.box is None or whole_queries
                else images.Part(entry.path, entry.box)
            )
            try:
                query = index.model.encode([source])
            except ImageError as error:
                failed.append(Failure(str(entry.path), str(error)))
                by_feature.append(())
                by_search.append(())
                continue
            by_feature.append(
                rows[np.argsort(-(features @ query.features[0]), kind="stable")].tolist()
            )
            [near] = coarse(searchable, query.codes, options, mode)
            first = rank(near, mode, index.scores(searchable, query, near, mode)).ids
            rest = searchable.nearest(query.codes, _EVERYTHING)[0].ids
            order = np.concatenate([first, rest[~np.isin(rest, first, assume_unique=True)]])
            by_search.append(rows[np.searchsorted(searchable.ids, order)].tolist())
            if progress:
                progress("evaluating", i + 1, len(data.query))
    cut = "whole queries" if whole_queries else "queries cut to their boxes"
    notes = []
    if here < len(data.gallery):
        notes.append(
            f"{len(data.gallery) - here:,} of {len(data.gallery):,} gallery images are not in the "
            "index: never found"
        )
    if len(features) > here:
        notes.append(
            f"{len(features) - here:,} items of the index are no part of the gallery: distractors"
        )
    return Revisited(
        protocol=(
            f"{data.protocol}; revisited, junk taken out, AP by trapezoids; {cut}; "
            f"search={mode} of {shortlist}"
        ),
        queries=len(data.query),
        gallery=len(features),
        fine=mode,
        shortlist=shortlist,
        features={setup: _scores(by_feature, data.truth, setup) for setup in get_args(Setup)},
        search={setup: _scores(by_search, data.truth, setup) for setup in get_args(Setup)},
        notes=tuple(notes),
        failed=tuple(failed),
    )


def _rows_of_gallery(
    index: Index, data: Dataset
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """For every item by ascending id its row in the gallery, or a negative number of its own; and
    how many are there."""
    row_of = {str(path): row for row, path in enumerate(data.gallery.paths)}
    found = np.array([row_of.get(path, -1 - i) for i, path in enumerate(index.paths())], np.int64)
    here = int((found >= 0).sum())
    if not here:
        raise DataError(
            f"{index.path} holds no image of this gallery: add it with wingbar index INDEX DATA "
            "--split gallery"
        )
    return found, here


def _scores(orders: Sequence[Sequence[int]], truths: Sequence[Truth], setup: Setup) -> Scores:
    aps = [revisited_ap(order, truth, setup) for order, truth in zip(orders, truths, strict=True)]
    at = {
        k: [
            revisited_precision_at(order, truth, setup, k)
            for order, truth in zip(orders, truths, strict=True)
        ]
        for k in RANKS
    }

    def mean(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else 0.0

    found = sum(ap is not None for ap in aps)
    return Scores(mean(aps), mean(at[1]), mean(at[5]), mean(at[10]), found)


# -- Google Landmarks v2


@dataclass(frozen=True)
class Landmarks:
    """Google Landmarks v2. `map_at_100` when the solution is of the retrieval task, `gap` when it
    is of recognition."""

    protocol: str
    queries: int
    gallery: int
    map_at_100: float | None
    gap: float | None
    failed: tuple[Failure, ...]


def evaluate_landmarks(
    index: Index,
    queries: Sequence[Path],
    solution: Path,
    *,
    usage: Collection[str] = ("Public", "Private"),
    fine: Fine | None = None,
    shortlist: int = SHORTLIST,
    progress: Progress | None = None,
) -> Landmarks:
    """Score `index` by a solution file of Google Landmarks v2 (Weyand et al., CVPR 2020).

    Images are known by their file names without the ending. `solution` has the columns id, Usage
    and either images (retrieval: mAP@100 of the first 100 hits) or landmarks (recognition: GAP,
    where the answer is the label of the first hit and its score says how sure it is). Rows of
    another `usage` are left out. Raises DataError when the file has no such columns, or when none
    of its queries is among `queries`.
    """
    column, truth = _read_solution(solution, usage)
    wanted = [path for path in queries if path.stem in truth]
    if not wanted:
        raise DataError(
            f"none of the {len(truth):,} queries of {solution} is among the {len(queries):,} "
            "images named"
        )
    options = SearchOptions(k=100, fine=fine, shortlist=shortlist)
    mode = index.fine_of(options)
    found: dict[str, list[str]] = {}
    answers: list[Recognised] = []
    failed: list[Failure] = []
    for i, path in enumerate(wanted):
        try:
            [hits] = index.find([path], options)
        except ImageError as error:
            failed.append(Failure(str(path), str(error)))
            continue
        found[path.stem] = [Path(hit.path).stem for hit in hits]
        sure = hits[0].score if hits[0].score is not None else -float(hits[0].distance)
        answers.append(Recognised(path.stem, hits[0].label or "", sure))
        if progress:
            progress("evaluating", i + 1, len(wanted))
    retrieval = column == "images"
    missing = len(truth) - len(found)
    return Landmarks(
        protocol=f"{solution.name}, {' and '.join(usage)}: "
        f"{'mAP@100' if retrieval else 'GAP of the first hit'}; "
        f"search={mode} of {shortlist}; {missing:,} queries without an answer count 0",
        queries=len(truth),
        gallery=len(index),
        map_at_100=landmark_map(found, truth) if retrieval else None,
        gap=None if retrieval else landmark_gap(answers, truth),
        failed=tuple(failed),
    )


def _read_solution(path: Path, usage: Collection[str]) -> tuple[str, dict[str, frozenset[str]]]:
    """What the solution is about, "images" or "landmarks", and the right ones of each query."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            column = next((name for name in ("images", "landmarks") if name in columns), None)
            if column is None or "id" not in columns:
                raise DataError(
                    f"{path} needs the columns id and images, or id and landmarks; it has "
                    f"{', '.join(sorted(columns))}"
                )
            return column, dict(_solved(reader, column, usage))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None


def _solved(
    rows: Iterator[dict[str, str]] | csv.DictReader[str], column: str, usage: Collection[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    wanted = {name.lower() for name in usage}
    for row in rows:
        right = frozenset(() if row[column] in (None, "None") else row[column].split())
        if row.get("Usage", "").lower() not in ({"", *wanted}):
            continue
        if right or column == "landmarks":  # a picture of no landmark is a query of recognition too
            yield row["id"], right
