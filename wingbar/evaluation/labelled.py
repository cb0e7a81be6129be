"""How good an index is: average precision with its bounds over tie orders, Hamming radius 2,
features, coarse-to-fine.

Hash codes tie, and the order of ties can move MAP by more than methods differ. Here every AP is the
mean over all orders of the ties, with the least and the greatest that any order could give. N
gallery items, Q queries, b bits, d dim, y labels. A query whose label no gallery item has cannot be
scored: it is counted, not averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wingbar.data.records import Entry, Images
from wingbar.errors import DataError
from wingbar.evaluation.metrics import expected_hits_at, health
from wingbar.evaluation.scoring import GalleryCodes, Score, encoded, read_gallery, score_block
from wingbar.hamming import codes
from wingbar.images import Failure
from wingbar.index.index import Index
from wingbar.index.ranking import SHORTLIST, Fine, SearchOptions
from wingbar.parallel import Progress

RANKS = 60  # points of a curve by rank
REFUSED_FROM = 100  # items from which a bit that never changes is no accident


@dataclass(frozen=True)
class Scored:
    """One query: its file, its label and its average precisions, as `map`, `rerank_map` and
    `feature_map` of Evaluation."""

    path: str
    label: str
    map: float
    rerank_map: float
    feature_map: float | None


@dataclass(frozen=True)
class Curves:
    """Means over the queries, as plain lists.

    By Hamming threshold r = 0 .. b, where no order of ties plays a part: `precision` and `recall`
    [b + 1] of the items at most r bits away; where there are none the precision counts 0. By rank:
    `precision_at` and `recall_at` [m] of the top k, for k in `ranks` [m], expected over ties.
    `matching` and `others` [b + 1]: of all pairs of a query and an item with its label, and with
    another, the share that is r bits apart.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    ranks: tuple[int, ...]
    precision_at: tuple[float, ...]
    recall_at: tuple[float, ...]
    matching: tuple[float, ...]
    others: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; every number is over the queries that have a match in the gallery.

    map, map_low, map_high: MAP@all of the codes, expected over ties, and its bounds. map_at_1000:
    expected too, the hits inside the top 1000 as denominator (DLBHC's protocol). map_at_r: MAP@R,
    expected. precision_radius_2: an empty ball counts 0; empty_radius_2 is the share of such
    queries. argmax_map: MAP of the code that only names a class, by the nearest mean of the
    gallery's features of a class (Sablayrolles et al., ICASSP 2017, on why every hash code is to be
    shown beside one); argmax_accuracy: how often it names the right one for a query. Needs
    argmax_bits bits. unique_codes, largest_bucket, bit_balance (the least and the greatest share of
    ones of a bit), bit_correlation and constant_bits are as in measures.Health, of the gallery's
    network codes. feature_map, feature_top1: exhaustive ranking by cosine, None when it was left
    out. rerank_map: the `shortlist` nearest codes ordered by the index's `fine` mode, the rest by
    Hamming distance, and features_read: the share of the gallery's features that this reads. What
    could not be scored is counted, and `notes` says it in words.
    """

    protocol: str
    queries: int
    gallery: int
    gallery_codes: GalleryCodes
    bits: int
    map: float
    map_low: float
    map_high: float
    map_at_1000: float
    map_at_r: float
    precision_radius_2: float
    empty_radius_2: float
    argmax_map: float
    argmax_accuracy: float
    argmax_bits: int
    unique_codes: int
    largest_bucket: int
    bit_balance: tuple[float, float]
    bit_correlation: float
    constant_bits: tuple[int, ...]
    feature_map: float | None
    feature_top1: float | None
    rerank_map: float
    features_read: float
    fine: str
    shortlist: int
    queries_without_match: int
    queries_in_gallery: int
    queries_repeated: int
    classes_empty: int
    labels_without_items: int
    labels_without_queries: int
    items_without_label: int
    items_not_finite: int
    notes: tuple[str, ...]
    failed: tuple[Failure, ...]
    curves: Curves
    per_query: tuple[Scored, ...]


# -- an index


def evaluate(
    index: Index,
    query: Images,
    *,
    protocol: str | None = None,
    fine: Fine | None = None,
    shortlist: int = SHORTLIST,
    gallery_codes: GalleryCodes = "network",
    exhaustive: bool = True,
    keep_constant_bits: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Search `index` for each labelled image of `query` and score the rankings; an item is relevant
    when its label is equal.

    The rankings come from the index's own search. A query that is itself in the gallery (same file
    content) is searched without its copies; a query that is named twice is scored once.
    `exhaustive` compares all features too, which need to be in memory for that, 2 d bytes an item;
    otherwise memory grows neither with the queries nor with the features. Raises DataError when
    either side has no labels, or when bits are the same in all of at least 100 items: such a code
    is shorter than it says (`keep_constant_bits` scores it all the same).
    """
    options = SearchOptions(k=shortlist, fine=fine, shortlist=shortlist)
    with index.snapshot():
        mode = index.fine_of(options)
        gallery = read_gallery(index, gallery_codes, exhaustive)
        queries = _Queries.read(query)
        healthy = health(codes.unpack(gallery.network, index.model.bits))
        if healthy.constant and len(gallery.ids) >= REFUSED_FROM and not keep_constant_bits:
            raise DataError(_constant(index, healthy.constant))
        scores: list[Score] = []
        unmatched: list[str] = []
        failed: list[Failure] = []
        copies = 0
        for block in encoded(index, queries.entries, failed, progress):
            found, missed = score_block(index, gallery, block, options)
            scores += found
            unmatched += missed
            copies += sum(score.copies for score in found)
        if not scores:
            raise DataError(
                f"none of the {len(queries.entries):,} labelled queries has a match in "
                f"{index.path}: are these the same classes?"
            )

        def mean(name: str) -> float:
            return float(np.mean([getattr(score, name) for score in scores]))

        with_items = set(gallery.names)
        asked = {label for _, label in queries.entries}
        counted = {
            "queries_without_match": len(unmatched),
            "queries_in_gallery": copies,
            "queries_repeated": queries.repeated,
            "classes_empty": len(queries.empty),
            "labels_without_items": len(asked - with_items),
            "labels_without_queries": len(with_items - asked),
            "items_without_label": int((gallery.label_ids < 0).sum()),
            "items_not_finite": gallery.not_finite,
        }
        return Evaluation(
            protocol=_protocol(protocol or query.protocol, gallery_codes, mode, shortlist, copies),
            queries=len(scores),
            gallery=len(gallery.ids),
            gallery_codes=gallery_codes,
            bits=index.model.bits,
            map=mean("map"),
            map_low=mean("low"),
            map_high=mean("high"),
            map_at_1000=mean("at_1000"),
            map_at_r=mean("at_r"),
            precision_radius_2=mean("precision"),
            empty_radius_2=mean("empty"),
            argmax_map=mean("argmax"),
            argmax_accuracy=mean("named"),
            argmax_bits=max(1, (len(gallery.names) - 1).bit_length()),
            unique_codes=healthy.unique,
            largest_bucket=healthy.largest_bucket,
            bit_balance=(min(healthy.bit_balance), max(healthy.bit_balance)),
            bit_correlation=healthy.bit_correlation,
            constant_bits=healthy.constant,
            feature_map=mean("feature_map") if exhaustive else None,
            feature_top1=mean("feature_top1") if exhaustive else None,
            rerank_map=mean("rerank"),
            features_read=mean("read"),
            fine=mode,
            shortlist=shortlist,
            **counted,
            notes=tuple(
                _notes(
                    counted,
                    sorted(asked - with_items),
                    sorted(with_items - asked),
                    queries.empty,
                    len(failed),
                )
            ),
            failed=tuple(failed),
            curves=_curves(scores, index.model.bits, len(gallery.ids)),
            per_query=tuple(
                Scored(s.path, s.label, s.map, s.rerank, s.feature_map if exhaustive else None)
                for s in scores
            ),
        )


@dataclass(frozen=True)
class _Queries:
    """Queries with a label, each once; how many were named again, and the folders beside theirs
    that hold nothing."""

    entries: Sequence[tuple[Entry, str]]
    repeated: int
    empty: Sequence[str]

    @classmethod
    def read(cls, query: Images) -> _Queries:
        labelled = [(entry, entry.label) for entry in query if entry.label is not None]
        if not labelled:
            raise DataError(
                "the queries have no labels, so nothing says what is right: use class folders or "
                "a CSV with a label column"
            )
        once = {
            (entry.path, entry.box, label): (entry, label) for entry, label in reversed(labelled)
        }
        below = (
            []
            if query.root is None
            else [Path(folder) for folder, *inside in os.walk(query.root) if not any(inside)]
        )
        return cls(
            list(once.values())[::-1],
            len(labelled) - len(once),
            sorted(folder.name for folder in below),
        )


def _curves(scores: Sequence[Score], bits: int, gallery: int) -> Curves:
    ranks = np.unique(np.geomspace(1, max(gallery, 1), RANKS).astype(np.int64))
    precision, recall = np.zeros(bits + 1), np.zeros(bits + 1)
    precision_at, recall_at = np.zeros(len(ranks)), np.zeros(len(ranks))
    matching, others = np.zeros(bits + 1), np.zeros(bits + 1)
    for score in scores:
        inside, hits = np.cumsum(score.items), np.cumsum(score.hits)
        precision += hits / np.maximum(inside, 1)
        recall += hits / hits[-1]
        top = expected_hits_at(score.ranking, ranks)
        precision_at += top / ranks
        recall_at += top / hits[-1]
        matching += score.hits
        others += score.items - score.hits
    n = len(scores)
    return Curves(
        *(
            tuple(curve.tolist())
            for curve in (precision / n, recall / n, ranks, precision_at / n, recall_at / n)
        ),
        *(tuple((pairs / max(pairs.sum(), 1)).tolist()) for pairs in (matching, others)),
    )


# -- in words


def _protocol(
    data: str, gallery_codes: GalleryCodes, fine: Fine, shortlist: int, copies: int
) -> str:
    """One line that says what the numbers mean."""
    without = f"; {copies} queries searched without their own copies" if copies else ""
    whose = {
        "network": "network codes on both sides",
        "labels": "codes of the gallery from its labels, as no search of new pictures has them",
    }[gallery_codes]
    return (
        f"{data}; {whose}; AP expected over ties, MAP@1000 over the hits inside; rerank={fine} "
        f"of {shortlist}{without}"
    )


def _constant(index: Index, constant: Sequence[int]) -> str:
    named = ", ".join(map(str, constant[:8])) + (" and more" if len(constant) > 8 else "")
    are = "bit {} is" if len(constant) == 1 else "bits {} are"
    left = index.model.bits - len(constant)
    return (
        f"{are.format(named)} the same for every item of {index.path}: this is a code of {left} "
        "bits, not of "
        f"{index.model.bits}; train or refit with fewer, or add --keep-constant-bits to score it "
        "as it is"
    )


def _notes(
    counted: dict[str, int],
    no_items: Sequence[str],
    no_queries: Sequence[str],
    empty: Sequence[str],
    failed: int,
) -> Iterator[str]:
    """What the numbers leave out, a sentence each."""

    def some(labels: Sequence[str]) -> str:
        return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")

    if counted["queries_without_match"]:
        yield (
            f"{counted['queries_without_match']:,} queries have no match in the gallery: "
            "counted, not averaged"
        )
    if no_items:
        yield f"{len(no_items):,} labels of queries have no item in the gallery: {some(no_items)}"
    if no_queries:
        yield f"{len(no_queries):,} labels of the gallery have no query: {some(no_queries)}"
    if counted["queries_repeated"]:
        yield (
            f"{counted['queries_repeated']:,} queries are named more than once: each was scored "
            "once"
        )
    if counted["queries_in_gallery"]:
        yield (
            f"{counted['queries_in_gallery']:,} queries are in the gallery too: searched "
            "without their copies"
        )
    if empty:
        yield f"{len(empty):,} folders of the queries are empty: {some(empty)}"
    if counted["items_without_label"]:
        yield f"{counted['items_without_label']:,} items have no label: they count as wrong"
    if counted["items_not_finite"]:
        yield (
            f"{counted['items_not_finite']:,} items have features that are not finite: ranked "
            "last; run wingbar verify"
        )
    if failed:
        yield f"{failed:,} queries could not be used: the list of failures says why"
