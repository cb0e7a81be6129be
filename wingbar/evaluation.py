"""How good an index is: average precision with its bounds over tie orders, Hamming radius 2, features, coarse-to-fine.

Hash codes tie, and the order of ties can move MAP by more than methods differ. Here every AP is the mean over all
orders of the ties, with the least and the greatest that any order could give.
N gallery items, Q queries, b bits. A query whose label no gallery item has cannot be scored: it is counted, not averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wingbar import codes, images
from wingbar.adding import Failure, Progress
from wingbar.datasets import Entry, Images
from wingbar.errors import DataError, ImageError
from wingbar.index import FINE, SHORTLIST, TIE_CAP, Fine, Index
from wingbar.measures import (
    Bool,
    Float64,
    Int64,
    expected,
    expected_ap,
    expected_at,
    expected_at_r,
    greatest,
    hamming_buckets,
    health,
    in_buckets,
    least,
)
from wingbar.model import BATCH, Embeddings, batched, cores, in_order

AT = 1000  # DLBHC's cut
RADIUS = 2
_BLOCK_QUERIES = 64  # queries whose feature scores are in memory together


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; every number is over the queries that have a match in the gallery.

    map, map_low, map_high: MAP@all of the codes, expected over ties, and its bounds. map_at_1000: expected too, the
    hits inside the top 1000 as denominator (DLBHC's protocol). map_at_r: MAP@R, expected. precision_radius_2: an empty ball
    counts 0; empty_radius_2 is the share of such queries. feature_map, feature_top1: exhaustive ranking by cosine.
    rerank_map: the `shortlist` nearest codes ordered by the index's `fine` mode, the rest by Hamming distance, and
    features_read: the share of the gallery's features that this reads. largest_bucket, bit_balance (the least and the
    greatest share of ones of a bit), bit_correlation and constant_bits are as in measures.Health, of the gallery.
    """

    protocol: str
    queries: int
    gallery: int
    bits: int
    map: float
    map_low: float
    map_high: float
    map_at_1000: float
    map_at_r: float
    precision_radius_2: float
    empty_radius_2: float
    unique_codes: int
    largest_bucket: int
    bit_balance: tuple[float, float]
    bit_correlation: float
    constant_bits: tuple[int, ...]
    feature_map: float
    feature_top1: float
    rerank_map: float
    features_read: float
    fine: str
    shortlist: int
    queries_without_match: int
    queries_in_gallery: int
    failed: tuple[Failure, ...]


# -- fine modes


@dataclass(frozen=True)
class Side:
    """Network outputs of images in memory: code logits [n, b], features [n, d] of any length, labels [n]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    labels: Int64


def fine_scores(query: Side, gallery: Side, shortlist: int = SHORTLIST) -> dict[str, float]:
    """MAP of the whole gallery in each fine mode, by which a trained model's own mode is chosen on held-out images."""
    packed = codes.pack(gallery.logits >= 0)
    searchable = codes.Codes(packed, gallery.logits.shape[1])
    unit = [_unit(side.features) for side in (query, gallery)]
    aps: dict[str, list[float]] = {mode: [] for mode in FINE}
    for i in range(len(query.labels)):
        relevant = gallery.labels == query.labels[i]
        if not relevant.any():
            continue
        code = codes.pack(query.logits[i : i + 1] >= 0)[0]
        hamming = searchable.distances(code).astype(np.int64)
        pool = searchable.nearest(code, shortlist, ties="include", limit=TIE_CAP * shortlist).ids
        agreement = codes.agreement(query.logits[i], packed, gallery.logits.shape[1])
        cosine = unit[1] @ unit[0][i]
        for mode in FINE:
            place = fine_places(mode, hamming, pool, agreement if mode == "asymmetric" else cosine)
            aps[mode].append(expected_ap(place, relevant))
    return {mode: float(np.mean(values)) if values else 0.0 for mode, values in aps.items()}


def fine_places(fine: Fine, hamming: Int64, pool: Int64, score: NDArray[np.floating]) -> Float64:
    """Places [N] (smaller is earlier, equal is tied) of the whole gallery in a fine mode.

    hamming [N]; `pool` are the rows of the shortlist; `score` [N] in [-1, 1] is what the mode orders by.
    """
    place = hamming.astype(np.float64)
    if fine == "ties":
        place[pool] -= 0.25 + score[pool].astype(np.float64) / 4  # by at most 0.5: before the rest of its distance, if any
    elif fine != "none":
        place[pool] = -3 - score[pool].astype(np.float64)  # before every distance
    return place


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


# -- an index


def evaluate(
    index: Index,
    query: Images,
    *,
    protocol: str | None = None,
    fine: Fine | None = None,
    shortlist: int = SHORTLIST,
    progress: Progress | None = None,
) -> Evaluation:
    """Search `index` for each labelled image of `query` and score the rankings; an item is relevant when its label is equal.

    The codes of both sides come from the network, the rankings from the index's own search. A query that is itself in
    the gallery (same file content) is searched without its copies. Memory does not grow with the number of queries.
    Raises DataError when either side has no labels.
    """
    with index.snapshot():
        return _evaluate(index, query, protocol or query.protocol, index.checked(fine, shortlist), shortlist, progress)


def _evaluate(index: Index, query: Images, protocol: str, mode: Fine, shortlist: int, progress: Progress | None) -> Evaluation:
    searchable, gallery = _labelled_gallery(index)
    features = index.features().astype(np.float32)
    labelled = [(entry, entry.label) for entry in query if entry.label is not None]
    if not labelled:
        raise DataError(
            "the queries have no labels, so nothing says what is right: use class folders or a CSV with a label column"
        )
    scores: list[_Score] = []
    failed: list[Failure] = []
    copies = unmatched = 0
    for block in batched(_encoded(index, labelled, failed, progress), _BLOCK_QUERIES):
        cosines = np.concatenate([e.features for e, _, _ in block]) @ features.T  # [block, N]
        for (embedding, label, content), cosine in zip(block, cosines, strict=True):
            keep = np.ones(len(features), bool)
            keep[gallery.rows_of_content.get(content, [])] = False
            relevant = gallery.label_ids == gallery.id_of_label.get(label, -1)
            copies += not keep.all()
            if not (relevant & keep).any():
                unmatched += 1
                continue
            scores.append(_score(index, searchable, embedding, cosine, relevant, keep, mode, shortlist))
    if not scores:
        raise DataError(
            f"none of the {len(labelled):,} labelled queries has a match in {index.path}: are these the same classes?"
        )
    healthy = health(codes.unpack(searchable.of(searchable.ids), index.model.bits))
    mean = {name: float(np.mean([getattr(score, name) for score in scores])) for name in _Score.__dataclass_fields__}
    return Evaluation(
        protocol=_protocol(protocol, mode, shortlist, copies),
        queries=len(scores),
        gallery=len(searchable),
        bits=index.model.bits,
        map=mean["map"],
        map_low=mean["low"],
        map_high=mean["high"],
        map_at_1000=mean["at_1000"],
        map_at_r=mean["at_r"],
        precision_radius_2=mean["precision"],
        empty_radius_2=mean["empty"],
        unique_codes=healthy.unique,
        largest_bucket=healthy.largest_bucket,
        bit_balance=(min(healthy.bit_balance), max(healthy.bit_balance)),
        bit_correlation=healthy.bit_correlation,
        constant_bits=healthy.constant,
        feature_map=mean["feature_map"],
        feature_top1=mean["feature_top1"],
        rerank_map=mean["rerank_map"],
        features_read=mean["read"],
        fine=mode,
        shortlist=shortlist,
        queries_without_match=unmatched,
        queries_in_gallery=copies,
        failed=tuple(failed),
    )


@dataclass(frozen=True)
class _Gallery:
    """Labels as numbers [N], -2 for none, and the rows that hold each file content."""

    label_ids: Int64
    id_of_label: dict[str, int]
    rows_of_content: dict[bytes, list[int]]


@dataclass(frozen=True)
class _Score:
    """The numbers of one query."""

    map: float
    low: float
    high: float
    at_1000: float
    at_r: float
    precision: float
    empty: float
    feature_map: float
    feature_top1: float
    rerank_map: float
    read: float


def _labelled_gallery(index: Index) -> tuple[codes.Codes, _Gallery]:
    labels = index.labels()
    if all(label is None for label in labels):
        raise DataError(f"no item of {index.path} has a label: index class folders, or a CSV with a label column")
    id_of_label = {label: i for i, label in enumerate(sorted({label for label in labels if label is not None}))}
    label_ids = np.array([-2 if label is None else id_of_label[label] for label in labels], np.int64)
    rows_of_content: dict[bytes, list[int]] = {}
    for row, content in enumerate(index.contents()):
        rows_of_content.setdefault(content, []).append(row)
    return index.searchable(), _Gallery(label_ids, id_of_label, rows_of_content)


def _encoded(
    index: Index, labelled: Sequence[tuple[Entry, str]], failed: list[Failure], progress: Progress | None
) -> Iterator[tuple[Embeddings, str, bytes]]:
    """Each readable query with its label and the sha256 of its file, encoded in batches; bad ones go to `failed`."""

    def read(query: tuple[Entry, str]) -> tuple[Path, str, bytes, images.Pixels | ImageError]:
        entry, label = query
        try:
            data = images.read(entry.path)
            source = data if entry.box is None else images.Part(data, entry.box)
            return entry.path, label, hashlib.sha256(data).digest(), images.load(source, index.model.preparation)
        except ImageError as error:
            return entry.path, label, b"", error

    done = 0
    for batch in batched(in_order(labelled, read, cores()), BATCH):
        failed += [Failure(str(path), str(pixels)) for path, _, _, pixels in batch if isinstance(pixels, ImageError)]
        good = [(label, content, pixels) for _, label, content, pixels in batch if not isinstance(pixels, ImageError)]
        embeddings = index.model.encode_pixels([pixels for _, _, pixels in good])
        for i, (label, content, _) in enumerate(good):
            yield embeddings[i], label, content
        done += len(batch)
        if progress:
            progress("evaluating", done, len(labelled))


def _score(
    index: Index,
    searchable: codes.Codes,
    query: Embeddings,
    cosine: NDArray[np.float32],
    relevant: Bool,
    keep: Bool,
    fine: Fine,
    shortlist: int,
) -> _Score:
    """Rank the gallery [N] for one query in each way and score it."""
    hamming = searchable.distances(query.codes[0]).astype(np.int64)
    by_code = hamming_buckets(hamming[keep], relevant[keep])
    near = hamming[keep] <= RADIUS
    inside = int(near.sum())
    by_feature = in_buckets(-cosine[keep], relevant[keep])
    score: NDArray[np.floating] = cosine
    pool = np.empty(0, np.int64)
    if fine != "none":
        among = None if keep.all() else searchable.among(searchable.ids[keep])
        [first] = index.coarse(searchable, query, shortlist, fine, shortlist, among=among)
        found = index.rank(searchable, query, first, fine)
        pool, score = np.searchsorted(searchable.ids, found.ids), np.zeros(len(cosine), np.float32)
        score[pool] = found.scores
    place = fine_places(fine, hamming, pool, score)
    of_codes = expected(by_code)
    return _Score(
        map=of_codes,
        low=least(by_code),
        high=greatest(by_code),
        at_1000=expected_at(by_code, AT),
        at_r=expected_at_r(by_code),
        precision=float(relevant[keep][near].mean()) if inside else 0.0,
        empty=float(not inside),
        feature_map=expected(by_feature),
        feature_top1=float(by_feature.hits[0] / by_feature.size[0]),
        read=0.0 if fine in ("none", "asymmetric") else len(pool) / len(hamming),
        rerank_map=of_codes if fine == "none" else expected(in_buckets(place[keep], relevant[keep])),
    )


def _protocol(data: str, fine: Fine, shortlist: int, copies: int) -> str:
    """One line that says what the numbers mean."""
    without = f"; {copies} queries searched without their own copies" if copies else ""
    return (
        f"{data}; network codes on both sides; AP expected over ties, MAP@1000 over the hits inside; "
        f"rerank={fine} of {shortlist}{without}"
    )
