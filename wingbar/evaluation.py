"""How good an index is: average precision with its bounds over tie orders, Hamming radius 2, features, coarse-to-fine.

Hash codes tie, and the order of ties can move MAP by more than methods differ. Here every AP is the mean over all
orders of the ties, with the least and the greatest that any order could give.
N gallery items, Q queries, b bits. A query whose label no gallery item has cannot be scored: it is counted, not averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wingbar import codes, images
from wingbar.adding import Failure, Progress
from wingbar.datasets import Entry, Images
from wingbar.errors import DataError, ImageError
from wingbar.index import FINE, SHORTLIST, TIE_CAP, Fine, Index
from wingbar.model import BATCH, Embeddings, batched, cores, in_order

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

AT = 1000  # DLBHC's cut
RADIUS = 2
_BLOCK_QUERIES = 64  # queries whose feature scores are in memory together


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; every number is over the queries that have a match in the gallery.

    map, map_low, map_high: MAP@all of the codes, expected over ties, and its bounds. map_at_1000: expected too, the
    hits inside the top 1000 as denominator (DLBHC's protocol). precision_radius_2: an empty ball counts 0;
    empty_radius_2 is the share of such queries. feature_map, feature_top1: exhaustive ranking by cosine.
    rerank_map: the `shortlist` nearest codes ordered by the index's `fine` mode, the rest by Hamming distance.
    """

    protocol: str
    queries: int
    gallery: int
    bits: int
    map: float
    map_low: float
    map_high: float
    map_at_1000: float
    precision_radius_2: float
    empty_radius_2: float
    unique_codes: int
    feature_map: float
    feature_top1: float
    rerank_map: float
    fine: str
    shortlist: int
    queries_without_match: int
    queries_in_gallery: int
    failed: tuple[Failure, ...]


# -- average precision over ties


@dataclass(frozen=True)
class _Buckets:
    """A ranking as groups of equal distance, nearest first: `size` [m] items each, `hits` [m] of them relevant."""

    size: Int64
    hits: Int64


def expected_ap(distance: ArrayLike, relevant: ArrayLike) -> float:
    """Average precision averaged over every order of the ties: distance [N], relevant [N] bool -> float in [0, 1].

    Smaller distances rank first. 0 when nothing is relevant. Raises ValueError on different lengths or NaN.
    """
    return ap_bounds(distance, relevant)[0]


def ap_bounds(distance: ArrayLike, relevant: ArrayLike) -> tuple[float, float, float]:
    """Average precision over the orders of the ties: its mean, its least and its greatest value."""
    buckets = _in_buckets(np.asarray(distance), np.asarray(relevant, bool))
    return _expected(buckets), _least(buckets), _greatest(buckets)


def expected_ap_at(distance: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """Mean over every order of the ties of AP@k with the hits inside the top `k` as denominator (0 without one)."""
    return _expected_at(_in_buckets(np.asarray(distance), np.asarray(relevant, bool)), k)


def _in_buckets(distance: NDArray[np.generic], relevant: Bool) -> _Buckets:
    if distance.shape != relevant.shape or distance.ndim != 1:
        raise ValueError(f"distance and relevant are both [N], not {distance.shape} and {relevant.shape}")
    if np.issubdtype(distance.dtype, np.floating) and np.isnan(distance).any():
        raise ValueError("a distance is NaN, which has no place in a ranking")
    order = np.argsort(distance, kind="stable")
    ordered = distance[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else np.empty(0, np.int64)
    size = np.diff(np.append(starts, len(ordered)))
    hits = np.add.reduceat(relevant[order].astype(np.int64), starts) if len(starts) else np.empty(0, np.int64)
    return _Buckets(size.astype(np.int64), hits)


def _harmonic(first: Int64, last: Int64) -> Float64:
    """1/(first+1) + ... + 1/last, elementwise."""
    sums = _harmonic_numbers(int(last.max(initial=0)).bit_length())
    return np.asarray(sums[last] - sums[first])


@lru_cache(maxsize=2)
def _harmonic_numbers(power: int) -> Float64:
    """H(0) .. H(2^power): [2^power + 1]."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 2**power + 1))])


def _hamming_buckets(distance: Int64, relevant: Bool) -> _Buckets:
    """`_in_buckets` for small whole distances, by counting instead of sorting."""
    size, hits = np.bincount(distance), np.bincount(distance[relevant], minlength=int(distance.max(initial=0)) + 1)
    used = size > 0
    return _Buckets(size[used], hits[used])


def _before(counts: Int64) -> Int64:
    return np.cumsum(counts) - counts


def _expected_sums(size: Int64, hits: Int64, items_before: Int64, hits_before: Int64) -> Float64:
    """For each bucket, the expected sum of precision at its relevant items (TALR, He et al. 2018):

    n+/n * sum over t = 1..n of (R + 1 + (t - 1)(n+ - 1)/(n - 1)) / (N + t), with the sum in closed form.
    """
    h = _harmonic(items_before, items_before + size)
    steps = size - (items_before + 1) * h  # sum of (t - 1) / (N + t)
    share = np.where(size > 1, (hits - 1) / np.maximum(size - 1, 1), 0.0)
    sums = np.where(size > 0, hits / np.maximum(size, 1) * ((hits_before + 1) * h + share * steps), 0.0)
    return np.where(hits > 0, sums, 0.0)


def _expected(b: _Buckets) -> float:
    relevant = int(b.hits.sum())
    return float(_expected_sums(b.size, b.hits, _before(b.size), _before(b.hits)).sum() / relevant) if relevant else 0.0


def _greatest(b: _Buckets) -> float:
    """Relevant items first in every bucket."""
    return _with_run_of_hits(b, _before(b.size))


def _least(b: _Buckets) -> float:
    """Relevant items last in every bucket."""
    return _with_run_of_hits(b, _before(b.size) + b.size - b.hits)


def _with_run_of_hits(b: _Buckets, items_before: Int64) -> float:
    """AP when each bucket's hits stand in a row after `items_before` items: sum over i of (R + i) / (M + i)."""
    relevant = int(b.hits.sum())
    if not relevant:
        return 0.0
    sums = b.hits + (_before(b.hits) - items_before) * _harmonic(items_before, items_before + b.hits)
    return float(sums.sum() / relevant)


def _expected_at(b: _Buckets, k: int) -> float:
    """The last bucket that reaches into the top k gives h of its hits to it with hypergeometric probability."""
    items_before, hits_before = _before(b.size), _before(b.hits)
    whole = items_before + b.size <= k
    done = float(_expected_sums(b.size[whole], b.hits[whole], items_before[whole], hits_before[whole]).sum())
    hits = int(b.hits[whole].sum())
    split = int(whole.sum())
    if split == len(b.size) or items_before[split] >= k:
        return done / hits if hits else 0.0
    inside = k - int(items_before[split])
    h, probability = _hypergeometric(int(b.size[split]), int(b.hits[split]), inside)
    ones = np.ones_like(h)
    partial = _expected_sums(ones * inside, h, ones * items_before[split], ones * hits_before[split])
    ap = np.where(h + hits > 0, (done + partial) / np.maximum(h + hits, 1), 0.0)
    return float((probability * ap).sum())


def _hypergeometric(items: int, hits: int, drawn: int) -> tuple[Int64, Float64]:
    """Possible numbers of hits among `drawn` of `items` that hold `hits`, and their probabilities."""
    h = np.arange(max(0, drawn - (items - hits)), min(hits, drawn) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])

    def log_choose(n: int, k: Int64) -> Float64:
        return np.asarray(log_factorial[n] - log_factorial[k] - log_factorial[n - k])

    logs = log_choose(hits, h) + log_choose(items - hits, drawn - h)
    weights = np.exp(logs - logs.max())
    return h, weights / weights.sum()


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
        precision_radius_2=mean["precision"],
        empty_radius_2=mean["empty"],
        unique_codes=searchable.merged().unique,
        feature_map=mean["feature_map"],
        feature_top1=mean["feature_top1"],
        rerank_map=mean["rerank_map"],
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
    precision: float
    empty: float
    feature_map: float
    feature_top1: float
    rerank_map: float


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
    by_code = _hamming_buckets(hamming[keep], relevant[keep])
    near = hamming[keep] <= RADIUS
    inside = int(near.sum())
    by_feature = _in_buckets(-cosine[keep], relevant[keep])
    score: NDArray[np.floating] = cosine
    pool = np.empty(0, np.int64)
    if fine != "none":
        among = None if keep.all() else searchable.among(searchable.ids[keep])
        [first] = index.coarse(searchable, query, shortlist, fine, shortlist, among=among)
        found = index.rank(searchable, query, first, fine)
        pool, score = np.searchsorted(searchable.ids, found.ids), np.zeros(len(cosine), np.float32)
        score[pool] = found.scores
    place = fine_places(fine, hamming, pool, score)
    expected = _expected(by_code)
    return _Score(
        map=expected,
        low=_least(by_code),
        high=_greatest(by_code),
        at_1000=_expected_at(by_code, AT),
        precision=float(relevant[keep][near].mean()) if inside else 0.0,
        empty=float(not inside),
        feature_map=_expected(by_feature),
        feature_top1=float(by_feature.hits[0] / by_feature.size[0]),
        rerank_map=expected if fine == "none" else _expected(_in_buckets(place[keep], relevant[keep])),
    )


def _protocol(data: str, fine: Fine, shortlist: int, copies: int) -> str:
    """One line that says what the numbers mean."""
    without = f"; {copies} queries searched without their own copies" if copies else ""
    return (
        f"{data}; network codes on both sides; AP expected over ties, MAP@1000 over the hits inside; "
        f"rerank={fine} of {shortlist}{without}"
    )
