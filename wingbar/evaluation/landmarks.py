"""Evaluate an index by the landmark protocols: revisited Oxford and Paris, Google Landmarks v2."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from wingbar import images
from wingbar.data.records import Dataset, Entry, Truth
from wingbar.errors import DataError, ImageError, counted
from wingbar.evaluation.metrics import (
    Int64,
    Prediction,
    Setup,
    landmark_gap,
    landmark_map,
    revisited_ap,
    revisited_precision_at,
)
from wingbar.hamming.codes import Codes
from wingbar.images import Failure
from wingbar.index.index import Index
from wingbar.index.ranking import SHORTLIST, Fine, SearchOptions, coarse, rank
from wingbar.model.model import Embeddings
from wingbar.parallel import Progress

CUTS = (1, 5, 10)  # of mP@k
_ALL = 2**31  # a k beyond any index

# -- revisited Oxford and Paris


@dataclass(frozen=True)
class Scores:
    """One ranking under one setup: means over the queries for which the setup has relevant items.

    map: mean average precision, in [0, 1].
    mp_at_1, mp_at_5, mp_at_10: mean precision at 1, 5 and 10, each in [0, 1].
    queries: number of those queries.
    """

    map: float
    mp_at_1: float
    mp_at_5: float
    mp_at_10: float
    queries: int


@dataclass(frozen=True)
class Revisited:
    """Revisited Oxford or Paris.

    protocol: what the numbers mean, in one line.
    queries: number of queries.
    gallery: number of items searched, distractors included.
    fine: the fine mode, one of "none", "ties", "pool", "asymmetric".
    shortlist: number of nearest codes that it re-ranks, at least 1.
    features: scores of the whole gallery ranked by cosine, by setup: "easy", "medium", "hard".
    search: scores of the index's own search, the shortlist in the order of its fine mode and the
        rest by Hamming distance, by setup.
    notes: what the index lacks or has beyond the gallery, each in a sentence.
    failed: queries that could not be read, with the reason.
    """

    protocol: str
    queries: int
    gallery: int
    fine: Fine
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
    expand: int | None = None,
    whole_queries: bool = False,
    progress: Progress | None = None,
) -> Revisited:
    """Score `index`, which holds the gallery of `data`, by the protocol of Radenovic et al. (CVPR
    2018).

    Queries are cut to their boxes unless `whole_queries`. Items of the index that are not in the
    gallery are distractors: they push others down. A query that cannot be read finds nothing and
    counts 0. Raises DataError when `data` has no such ground truth or the index holds nothing of
    its gallery.
    """
    if not data.truth:
        raise DataError(
            f"{data.protocol} has no easy, hard and junk lists: this protocol is for ROxford5k "
            "and RParis6k"
        )
    options = SearchOptions(k=shortlist, fine=fine, shortlist=shortlist, expand=expand)
    with index.snapshot():
        fine_mode = index.fine_of(options)
        searchable, features = index.searchable(), index.features().astype(np.float32)
        gallery_rows = _gallery_rows(index, data)
        failed: list[Failure] = []
        by_feature: list[Sequence[int]] = []
        by_search: list[Sequence[int]] = []
        for done, entry in enumerate(data.query, start=1):
            try:
                encoded = index.model.encode([_source(entry, whole_queries)])
            except ImageError as error:
                failed.append(Failure(str(entry.path), str(error)))
                by_feature.append(())
                by_search.append(())
                continue
            [query] = index.expanded([encoded], options)
            by_feature.append(gallery_rows[_order_by_feature(features, query)].tolist())
            order = _order_of_search(index, searchable, query, options)
            by_search.append(gallery_rows[order].tolist())
            if progress:
                progress("evaluating", done, len(data.query))
    cut = "whole queries" if whole_queries else "queries cut to their boxes"
    found = int((gallery_rows >= 0).sum())
    return Revisited(
        protocol=(
            f"{data.protocol}; revisited, junk removed, AP by trapezoids; {cut}; "
            f"search={fine_mode} of {shortlist}"
        ),
        queries=len(data.query),
        gallery=len(features),
        fine=fine_mode,
        shortlist=shortlist,
        features={setup: _scores(by_feature, data.truth, setup) for setup in get_args(Setup)},
        search={setup: _scores(by_search, data.truth, setup) for setup in get_args(Setup)},
        notes=tuple(_notes(found, len(data.gallery), len(features))),
        failed=tuple(failed),
    )


def _gallery_rows(index: Index, data: Dataset) -> Int64:
    """For every item, by ascending id, its row in the gallery, [N]; for a distractor a negative
    number of its own. Raises DataError where all are distractors."""
    row_of = {str(path): row for row, path in enumerate(data.gallery.paths)}
    rows = np.array([row_of.get(path, -1 - i) for i, path in enumerate(index.paths())], np.int64)
    if not (rows >= 0).any():
        raise DataError(
            f"{index.path} holds no image of this gallery: add it with wingbar index INDEX DATA "
            "--split gallery"
        )
    return rows


def _source(entry: Entry, whole: bool) -> images.Source:
    return entry.path if entry.box is None or whole else images.Part(entry.path, entry.box)


def _order_by_feature(features: NDArray[np.float32], query: Embeddings) -> Int64:
    """The order of all items by the cosine of their features [N, d]: [N]."""
    return np.argsort(-(features @ query.features[0]), kind="stable")


def _order_of_search(
    index: Index, searchable: Codes, query: Embeddings, options: SearchOptions
) -> Int64:
    """The order of all items as the index searches: the shortlist in the order of the fine mode,
    then the rest by Hamming distance, [N]."""
    fine = index.fine_of(options)
    [shortlist] = coarse(searchable, query.codes, options, fine)
    first = rank(shortlist, fine, index.scores(searchable, query, shortlist, fine)).ids
    everything = searchable.nearest(query.codes, _ALL)[0].ids
    rest = everything[~np.isin(everything, first, assume_unique=True)]
    return np.searchsorted(searchable.ids, np.concatenate([first, rest]))


def _notes(found: int, gallery: int, items: int) -> Iterator[str]:
    if found < gallery:
        yield (
            f"{gallery - found:,} of {gallery:,} gallery images are not in the index: never found"
        )
    if items > found:
        some = counted(items - found, "item of the index is", "items of the index are")
        yield f"{some} not in the gallery: distractors"


def _scores(orders: Sequence[Sequence[int]], truths: Sequence[Truth], setup: Setup) -> Scores:
    ranked = list(zip(orders, truths, strict=True))
    aps = [revisited_ap(order, truth, setup) for order, truth in ranked]
    mp_at_1, mp_at_5, mp_at_10 = (
        _mean([revisited_precision_at(order, truth, setup, k) for order, truth in ranked])
        for k in CUTS
    )
    return Scores(_mean(aps), mp_at_1, mp_at_5, mp_at_10, sum(ap is not None for ap in aps))


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0


# -- Google Landmarks v2


@dataclass(frozen=True)
class Landmarks:
    """Google Landmarks v2.

    protocol: what the numbers mean, in one line.
    queries: number of queries in the solution.
    gallery: number of items searched.
    map_at_100: mAP@100 of the retrieval task, in [0, 1]; None for the recognition task.
    gap: GAP of the recognition task, in [0, 1]; None for the retrieval task.
    failed: queries that could not be read, with the reason.
    """

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
    expand: int | None = None,
    progress: Progress | None = None,
) -> Landmarks:
    """Score `index` by a solution file of Google Landmarks v2 (Weyand et al., CVPR 2020).

    Images are identified by their file names without the suffix. `solution` has the columns id,
    Usage and either images (retrieval: mAP@100 of the first 100 hits) or landmarks (recognition:
    GAP, where the prediction is the label of the first hit and the score is the hit's). Rows of
    another `usage` are left out. Raises DataError when the file has no such columns, or when none
    of its queries is among `queries`.
    """
    task, truth = _read_solution(solution, usage)
    asked = [path for path in queries if path.stem in truth]
    if not asked:
        raise DataError(
            f"none of the {len(truth):,} queries of {solution} is among the {len(queries):,} "
            "images given"
        )
    options = SearchOptions(k=100, fine=fine, shortlist=shortlist, expand=expand)
    fine_mode = index.fine_of(options)
    found: dict[str, list[str]] = {}
    predictions: list[Prediction] = []
    failed: list[Failure] = []
    for done, path in enumerate(asked, start=1):
        try:
            [hits] = index.find([path], options)
        except ImageError as error:
            failed.append(Failure(str(path), str(error)))
            continue
        found[path.stem] = [Path(hit.path).stem for hit in hits]
        first = hits[0]
        confidence = first.score if first.score is not None else -float(first.distance)
        predictions.append(Prediction(path.stem, first.label or "", confidence))
        if progress:
            progress("evaluating", done, len(asked))
    is_retrieval = task == "images"
    return Landmarks(
        protocol=(
            f"{solution.name}, {' and '.join(usage)}: "
            f"{'mAP@100' if is_retrieval else 'GAP of the first hit'}; search={fine_mode} of "
            f"{shortlist}; {len(truth) - len(found):,} queries without an answer count 0"
        ),
        queries=len(truth),
        gallery=len(index),
        map_at_100=landmark_map(found, truth) if is_retrieval else None,
        gap=None if is_retrieval else landmark_gap(predictions, truth),
        failed=tuple(failed),
    )


def _read_solution(path: Path, usage: Collection[str]) -> tuple[str, dict[str, frozenset[str]]]:
    """The task of a solution file, "images" or "landmarks", and the right answers of each query."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = set(rows.fieldnames or ())
            task = next((name for name in ("images", "landmarks") if name in columns), None)
            if task is None or "id" not in columns:
                raise DataError(
                    f"{path} needs the columns id and images, or id and landmarks; it has "
                    f"{', '.join(sorted(columns))}"
                )
            return task, dict(_solved(rows, task, usage))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None


def _solved(
    rows: csv.DictReader[str], task: str, usage: Collection[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    """The queries of a solution and their right answers. A query without any belongs to the
    recognition task only."""
    usages = {"", *(name.lower() for name in usage)}
    for row in rows:
        answers = frozenset(() if row[task] in (None, "None") else row[task].split())
        if (row.get("Usage") or "").lower() in usages and (answers or task == "landmarks"):
            yield row["id"], answers
