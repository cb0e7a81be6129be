"""Evaluate an index on labelled queries: MAP with its bounds over the orders of ties, and more.

Hash codes tie, and the order of ties can move MAP by more than methods differ. Here every AP is the
mean over all orders of the ties, with the lowest and the highest value of any order. N gallery
items, Q queries, b bits, y labels. A query whose label no gallery item has cannot be scored: it is
counted, not averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wingbar.data.records import Images, labels_of
from wingbar.errors import DataError, counted
from wingbar.evaluation.metrics import REFUSED_FROM, Health, health
from wingbar.evaluation.scoring import (
    Gallery,
    GalleryCodes,
    LabelledQuery,
    QueryScore,
    encoded_blocks,
    expanded_block,
    read_gallery,
    score_block,
)
from wingbar.hamming import codes
from wingbar.images import Box, Failure
from wingbar.index.index import Index
from wingbar.index.ranking import SHORTLIST, Fine, SearchOptions
from wingbar.parallel import Progress

CURVE_RANKS = 60  # points of a curve by rank, at most


@dataclass(frozen=True)
class QueryResult:
    """The average precisions of one query, and the label that it is taken for.

    path: its file.
    label: its label.
    map: AP of the codes, in [0, 1].
    rerank_map: AP with the fine mode, in [0, 1].
    feature_map: AP of the features, in [0, 1]; None where it was left out.
    predicted: the label with the nearest mean feature.
    predicted_right: whether that matches the query's label.
    box: x, y, width and height of the part of the file that was searched for, in pixels; None for
        all of it.
    """

    path: str
    label: str
    map: float
    rerank_map: float
    feature_map: float | None
    predicted: str
    predicted_right: bool
    box: Box | None = None


@dataclass(frozen=True)
class Curves:
    """Means over the queries, each value in [0, 1] but for `ranks`.

    precision: precision of the items at most r bits away for r = 0 .. b, [b + 1]; 0 where there
        are none.
    recall: recall of the items at most r bits away, [b + 1].
    ranks: the k of the next two, ascending from 1 to N, [m] with m at most 60.
    precision_at: precision of the top k, the mean over all orders of the ties, [m].
    recall_at: recall of the top k, the mean over all orders of the ties, [m].
    matching: of all pairs of a query and an item with its label, the share that is r bits apart,
        [b + 1].
    others: the same of the pairs with different labels, [b + 1].
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
    """What `evaluate` measured; means are over the queries that have a match in the gallery.

    protocol: what the numbers mean, in one line.
    queries: number of queries that were scored.
    gallery: number of items searched, N.
    gallery_codes: where the gallery's codes come from, "network" or "labels".
    bits: length of a code, b.

    map: MAP of the codes over the whole gallery, the mean over all orders of ties, in [0, 1].
    map_low: the same with relevant items last among ties: no order gives less.
    map_high: the same with relevant items first among ties: no order gives more.
    map_at_1000: MAP cut at 1000, divided by the relevant items inside the cut (DLBHC), in [0, 1].
    map_at_r: MAP@R, cut at the number of relevant items R and divided by it, in [0, 1].
    precision_radius_2: share of relevant items among those at most 2 bits away, in [0, 1]; a query
        without such items counts 0.
    empty_radius_2: share of queries without such items, in [0, 1].

    argmax_map: MAP of a code that only names the predicted class, the one with the nearest mean
        feature, in [0, 1]. A hash code should do better (Sablayrolles et al., ICASSP 2017).
    argmax_accuracy: share of queries whose predicted class is their label, in [0, 1].
    argmax_bits: bits that such a code takes, at least 1.

    unique_codes: number of distinct network codes in the gallery, 1 to N.
    largest_bucket: number of items that share the most frequent one, 1 to N.
    bit_balance: lowest and highest share of ones of a bit, each in [0, 1].
    bit_correlation: mean absolute correlation over all pairs of bits, in [0, 1].
    constant_bits: bits that are the same in every network code, each from 0 to b - 1.

    feature_map: MAP of the whole gallery by cosine of the features, in [0, 1]; None without
        `exhaustive`.
    feature_top1: share of queries whose nearest feature has their label, in [0, 1]; None without
        `exhaustive`.
    rerank_map: MAP with the shortlist in the order of the fine mode and the rest by Hamming
        distance, in [0, 1].
    features_read: share of the gallery's features that the fine mode reads for a query, in [0, 1].
    fine: the fine mode, one of "none", "ties", "pool", "asymmetric".
    shortlist: number of nearest codes that it re-ranks, at least 1; ties with the last one come on
        top. With a radius, the number of items.
    radius: largest distance in bits of the codes that it re-ranks; None for any.
    expand: number of neighbours that each query was averaged with.

    queries_without_match: queries whose label no item has (but for their own copies).
    queries_in_gallery: scored queries whose file is in the gallery; searched without its copies.
    queries_repeated: queries that were listed again; each was scored once.
    classes_empty: folders without files among the queries.
    labels_without_items: labels of queries that no item has.
    labels_without_queries: labels of items that no query has.
    items_without_label: items without a label; they count as wrong.
    items_not_finite: 0, as a feature that is not finite is refused when it is read.
    notes: the counts above that are not 0, each in a sentence.
    failed: queries that could not be read or encoded, with the reason.

    curves: precision and recall by radius and by rank, and the distances of pairs.
    per_query: the average precisions and the predicted label of each scored query, in the order of
        the queries.
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
    fine: Fine
    shortlist: int
    radius: int | None
    expand: int
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
    per_query: tuple[QueryResult, ...]

    def __str__(self) -> str:
        """MAP with its bounds, and how it was measured; all figures are fields."""
        return (
            f"MAP {self.map:.3f} ({self.map_low:.3f} to {self.map_high:.3f} by order of ties) by "
            f"codes of {self.bits} bits, {self.rerank_map:.3f} with fine={self.fine}; "
            f"{self.queries:,} queries, {self.gallery:,} items; {self.protocol}"
        )


def evaluate(
    index: Index,
    query: Images,
    *,
    protocol: str | None = None,
    fine: Fine | None = None,
    shortlist: int = SHORTLIST,
    radius: int | None = None,
    expand: int | None = None,
    gallery_codes: GalleryCodes = "network",
    exhaustive: bool = True,
    keep_constant_bits: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Search `index` for each labelled image of `query` and score the rankings; an item is relevant
    when its label is equal or, where `query` says that images have several, when they share one.

    The rankings come from the index's own search. A query that is itself in the gallery (same file
    content) is searched without its copies; a query that is listed twice is scored once.
    `exhaustive` also ranks the whole gallery by features, which takes 2 d bytes of memory per item;
    otherwise memory grows neither with the queries nor with the features. Raises DataError when
    either side has no labels, or when bits are constant over 100 items or more: the code is then
    shorter than its nominal length (`keep_constant_bits` scores it all the same).
    """
    expand = index.model.expand if expand is None else expand
    if radius is not None:
        fine = fine or "pool"
        if fine == "none":
            raise DataError(
                "a radius is for a fine mode: leave it out, or choose another than none"
            )
    with index.snapshot():
        fine_mode = index.fine_of(SearchOptions(fine=fine, radius=radius))
        gallery = read_gallery(index, gallery_codes, exhaustive, query.multi_label)
        if radius is not None:
            shortlist = len(gallery.ids)  # so that the radius alone limits the pool
        options = SearchOptions(
            k=shortlist, fine=fine, shortlist=shortlist, radius=radius, expand=expand
        )
        queries = _labelled_queries(query)
        bit_usage = health(codes.unpack(gallery.network_codes, index.model.bits))
        if not keep_constant_bits:
            _refuse_constant_bits(index, bit_usage, len(gallery.ids))
        scores, unmatched, failed = _score(index, gallery, queries.once, options, progress)
        if not scores and failed:
            raise DataError(
                f"none of the {len(queries.once):,} labelled queries could be searched for: "
                f"{counted(len(failed), 'file')} could not be used, the first is "
                f"{failed[0].path} ({failed[0].reason})"
            )
        if not scores:
            raise DataError(
                f"none of the {len(queries.once):,} labelled queries has a match in "
                f"{index.path}: are these the same classes?"
            )
        bits, gallery_size = index.model.bits, len(gallery.ids)
    copies = sum(score.has_copies for score in scores)
    query_labels, gallery_labels = (
        {own for label in labels for own in (labels_of(label) if query.multi_label else [label])}
        for labels in ([q.label for q in queries.once], gallery.label_names)
    )
    excluded = _Excluded(
        queries_without_match=unmatched,
        labels_without_items=sorted(query_labels - gallery_labels),
        labels_without_queries=sorted(gallery_labels - query_labels),
        queries_repeated=queries.repeated,
        queries_in_gallery=copies,
        empty_folders=queries.empty_folders,
        items_without_label=int((gallery.label_ids < 0).sum()),
        failed=len(failed),
    )

    def mean(name: str) -> float:
        return float(np.mean([getattr(score, name) for score in scores]))

    return Evaluation(
        protocol=_protocol(
            protocol or query.protocol,
            gallery_codes,
            f"{fine_mode} of {'all' if radius is not None else shortlist}"
            + (f" at most {counted(radius, 'bit')} away" if radius is not None else ""),
            expand,
            copies,
            query.multi_label,
        ),
        queries=len(scores),
        gallery=gallery_size,
        gallery_codes=gallery_codes,
        bits=bits,
        map=mean("ap"),
        map_low=mean("ap_low"),
        map_high=mean("ap_high"),
        map_at_1000=mean("ap_at_1000"),
        map_at_r=mean("ap_at_r"),
        precision_radius_2=mean("precision_radius_2"),
        empty_radius_2=mean("empty_radius_2"),
        argmax_map=mean("argmax_ap"),
        argmax_accuracy=mean("argmax_correct"),
        argmax_bits=max(1, (len(gallery.label_names) - 1).bit_length()),
        unique_codes=bit_usage.unique,
        largest_bucket=bit_usage.largest_bucket,
        bit_balance=(min(bit_usage.bit_balance), max(bit_usage.bit_balance)),
        bit_correlation=bit_usage.bit_correlation,
        constant_bits=bit_usage.constant,
        feature_map=mean("feature_ap") if exhaustive else None,
        feature_top1=mean("feature_top1") if exhaustive else None,
        rerank_map=mean("rerank_ap"),
        features_read=mean("features_read"),
        fine=fine_mode,
        shortlist=shortlist,
        radius=radius,
        expand=expand,
        queries_without_match=excluded.queries_without_match,
        queries_in_gallery=excluded.queries_in_gallery,
        queries_repeated=excluded.queries_repeated,
        classes_empty=len(excluded.empty_folders),
        labels_without_items=len(excluded.labels_without_items),
        labels_without_queries=len(excluded.labels_without_queries),
        items_without_label=excluded.items_without_label,
        items_not_finite=0,
        notes=tuple(_notes(excluded)),
        failed=tuple(failed),
        curves=_curves(scores, bits, gallery_size),
        per_query=tuple(
            QueryResult(
                score.path,
                score.label,
                score.ap,
                score.rerank_ap,
                score.feature_ap if exhaustive else None,
                score.predicted,
                bool(score.argmax_correct),
                score.box,
            )
            for score in scores
        ),
    )


@dataclass(frozen=True)
class _Queries:
    """The labelled queries, each once; how many were listed again; and the names of empty folders
    beside them."""

    once: list[LabelledQuery]
    repeated: int
    empty_folders: list[str]


def _labelled_queries(query: Images) -> _Queries:
    if not len(query):
        raise DataError(
            f"there are no queries ({query.protocol}): a query needs a second image of its class "
            "in the gallery, and every class here has one; add images, or name a part as --split"
        )
    labelled = [LabelledQuery(entry, entry.label) for entry in query if entry.label is not None]
    if not labelled:
        raise DataError(
            "the queries have no labels, so nothing says what is right: use class folders or "
            "a CSV with a label column"
        )
    once: dict[object, LabelledQuery] = {}
    for one in labelled:
        once.setdefault((one.entry.path, one.entry.box, one.label), one)
    empty = (
        []
        if query.root is None
        else [Path(folder).name for folder, *inside in os.walk(query.root) if not any(inside)]
    )
    return _Queries(list(once.values()), len(labelled) - len(once), sorted(empty))


def _refuse_constant_bits(index: Index, bit_usage: Health, items: int) -> None:
    """Raise DataError when bits are the same in all of at least REFUSED_FROM items."""
    constant = bit_usage.constant
    if not constant or items < REFUSED_FROM:
        return
    listed = ", ".join(map(str, constant[:8])) + (" and more" if len(constant) > 8 else "")
    which = f"bit {listed} is" if len(constant) == 1 else f"bits {listed} are"
    bits = index.model.bits
    raise DataError(
        f"{which} the same for every item of {index.path}: this is a code of "
        f"{bits - len(constant)} bits, not of {bits}; train or refit with fewer, or add "
        "--keep-constant-bits to score it as it is"
    )


def _score(
    index: Index,
    gallery: Gallery,
    queries: Sequence[LabelledQuery],
    options: SearchOptions,
    progress: Progress | None,
) -> tuple[list[QueryScore], int, list[Failure]]:
    """The scores of the queries that have a match, the number of those that have none, and the
    queries that could not be used."""
    scores: list[QueryScore] = []
    failed: list[Failure] = []
    unmatched = 0
    for block in encoded_blocks(index, queries, failed, progress):
        block_scores, block_unmatched = score_block(
            index, gallery, expanded_block(index, block, options), options
        )
        scores += block_scores
        unmatched += len(block_unmatched)
    return scores, unmatched, failed


def _curves(scores: Sequence[QueryScore], bits: int, gallery: int) -> Curves:
    ranks = np.unique(np.geomspace(1, max(gallery, 1), CURVE_RANKS).astype(np.int64))
    precision, recall = np.zeros(bits + 1), np.zeros(bits + 1)
    precision_at, recall_at = np.zeros(len(ranks)), np.zeros(len(ranks))
    matching, others = np.zeros(bits + 1), np.zeros(bits + 1)
    for score in scores:
        items, hits = np.cumsum(score.items_at), np.cumsum(score.relevant_at)
        precision += hits / np.maximum(items, 1)
        recall += hits / hits[-1]
        hits_at = score.by_code.expected_hits_at(ranks)
        precision_at += hits_at / ranks
        recall_at += hits_at / hits[-1]
        matching += score.relevant_at
        others += score.items_at - score.relevant_at
    n = len(scores)
    return Curves(
        precision=tuple((precision / n).tolist()),
        recall=tuple((recall / n).tolist()),
        ranks=tuple(ranks.tolist()),
        precision_at=tuple((precision_at / n).tolist()),
        recall_at=tuple((recall_at / n).tolist()),
        matching=tuple((matching / max(matching.sum(), 1)).tolist()),
        others=tuple((others / max(others.sum(), 1)).tolist()),
    )


# -- in words


@dataclass(frozen=True)
class _Excluded:
    """What the means leave out, as in Evaluation."""

    queries_without_match: int
    labels_without_items: list[str]
    labels_without_queries: list[str]
    queries_repeated: int
    queries_in_gallery: int
    empty_folders: list[str]
    items_without_label: int
    failed: int


def _protocol(
    data: str,
    gallery_codes: GalleryCodes,
    rerank: str,
    expand: int,
    copies: int,
    multi_label: bool,
) -> str:
    """One line that says what the numbers mean."""
    source = {
        "network": "network codes on both sides",
        "labels": "codes of the gallery from its labels, which new pictures cannot have",
    }[gallery_codes]
    queries = counted(copies, "query", "queries")
    without = f"; {queries} searched without their own copies" if copies else ""
    averaged = f"; queries averaged with {counted(expand, 'neighbour')} each" if expand else ""
    relevance = "; relevant items share a label with the query" if multi_label else ""
    return (
        f"{data}; {source}; AP expected over ties, MAP@1000 over the hits inside; "
        f"rerank={rerank}{averaged}{relevance}{without}"
    )


def _notes(excluded: _Excluded) -> Iterator[str]:
    """What the means leave out, one sentence each."""
    if count := excluded.queries_without_match:
        some = counted(count, "query has", "queries have")
        yield f"{some} no match in the gallery: counted, not averaged"
    if labels := excluded.labels_without_items:
        some = counted(len(labels), "label of queries has", "labels of queries have")
        yield f"{some} no item in the gallery: {_first(labels)}"
    if labels := excluded.labels_without_queries:
        some = counted(len(labels), "label of the gallery has", "labels of the gallery have")
        yield f"{some} no query: {_first(labels)}"
    if count := excluded.queries_repeated:
        some = counted(count, "query is", "queries are")
        yield f"{some} listed more than once: each was scored once"
    if count := excluded.queries_in_gallery:
        some = counted(count, "query is", "queries are")
        yield f"{some} in the gallery too: searched without their copies"
    if folders := excluded.empty_folders:
        some = counted(len(folders), "folder of the queries is", "folders of the queries are")
        yield f"{some} empty: {_first(folders)}"
    if count := excluded.items_without_label:
        yield f"{counted(count, 'item has', 'items have')} no label: they count as wrong"
    if count := excluded.failed:
        some = counted(count, "query", "queries")
        yield f"{some} could not be used: the list of failures says why"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
